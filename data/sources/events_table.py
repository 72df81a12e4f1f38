"""BIDS's `events.tsv`: the rows that mne-bids does not make events of."""

from __future__ import annotations

import csv
import warnings
from pathlib import Path

import mne
import mne_bids

from data.recordings import Event
from data.sources.discontinuities import record_onsets
from data.sources.event_times import outside
from data.sources.moabb_names import quiet


def rows_outside(sidecar: Path, raw: mne.io.BaseRaw, recording: Path) -> list[Event]:
    """The rows that lie before the signal's first sample or after its last, named as mne-bids names
    them. Warns of rows without an onset or a name, which it leaves out.

    Times of a discontinuous EDF are the clock's: of those nothing is told.
    """
    with quiet():
        kept = mne_bids.read.events_file_to_annotation_kwargs(sidecar)
    with open(sidecar, encoding="utf-8-sig", errors="replace", newline="") as file:
        rows = sum(1 for row in csv.reader(file, delimiter="\t") if any(row)) - 1
    if rows > len(kept["onset"]):
        warnings.warn(
            f"rows of events.tsv without an onset or a name, left out: {rows - len(kept['onset'])}",
            stacklevel=2,
        )
    if recording.suffix.lower() in (".edf", ".bdf") and record_onsets(recording) is not None:
        return []
    return outside(kept["onset"], kept["description"], raw)
