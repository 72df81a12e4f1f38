"""Stretches of a recording without gaps or joins, and what is annotated as BAD in it."""

from __future__ import annotations

from collections.abc import Callable

import mne
import numpy as np


def spans_of(raw: mne.io.BaseRaw) -> list[tuple[int, int]]:
    """Start and stop samples of the stretches between gaps and joins, as MNE annotates them."""
    cuts = []
    for onset_s, duration_s, name in _annotations(raw):
        if name.startswith(("edge", "bad_acq_skip", "bad boundary", "boundary")):
            start = round(onset_s * raw.info["sfreq"])
            # Only MNE's skips are samples without data; EEGLAB's boundaries tell what was cut out.
            gap_s = duration_s if name.startswith("bad_acq_skip") else 0.0
            cuts.append((start, start + round(gap_s * raw.info["sfreq"])))
    spans, begin = [], 0
    for start, stop in sorted(cuts):
        if start > begin:
            spans.append((begin, min(start, int(raw.n_times))))
        begin = max(begin, stop)
    if begin < raw.n_times:
        spans.append((begin, int(raw.n_times)))
    return spans


def bad_intervals(raw: mne.io.BaseRaw) -> np.ndarray:
    """`[K, 2]`: begin and end, in seconds of the recording, of what is annotated as BAD."""
    rows = [(onset, onset + long) for onset, long, name in _annotations(raw) if name[:3] == "bad"]
    return np.array(rows, np.float64).reshape(-1, 2)


def long_enough(
    spans: list[tuple[int, int]], fits: Callable[[int], bool]
) -> tuple[list[tuple[int, int]], int]:
    """The stretches in which a window has room (`fits`, of a number of samples), and how many have
    not: filtering thousands of short trials one by one is slow, and nothing would come of them.
    Without any, the longest is kept, so that channels are judged on something."""
    long = [(start, stop) for start, stop in spans if fits(stop - start)]
    if not long and spans:
        long = [max(spans, key=lambda span: span[1] - span[0])]
    return long, len(spans) - len(long)


def _annotations(raw: mne.io.BaseRaw) -> list[tuple[float, float, str]]:
    """(onset in seconds from the first sample, duration, lower-case description)."""
    notes = raw.annotations
    return [
        (float(onset) - raw.first_time, float(duration), str(name).lower())
        for onset, duration, name in zip(
            notes.onset, notes.duration, notes.description, strict=True
        )
    ]
