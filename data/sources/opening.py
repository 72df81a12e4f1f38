"""Opening any file that MNE reads: whole, with its breaks marked and its channels typed."""

from __future__ import annotations

import csv
from pathlib import Path

import mne

from data.errors import InputError
from data.sources.discontinuities import mark_joins
from data.sources.integrity import check_length, check_whole
from data.sources.recording_files import channels_table

BIDS_TYPES = {
    "EEG": "eeg", "EOG": "eog", "HEOG": "eog", "VEOG": "eog", "ECG": "ecg", "EMG": "emg",
    "MISC": "misc", "TRIG": "stim", "RESP": "resp", "GSR": "gsr", "TEMP": "temperature",
    "REF": "misc", "AUDIO": "misc", "PPG": "misc",
}  # fmt: skip


def read_raw(path: Path) -> mne.io.BaseRaw:
    """Open a file with MNE, not loading its signal; InputError if it is unreadable or truncated."""
    check_whole(path)
    try:
        # Active shielding spoils a file's MEG, not its EEG; data/pairing.py asks for SSS.
        shielded = {"allow_maxshield": "yes"} if path.suffix == ".fif" else {}
        raw = mne.io.read_raw(path, preload=False, verbose="error", **shielded)
    except Exception as error:  # MNE's readers raise nearly anything on damaged files
        raise InputError(
            f"{path}: MNE cannot read it ({type(error).__name__}: {str(error)[:200]})",
            "it is damaged, or of a format that MNE does not know: copy it again, or export it as "
            "EDF, BrainVision or FIF",
        ) from error
    check_length(raw, path)
    mark_joins(raw, path)
    _apply_channels_tsv(raw, path)
    return raw


def _apply_channels_tsv(raw: mne.io.BaseRaw, path: Path) -> None:
    """Channel types and bad channels from the BIDS sidecar of `path`, if there is one."""
    sidecar = channels_table(path)
    if sidecar is None:
        return
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
