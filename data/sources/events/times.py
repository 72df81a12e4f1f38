"""What a recording holds that may be events: names with their times, by where they stand."""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path

import mne
import numpy as np

from data.signals.recording import Event
from data.sources.events.triggers import read_codes
from data.sources.formats.discontinuities import clock_of
from data.sources.formats.edf_annotations import read_annotations

BREAKS = ("bad", "edge", "boundary", "new segment")
"""Annotations that are no events, by how they begin."""
COMPOSITE = ("STI101", "STI 014")
"""Stimulus channels of MEG systems that hold what the other ones do."""

Times = dict[str, np.ndarray]
"""Name -> float64 `[n]`: onsets in seconds from the first sample."""


def annotated(raw: mne.io.BaseRaw, names: Iterable[str] = ()) -> Times:
    """The recording's annotations, without breaks but those that are named."""
    found: dict[str, list[float]] = {}
    for onset, text in zip(raw.annotations.onset, raw.annotations.description, strict=True):
        name = " ".join(str(text).split())
        if name in names or not name.lower().startswith(BREAKS):
            found.setdefault(name, []).append(float(onset) - raw.first_time)
    return {name: np.array(onsets) for name, onsets in found.items()}


def annotations_outside(raw: mne.io.BaseRaw, path: Path) -> list[Event]:
    """The annotations of a file that MNE dropped when it opened it: they lie beyond its signal. (In
    BrainVision files a marker beyond it is the sign of a cut file, and refused.)"""
    if clock_of(path) is not None:
        return []  # discontinuous: its times are the clock's, and all are put on the signal
    try:
        with mne.utils.use_log_level("error"):
            notes = read_annotations(path)
    except (OSError, ValueError, KeyError, RuntimeError):
        return []  # a format without annotations, or one whose annotations come with its signal
    return outside(notes.onset - raw.first_time, notes.description, raw)


def outside(onsets_s: Sequence[float], names: Sequence[str], raw: mne.io.BaseRaw) -> list[Event]:
    """The events that lie before the first sample of `raw` or after its last, and are none of its
    annotations."""
    stop_s, present = raw.n_times / raw.info["sfreq"], annotated(raw, names)
    pairs = zip(onsets_s, names, strict=True)
    return [
        Event(float(at), str(name))
        for at, name in pairs
        if not 0 <= at < stop_s
        and not np.isclose(present.get(" ".join(str(name).split()), np.empty(0)), at).any()
    ]


def stimulus_channels(raw: mne.io.BaseRaw) -> list[str]:
    """The channels that are looked at: the composite one of an MEG system, else every one."""
    types = zip(raw.ch_names, raw.get_channel_types(), strict=True)
    channels = [name for name, kind in types if kind == "stim"]
    return next(([name] for name in COMPOSITE if name in channels), channels)


def coded(
    raw: mne.io.BaseRaw, channel: str, names: Iterable[str] = (), rising: bool = False
) -> Times:
    """Code -> onsets of a channel; `rising`: only where it rises. Warns of codes that may be none,
    of `names` or, where there are none, of all."""
    values = np.rint(raw.get_data([channel], verbose="error")[0]).astype(np.int64)
    if values.min(initial=0) < 0:
        warnings.warn(f"negative codes in {channel} were taken without their sign", stacklevel=3)
        values = np.abs(values)
    found = read_codes(values, rising)

    def counted(codes: np.ndarray) -> str:
        named = Counter(str(code) for code in codes if not names or str(code) in names)
        return ", ".join(f"{code} ({count})" for code, count in sorted(named.items()))

    if rests := counted(found.codes[found.rests]):
        warnings.warn(
            f"codes of {channel} that begin as a higher one with the same bits ends: {rests}; if "
            "its lines are switched off one by one these are no events: edges=rise leaves them out",
            stacklevel=3,
        )
    if settling := counted(found.settling):
        warnings.warn(
            f"codes of {channel} that stood for one sample between two others, taken for lines "
            f"that do not switch at once and not for events: {settling}",
            stacklevel=3,
        )
    if standing := counted(np.array([found.standing] if found.standing else [], np.int64)):
        warnings.warn(
            f"{channel} stood at code {standing.split()[0]} when the recording began: when that "
            "event was is not known, it is left out",
            stacklevel=3,
        )
    seconds = found.samples / raw.info["sfreq"]
    return {str(code): seconds[found.codes == code] for code in np.unique(found.codes)}
