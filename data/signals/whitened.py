"""Trials that were published whitened become windows as they are: scaled, and nothing else.

Whitening by the channels' covariance leaves no physical unit, no reference and no channel on its
own. So channels are not compared and no trial is dropped for its size, but for values that are not
finite; a channel that stands still is left out. Trials are mapped, not loaded, and pass in blocks:
memory does not grow with the file.
"""

from __future__ import annotations

import numpy as np

from data.electrodes.channels import FEWEST
from data.errors import InputError
from data.files import scratch_array
from data.signals.bad_channels import FLAT_RELATIVE
from data.signals.profiles import Profile
from data.signals.recording import Recording, Windows
from data.spacing import evenly

SAMPLED = 512
"""Trials that the scale and the channels are judged on."""
BLOCK = 256


def make_whitened_windows(recording: Recording, profile: Profile, where: str) -> Windows:
    """One window from each of `recording.segments`, an array `[n, C, T]` at the profile's rate.

    Raises InputError for trials of another length, and where fewer than FEWEST channels move.
    """
    trials, names = recording.segments, list(recording.channel_names)
    if trials.shape[1:] != (len(names), profile.event_samples):
        raise InputError(
            f"{where}: trials of {trials.shape[1]} x {trials.shape[2]} samples, not of "
            f"{len(names)} x {profile.event_samples}",
            f"these are no arrays for the profile {profile.name}",
        )
    judged = np.stack([_float32(trials[row]) for row in evenly(len(trials), SAMPLED)], axis=1)
    judged = judged.reshape(len(names), -1)
    sizes = np.array([_amplitude(own) for own in judged])
    flat = sizes <= FLAT_RELATIVE * np.median(sizes)
    good = np.flatnonzero(~flat)
    if len(good) < FEWEST:
        raise InputError(
            f"{where}: {len(good)} of {len(names)} channels hold a signal",
            "the file is damaged: download it again",
        )
    scale = _amplitude(judged[good])
    data = scratch_array((len(trials), len(good), profile.event_samples), np.float16)
    kept, dropped = [], {}
    for first in range(0, len(trials), BLOCK):
        block = _float32(trials[first : first + BLOCK])[:, good] / np.float32(scale)
        finite = np.isfinite(block).all(axis=(1, 2))
        clipped = np.clip(block[finite], -profile.clip, profile.clip)
        data[len(kept) : len(kept) + len(clipped)] = clipped
        kept += (first + np.flatnonzero(finite)).tolist()
    if len(kept) < len(trials):
        dropped["non-finite samples"] = len(trials) - len(kept)
    notes = dict(recording.notes)
    return Windows(
        data=data[: len(kept)],
        meta=[recording.segment_meta[row] for row in kept],
        channels=[names[row] for row in good],
        positions_m=np.asarray(recording.positions_m)[good],
        info={
            "source_sfreq_hz": recording.segment_sfreq_hz,
            "scale_uv": None,
            "scale": scale,
            "unit": recording.unit,
            "mains_hz": None,
            "filter": {"kind": "none: as published, whitened by the channels' covariance"},
            "reference": "none: as published",
            "positions_from": notes.pop("positions_from", "the source"),
            "bad_channels": {names[row]: "flat" for row in np.flatnonzero(flat)},
            "left_out": {},
            "dropped": dropped,
            "hours": len(kept) * profile.event_samples / profile.sfreq_hz / 3600,
            "notes": notes,
        },
    )


def _float32(values: np.ndarray) -> np.ndarray:
    """A mapped array in memory; what fp32 cannot hold becomes infinite."""
    with np.errstate(over="ignore"):
        return np.asarray(values).astype(np.float32)


def _amplitude(values: np.ndarray) -> float:
    """1.4826 x median |x| of what is finite; 0 of nothing."""
    finite = values[np.isfinite(values)]
    return float(1.4826 * np.median(np.abs(finite))) if finite.size else 0.0
