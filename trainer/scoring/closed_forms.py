"""Everything that a model is scored beside, ready to fill: the fitted Gaussian, the spline with its
chosen regularisation and what needs no choice; and the gains of all of them and of the models."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from data.shards.manifest import Manifest
from data.subjects.trained_on import people_of
from model.config import ModelConfig
from trainer.scoring.baselines import BASELINES, Fill, spline_of
from trainer.scoring.calibration import Calibration, calibrate
from trainer.scoring.compare import Comparison
from trainer.scoring.gauss import FittedGauss, gauss_for
from trainer.scoring.held_out import known_subjects
from trainer.scoring.scores import paired_difference, verdict


@dataclass(frozen=True)
class ClosedForms:
    """fills: the models' first, then every baseline. baselines: the names of the latter."""

    fills: dict[str, Fill]
    baselines: tuple[str, ...]
    calibration: Calibration
    gauss: FittedGauss | None

    def about(self) -> dict:
        """JSON-able."""
        return {
            "calibration": self.calibration.about(),
            "gauss": self.gauss.about() if self.gauss else None,
        }

    def notes(self, manifest: Manifest, counts: Mapping, comparison: Comparison) -> list[str]:
        """What a reader has to know of them; counts: {dataset: {subject: windows}} as scored."""
        notes = [self.calibration.describe()]
        if self.gauss is None:
            notes.append("gauss: not scored, for no training split is there to fit it on.")
        else:
            notes.append(f"{self.gauss.describe()}.")
            seen = known_subjects(counts, {"subjects": self.gauss.people}, people_of(manifest))
            if any(seen.values()):
                number = sum(map(len, seen.values()))
                notes.append(
                    f"GAUSS WAS FITTED ON {number} of the people scored: its scores, and the "
                    "difference from them, say nothing about new people."
                )
            if self.gauss.manifest_sha256 != manifest.sha256:
                notes.append("gauss was fitted on other shards than these, beside these weights.")
        for dataset, sums in comparison.referenced.items():
            if sums:
                notes.append(
                    f"{dataset}: channels sum to zero (average reference), so the visible ones "
                    "give away the sum of the hidden ones. Every fill, the model's too, is made to "
                    "keep that sum."
                )
            else:
                notes.append(
                    f"{dataset}: channels do not sum to zero; fills are scored as they are."
                )
        return notes


def closed_forms(
    models: Mapping[str, Fill],
    manifest: Manifest,
    config: ModelConfig,
    *,
    scored: str,
    kinds: Sequence[str],
    mask_ratio: float,
    seed: int,
    weights: str | Path | None = None,
) -> ClosedForms:
    """Fit or find what has to be, and choose on validation people what has to be chosen.

    scored: the split that will be. weights: where the Gaussian is kept beside (trainer/scoring/gauss.py).
    """
    gauss = gauss_for(manifest, weights)
    fitted = {"gauss": gauss.fill()} if gauss else {}
    others = {name: fill for name, fill in BASELINES.items() if name != "spline"}
    calibration = calibrate(
        {**models, **fitted, **others},
        manifest,
        config,
        scored=scored,
        kinds=kinds,
        mask_ratio=mask_ratio,
        seed=seed,
    )
    baselines = {**fitted, "spline": spline_of(calibration.alpha), **others}
    return ClosedForms({**models, **baselines}, tuple(baselines), calibration, gauss)


def headline(
    comparison: Comparison, group: str, method: str, baselines: Sequence[str]
) -> dict[str, dict]:
    """kind -> {"baseline", "difference" of r, "verdict"}: a method minus the best baseline.

    verdict: `above`, `below`, or `not told apart` where the interval holds 0, or there is none. The
    best is the one with the highest mean r on the very people that are scored: chosen on these,
    it can only look better than it is, and the difference worse.
    """
    found = {}
    for kind in comparison.kinds:
        means = {
            name: comparison.subject_means(group, kind, name, ("r",))
            for name in (method, *baselines)
        }
        if not means[method]:
            continue
        best = max(baselines, key=lambda name: sum(means[name].values()))
        difference = paired_difference(means[method], means[best])
        found[kind] = {
            "baseline": best,
            "difference": difference,
            "verdict": verdict(difference),
        }
    return found
