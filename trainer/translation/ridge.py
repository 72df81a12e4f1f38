"""Linear translations: ridge regression over lags, and its reduced-rank form.

Everything is computed from second moments of each training group, so that choosing a penalty on
groups left out costs no second pass over the data. 70 electrodes with 11 lags make a moment matrix
of 770 x 770: 5 MB a group. Samples outside a piece count as zero, as they do for the model's linear
map.

Shapes: F = EEG channels x lags, Ct MEG channels. Lag number j pairs MEG at t with EEG at
t - (j - lags). All in scaled units.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from data.errors import InputError

PENALTIES = tuple(float(x) for x in np.logspace(-5, 2, 15))
RANKS = (1, 2, 4, 8, 16, 32, 64)
MOST_FOLDS = 8


@dataclass
class Moments:
    """Sums over samples: `gram [F, F]`, `cross [F, Ct]`, `power [Ct]` float64, and their count."""

    gram: np.ndarray
    cross: np.ndarray
    power: np.ndarray
    count: int = 0

    @classmethod
    def zero(cls, features: int, targets: int) -> Moments:
        return cls(np.zeros((features, features)), np.zeros((features, targets)), np.zeros(targets))

    def add(self, eeg: np.ndarray, meg: np.ndarray, lags: int) -> None:
        """One piece: `eeg [Cs, T]`, `meg [Ct, T]`."""
        x = lagged(eeg, lags).astype(np.float32)
        self.gram += x @ x.T
        self.cross += x @ meg.T.astype(np.float32)
        self.power += (meg.astype(np.float64) ** 2).sum(1)
        self.count += eeg.shape[1]

    def __add__(self, other: Moments) -> Moments:
        return Moments(
            self.gram + other.gram, self.cross + other.cross, self.power + other.power,
            self.count + other.count,
        )  # fmt: skip


@dataclass(frozen=True)
class Linear:
    """A linear translation: `weights [Ct, Cs, 2 * lags + 1]`, and what was chosen to make it."""

    weights: np.ndarray
    lags: int
    chosen: dict

    def __call__(self, eeg: np.ndarray) -> np.ndarray:
        """`[Cs, T]` -> `[Ct, T]`, scaled units."""
        flat = self.weights.transpose(0, 2, 1).reshape(len(self.weights), -1)
        return flat @ lagged(eeg, self.lags)


def lagged(eeg: np.ndarray, lags: int) -> np.ndarray:
    """`[Cs, T]` -> `[(2 * lags + 1) * Cs, T]`: lag after lag, zeros where nothing is known."""
    length = eeg.shape[1]
    padded = np.pad(eeg, ((0, 0), (lags, lags)))
    return np.concatenate([padded[:, 2 * lags - j :][:, :length] for j in range(2 * lags + 1)])


def group_moments(
    samples: Iterable[tuple[str, np.ndarray, np.ndarray]], lags: int
) -> dict[str, Moments]:
    """Moments of each group from (group, eeg `[Cs, T]`, meg `[Ct, T]`)."""
    found: dict[str, Moments] = {}
    for group, eeg, meg in samples:
        if group not in found:
            found[group] = Moments.zero((2 * lags + 1) * len(eeg), len(meg))
        found[group].add(eeg, meg, lags)
    return found


def folds_of(moments: Mapping[str, Moments]) -> list[Moments]:
    """At most eight folds of whole groups."""
    folds: list[Moments] = []
    for number, name in enumerate(sorted(moments)):
        if number < MOST_FOLDS:
            folds.append(moments[name])
        else:
            folds[number % MOST_FOLDS] = folds[number % MOST_FOLDS] + moments[name]
    return folds


def total(folds: Sequence[Moments]) -> Moments:
    first, *others = folds
    for other in others:
        first = first + other
    return first


def fit_ridge(
    moments: Mapping[str, Moments], types: Sequence[str], lags: int,
    penalties: Sequence[float] = PENALTIES,
) -> Linear:  # fmt: skip
    """Ridge regression with one penalty for each sensor type, the best on groups left out.

    A penalty is in units of the mean diagonal of the moment matrix. With one group there is nothing
    to leave out: InputError (the caller cuts it in time).
    """
    folds = folds_of(moments)
    if len(folds) < 2:
        raise InputError("one training group only", "the penalty needs groups to leave out")
    kinds = np.asarray(types)
    errors = np.zeros((len(penalties), len(kinds)))
    for held in range(len(folds)):
        rest = total([fold for number, fold in enumerate(folds) if number != held])
        for number, weights in enumerate(ridge_path(rest, penalties)):
            errors[number] += squared_error(weights, folds[held])
    power = sum(fold.power for fold in folds)
    everything = total(folds)
    weights = np.zeros_like(everything.cross)
    chosen, path = {}, list(ridge_path(everything, penalties))
    for kind in sorted(set(types)):
        rows = kinds == kind
        shares = (errors[:, rows] / power[rows]).mean(1)
        best = int(shares.argmin())
        weights[:, rows] = path[best][:, rows]
        chosen[kind] = {"penalty": penalties[best], "held_out_error": float(shares[best])}
    return Linear(unflatten(weights, lags), lags, {"lags": lags, "types": chosen})


def ridge_path(moments: Moments, penalties: Sequence[float]) -> Iterable[np.ndarray]:
    """`[F, Ct]` for each penalty, from one eigendecomposition."""
    values, vectors = np.linalg.eigh(moments.gram)
    values = values.clip(min=0)
    turned = vectors.T @ moments.cross
    mean = values.mean() or 1.0
    for penalty in penalties:
        yield vectors @ (turned / (values + penalty * mean)[:, None])


def reduced_rank(
    moments: Mapping[str, Moments], ridge: Linear, types: Sequence[str],
    ranks: Sequence[int] = RANKS,
) -> Linear:  # fmt: skip
    """Ridge with its predictions held to a few directions of MEG (Izenman 1975), their number
    chosen for each sensor type on groups left out; the penalties are those of `ridge`."""
    folds, kinds = folds_of(moments), np.asarray(types)
    weights = np.zeros_like(folds[0].cross)
    chosen = {}
    for kind, entry in ridge.chosen["types"].items():
        rows = kinds == kind
        usable = [rank for rank in ranks if rank <= min(rows.sum(), len(weights))]
        errors = np.zeros(len(usable))
        for held in range(len(folds)):
            rest = total([fold for number, fold in enumerate(folds) if number != held])
            part = only(folds[held], rows)
            full, directions = rank_directions(only(rest, rows), entry["penalty"])
            for number, rank in enumerate(usable):
                kept = directions[:, :rank]
                error = squared_error(full @ kept @ kept.T, part)
                errors[number] += (error / part.power).mean()
        rank = usable[int(errors.argmin())]
        full, directions = rank_directions(only(total(folds), rows), entry["penalty"])
        weights[:, rows] = full @ directions[:, :rank] @ directions[:, :rank].T
        chosen[kind] = {**entry, "rank": rank, "held_out_error": errors.min() / len(folds)}
    return Linear(unflatten(weights, ridge.lags), ridge.lags, {**ridge.chosen, "types": chosen})


def rank_directions(moments: Moments, penalty: float) -> tuple[np.ndarray, np.ndarray]:
    """(ridge weights `[F, Ct]`, directions of its predictions `[Ct, Ct]`, strongest first)."""
    full = next(iter(ridge_path(moments, [penalty])))
    values, vectors = np.linalg.eigh(full.T @ moments.gram @ full)
    return full, vectors[:, np.argsort(values)[::-1]]


def only(moments: Moments, rows: np.ndarray) -> Moments:
    """Moments of some MEG channels."""
    return Moments(moments.gram, moments.cross[:, rows], moments.power[rows], moments.count)


def squared_error(weights: np.ndarray, moments: Moments) -> np.ndarray:
    """Summed squared error `[Ct]` of `weights [F, Ct]` on samples with these moments."""
    explained = 2 * (weights * moments.cross).sum(0)
    return moments.power - explained + (weights * (moments.gram @ weights)).sum(0)


def unflatten(weights: np.ndarray, lags: int) -> np.ndarray:
    """`[lags x Cs, Ct]` -> `[Ct, Cs, 2 * lags + 1]`."""
    return weights.T.reshape(weights.shape[1], 2 * lags + 1, -1).transpose(0, 2, 1).copy()
