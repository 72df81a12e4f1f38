"""What a translation is worth: sums over samples that give every score, and their intervals.

Magnetometers and gradiometers never share a number: they have other units and other noise. Scores
are computed from sums in float64, so that windows, ranks and recordings add up exactly. Intervals
are Student's t over subjects, or over recordings where there are fewer than three subjects.

Shapes: C MEG channels, T samples.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from trainer.scoring.scores import FEWEST_SUBJECTS, mean_with_interval, verdict

PER_SENSOR = ("r", "r2", "error")
BASELINES = ("ridge", "ridge lags", "reduced rank", "minimum norm", "mean")
"""What is fitted or told without the model, and without knowing how a simulation was made."""


@dataclass
class SensorSums:
    """Sums over samples of truth x, prediction y, and of x - training mean; `[6, C]` float64."""

    channels: int
    sums: np.ndarray = field(init=False)
    count: np.ndarray = field(init=False)

    def __post_init__(self):
        self.sums, self.count = np.zeros((6, self.channels)), np.zeros(self.channels)

    def add(self, truth: np.ndarray, prediction: np.ndarray, mean=None, rows=slice(None)) -> None:
        """`[C, T]` each, scaled units; `mean [C]` of the training recordings (default 0); `rows`:
        which channels these are."""
        x, y = truth.astype(np.float64), prediction.astype(np.float64)
        base = x if mean is None else x - mean[:, None]
        parts = (x, y, x * x, y * y, x * y, base * base)
        self.sums[:, rows] += np.stack([part.sum(1) for part in parts])
        self.count[rows] += x.shape[1]

    def scores(self) -> dict[str, np.ndarray]:
        """Each `[C]`: Pearson `r` (0 for a constant prediction, NaN for a constant truth), `r2`
        against the training mean, `error`: size of the residual over that of the truth."""
        x, y, xx, yy, xy, base = self.sums
        count = np.maximum(self.count, 1)
        var_x, var_y = xx - x * x / count, yy - y * y / count
        product = np.sqrt((var_x * var_y).clip(min=0))
        r = np.where(product > 1e-12 * count, (xy - x * y / count) / np.maximum(product, 1e-300), 0)
        residual = (xx - 2 * xy + yy).clip(min=0)
        known = var_x > 1e-12 * np.maximum(xx, 1e-300)
        with np.errstate(divide="ignore", invalid="ignore"):
            r2, error = 1 - residual / base, np.sqrt(residual / xx)
        return {
            "r": np.where(known, r, np.nan),
            "r2": np.where(known, r2, np.nan),
            "error": np.where(known, error, np.nan),
        }


@dataclass
class TopographySum:
    """Mean over instants of the correlation between true and predicted topography, weighted by the
    true field's spatial deviation: instants of strong field count more."""

    weighted: float = 0.0
    weight: float = 0.0

    def add(self, truth: np.ndarray, prediction: np.ndarray) -> None:
        x = truth - truth.mean(0)
        y = prediction - prediction.mean(0)
        size_x, size_y = np.sqrt((x * x).sum(0)), np.sqrt((y * y).sum(0))
        product = size_x * size_y
        r = np.where(product > 1e-12, (x * y).sum(0) / np.maximum(product, 1e-300), 0.0)
        self.weighted += float((r * size_x).sum())
        self.weight += float(size_x.sum())

    @property
    def value(self) -> float:
        return self.weighted / self.weight if self.weight else float("nan")


@dataclass
class RecordingScores:
    """Everything a method's predictions of one recording are summed into, one montage.

    bands: {name: (low, high) Hz}; a band's signals come filtered from the caller.
    """

    names: tuple[str, ...]
    types: tuple[str, ...]
    bands: Mapping[str, tuple[float, float]]
    subject: str
    sums: SensorSums = field(init=False)
    band_sums: dict[str, SensorSums] = field(init=False)
    topography: dict[str, TopographySum] = field(init=False)

    def __post_init__(self):
        channels = len(self.names)
        self.sums = SensorSums(channels)
        self.band_sums = {name: SensorSums(channels) for name in self.bands}
        self.topography = {kind: TopographySum() for kind in set(self.types)}

    def add(self, truth, prediction, band_truth, band_prediction, mean=None) -> None:
        """One piece: `[C, T]`, and the same in each band."""
        self.sums.add(truth, prediction, mean)
        for name, found in self.band_sums.items():
            found.add(band_truth[name], band_prediction[name])
        for kind, found in self.topography.items():
            rows = self.rows(kind)
            found.add(truth[rows], prediction[rows])

    def rows(self, kind: str) -> np.ndarray:
        return np.flatnonzero(np.asarray(self.types) == kind)

    def summary(self, kind: str) -> dict:
        """Scores of a sensor type in this recording: medians over sensors, JSON-able."""
        rows, scores = self.rows(kind), self.sums.scores()
        r = scores["r"][rows]
        return {
            **{name: _median(scores[name][rows]) for name in PER_SENSOR},
            "r_quartiles": [_quantile(r, 0.25), _quantile(r, 0.75)],
            "topography": self.topography[kind].value,
            "bands": {
                name: _median(found.scores()["r"][rows]) for name, found in self.band_sums.items()
            },
        }


