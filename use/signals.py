"""From recordings in volts to an encoder's input, by the very functions that packing calls.

A recording (`prepare_raw`, `windows_of`) is treated as `data/pack.py` treats it: same channels,
filters, reference, scale and clip, so that the same moments give the same numbers. Trials that were
cut elsewhere (`prepare_trials`) cannot have the recording's scale, nor a filter of 6.6 s without an
edge: on PhysionetMI their signal correlates .93 with packing's if they were filtered before they
were cut, .89 if after.

Shapes: B windows, C channels, T samples.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass, replace
from fractions import Fraction

import mne
import numpy as np
import torch

from data.electrodes.channels import FEWEST, Chosen, choose_channels
from data.errors import InputError
from data.signals.bad_channels import robust_amplitude
from data.signals.cutting import referenced
from data.signals.eeg import PLAUSIBLE_UV, band_of, checked_scale, cut, make_windows, prepare
from data.signals.profiles import Profile
from data.signals.recording import Event, Recording
from model.interpolation import head_directions, spline_matrix

VOLTS = {"V": 1.0, "mV": 1e-3, "uV": 1e-6}
SCALES = ("window", "recording")
RAW_UNIT_V = 1e-6
"""What one unit of the encoder is in a Raw of `prepare_raw`: MOABB multiplies by 1e6."""


@dataclass(frozen=True)
class Signals:
    """An encoder's input. eeg: float32 `[B, C, T]`, robust units; positions_m: float32 `[C, 3]`,
    metres, head frame; scale_v `[B]`: what was divided by."""

    eeg: np.ndarray
    positions_m: np.ndarray
    names: tuple[str, ...]
    scale_v: np.ndarray
    onset_s: np.ndarray | None
    """Of windows of a recording, from its first sample."""
    left_out: dict[str, str]
    """Channels that are not used, and why; bad ones among them."""


def windows_of(
    raw: mne.io.BaseRaw,
    profile: Profile,
    *,
    montage: str | None = None,
    mains_hz: float | None = None,
    onsets_s: np.ndarray | None = None,
) -> Signals:
    """The windows of a recording, as packing makes them (float16 values): one after the other, of
    `profile.window_samples`; or at events, onsets_s `[n]` seconds from the first sample, of
    `profile.event_samples` from `profile.event_tmin_s` on. Where several events cannot have a
    window, there are fewer windows than onsets: `onset_s` tells which. InputError as in packing."""
    recording = _recording(raw, montage, mains_hz)
    if onsets_s is not None:
        recording.events = [Event(float(onset_s)) for onset_s in onsets_s]
    found = make_windows(recording, replace(profile, scale="recording"), fewest=1)
    if not len(found.data):
        reasons = ", ".join(f"{count} {what}" for what, count in found.info["dropped"].items())
        raise InputError(f"the recording gives no window ({reasons})", "is it long enough?")
    _warn(len(found.channels), found.info["scale"])
    return Signals(
        found.data.astype(np.float32),
        found.positions_m.astype(np.float32),
        tuple(found.channels),
        np.full(len(found.data), found.info["scale"]),
        np.array([meta["onset_s"] for meta in found.meta]),
        {**found.info["left_out"], **found.info["bad_channels"]},
    )


def prepare_raw(
    raw: mne.io.BaseRaw,
    profile: Profile,
    *,
    montage: str | None = None,
    mains_hz: float | None = None,
    bad: str = "interpolate",
) -> mne.io.RawArray:
    """The whole recording at the encoder's rate: EEG alone, referenced, scaled, clipped; one unit
    of the encoder is 1e-6 V. Annotations stay; gaps are zero, and annotated BAD.

    bad: `interpolate` bad channels by splines, so that all recordings of a montage keep its
    channels; or `drop` them.
    """
    if bad not in ("interpolate", "drop"):
        raise InputError(f"bad={bad}", "use interpolate or drop")
    recording = _recording(raw, montage, mains_hz)
    found = prepare(recording, profile, fewest=1)
    scale_v = checked_scale(cut(found, recording, profile).scale(), recording)
    if scale_v is None:
        raise InputError("the recording is shorter than a window", "give a longer one")
    _warn(len(found.names), scale_v)
    sfreq_hz, step = profile.sfreq_hz, found.band.target_hz / found.band.sfreq_hz
    values = np.zeros((len(found.good), found.band.out_samples(raw.n_times)), np.float32)
    for (start, _), part in zip(found.spans, found.parts, strict=True):
        first = round(start * step)
        own = part[found.good][:, : values.shape[1] - first]
        own = referenced(own, found.info["reference"])
        values[:, first : first + own.shape[1]] = own / np.float32(scale_v)
    values = np.clip(values, -profile.clip, profile.clip)
    names, positions_m = list(found.names), found.positions_m
    if bad == "interpolate":
        names, positions_m, values = _with_bad(raw, montage, names, positions_m, values)
    info = mne.create_info(names, sfreq_hz, "eeg")
    places = dict(zip(names, positions_m, strict=True))
    info.set_montage(mne.channels.make_dig_montage(places, coord_frame="head"))
    done = mne.io.RawArray(values.astype(np.float64) * RAW_UNIT_V, info, verbose="error")
    gaps = _gaps(found.spans, raw.n_times, raw.info["sfreq"])
    marks = raw.annotations
    onsets = marks.onset - raw.first_time  # a new Raw begins at 0
    done.set_annotations(
        mne.Annotations(onsets, marks.duration, marks.description)
        + mne.Annotations(*(gaps.T if len(gaps) else ([], [])), ["BAD_gap"] * len(gaps)),
        verbose="error",
    )
    return done


def prepare_trials(
    trials: np.ndarray,
    ch_names: list[str] | tuple[str, ...],
    sfreq_hz: float,
    profile: Profile,
    *,
    unit: str = "V",
    positions_m: np.ndarray | None = None,
    montage: str | None = None,
    mains_hz: float | None = None,
    filtered: bool = False,
    scale: str | float = "window",
) -> Signals:
    """Trials that were cut elsewhere. trials: `[B, C, T]` or `[C, T]`, in `unit` (V, mV, uV).

    positions_m: `[C, 3]`, head frame; left out, `montage` or the names tell the places. filtered:
    they hold no more than the band of the encoder's training; else each is filtered by itself.
    scale: `window`, one robust scale for each trial, which depends on no other; `recording`, one
    for all, where the trials are those of one recording; or a number of volts.

    InputError for values that are not finite, shapes that do not fit, channels without a place,
    places that are no head's.
    """
    info = trial_info(ch_names, sfreq_hz, positions_m)
    trials = np.asarray(trials)
    trials = trials[None] if trials.ndim == 2 else trials
    if trials.ndim != 3 or trials.shape[1] != len(ch_names):
        raise InputError(
            f"an array of shape {trials.shape} for {len(ch_names)} channels",
            "give [trials, channels, samples] and a name for each channel",
        )
    if unit not in VOLTS:
        raise InputError(f"unit={unit}", f"use one of {', '.join(VOLTS)}")
    chosen = choose_channels(info, montage, "the array", fewest=1)
    volts = np.float32(VOLTS[unit]) * trials[:, chosen.picks].astype(np.float32)
    if not np.isfinite(volts).all():
        raise InputError("the array has values that are not finite", "leave those trials out")
    eeg = np.stack(list(_at_rate(volts, sfreq_hz, profile, mains_hz, filtered)))
    if len(chosen.picks) >= FEWEST:
        eeg = eeg - eeg.mean(1, keepdims=True)
    scale_v = _scale(eeg, scale)
    _warn(len(chosen.picks), float(np.median(scale_v)) if isinstance(scale, str) else None)
    return Signals(
        np.clip(eeg / scale_v[:, None, None].astype(np.float32), -profile.clip, profile.clip),
        chosen.positions_m.astype(np.float32),
        tuple(chosen.names),
        scale_v,
        None,
        chosen.left_out,
    )


def trial_info(
    ch_names: list[str] | tuple[str, ...], sfreq_hz: float, positions_m: np.ndarray | None = None
) -> mne.Info:
    """MNE's description of an array's channels. InputError for a rate or places that cannot be."""
    if not (np.isfinite(sfreq_hz) and sfreq_hz > 0):
        raise InputError(f"sfreq={sfreq_hz}", "give the rate of the array in hertz")
    info = mne.create_info(list(ch_names), float(sfreq_hz), "eeg")
    if positions_m is None:
        return info
    positions_m = np.asarray(positions_m, np.float64)
    if positions_m.shape != (len(ch_names), 3):
        raise InputError(f"positions of shape {positions_m.shape}", "give [channels, 3]")
    radius_m = float(np.nanmedian(np.linalg.norm(positions_m, axis=1)))
    if not 0.04 <= radius_m <= 0.2:
        raise InputError(
            f"positions: the median distance from the head's middle is {radius_m:g} m",
            "give metres, in MNE's head frame",
        )
    places = dict(zip(ch_names, positions_m, strict=True))
    info.set_montage(mne.channels.make_dig_montage(places, coord_frame="head"))
    return info


def _recording(raw: mne.io.BaseRaw, montage: str | None, mains_hz: float | None) -> Recording:
    return Recording(
        dataset="given", subject="given", session="0", run="0", raw=raw, montage=montage,
        mains_hz=mains_hz,
    )  # fmt: skip


def _at_rate(
    volts: np.ndarray, sfreq_hz: float, profile: Profile, mains_hz: float | None, filtered: bool
):
    """float32 `[C, T']` of each trial, filtered and at the encoder's rate."""
    if not filtered:
        band = band_of(profile, sfreq_hz, mains_hz)
        return (band.apply(one) for one in volts)
    if sfreq_hz == profile.sfreq_hz:
        return iter(volts)
    ratio = Fraction(profile.sfreq_hz / sfreq_hz).limit_denominator(10_000)
    # MNE's default, by FFT, pads so that 250 Hz -> 200 Hz comes 2.5 ms late.
    settings = {"up": ratio.numerator, "down": ratio.denominator, "method": "polyphase"}
    return (
        mne.filter.resample(one.astype(np.float64), **settings, verbose="error").astype(np.float32)
        for one in volts
    )


