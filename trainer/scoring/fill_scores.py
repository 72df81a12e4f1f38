"""All scores of one way of filling on one batch and mask.

Where the windows sum to zero over channels, every fill is made to keep that before it is scored
(`model.interpolation.respect_reference`): else a method that does not know of the reference is
blamed for what the visible samples give away. `r_without_reference` is r without it. After the
gain of its kind of mask (trainer/scoring/calibration.py) a fill's spectrum is compared once more.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch

from model.interpolation import respect_reference, sums_to_zero
from trainer.scoring.baselines import Fill
from trainer.scoring.held_out import WindowBatch
from trainer.scoring.scores import (
    band_pass,
    band_scores,
    channel_correlation,
    samples_of,
    window_scores,
)

Metric = tuple[str, ...]  # ("r",), ("nmse",), ("bands", "alpha", "r") ...
AFTER_GAIN = "after_gain"
BAND_METRICS: tuple[Metric, ...] = (
    ("r",),
    ("log_spectral_error_db",),
    ("signed_log_spectral_error_db",),
)
GAINED_METRICS: tuple[Metric, ...] = tuple((AFTER_GAIN, *name) for name in BAND_METRICS[1:])


class MaskedBatch:
    """A batch under one mask: what every fill is given, and what is common to their scores.

    bands: {name: (low, high) Hz}.
    """

    def __init__(
        self,
        batch: WindowBatch,
        hidden: torch.Tensor,
        bands: Mapping[str, tuple[float, float]],
        truth_bands: Mapping[str, torch.Tensor],
        sfreq_hz: float,
    ):
        self.batch, self.hidden = batch, hidden
        self.bands, self.truth_bands, self.sfreq_hz = bands, truth_bands, sfreq_hz
        self.hidden_T = samples_of(hidden, batch.eeg.shape[2])
        self.given = batch.eeg.masked_fill(self.hidden_T, 0.0)
        self.referenced = sums_to_zero(batch.eeg)

    def score(
        self, fill: Fill, gain: float | None
    ) -> tuple[dict[Metric, torch.Tensor], torch.Tensor, torch.Tensor]:
        """(scores `[B]` by metric, r of each channel `[B, C]`, the completed windows `[B, C, T]`).

        gain: None leaves out what is scored after it.
        """
        eeg, hidden = self.batch.eeg, self.hidden
        filled = fill(self.given, self.batch.positions_m, hidden).cpu()
        plain_r = window_scores(eeg, filled, hidden)["r"]
        if self.referenced:
            filled = respect_reference(filled, hidden)
        plain = window_scores(eeg, filled, hidden)
        scores: dict[Metric, torch.Tensor] = {(name,): v for name, v in plain.items()}
        scores["r_without_reference",] = plain_r
        completed = torch.where(self.hidden_T, filled.float(), eeg)
        bands = self._bands(completed)
        scores |= {("bands", band, *name): v for band, found in bands.items() for name, v in found}
        if gain is not None:
            gained = self._bands(torch.where(self.hidden_T, gain * filled.float(), eeg))
            for band, found in gained.items():
                for name, values in found:
                    if (AFTER_GAIN, *name) in GAINED_METRICS:
                        scores[("bands", band, AFTER_GAIN, *name)] = values
        return scores, channel_correlation(eeg, filled, hidden), completed

    def _bands(self, completed: torch.Tensor) -> dict[str, list[tuple[Metric, torch.Tensor]]]:
        completed_bands = band_pass(completed, self.bands, self.sfreq_hz)
        scores = band_scores(self.truth_bands, completed_bands, self.hidden)
        return {band: [((n,), v) for n, v in found.items()] for band, found in scores.items()}
