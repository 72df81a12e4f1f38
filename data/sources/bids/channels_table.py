"""BIDS's `channels.tsv`: its rows, put on the channels of the file that they are about.

Tables and files write names differently (`FC5`, `Fc5.`, `EEG FC5-REF`), and a row that finds no
channel would leave a bad one in use. So names are compared by their electrode, a table that names
none of a file's channels is refused, and one that names a part of them is remarked on.
"""

from __future__ import annotations

import csv
import io
import re
import warnings
from pathlib import Path

import mne

from data.electrodes.channel_names import match_names
from data.errors import InputError
from data.files import read_text

BIDS_TYPES = {
    "EEG": "eeg", "EOG": "eog", "HEOG": "eog", "VEOG": "eog", "ECG": "ecg", "EMG": "emg",
    "MISC": "misc", "TRIG": "stim", "RESP": "resp", "GSR": "gsr", "TEMP": "temperature",
    "REF": "misc", "AUDIO": "misc", "PPG": "misc",
}  # fmt: skip


def channels_table_of(path: Path) -> Path | None:
    """The table beside a recording or in the folder above, also one for all of its runs."""
    stem = path.name.rsplit("_", 1)[0]
    for name in (stem, re.sub(r"_run-[^_]+", "", stem)):
        for folder in (path.parent, path.parent.parent):
            sidecar = folder / f"{name}_channels.tsv"
            if sidecar.is_file():
                return sidecar
    return None


def read_rows(sidecar: Path) -> list[dict[str, str]]:
    """The rows of a table that have a name; InputError where it has no such column."""
    reader = csv.DictReader(io.StringIO(read_text(sidecar), newline=""), delimiter="\t")
    rows = list(reader)
    if rows and "name" not in (reader.fieldnames or ()):
        raise InputError(
            f"{sidecar}: no column is called name (its columns are "
            f"{', '.join(map(str, reader.fieldnames or ()))})",
            "write it as BIDS asks for: columns name, type, units, status, separated by tabs",
        )
    return [row for row in rows if (row.get("name") or "").strip()]


def rows_of_channels(
    rows: list[dict[str, str]], raw: mne.io.BaseRaw, sidecar: Path
) -> list[dict[str, str]]:
    """The rows with the file's own names in `name`, those without a channel left out; a row comes
    once for each channel that it names.

    Warns of EEG channels without a row and of rows without a channel. Raises InputError where none
    has one.
    """
    found = match_names((row["name"] for row in rows), raw.ch_names)
    if rows and not any(found.values()):
        raise InputError(
            f"{sidecar}: none of its names ({_some([row['name'] for row in rows])}) is a channel "
            f"of the recording beside it ({_some(raw.ch_names)})",
            "correct the names in one of the two, or take the table away",
        )
    named = {channel for channels in found.values() for channel in channels}
    types = zip(raw.ch_names, raw.get_channel_types(), strict=True)
    without = [name for name, kind in types if kind == "eeg" and name not in named]
    if rows and without:
        warnings.warn(
            f"EEG channels without a row in channels.tsv, used as they are: {len(without)} "
            f"({_some(without)})",
            stacklevel=2,
        )
    lost = [row for row in rows if not found[row["name"]]]
    bad = [row["name"] for row in lost if is_bad(row)]
    if lost:
        warnings.warn(
            f"rows of channels.tsv without a channel in the file: {len(lost)} "
            f"({_some([row['name'] for row in lost])})"
            + (f", marked bad {len(bad)} ({_some(bad)})" if bad else ""),
            stacklevel=2,
        )
    return [{**row, "name": channel} for row in rows for channel in found[row["name"]]]


def apply_types_and_bads(raw: mne.io.BaseRaw, rows: list[dict[str, str]]) -> None:
    """Set the types and add the bad channels that `rows` (of `rows_of_channels`) tell."""
    types = {
        row["name"]: BIDS_TYPES[(row.get("type") or "").strip().upper()]
        for row in rows
        if (row.get("type") or "").strip().upper() in BIDS_TYPES
    }
    present = dict(zip(raw.ch_names, raw.get_channel_types(), strict=True))
    changed = {name: kind for name, kind in types.items() if present[name] != kind}
    raw.set_channel_types(changed, on_unit_change="ignore", verbose="error")
    marked = {row["name"] for row in rows if is_bad(row)}
    raw.info["bads"] = [n for n in raw.ch_names if n in marked or n in raw.info["bads"]]


def is_bad(row: dict[str, str]) -> bool:
    return (row.get("status") or "").strip().lower() == "bad"


def same_spelling(rows: list[dict[str, str]], raw: mne.io.BaseRaw) -> bool:
    """Whether rows and channels are the same electrodes, one for one, in whatever order."""
    found = match_names((row["name"] for row in rows), raw.ch_names)
    channels = [channel for row in rows for channel in found[row["name"]]]
    return len(rows) == len(channels) and sorted(channels) == sorted(raw.ch_names)


def _some(names: list[str]) -> str:
    return ", ".join(names[:4]) + " ..." * (len(names) > 4)
