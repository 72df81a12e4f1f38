"""Labels of whole recordings: `label=REGEX` and `labels=FILE.tsv`, for every kind of source.

    raw:/data/*.edf,label=_(\\d)\\.edf          the first group, or the one called label
    raw:/data/**/*.edf,labels=conditions.tsv    columns: file, recording or subject; label
    bids:/data/ds,labels=/data/ds/participants.tsv,label=group      another column than label

A regular expression is looked for in the file's path below the folder that all files share (raw:,
bids:), of other kinds in the recording's name. An event's own label stays before its recording's.
"""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from data.errors import InputError
from data.signals.recording import Recording
from data.sources.labels.tables import LabelTable, read_label_table, shown

if TYPE_CHECKING:
    from data.sources.spec import Spec, WorkItem

ONE_FILE = ("raw", "bids")
"""Kinds whose items are one recording in one file."""


@dataclass(frozen=True)
class LabelledItem:
    """A work item whose recordings get a label; everything else is the item's own."""

    item: WorkItem
    pattern: str | None
    text: str | None
    """What `pattern` is looked for in; None: the recording's name."""
    table: LabelTable | None
    """The rows that may be about this item's recordings."""
    table_path: Path | None

    def __getattr__(self, name: str):
        if name == "item" or name.startswith("__"):  # while this is unpickled, there is none
            raise AttributeError(name)
        return getattr(self.item, name)

    @property
    def signature(self) -> dict:
        rows = [[row.keys, row.label, row.more] for row in self.table.rows] if self.table else None
        return self.item.signature | {"label": self.pattern, "labels": rows}

    def source_files(self) -> list[Path]:
        """The item's, and the table."""
        return [*self.item.source_files(), *([self.table_path] if self.table_path else [])]

    def load(self) -> Iterator[Recording]:
        for recording in self.item.load():
            if self.pattern is not None:
                recording.label = label_in(self.pattern, self.text or recording.id)
                if recording.label is None:
                    raise InputError(
                        f"{recording.id}: label={self.pattern} is not found in its name",
                        "write an expression that every recording's name has, or use labels=FILE",
                    )
            if self.table is not None:
                row = self.table.of(_facts(self.item) | _names(recording))
                recording.label = row.label if row else None
                recording.labels = row.more if row else {}
                if recording.label is None:
                    recording.remarks.append(f"no label in {self.table.name}")
            yield recording


def label_items(spec: Spec, items: list[WorkItem]) -> list[WorkItem]:
    """The items with the labels that `spec` asks for; themselves where it asks for none.

    Prints what the labels are, and which rows and recordings lack their other half. Raises
    InputError for a pattern that a path lacks, or a table that fits nothing.
    """
    pattern, name = spec.options.get("label"), spec.options.get("labels")
    if name is not None:
        path = Path(name).expanduser()
        table = read_label_table(path, pattern or "label", f"--source {spec}")
        return _by_table(spec, items, table, path)
    if pattern is None:
        return items
    try:
        re.compile(pattern)
    except re.error as error:
        raise InputError(
            f"--source {spec}: label={pattern} is not a regular expression ({error})",
            r"write e.g. label=_(rest|task)\.edf",
        ) from None
    if spec.kind not in ONE_FILE:
        return [LabelledItem(item, pattern, None, None, None) for item in items]
    common = Path(os.path.commonpath([item.path.parent for item in items]))
    texts = [item.path.relative_to(common).as_posix() for item in items]
    labels = [label_in(pattern, text) for text in texts]
    if None in labels:
        raise InputError(
            f"--source {spec}: label={pattern} is not found in {texts[labels.index(None)]}, nor in "
            f"{labels.count(None) - 1} others of {len(items)}",
            "write an expression that every path has below the folder that all share, e.g. "
            r"label=_(rest|task)\.edf, or give a table with labels=FILE.tsv",
        )
    print(f"{spec}: labels: {_counted(labels)}", flush=True)
    return [
        LabelledItem(item, pattern, text, None, None)
        for item, text in zip(items, texts, strict=True)
    ]


def label_in(pattern: str, text: str) -> str | None:
    """The group `label` of the first match, else its first group, else all of it."""
    match = re.search(pattern, text)
    if not match:
        return None
    if "label" in match.groupdict():
        return match["label"]
    return match[1] if match.groups() else match[0]


def _by_table(spec: Spec, items: list[WorkItem], table: LabelTable, path: Path):
    if spec.kind not in ONE_FILE and any("file" in row.keys for row in table.rows):
        raise InputError(
            f"--source {spec}: labels={path}: a column names files, and in {spec.kind}: one file "
            "may hold many recordings",
            "name recordings (as in manifest.json) or subjects",
        )
    labelled, used, bare, labels = [], set(), [], []
    for item in items:
        facts = _facts(item)
        rows = table.about(facts)
        used |= {id(row) for row in rows}
        if not rows:
            bare.append(_told(item))
        elif "recording" in facts:
            row = table.of(facts)
            labels.append(row.label if row else None)
        own = LabelTable(table.name, tuple(rows))
        labelled.append(LabelledItem(item, None, None, own, path))
    unknown = [row for row in table.rows if id(row) not in used]
    if not used:
        raise InputError(
            f"--source {spec}: labels={path}: no row is about any of its {len(items)} items; rows: "
            f"{shown([str(row) for row in table.rows], 3) or 'none'}; items: "
            f"{shown([_told(item) for item in items], 3)}",
            "write files, subjects and sessions in the table as they are called in the source",
        )
    if unknown:
        print(f"{spec}: {len(unknown)} rows of {table.name} are about nothing here: "
              f"{shown([str(row) for row in unknown])}", flush=True)  # fmt: skip
    if bare:
        print(f"{spec}: no row of {table.name} is about {shown(bare)}: without a label",
              flush=True)  # fmt: skip
    if labels:
        print(f"{spec}: labels: {_counted(labels)}", flush=True)
    return labelled


def _facts(item: WorkItem) -> dict[str, str]:
    """What is known of an item's recordings before they are loaded."""
    facts = {"subject": str(item.subject)}
    if hasattr(item, "session") and hasattr(item, "run"):
        name = Recording(item.dataset, item.subject, item.session, item.run).id
        facts |= {"session": str(item.session), "run": str(item.run), "recording": name}
    if hasattr(item, "path") and "recording" in facts:
        facts["file"] = item.path.as_posix()
    return facts


def _names(recording: Recording) -> dict[str, str]:
    return {
        "subject": str(recording.subject),
        "session": str(recording.session),
        "run": str(recording.run),
        "recording": recording.id,
    }


def _told(item: WorkItem) -> str:
    facts = _facts(item)
    return Path(facts["file"]).name if "file" in facts else f"subject {item.subject}"


def _counted(labels: list[str | None]) -> str:
    counts = Counter("none" if label is None else label for label in labels)
    text = shown([f"{label} ({count})" for label, count in sorted(counts.items())], 12)
    return text + (", the same for all" if len(counts) == 1 < len(labels) else "")
