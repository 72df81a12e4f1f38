"""A recording becomes windows: pick, find bad channels, filter, reference, resample, scale, cut.

Every operation before the scale is linear and the same for all channels, so filtering first and
referencing later gives the same signal as the usual order, and lets bad channels be found on the
filtered signal. The source is read once, in blocks; what is kept of it is the filtered signal at
the profile's rate, in memory while small and else in a file (data/files.py), so that a worker's
memory does not grow with the recording (but for the rare files of
`data.signals.reading.in_one_piece`).

Windows never cross the edge of a recording, a gap, or what an annotation marks as BAD.
"""

from __future__ import annotations

import functools
import warnings
from collections import Counter
from dataclasses import dataclass, replace

import mne
import numpy as np

from data.electrodes.channels import FEWEST, choose_channels
from data.electrodes.units import NO_RANGE, check_units_known, marked, odd_units
from data.errors import InputError
from data.files import hashes_of, scratch_array
from data.signals.bad_channels import find_bad_channels, robust_amplitude, sample
from data.signals.cutting import Stretches, WindowCutter
from data.signals.filtering import BandPass, measure_mains
from data.signals.profiles import Profile
from data.signals.reading import SpanReader, in_one_piece
from data.signals.recording import WHITENED, Recording, Windows
from data.signals.segments import make_segment_windows
from data.signals.session_scale import amplitudes_of
from data.signals.spans import bad_intervals, long_enough, spans_of
from data.signals.whitened import make_whitened_windows
from data.spacing import evenly

MAINS_S, MAINS_CHANNELS = 60.0, 16
"""Mains is looked for in the middle minute of at most this many channels, evenly spaced."""
LEAST_SCALE_V = 1e-10
"""Below, windows hold the rounding of float32 and nothing else."""
PLAUSIBLE_UV = (0.2, 2000.0)
"""A recording whose scale lies outside is kept, with a note: its unit is probably not volt."""


def make_windows(recording: Recording, profile: Profile, fewest: int = FEWEST) -> Windows:
    """Preprocess one recording as `profile` says.

    Returns float16 windows in units of `info["scale_uv"]` microvolts (`info["scale"]` in the
    source's own unit where that is not volt), clipped at `profile.clip`. A recording too short for
    a window gives none, and says so in `info["dropped"]`. `info` also holds source_sfreq_hz,
    source_sha256, unit, mains_hz, filter, positions_from, bad_channels {name: reason}, left_out
    {name: reason}, dropped {reason: count}, hours (kept) and notes; all JSON-able.

    Raises InputError where fewer than `fewest` good EEG channels with a position remain. Below
    FEWEST they stay at their own reference.
    """
    if recording.segments is not None:
        make = make_whitened_windows if recording.unit == WHITENED else make_segment_windows
        windows = make(recording, profile, where_of(recording))
        windows.info["source_sha256"] = source_hashes(recording)
        return windows
    return _continuous(recording, profile, fewest)


@dataclass
class Prepared:
    """A recording whose EEG is filtered, and judged channel by channel."""

    names: list[str]
    positions_m: np.ndarray
    good: list[int]
    """Rows of `parts` that are kept."""
    reasons: dict[str, str]
    """Bad channels -> why."""
    spans: list[tuple[int, int]]
    readers: list[SpanReader]
    parts: list[np.ndarray]
    """float32 `[C, M]` volts at the profile's rate, of each stretch."""
    band: BandPass
    info: dict
    """What the manifest keeps of it."""

    def windows_of(self, part: int) -> tuple[np.ndarray, float, np.ndarray]:
        """Of a stretch: bool `[M]` where it stands still, its start in seconds, and `[K, 2]` its
        holes in seconds of the recording."""
        reader, sfreq_hz = self.readers[part], self.band.sfreq_hz
        step = sfreq_hz / self.band.target_hz
        origin = (np.arange(self.parts[part].shape[1]) * step).astype(int)
        flat = reader.still[np.minimum(origin, len(reader.still) - 1)]
        good = set(self.good)
        holes = [(first, last) for row, first, last in reader.holes if row in good]
        holes_s = (reader.start + np.array(holes, np.float64).reshape(-1, 2)) / sfreq_hz
        return flat, reader.start / sfreq_hz, holes_s


