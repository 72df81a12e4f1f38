"""Gaps that MNE's readers join without a word: EDF+D and BDF+D files, and BrainVision pauses.

A discontinuous EDF+ file says, in every data record, when the record began. MNE reads the records
one after the other and leaves the events at their clock times, so after a gap every event is late.
Here the joins are annotated and the events are put back on the samples that they belong to.
"""

from __future__ import annotations

import re
from pathlib import Path

import mne
import numpy as np

JOIN = "EDGE boundary"
TIME_KEEPING = re.compile(rb"([+-]\d+(?:\.\d*)?)\x14\x14")


def mark_joins(raw: mne.io.BaseRaw, path: Path) -> None:
    """Annotate every join of `raw`, read from `path`, as MNE does in joined recordings."""
    suffix = path.suffix.lower()
    if suffix in (".edf", ".bdf"):
        records = record_onsets(path)
        if records is not None:
            _mend_edf(raw, path, *records)
    elif suffix in (".vhdr", ".ahdr"):
        starts = [
            float(onset) - raw.first_time
            for onset, name in zip(raw.annotations.onset, raw.annotations.description, strict=True)
            if name.startswith("New Segment")
        ]
        _add(raw, [start for start in starts if start > 0])


def record_onsets(path: Path) -> tuple[np.ndarray, float] | None:
    """Seconds at which each data record of a discontinuous file began, and a record's length.

    None for a continuous file, or one that does not say.
    """
    width = 3 if path.suffix.lower() == ".bdf" else 2
    with open(path, "rb") as file:
        fixed = file.read(256)
        if fixed[192:197] not in (b"EDF+D", b"BDF+D"):
            return None
        begin, record_s = int(fixed[184:192]), float(fixed[244:252])
        signals = int(fixed[252:256])
        labels = [file.read(16).strip() for _ in range(signals)]
        file.seek(256 + signals * 216)
        samples = [int(file.read(8)) for _ in range(signals)]
        first = next((i for i, label in enumerate(labels) if label.endswith(b"Annotations")), None)
        if first is None or record_s <= 0:
            return None
        size = width * sum(samples)
        count = (path.stat().st_size - begin) // size
        onsets = np.empty(count)
        for index in range(count):
            file.seek(begin + index * size + width * sum(samples[:first]))
            match = TIME_KEEPING.match(file.read(width * samples[first]))
            if not match:
                return None
            onsets[index] = float(match[1])
    return onsets, record_s


def _mend_edf(raw: mne.io.BaseRaw, path: Path, onsets: np.ndarray, record_s: float) -> None:
    """Clock times become places in the signal; what was noted during a gap comes to its edge."""
    notes = mne.read_annotations(path)
    clock = onsets - onsets[0]

    def place(times: np.ndarray) -> np.ndarray:
        record = np.clip(np.searchsorted(clock, times + 1e-9, side="right") - 1, 0, len(clock) - 1)
        return record * record_s + np.clip(times - clock[record], 0, record_s)

    start, stop = place(notes.onset), place(notes.onset + notes.duration)
    raw.set_annotations(
        mne.Annotations(start, np.maximum(stop - start, 0), notes.description), verbose="error"
    )
    steps = np.diff(clock)
    _add(raw, [(index + 1) * record_s for index in np.flatnonzero(abs(steps - record_s) > 1e-4)])


def _add(raw: mne.io.BaseRaw, joins_s: list[float]) -> None:
    """Annotate joins, in seconds from the first sample."""
    if joins_s:
        onsets = raw.annotations.onset - raw.first_time
        notes = raw.annotations
        raw.set_annotations(
            mne.Annotations(
                np.append(onsets, joins_s),
                np.append(notes.duration, np.zeros(len(joins_s))),
                [*notes.description, *[JOIN] * len(joins_s)],
            ),
            verbose="error",
        )
