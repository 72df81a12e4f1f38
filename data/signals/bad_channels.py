"""Find channels that carry no EEG: non-finite, flat, or far louder than all others.

Judged on the band-passed signal, so that a DC offset of millivolts is no fault. Loudness is judged
after taking out the median over channels, because a recording without a reference (BioSemi) has a
large part in common. The limits are conservative: a good channel lost costs more than a bad one
kept, for the clip at packing bounds the damage of the latter.
"""

from __future__ import annotations

import numpy as np

FLAT_V = 1e-8
"""Amplitudes under 0.01 microvolt are below any amplifier's noise."""
FLAT_RELATIVE = 1e-3
"""... and a channel a thousand times quieter than the median one is not connected."""
NOISY_RATIO = 5.0
NOISY_Z = 5.0
"""Noisy: this many times the median amplitude, and this many robust deviations off in its log."""
HOLES = 0.1
"""A channel with more than this fraction of non-finite samples is bad."""
MOST_SAMPLES = 1_000
"""Samples of each channel that amplitudes are judged on: 4 % precise, which is enough beside limits
of five times."""


def spread(index: int | np.ndarray) -> float | np.ndarray:
    """In [0, 1): the golden ratio's multiples, which cover it evenly and fall in step with nothing.
    Trials of equal length, joined, are nearly 0 at their edges once they are filtered: places with
    a fixed distance can all be edges."""
    return index * 0.6180339887498949 % 1


def sample(parts: list[np.ndarray]) -> np.ndarray:
    """`[C, N]`: samples from everywhere in the parts `[C, M]`, enough to judge channels by."""
    starts = np.cumsum([0, *(part.shape[1] for part in parts)])
    total = int(starts[-1])
    places = np.unique((spread(np.arange(min(total, MOST_SAMPLES))) * total).astype(int))
    cuts = np.split(places, np.searchsorted(places, starts[1:-1]))
    return np.concatenate(
        [part[:, cut - start] for part, cut, start in zip(parts, cuts, starts[:-1], strict=True)],
        axis=1,
    )


def robust_amplitude(signal: np.ndarray, axis: int | None = None) -> np.ndarray:
    """1.4826 x median |x|: the standard deviation of Gaussian noise, blind to rare artefacts."""
    return 1.4826 * np.median(np.abs(signal), axis=axis)


def find_bad_channels(
    filtered: np.ndarray, hole_fraction: np.ndarray, physical: bool = True
) -> dict[int, str]:
    """Index -> reason of the bad channels of `filtered` `[C, N]` (volts if `physical`).

    `hole_fraction` `[C]` is each channel's fraction of non-finite samples before they were filled.
    """
    bad = {
        int(index): f"non-finite ({100 * hole_fraction[index]:.0f} % of samples)"
        for index in np.flatnonzero(hole_fraction > HOLES)
    }
    judged = filtered[:, :: max(1, -(-filtered.shape[1] // MOST_SAMPLES))]
    amplitude = robust_amplitude(judged, axis=1)
    alive = [index for index in range(len(filtered)) if index not in bad]
    if not alive:
        return bad
    limit = max(FLAT_V if physical else 0.0, FLAT_RELATIVE * float(np.median(amplitude[alive])))
    for index in alive:
        if amplitude[index] <= limit:
            bad[index] = "flat"
    alive = [index for index in alive if index not in bad]
    if len(alive) < 3:
        return bad
    loud = robust_amplitude(judged[alive] - np.median(judged[alive], axis=0), axis=1)
    if not loud.any():
        return bad  # one signal on all channels: reported when the scale is taken
    # With few channels the median of the channels can be one of them, which then looks silent.
    level = np.log(np.maximum(loud, 1e-3 * np.max(loud)))
    offset = level - np.median(level)
    spread = max(robust_amplitude(offset), 0.1)
    for index, above in zip(alive, offset, strict=True):
        if above > np.log(NOISY_RATIO) and above / spread > NOISY_Z:
            bad[index] = f"noisy ({np.exp(above):.0f} times the median amplitude)"
    return bad