def prepare(recording: Recording, profile: Profile, fewest: int = FEWEST) -> Prepared:
    """Choose, read and filter the EEG of a continuous recording, and find its bad channels."""
    raw, where = recording.raw, where_of(recording)
    sfreq_hz = float(raw.info["sfreq"])
    chosen = choose_channels(raw.info, recording.montage, where, fewest)
    no_range = marked(raw.info, NO_RANGE)
    known_bad = {
        name: "no range" if pick in no_range else "marked bad in the file"
        for name, pick in zip(chosen.names, chosen.picks, strict=True)
        if pick in no_range or raw.ch_names[pick] in raw.info["bads"]
    }
    keep = [i for i, name in enumerate(chosen.names) if name not in known_bad]
    names = [chosen.names[i] for i in keep]
    picks = [chosen.picks[i] for i in keep]
    if len(keep) < fewest:
        raise _too_few_good(where, len(keep), len(chosen.names), known_bad)
    check_units_known(raw.info, picks, where)
    source, picks = in_one_piece(raw, picks)
    mains_hz = recording.mains_hz or raw.info["line_freq"] or _mains_of(source, picks, where)
    band = band_of(profile, sfreq_hz, mains_hz)

    window = window_samples(recording, profile)
    spans, short = long_enough(spans_of(raw), lambda length: band.out_samples(length) >= window)
    readers = [SpanReader(source, picks, start, stop, where) for start, stop in spans]
    signal, parts = filtered(band, readers, len(picks))
    bad = _bad_channels(names, parts, readers, where) if signal.size else {}
    reasons = {**known_bad, **{names[index]: reason for index, reason in bad.items()}}
    good = [index for index in range(len(names)) if index not in bad]
    if len(good) < fewest:
        raise _too_few_good(where, len(good), len(chosen.names), reasons)
    return Prepared(
        names=[names[index] for index in good],
        positions_m=chosen.positions_m[keep][good],
        good=good,
        reasons=reasons,
        spans=spans,
        readers=readers,
        parts=parts,
        band=band,
        info={
            "source_sfreq_hz": sfreq_hz,
            "source_sha256": source_hashes(recording),
            "unit": recording.unit,
            "mains_hz": mains_hz,
            "filter": band.describe(max((stop - start for start, stop in spans), default=0)),
            "reference": profile.reference if len(good) >= FEWEST else "own",
            "positions_from": chosen.positions_from,
            "bad_channels": reasons,
            "left_out": chosen.left_out,
            **({"stretches_too_short": short} if short else {}),
        },
    )


def _bad_channels(
    names: list[str], parts: list[np.ndarray], readers: list[SpanReader], where: str
) -> dict[int, str]:
    """Row -> reason. Raises InputError where channels seem to be in two units, and it cannot be
    told which is right."""
    judged = sample(parts)
    bad = find_bad_channels(judged, hole_fraction(readers))
    odd = odd_units(1e6 * robust_amplitude(judged, axis=1), names, PLAUSIBLE_UV, where)
    for row, reason in odd.items():
        warnings.warn(f"{names[row]} is left out: {reason}", stacklevel=2)
    return {**bad, **odd}


def window_samples(recording: Recording, profile: Profile) -> int:
    """Samples of a window of this recording, at the profile's rate."""
    return profile.window_samples if recording.events is None else profile.event_samples


def _too_few_good(where: str, good: int, total: int, reasons: dict[str, str]) -> InputError:
    return InputError(
        f"{where}: {good} of {total} EEG channels are good ({counted(reasons.values())})",
        "leave this recording out, or look at it: is it EEG, was the amplifier connected, is it in "
        "the unit that the file says (else give unit=)?",
    )


def cut(found: Prepared, recording: Recording, profile: Profile) -> WindowCutter:
    """The windows of what `prepare` found, not yet scaled."""
    cutter = WindowCutter(
        replace(profile, reference=found.info["reference"]),
        np.array(found.good),
        recording.events,
        stretches_of(recording.raw),
    )
    rough = bad_intervals(recording.raw)
    for index, part in enumerate(found.parts):
        flat, start_s, holes_s = found.windows_of(index)
        cutter.add(part, flat, start_s, rough, holes_s)
    return cutter


