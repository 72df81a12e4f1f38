"""Amplitudes and spectra of a signal and of its reconstructions, and how far they are apart."""

from __future__ import annotations

from collections.abc import Mapping
from math import log

import numpy as np
import torch
from scipy.signal import welch
from scipy.stats import wasserstein_distance

from trainer.scoring.calibration import gain_of
from trainer.scoring.held_out import WindowBatch
from trainer.scoring.scores import mean_with_interval

SMALLEST_SIZE = 1e-9
"""Of a reconstruction that is 0 everywhere, in robust units."""
SIGNAL = "signal"
VALUES_A_SUBJECT = 200_000
"""Amplitudes kept of each subject, evenly spaced: their distribution needs no more."""


class Distributions:
    """Amplitudes and mean power spectra of a signal and of its reconstructions, by subject."""

    def __init__(self, sfreq_hz: float, segment_samples: int):
        self.sfreq_hz, self.segment_samples = sfreq_hz, segment_samples
        self.frequencies_hz = np.fft.rfftfreq(segment_samples, 1 / sfreq_hz)
        self._values: dict[tuple[str, str], dict[str, list[np.ndarray]]] = {}
        self._spectra: dict[tuple[str, str], dict[str, list[np.ndarray]]] = {}

    def add(self, batch: WindowBatch, name: str, signal: torch.Tensor) -> None:
        """signal `[B, C, T]`: the windows themselves, or a reconstruction of them."""
        array = signal.double().numpy()
        _, power = welch(array, self.sfreq_hz, nperseg=self.segment_samples)
        for subject, window, spectrum in zip(batch.subjects, array, power, strict=True):
            key = (batch.dataset, subject)
            self._values.setdefault(key, {}).setdefault(name, []).append(window.ravel())
            self._spectra.setdefault(key, {}).setdefault(name, []).append(spectrum.mean(0))

    def names(self) -> list[str]:
        return list(next(iter(self._values.values())))

    def values(self, subject: tuple[str, str], name: str) -> np.ndarray:
        """Amplitudes of a subject; the same samples for every name."""
        everything = np.concatenate(self._values[subject][name])
        return everything[:: max(1, len(everything) // VALUES_A_SUBJECT)]

    def spectrum(self, subject: tuple[str, str], name: str) -> np.ndarray:
        """Power `[F]` of a subject, mean over channels and windows."""
        return np.mean(self._spectra[subject][name], axis=0)

    def pooled(self, name: str) -> tuple[np.ndarray, np.ndarray]:
        """(amplitudes, spectrum in dB) over all subjects, for the figure."""
        subjects = list(self._values)
        power = np.mean([self.spectrum(subject, name) for subject in subjects], axis=0)
        values = np.concatenate([self.values(subject, name) for subject in subjects])
        return values, 10 * np.log10(np.maximum(power, 1e-12))

    def distances(
        self,
        bands: Mapping[str, Mapping[str, list[float]]],
        gains: Mapping[str, float] | None = None,
    ) -> dict:
        """name -> distances from the signal: mean over subjects with interval; after each name's
        gain, where gains are given.

        wasserstein_1 of the amplitudes (robust units); std_ratio (1 is right, less is too small);
        band_db: 10 log10 of the power ratio in each band; spectrum_db: mean of their sizes. bands:
        {dataset: {band: [low, high] Hz}}.
        """
        result = {}
        for name in self.names():
            if name == SIGNAL:
                continue
            gain = (gains or {}).get(name, 1.0)
            rows = [
                self._distance(subject, name, bands[subject[0]], gain) for subject in self._values
            ]
            seen = dict.fromkeys(metric for row in rows for metric in row)
            means = {
                metric: mean_with_interval([row[metric] for row in rows if metric in row])
                for metric in seen
            }
            plain = ("wasserstein_1", "std_ratio", "spectrum_db")
            result[name] = {metric: means[metric] for metric in plain if metric in means}
            result[name]["band_db"] = {m: v for m, v in means.items() if m not in plain}
        return result

    def gains(self) -> dict[str, float]:
        """name -> the factor that makes it as strong as the signal, subjects weighing the same."""
        found = {}
        for name in self.names():
            if name != SIGNAL:
                ratios = {
                    subject: [2 * log(_size(self.values(subject, name)) / size)]
                    for subject in self._values
                    if (size := _size(self.values(subject, SIGNAL)))
                }
                found[name] = gain_of(ratios)
        return found

    def _distance(self, subject, name, bands, gain) -> dict[str, float]:
        signal, filled = self.values(subject, SIGNAL), gain * self.values(subject, name)
        row = {
            "wasserstein_1": float(wasserstein_distance(signal, filled)),
            "std_ratio": float(filled.std() / signal.std()) if signal.std() else float("nan"),
        }
        powers = [gain**2 * self.spectrum(subject, name), self.spectrum(subject, SIGNAL)]
        sizes = []
        for band, (low, high) in bands.items():
            inside = (self.frequencies_hz >= low - 1e-9) & (self.frequencies_hz < high - 1e-9)
            ours, true = (max(float(power[inside].sum()), 1e-12) for power in powers)
            row[band] = 10 * float(np.log10(ours / true))
            sizes.append(abs(row[band]))
        if sizes:
            row["spectrum_db"] = float(np.mean(sizes))
        return row


def _size(values: np.ndarray) -> float:
    return max(float(np.sqrt(np.mean(np.square(values)))), SMALLEST_SIZE)
