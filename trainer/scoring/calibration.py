"""What is chosen on validation people before anybody is scored: the spline's regularisation, and
one gain for each way of filling and kind of mask.

A conditional mean is smaller than what it predicts: a fill of correlation r has about r times the
signal's spread, so its spectrum is about 20 log10 r dB low at every frequency. That is no wrong
spectrum. Spectra are therefore also compared after one gain, which makes a fill as strong as the
signal on validation people; it is fitted for the model and for every baseline alike.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch

from data.shards.manifest import Manifest
from model.config import ModelConfig
from model.interpolation import ALPHA, respect_reference, sums_to_zero
from trainer.scoring.baselines import Fill, spline_of
from trainer.scoring.held_out import HeldOutWindows, WindowBatch, draw_masks
from trainer.scoring.scores import SMALLEST_POWER_RATIO, samples_of, window_scores

ALPHAS = (1e-7, 1e-6, ALPHA, 1e-4, 1e-3, 1e-2, 1e-1)
WINDOWS = 96
"""Windows of validation people, shared out evenly over them."""


@dataclass(frozen=True)
class Calibration:
    """alpha: the spline's. alpha_r: {alpha: mean r on validation people, over kinds}. gains: kind
    -> method -> factor; empty without validation people. people: {dataset: [subject]}."""

    alpha: float = ALPHA
    alpha_r: dict[float, float] = field(default_factory=dict)
    gains: dict[str, dict[str, float]] = field(default_factory=dict)
    people: dict[str, list[str]] = field(default_factory=dict)
    windows: int = 0

    def about(self) -> dict:
        """JSON-able."""
        return {
            "people": self.people,
            "windows": self.windows,
            "spline_alpha": self.alpha,
            "spline_alpha_r": {f"{alpha:g}": r for alpha, r in self.alpha_r.items()},
            "gains": self.gains,
        }

    def describe(self) -> str:
        if not self.people:
            return (
                f"No validation people: the spline has MNE's regularisation ({ALPHA:g}), and "
                "spectra are compared as they are, without a gain."
            )
        people = sum(map(len, self.people.values()))
        return (
            f"Chosen on {self.windows} windows of {people} validation people: the spline's "
            f"regularisation {self.alpha:g}, and the gains for spectra."
        )


def calibrate(
    fills: Mapping[str, Fill],
    manifest: Manifest,
    config: ModelConfig,
    *,
    scored: str,
    kinds: Sequence[str],
    mask_ratio: float,
    seed: int,
    windows: int = WINDOWS,
) -> Calibration:
    """Choose on the `val` split; nothing where there is none, or where it is what is `scored`.

    fills: all but the spline, which is added under that name with the chosen regularisation.
    """
    if scored == "val" or not manifest.of_split("val"):
        return Calibration()
    chosen = HeldOutWindows(manifest, "val", config, total=windows)
    cases = list(_cases(chosen, config, kinds, mask_ratio, seed))
    alpha_r = {alpha: _mean_r(cases, spline_of(alpha)) for alpha in ALPHAS}
    best = max(alpha_r.values())
    # Where it makes no difference the choice is the usual one.
    equal = [alpha for alpha in ALPHAS if alpha_r[alpha] >= best - 1e-4]
    alpha = min(equal, key=lambda alpha: abs(math.log(alpha / ALPHA)))
    fills = {**fills, "spline": spline_of(alpha)}
    gains = {kind: {} for kind in kinds}
    for name, fill in fills.items():
        for kind, gain in _gains(cases, fill).items():
            gains[kind][name] = gain
    people = {dataset: sorted(subjects) for dataset, subjects in chosen.windows_of().items()}
    return Calibration(alpha, alpha_r, gains, people, len(chosen))


def gain_of(log_ratios: Mapping[object, Sequence[float]]) -> float:
    """The factor that takes the mean of ln(power of the fill / power of the signal) to 0, subjects
    weighing the same: {subject: [of each window]}. 1 where nothing was filled in."""
    floor = math.log(SMALLEST_POWER_RATIO)
    means = []
    for values in log_ratios.values():
        kept = [value for value in values if math.isfinite(value) and value > floor + 1e-9]
        means += [float(np.mean(kept))] if kept else []
    return math.exp(-0.5 * float(np.mean(means))) if means else 1.0


def log_power_ratio(truth: torch.Tensor, filled: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """ln of the fill's power over the signal's where `mask`, `[B, C, T]` each -> fp64 `[B]`."""
    true_power, power = (
        torch.where(mask, x.double(), 0.0).square().sum((-2, -1)) for x in (truth, filled)
    )
    ratio = (power / true_power).clamp_min(SMALLEST_POWER_RATIO)
    return torch.where(true_power > 0, ratio.log(), math.nan)


def referenced_fill(fill: Fill, batch: WindowBatch, hidden: torch.Tensor) -> torch.Tensor:
    """What a fill makes of a batch whose hidden samples it is not shown; it keeps the average
    reference where the batch has one."""
    hidden_T = samples_of(hidden, batch.eeg.shape[2])
    filled = fill(batch.eeg.masked_fill(hidden_T, 0.0), batch.positions_m, hidden).cpu()
    return respect_reference(filled, hidden) if sums_to_zero(batch.eeg) else filled


def _cases(windows: HeldOutWindows, config, kinds, mask_ratio, seed):
    for batch in windows.batches():
        for kind in kinds:
            hidden = draw_masks(kind, batch, config, mask_ratio, seed)
            if hidden is not None:
                yield kind, batch, hidden


@torch.no_grad()
def _mean_r(cases, fill: Fill) -> float:
    found = []
    for _, batch, hidden in cases:
        found += window_scores(batch.eeg, referenced_fill(fill, batch, hidden), hidden)[
            "r"
        ].tolist()
    return float(np.nanmean(found))


@torch.no_grad()
def _gains(cases, fill: Fill) -> dict[str, float]:
    ratios: dict[str, dict] = defaultdict(lambda: defaultdict(list))
    for kind, batch, hidden in cases:
        filled = referenced_fill(fill, batch, hidden)
        values = log_power_ratio(batch.eeg, filled, samples_of(hidden, batch.eeg.shape[2]))
        for subject, value in zip(batch.subjects, values.tolist(), strict=True):
            ratios[kind][batch.dataset, subject].append(value)
    return {kind: gain_of(subjects) for kind, subjects in ratios.items()}
