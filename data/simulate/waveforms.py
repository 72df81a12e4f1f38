"""Time courses of simulated sources: blinks, muscle, bursts and noise of a given spectrum."""

from __future__ import annotations

import numpy as np
from scipy.fft import irfft, rfft, rfftfreq


def blinks(rng: np.random.Generator, n_samples: int, sfreq_hz: float) -> np.ndarray:
    """About twelve blinks a minute, 0.3 s each, 60-150 uV at the forehead."""
    wave = np.zeros(n_samples)
    width = int(0.4 * sfreq_hz)
    time_s = np.arange(width) / sfreq_hz
    shape = np.exp(-0.5 * ((time_s - 0.15) / 0.05) ** 2)
    for _ in range(rng.poisson(12 * n_samples / sfreq_hz / 60)):
        start = rng.integers(n_samples)
        piece = wave[start : start + width]
        piece += rng.uniform(150, 350) * shape[: len(piece)]
    return wave


def muscle(rng: np.random.Generator, n_samples: int, sfreq_hz: float) -> np.ndarray:
    """One burst or so a minute, 0.3-1.5 s, broadband from 20 Hz."""
    wave = np.zeros(n_samples)
    for _ in range(rng.poisson(n_samples / sfreq_hz / 60)):
        width = int(rng.uniform(0.3, 1.5) * sfreq_hz)
        start = rng.integers(n_samples)
        freqs = rfftfreq(width, 1 / sfreq_hz)
        noise = rfft(rng.standard_normal(width)) * (freqs > 20) * (freqs < 120)
        piece = wave[start : start + width]
        piece += (rng.uniform(8, 20) * np.hanning(width) * irfft(noise, n=width))[: len(piece)]
    return wave


def bursts(rng: np.random.Generator, n_samples: int, sfreq_hz: float, burst_s: float) -> np.ndarray:
    """A positive envelope of unit power whose bursts last about `burst_s`, a third of the time."""
    freqs = rfftfreq(n_samples, 1 / sfreq_hz)
    slow = np.exp(-0.5 * (freqs * burst_s * 2) ** 2)
    level = irfft(rfft(rng.standard_normal(n_samples)) * unit_power(slow, n_samples), n=n_samples)
    envelope = 0.15 + 1 / (1 + np.exp(-6 * (level - 0.5)))
    return envelope / np.sqrt(np.mean(envelope**2))


def unit_power(shape: np.ndarray, size: int) -> np.ndarray:
    """Scale a one-sided amplitude response so that white noise of unit variance keeps it."""
    power = 2 * np.sum(shape**2) - shape[0] ** 2 - (shape[-1] ** 2 if size % 2 == 0 else 0)
    return shape * np.sqrt(size / power)
