"""Opening any file that MNE reads: whole, with its breaks marked and its channels typed."""

from __future__ import annotations

from pathlib import Path

import mne

from data.errors import InputError
from data.sources.channels_table import (
    apply_types_and_bads,
    channels_table_of,
    read_rows,
    rows_of_channels,
)
from data.sources.discontinuities import mark_joins
from data.sources.file_units import apply_units, mark_without_range
from data.sources.integrity import check_length, check_whole


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
    rows: list[dict[str, str]] = []
    if sidecar := channels_table_of(path):
        rows = rows_of_channels(read_rows(sidecar), raw, sidecar)
        apply_types_and_bads(raw, rows)
    factors = apply_units(raw, path, rows, unit)
    mark_without_range(raw, path)
    return raw, factors