def _scale(eeg: np.ndarray, scale: str | float) -> np.ndarray:
    """float64 `[B]` volts."""
    if isinstance(scale, (int, float)) and scale > 0:
        return np.full(len(eeg), float(scale))
    if scale not in SCALES:
        raise InputError(f"scale={scale!r}", f"use one of {', '.join(SCALES)}, or volts > 0")
    if scale == "window":
        found = robust_amplitude(eeg.reshape(len(eeg), -1), axis=1).astype(np.float64)
    else:
        found = np.full(len(eeg), float(robust_amplitude(eeg)))
    if not (found > 0).all():
        raise InputError(
            f"{int((found <= 0).sum())} trials are flat, or all their channels carry one signal",
            "leave them out",
        )
    return found


def _warn(channels: int, scale_v: float | None) -> None:
    """Of what the encoder is not used to. A unit that is far off is no error: DC amplifiers
    exist."""
    if channels < FEWEST:
        warnings.warn(
            f"{channels} channels: left at their own reference, where the encoder was trained on "
            "the average", stacklevel=3,
        )  # fmt: skip
    if scale_v is not None and not PLAUSIBLE_UV[0] < 1e6 * scale_v < PLAUSIBLE_UV[1]:
        warnings.warn(f"an amplitude of {1e6 * scale_v:.3g} uV: is the unit right?", stacklevel=3)


