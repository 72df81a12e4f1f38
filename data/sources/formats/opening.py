"""Opening any file that MNE reads: whole, with its breaks marked and its channels typed."""

from __future__ import annotations

import warnings
from pathlib import Path

import mne

from data.sources.bids.channels_table import (
    apply_types_and_bads,
    channels_table_of,
    read_rows,
    rows_of_channels,
)
from data.sources.formats.discontinuities import mark_joins
from data.sources.formats.edf_annotations import LATIN_1, is_latin_1
from data.sources.formats.file_units import apply_units, mark_without_range
from data.sources.formats.integrity import check_length, check_whole
from data.sources.formats.unreadable import explain


def read_raw(path: Path, unit: str | None = None) -> mne.io.BaseRaw:
    """Open a file with MNE, not loading its signal; InputError if it is unreadable or torn.

    `unit`: of its EEG, over what the file says. What MNE warns of is warned of: the packer keeps it
    (data/shards/remarks.py).
    """
    return read_raw_and_factors(path, unit)[0]


def read_raw_and_factors(path: Path, unit: str | None) -> tuple[mne.io.BaseRaw, dict[str, float]]:
    """`read_raw`, and by what channels were multiplied to make them volts."""
    check_whole(path)
    raw = _open(path)
    check_length(raw, path)
    mark_joins(raw, path)
    rows: list[dict[str, str]] = []
    if sidecar := channels_table_of(path):
        rows = rows_of_channels(read_rows(sidecar), raw, sidecar)
        apply_types_and_bads(raw, rows)
    factors = apply_units(raw, path, rows, unit)
    mark_without_range(raw, path)
    return raw, factors


def _open(path: Path) -> mne.io.BaseRaw:
    # Active shielding spoils a file's MEG, not its EEG; data/signals/eeg_meg.py asks for SSS.
    options = {"allow_maxshield": "yes"} if path.suffix == ".fif" else {}
    try:
        return mne.io.read_raw(path, preload=False, verbose="warning", **options)
    except Exception as error:  # MNE's readers raise nearly anything on damaged files
        if not is_latin_1(path, error):
            raise explain(path, error) from error
    warnings.warn("text of annotations read as Latin-1: it is no UTF-8", stacklevel=2)
    return mne.io.read_raw(path, preload=False, verbose="warning", encoding=LATIN_1)
