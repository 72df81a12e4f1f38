"""Opening any file that MNE reads: whole, with its breaks marked and its channels typed."""

from __future__ import annotations

import csv
import re
from pathlib import Path

import mne

from data.errors import InputError
from data.sources.discontinuities import mark_joins
from data.sources.file_units import apply_units, mark_without_range
from data.sources.integrity import check_length, check_whole

BIDS_TYPES = {
    "EEG": "eeg", "EOG": "eog", "HEOG": "eog", "VEOG": "eog", "ECG": "ecg", "EMG": "emg",
    "MISC": "misc", "TRIG": "stim", "RESP": "resp", "GSR": "gsr", "TEMP": "temperature",
    "REF": "misc", "AUDIO": "misc", "PPG": "misc",
}  # fmt: skip


def read_raw(path: Path, unit: str | None = None) -> mne.io.BaseRaw:
    """Open a file with MNE, not loading its signal; InputError if it is unreadable or torn.

    `unit`: of its EEG, over what the file says. What MNE warns of is warned of: the packer keeps it
    (data/remarks.py).
    """
    return read_raw_and_factors(path, unit)[0]


def read_raw_and_factors(path: Path, unit: str | None) -> tuple[mne.io.BaseRaw, dict[str, float]]:
    """`read_raw`, and by what channels were multiplied to make them volts."""
    check_whole(path)
    try:
        # Active shielding spoils a file's MEG, not its EEG; data/pairing.py asks for SSS.
        shielded = {"allow_maxshield": "yes"} if path.suffix == ".fif" else {}
        raw = mne.io.read_raw(path, preload=False, verbose="warning", **shielded)
    except Exception as error:  # MNE's readers raise nearly anything on damaged files
        raise InputError(
            f"{path}: MNE cannot read it ({type(error).__name__}: {str(error)[:200]})",
            "it is damaged, or of a format that MNE does not know: copy it again, or export it as "
            "EDF, BrainVision or FIF",
        ) from error
    check_length(raw, path)
    mark_joins(raw, path)
    factors = apply_units(raw, path, _apply_channels_tsv(raw, path), unit)
    mark_without_range(raw, path)
    return raw, factors


def _apply_channels_tsv(raw: mne.io.BaseRaw, path: Path) -> list[dict]:
    """Channel types and bad channels from the BIDS sidecar of `path`, if there is one; its rows."""
    stem = path.name.rsplit("_", 1)[0]
    without_run = re.sub(r"_run-[^_]+", "", stem)
    for name in (stem, without_run):
        for folder in (path.parent, path.parent.parent):
            sidecar = folder / f"{name}_channels.tsv"
            if sidecar.is_file():
                break
        else:
            continue
        break
    else:
        return []
    with open(sidecar, encoding="utf-8-sig", errors="replace", newline="") as file:
        rows = list(csv.DictReader(file, delimiter="\t"))
    types = {
        row["name"]: BIDS_TYPES[(row.get("type") or "").upper()]
        for row in rows
        if row.get("name") in raw.ch_names and (row.get("type") or "").upper() in BIDS_TYPES
    }
    present = dict(zip(raw.ch_names, raw.get_channel_types(), strict=True))
    changed = {name: kind for name, kind in types.items() if present[name] != kind}
    raw.set_channel_types(changed, on_unit_change="ignore", verbose="error")
    marked = {row.get("name") for row in rows if (row.get("status") or "").lower() == "bad"}
    raw.info["bads"] = [n for n in raw.ch_names if n in marked or n in raw.info["bads"]]
    return rows
