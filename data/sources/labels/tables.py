"""Labels of whole recordings, from a table: which row is about which recording.

A row names a recording by its file (`file`, for raw: and bids:), by its name in the manifest
(`recording`), or by its person (`subject`, `person` or BIDS's `participant_id`), and where these
columns are there also by `session` and `run`. Where several rows fit, the one that says most
counts. Columns that are neither are kept beside the label. "n/a" and nothing are no label.
"""

from __future__ import annotations

import csv
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

from data.errors import InputError, did_you_mean
from data.subjects.people import canonical_subject

KEYS = {
    "file": "file", "filename": "file", "path": "file",
    "recording": "recording", "recording_id": "recording",
    "subject": "subject", "person": "subject", "participant_id": "subject",
    "session": "session", "session_id": "session", "run": "run",
}  # fmt: skip
"""Column, in lower case -> what it tells."""
ENOUGH = ("file", "recording", "subject")
"""One of these a table must have."""
NONE = ("", "n/a")


@dataclass(frozen=True)
class Row:
    """One row: what it is about, and what it says."""

    keys: dict[str, str]
    """Of KEYS' values -> what the row has there; empty cells are left out."""
    label: str | None
    more: dict[str, str] = field(default_factory=dict)

    def fits(self, facts: Mapping[str, str]) -> bool:
        """Whether this row may be about a recording, of which `facts` are known."""
        return all(_same(key, self.keys[key], facts[key]) for key in self.keys if key in facts)

    def __str__(self) -> str:
        return " ".join(self.keys.values())


@dataclass(frozen=True)
class LabelTable:
    """The rows of a table of labels."""

    name: str
    rows: tuple[Row, ...]

    def about(self, facts: Mapping[str, str]) -> list[Row]:
        """The rows that may be about a recording."""
        return [row for row in self.rows if row.fits(facts)]

    def of(self, facts: Mapping[str, str]) -> Row | None:
        """The row about a recording of which everything is known; None where there is none.
        InputError where two say equally much."""
        found = [row for row in self.about(facts) if set(row.keys) <= set(facts)]
        most = max((len(row.keys) for row in found), default=0)
        found = [row for row in found if len(row.keys) == most]
        if len({(row.label, tuple(row.more.items())) for row in found}) > 1:
            raise InputError(
                f"labels={self.name}: {len(found)} rows are about {facts.get('recording')}: "
                + "; ".join(map(str, found[:3])),
                "leave one of them, or add columns that tell them apart (session, run)",
            )
        return found[0] if found else None


def read_label_table(path: Path, column: str, where: str) -> LabelTable:
    """Read a table, tab-separated, or comma-separated if it is called .csv.

    `column` holds the labels; `where` opens the messages. InputError for a table that cannot be
    read, or lacks the columns.
    """
    delimiter = "," if path.suffix.lower() == ".csv" else "\t"
    try:
        with open(path, encoding="utf-8-sig", newline="") as file:
            lines = list(csv.DictReader(file, delimiter=delimiter))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise InputError(
            f"{where}: labels={path}: cannot be read ({type(error).__name__})",
            "give a table of tab-separated columns in UTF-8, e.g. subject, session and label",
        ) from None
    columns = [name for name in (lines[0] if lines else {}) if name is not None]
    keys = {name: KEYS[name.strip().lower()] for name in columns if name.strip().lower() in KEYS}
    keys.pop(column, None)
    if not lines or not set(ENOUGH) & set(keys.values()):
        raise InputError(
            f"{where}: labels={path}: no column says whose the labels are "
            f"(columns: {', '.join(columns) or 'none'})",
            "name one column file, recording, or subject, and separate columns by "
            + ("commas" if delimiter == "," else "tabs"),
        )
    if column not in columns:
        raise InputError(
            f"{where}: labels={path}: no column is called {column} (columns: {', '.join(columns)})",
            f"{did_you_mean(column, columns)} Say which one holds the labels with "
            "label=COLUMN".strip(),
        )
    rows = []
    for line in lines:
        cells = {name: (line[name] or "").strip() for name in columns}
        own = {kind: cells[name] for name, kind in keys.items() if cells[name] not in NONE}
        if not own:
            continue
        more = {n: v for n, v in cells.items() if n not in keys and n != column and v not in NONE}
        label = None if cells[column] in NONE else cells[column]
        rows.append(Row(own, label, more))
    return LabelTable(path.name, tuple(rows))


def _same(key: str, wanted: str, found: str) -> bool:
    if key == "file":
        path, given = PurePosixPath(found), PurePosixPath(wanted)
        parts = path.parts[-len(given.parts) :]
        return given.parts in (parts, (*parts[:-1], path.stem))
    if key == "recording":
        return wanted == found
    prefixes = {"subject": "sub-", "session": "ses-", "run": "run-"}
    return _plain(wanted, prefixes[key]) == _plain(found, prefixes[key])


def _plain(text: str, prefix: str) -> str:
    return canonical_subject(text.removeprefix(prefix))
