"""Gaps that MNE's readers join without a word: EDF+D and BDF+D files, BrainVision pauses, numbered
joins of EEGLAB.

A discontinuous EDF+ file says, in every data record, when the record began. MNE reads the records
one after the other and leaves the events at their clock times, so after a gap every event is late.
Here the joins are annotated and the events are put back on the samples that they belong to.
"""

from __future__ import annotations

import re
import warnings
from dataclasses import dataclass
from pathlib import Path

import mne
import numpy as np

from data.sources.formats.edf_annotations import read_annotations

JOIN = "EDGE boundary"
TIME_KEEPING = re.compile(rb"([+-]\d+(?:\.\d*)?)\x14\x14")


def mark_joins(raw: mne.io.BaseRaw, path: Path) -> None:
    """Annotate every join of `raw`, read from `path`, as MNE does in joined recordings."""
    suffix = path.suffix.lower()
    if suffix in (".edf", ".bdf"):
        clock = clock_of(path)
        if clock is not None:
            _mend_edf(raw, path, clock)
    elif suffix == ".set":
        _name_boundaries(raw)
    elif suffix in (".vhdr", ".ahdr"):
        starts = [
            float(onset) - raw.first_time
            for onset, name in zip(raw.annotations.onset, raw.annotations.description, strict=True)
            if name.startswith("New Segment")
        ]
        _add(raw, [start for start in starts if start > 0])


@dataclass(frozen=True)
class Clock:
    """When each data record of a discontinuous file began, in seconds after the first `[records]`,
    and a record's length."""

    onsets_s: np.ndarray
    record_s: float

    def on_signal(self, times_s: np.ndarray) -> np.ndarray:
        """Seconds on the clock -> seconds of the signal that MNE makes of the records, one after
        the other. What lies in a gap moves to its edge."""
        times = np.asarray(times_s, np.float64)
        last = len(self.onsets_s) - 1
        record = np.clip(np.searchsorted(self.onsets_s, times + 1e-9, side="right") - 1, 0, last)
        within = np.clip(times - self.onsets_s[record], 0, self.record_s)
        return record * self.record_s + within

    def joins_s(self) -> list[float]:
        """Where in the signal a record begins that does not follow the one before at once."""
        late = abs(np.diff(self.onsets_s) - self.record_s) > 1e-4
        return [(int(index) + 1) * self.record_s for index in np.flatnonzero(late)]


def clock_of(path: Path) -> Clock | None:
    """None for a file that is no EDF or BDF, is continuous, or does not say."""
    if path.suffix.lower() not in (".edf", ".bdf"):
        return None
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
    return Clock(onsets - onsets[0], record_s)


def _name_boundaries(raw: mne.io.BaseRaw) -> None:
    """EEGLAB marks joins by events "boundary", or -99 where its events are numbers (its option
    `boundary99`); MNE knows the word alone."""
    names = set(raw.annotations.description)
    numbers = names & {"-99", "-99.0"}
    if numbers and not any(name.lower().startswith("boundary") for name in names):
        warnings.warn("events -99 taken for joins, as EEGLAB marks them", stacklevel=2)
        raw.annotations.rename(dict.fromkeys(numbers, "boundary"), verbose="error")


def _mend_edf(raw: mne.io.BaseRaw, path: Path, clock: Clock) -> None:
    notes = read_annotations(path)
    start, stop = (clock.on_signal(x) for x in (notes.onset, notes.onset + notes.duration))
    raw.set_annotations(
        mne.Annotations(start, np.maximum(stop - start, 0), notes.description), verbose="error"
    )
    _add(raw, clock.joins_s())


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
