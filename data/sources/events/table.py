"""BIDS's `events.tsv`: the rows that mne-bids does not make events of."""

from __future__ import annotations

import csv
import io
import warnings
from pathlib import Path

import mne
import mne_bids
import numpy as np

from data.files import read_text
from data.signals.recording import Event
from data.sources.events.times import outside
from data.sources.formats.discontinuities import clock_of
from data.subjects.moabb_names import quiet


def rows_outside(sidecar: Path, raw: mne.io.BaseRaw, recording: Path) -> list[Event]:
    """The rows that lie before the signal's first sample or after its last, named as mne-bids names
    them. Warns of rows without an onset or a name, which it leaves out."""
    with quiet():
        kept = mne_bids.read.events_file_to_annotation_kwargs(sidecar)
    table = csv.reader(io.StringIO(read_text(sidecar), newline=""), delimiter="\t")
    rows = sum(1 for row in table if any(row)) - 1
    if rows > len(kept["onset"]):
        warnings.warn(
            f"rows of events.tsv without an onset or a name, left out: {rows - len(kept['onset'])}",
            stacklevel=2,
        )
    if clock_of(recording) is not None:
        return []  # all are on the signal
    return outside(kept["onset"], kept["description"], raw)


def events_on_signal(sidecar: Path, recording: Path) -> list[tuple[float, float, str]] | None:
    """(onset, duration, name) of the rows, in seconds of the signal without its gaps, and a warning
    of that; None where the recording has no gaps.

    The table's times are those of the clock: after a gap mne-bids has every event late by it.
    """
    clock = clock_of(recording)
    if clock is None or not clock.joins_s():
        return None
    with quiet():
        rows = mne_bids.read.events_file_to_annotation_kwargs(sidecar)
    onsets, durations = (np.asarray(rows[key], np.float64) for key in ("onset", "duration"))
    starts, stops = clock.on_signal(onsets), clock.on_signal(onsets + durations)
    warnings.warn(
        f"times of events.tsv taken for the clock's, which went on in {len(clock.joins_s())} gaps",
        stacklevel=2,
    )
    return [
        (round(float(start), 6), float(max(stop - start, 0)), str(name))
        for start, stop, name in zip(starts, stops, rows["description"], strict=True)
    ]