def summarise(recordings: Mapping[str, RecordingScores], kind: str) -> dict:
    """A method's scores of a sensor type over all recordings: means over units, with intervals.

    The unit is the subject (its recordings averaged), or the recording below three subjects. What
    is averaged are medians over sensors.
    """
    each = {name: one.summary(kind) for name, one in recordings.items() if kind in one.types}
    if not each:
        return {}
    units, label = units_of({name: recordings[name].subject for name in each})

    def over_units(read) -> dict:
        values = [_mean([read(each[name]) for name in names]) for names in units.values()]
        found = mean_with_interval(values)
        found["units"] = found.pop("subjects")
        return found

    quartiles = np.array([one["r_quartiles"] for one in each.values()], dtype=float)
    bands = next(iter(each.values()))["bands"]
    return {
        "unit": label,
        **{name: over_units(lambda one, n=name: one[n]) for name in (*PER_SENSOR, "topography")},
        "r_quartiles": [float(x) for x in np.nanmean(quartiles, 0)],
        "bands": {name: over_units(lambda one, n=name: one["bands"][n]) for name in bands},
    }


def best_baseline(rows: Mapping[str, Mapping]) -> dict | None:
    """{"baseline", "difference", "verdict"}: the model minus the baseline of highest r on the very
    recordings scored, of what was fitted without the model; None where there is none."""
    candidates = {
        name: rows[name]["r"]["mean"]
        for name in BASELINES
        if name in rows and rows[name]["r"]["mean"] is not None
    }
    if not candidates:
        return None
    best = max(candidates, key=candidates.__getitem__)
    gap = rows[best]["model_minus_this"]
    return {"baseline": best, "difference": gap, "verdict": verdict(gap)}


def difference(
    first: Mapping[str, RecordingScores], second: Mapping[str, RecordingScores], kind: str
) -> dict:
    """r (median over sensors) of `first` minus that of `second`, paired by unit."""
    names = [name for name, one in first.items() if kind in one.types and name in second]
    units, label = units_of({name: first[name].subject for name in names})
    values = []
    for members in units.values():
        gaps = [
            first[name].summary(kind)["r"] - second[name].summary(kind)["r"] for name in members
        ]
        values.append(_mean(gaps))
    found = mean_with_interval(values)
    found["units"] = found.pop("subjects")
    return {"unit": label, **found}


def units_of(subjects: Mapping[str, str]) -> tuple[dict[str, list[str]], str]:
    """{recording: subject} -> ({unit: its recordings}, "subject" or "recording")."""
    by_subject: dict[str, list[str]] = {}
    for recording, subject in subjects.items():
        by_subject.setdefault(subject, []).append(recording)
    if len(by_subject) >= FEWEST_SUBJECTS:
        return by_subject, "subject"
    return {recording: [recording] for recording in subjects}, "recording"


def nmse_by_type(error: np.ndarray, power: np.ndarray, types: Sequence[str]) -> float:
    """Squared error over power, the mean over sensor types of the mean over their sensors; what
    early stopping minimises. `error`, `power`, `[C]`."""
    kinds, shares = np.asarray(types), error / np.maximum(power, 1e-300)
    return float(np.mean([shares[kinds == kind].mean() for kind in sorted(set(types))]))


def _median(values: np.ndarray) -> float:
    return float(np.nanmedian(values)) if np.isfinite(values).any() else float("nan")


def _quantile(values: np.ndarray, share: float) -> float:
    return float(np.nanquantile(values, share)) if np.isfinite(values).any() else float("nan")


def _mean(values: Sequence[float]) -> float:
    kept = [value for value in values if np.isfinite(value)]
    return float(np.mean(kept)) if kept else float("nan")
