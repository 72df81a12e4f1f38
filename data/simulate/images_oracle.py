"""The best that can be told of a picture from simulated EEG, in closed form.

With a trial and the responses whitened by the noise's covariance, the log-likelihood of a picture
is linear in two statistics for each delay of the response, and summed over delays. Nothing that
sees the same trials can retrieve more, but for what packing rounds. The filters of packing are in
the covariance and in the responses; the average reference takes one dimension of the channels.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.linalg import toeplitz
from scipy.special import logsumexp

from data.signals.filtering import BandPass
from data.signals.profiles import Profile
from data.simulate.images import (
    JITTERS_S,
    NOISE,
    TMIN_S,
    TRIAL_S,
    UNIT_UV,
    World,
    noise_root,
    noise_spectrum,
)

FINE = 1 << 14
"""Samples of the buffer in which filters are applied, 80 s: their kernels end long before."""
FLOOR = 1e-4
"""Of the noise's variance, added: the low-pass leaves frequencies empty, and float16 rounds."""


@dataclass(frozen=True)
class Oracle:
    """Of one person. J delays, C' = C - 1 whitened channels, T samples, K codes."""

    space: np.ndarray
    """float64 `[C', C]`: average-referenced channels become white."""
    time: np.ndarray
    """float64 `[T, T]`: samples become white."""
    templates: np.ndarray
    """float64 `[J, 1 + K, C', T]`, white: the responses for each delay."""
    scale_uv: float

    def log_likelihood(self, eeg: np.ndarray, codes: np.ndarray) -> np.ndarray:
        """float64 `[B, pictures]`, but for a constant a trial: of pictures with `codes`
        `[pictures, K]`, for trials `[B, C, T]` in the recording's units."""
        white = self.space @ (eeg.astype(np.float64) * self.scale_uv) @ self.time.T
        amplitudes = np.column_stack([np.ones(len(codes)), codes])
        seen = np.einsum("bct,jkct->bjk", white, self.templates, optimize=True)
        gram = np.einsum("jkct,jlct->jkl", self.templates, self.templates, optimize=True)
        power = np.einsum("pk,jkl,pl->jp", amplitudes, gram, amplitudes, optimize=True)
        return logsumexp(seen @ amplitudes.T - power / 2, axis=1)


def oracle_of(world: World, person: int, profile: Profile, scale_uv: float) -> Oracle:
    """scale_uv: of the recording, from its entry in the manifest."""
    rate = profile.sfreq_hz
    gain = _gain(profile)
    root = noise_root(world.electrodes_m)
    channels, samples = len(root), round(TRIAL_S * rate)
    average = np.eye(channels) - 1 / channels
    values, vectors = np.linalg.eigh(average @ root @ root.T @ average)
    space = (vectors[:, 1:] / np.sqrt(values[1:])).T
    freqs = np.fft.rfftfreq(FINE, 1 / rate)
    spectrum = noise_spectrum(freqs) / noise_spectrum(freqs).mean()
    covariance = np.fft.irfft(spectrum * gain**2)[:samples]
    covariance[0] += FLOOR
    time = np.linalg.inv(np.linalg.cholesky(toeplitz(covariance))) / (NOISE * UNIT_UV)
    topographies = space @ average @ world.topographies(person)
    templates = []
    times_s = np.arange(FINE) / rate + TMIN_S - 20.0
    for delay_s in JITTERS_S:
        within = (times_s >= TMIN_S - 1e-9) & (times_s < TMIN_S + TRIAL_S - 1e-9)
        responses = world.responses(times_s - delay_s) * within[:, None]
        filtered = np.fft.irfft(np.fft.rfft(responses, axis=0) * gain[:, None], FINE, axis=0)
        own = UNIT_UV * time @ filtered[within]
        templates.append(np.einsum("ck,tk->kct", topographies, own))
    return Oracle(space, time, np.array(templates), scale_uv)


def _gain(profile: Profile) -> np.ndarray:
    """float64 `[FINE / 2 + 1]`: of packing's filters, at a recording's own rate; zero phase."""
    impulse = np.zeros((1, FINE), np.float32)
    impulse[0, FINE // 2] = 1.0
    band = BandPass.of(profile, profile.sfreq_hz, 50.0)
    return np.abs(np.fft.rfft(band.apply(impulse)[0].astype(np.float64)))
