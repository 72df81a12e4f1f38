"""Cut segments (the visual-category recordings, VC) become windows.

The published VC files are band-passed already (5-95 Hz) and standardised, without a physical unit,
so they are only cut, resampled, referenced to the average and scaled. The average is one of
standardised channels: it takes out what all channels share, as in every other source, but it is
not the common average in volts.
"""

from __future__ import annotations

from fractions import Fraction

import numpy as np
from scipy.signal import resample_poly

from data.electrodes.channels import FEWEST
from data.errors import InputError
from data.signals.bad_channels import find_bad_channels, robust_amplitude
from data.signals.profiles import Profile
from data.signals.recording import Recording, Windows
from data.signals.session_scale import LARGEST, amplitudes_of


def make_segment_windows(recording: Recording, profile: Profile, where: str) -> Windows:
    """One window from each segment, by the `segment_*` fields of `profile`.

    With `segment_stretch` samples start..stop are resampled to `segment_samples`, which changes the
    time axis by segment_samples / (stop - start); else the rate becomes `sfreq_hz`. Raises
    InputError where fewer than FEWEST good channels remain.
    """
    names, positions_m = list(recording.channel_names), np.asarray(recording.positions_m)
    dropped: dict[str, int] = {}
    windows, metas = [], []
    for segment, meta in zip(recording.segments, recording.segment_meta, strict=True):
        if segment.shape[1] < profile.segment_stop:
            reason = f"segment shorter than {profile.segment_stop} samples"
        elif not np.isfinite(segment).all():
            reason = "non-finite samples"
        else:
            windows.append(cut_segment(segment, recording.segment_sfreq_hz, profile))
            metas.append(meta)
            continue
        dropped[reason] = dropped.get(reason, 0) + 1
    data = np.array(windows, np.float32).reshape(-1, len(names), profile.segment_samples)

    joined = data.transpose(1, 0, 2).reshape(len(names), -1)
    bad = find_bad_channels(joined, np.zeros(len(names)), physical=False) if len(data) else {}
    good = [index for index in range(len(names)) if index not in bad]
    if len(good) < FEWEST:
        raise InputError(
            f"{where}: subject {recording.subject}: {len(good)} of {len(names)} channels are good",
            "the file is damaged, or holds no EEG: download it again",
        )
    data = data[:, good]
    data -= data.mean(axis=1, keepdims=True)
    scale = float(robust_amplitude(data)) if data.size else None
    kept = np.ones(len(data), bool)
    amplitudes = None
    if data.size and profile.scale == "session":
        amplitudes = amplitudes_of(data.ravel(), scale, data / np.float32(scale), profile)
        data = np.clip(data / np.float32(scale), -LARGEST, LARGEST)
    elif data.size:
        data /= np.float32(scale)
        saturated = np.mean(np.abs(data) >= profile.clip, axis=(1, 2))
        kept = saturated <= profile.saturated_fraction
        if not kept.all():
            dropped["saturated"] = int((~kept).sum())
        np.clip(data, -profile.clip, profile.clip, out=data)
    data = data[kept].astype(np.float16)
    notes = dict(recording.notes)
    positions_from = notes.pop("positions_from", "the source")
    used_s = (profile.segment_stop - profile.segment_start) / recording.segment_sfreq_hz
    if not profile.segment_stretch:
        used_s = profile.segment_samples / profile.sfreq_hz
    return Windows(
        data=data,
        meta=[meta for meta, keep in zip(metas, kept, strict=True) if keep],
        channels=[names[index] for index in good],
        positions_m=positions_m[good],
        info={
            "source_sfreq_hz": recording.segment_sfreq_hz,
            "scale_uv": None,
            "scale": scale,
            "unit": recording.unit,
            "mains_hz": None,
            "filter": {"kind": "none: the published files are band-passed (5-95 Hz)"},
            "reference": "average of the standardised channels",
            "positions_from": positions_from,
            "bad_channels": {names[index]: reason for index, reason in bad.items()},
            "left_out": {},
            "dropped": dict(sorted(dropped.items())),
            "hours": len(data) * used_s / 3600,
            "notes": notes,
        },
        amplitudes=amplitudes,
    )


def cut_segment(segment: np.ndarray, sfreq_hz: float, profile: Profile) -> np.ndarray:
    """`[C, L]` -> float32 `[C, segment_samples]`."""
    cut = segment[:, profile.segment_start : profile.segment_stop].astype(np.float64)
    if profile.segment_stretch:
        ratio = Fraction(profile.segment_samples, cut.shape[1])
    else:
        ratio = Fraction(profile.sfreq_hz / sfreq_hz).limit_denominator(10_000)
    if ratio != 1:
        cut = resample_poly(cut, ratio.numerator, ratio.denominator, axis=1, padtype="line")
    if cut.shape[1] < profile.segment_samples:
        raise InputError(
            f"profile {profile.name}: segment_start..segment_stop gives {cut.shape[1]} samples, "
            f"segment_samples asks for {profile.segment_samples}",
            "make segment_samples smaller",
        )
    return cut[:, : profile.segment_samples].astype(np.float32)