def _continuous(recording: Recording, profile: Profile, fewest: int) -> Windows:
    found = prepare(recording, profile, fewest)
    cutter = cut(found, recording, profile)
    scale_v = checked_scale(cutter.scale(), recording)
    data, meta = cutter.finish(scale_v)
    amplitudes = None
    if profile.scale == "session" and len(data):
        amplitudes = amplitudes_of(cutter.sample(), scale_v, data, profile)
    return Windows(
        data=data,
        meta=meta,
        channels=found.names,
        positions_m=found.positions_m,
        info=found.info | describe(recording, profile, data, scale_v, cutter.dropped),
        amplitudes=amplitudes,
    )


def stretches_of(raw: mne.io.BaseRaw) -> Stretches:
    """Where `raw` has signal without a join, short stretches too."""
    return Stretches.of(spans_of(raw), raw.n_times, raw.info["sfreq"])


def checked_scale(scale_v: float | None, recording: Recording) -> float | None:
    """The scale; InputError where nothing is left of the signal once the reference is taken out."""
    least = LEAST_SCALE_V if recording.unit == "V" else 0.0
    if scale_v is not None and not scale_v > least:
        raise InputError(
            f"{where_of(recording)}: all EEG channels carry one and the same signal",
            "leave this recording out: a calibration, or an amplifier that was not connected",
        )
    return scale_v


def describe(
    recording: Recording, profile: Profile, data: np.ndarray, scale_v: float | None, dropped: dict
) -> dict:
    """What the manifest keeps of the windows `data` `[n, C, T]` and their scale."""
    notes = dict(recording.notes)
    scale_uv = 1e6 * scale_v if recording.unit == "V" and scale_v else None
    if scale_uv and not PLAUSIBLE_UV[0] < scale_uv < PLAUSIBLE_UV[1]:
        notes["amplitude"] = (
            f"{scale_uv:.3g} uV is implausible for EEG: is the unit right? (raw: and bids: take "
            "unit=)"
        )
    return {
        "scale_uv": scale_uv,
        "scale": scale_v,
        "dropped": dict(sorted(dropped.items())),
        "hours": data.shape[0] * data.shape[2] / profile.sfreq_hz / 3600,
        "notes": notes,
    }


@functools.lru_cache(maxsize=8)
def band_of(profile: Profile, sfreq_hz: float, mains_hz: float | None) -> BandPass:
    """Designing a filter takes as long as filtering a minute of 64 channels."""
    return BandPass.of(profile, sfreq_hz, mains_hz)


def filtered(
    band: BandPass, readers: list[SpanReader], channels: int
) -> tuple[np.ndarray, list[np.ndarray]]:
    """Read and filter every stretch: float32 `[C, M]` of all, and its part of each stretch."""
    lengths = [band.out_samples(reader.stop - reader.start) for reader in readers]
    signal = scratch_array((channels, sum(lengths)), np.float32)
    parts = np.split(signal, np.cumsum(lengths[:-1]), axis=1) if lengths else []
    for reader, part in zip(readers, parts, strict=True):
        samples = reader.stop - reader.start
        for first, block in band.blocks(reader.read, channels, samples):
            part[:, first : first + block.shape[1]] = block
    return signal, parts


def hole_fraction(readers: list[SpanReader]) -> np.ndarray:
    lengths = [reader.stop - reader.start for reader in readers]
    return np.average([reader.hole_fraction() for reader in readers], axis=0, weights=lengths)


def _mains_of(raw: mne.io.BaseRaw, picks: list[int], where: str) -> float | None:
    """The mains frequency, measured."""
    sfreq_hz, middle = raw.info["sfreq"], raw.n_times // 2
    start = max(0, middle - round(MAINS_S / 2 * sfreq_hz))
    stop = min(raw.n_times, middle + round(MAINS_S / 2 * sfreq_hz))
    some = [picks[row] for row in evenly(len(picks), MAINS_CHANNELS)]
    excerpt = SpanReader(raw, some, start, stop, where).read(0, stop - start)
    return measure_mains(excerpt, sfreq_hz)


def counted(reasons) -> str:
    """ "3 flat, 1 noisy": the first word of each reason, counted."""
    counts = Counter(reason.split(" (")[0] for reason in reasons)
    return ", ".join(f"{count} {reason}" for reason, count in counts.most_common()) or "none bad"


def where_of(recording: Recording) -> str:
    """What to call a recording in a message: its first file, else its id."""
    return str(recording.source_files[0]) if recording.source_files else recording.id


def source_hashes(recording: Recording) -> dict[str, str]:
    """File name -> SHA-256 of every source file."""
    return hashes_of(recording.source_files)