def _with_bad(
    raw: mne.io.BaseRaw,
    montage: str | None,
    names: list[str],
    positions_m: np.ndarray,
    values: np.ndarray,
) -> tuple[list[str], np.ndarray, np.ndarray]:
    """All chosen channels, in the recording's order: bad ones interpolated from the good."""
    chosen: Chosen = choose_channels(raw.info, montage, "the recording", fewest=1)
    wanted = head_directions(torch.from_numpy(chosen.positions_m).float())
    given = head_directions(torch.from_numpy(positions_m).float())
    filled = (spline_matrix(wanted, given) @ torch.from_numpy(values)).numpy()
    for row, name in enumerate(chosen.names):
        if name in names:
            filled[row] = values[names.index(name)]
    return list(chosen.names), chosen.positions_m, filled


def _gaps(spans: list[tuple[int, int]], samples: int, sfreq_hz: float) -> np.ndarray:
    """float64 `[n, 2]`: begin and length, in seconds, of what no span covers."""
    edges = [0, *(edge for span in spans for edge in span), samples]
    pairs = np.array(edges, np.float64).reshape(-1, 2)
    gaps = pairs[pairs[:, 1] > pairs[:, 0]]
    return np.stack([gaps[:, 0], gaps[:, 1] - gaps[:, 0]], 1) / sfreq_hz
