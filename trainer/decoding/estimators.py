"""The classifier that reads every method's features, and how features adapt to a person.

One classifier for all, so that a comparison is one of features: logistic regression on standardised
columns, classes counting alike, its strength chosen on inner groups of the training rows.
Covariances are read in the tangent space at the training rows' mean (Barachant et al. 2012).

Adapted features use a person's windows without their labels: columns are standardised, covariances
recentred (Zanini et al. 2018), by person. A method that is adapted is compared with ones that are.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from trainer.decoding.protocols import Fold
from trainer.decoding.statistics import person_scores

STRENGTHS = (1e-4, 1e-3, 1e-2, 1e-1, 1.0)
"""C of scikit-learn, over columns that are divided by sqrt(D / 100): one grid for any number."""
DEFAULT_STRENGTH = 1e-2
INNER_FOLDS = 4
SHUFFLES = 8
"""Orders of the labels that a control averages over."""
LEAST_STD = 1e-9

Columns = np.ndarray
"""float64 `[n, D]`, or covariances `[n, bands, C, C]`."""


@dataclass(frozen=True)
class Method:
    """What is compared. `features`: of all rows, or a function of a fold where they depend on it.
    `adapted`: with each person's unlabelled windows. `pool`: of an encoder's."""

    name: str
    features: Columns | Callable[[Fold], Columns]
    adapted: bool = False
    pool: str = ""

    @property
    def label(self) -> str:
        """Its name in tables; an asterisk marks what is adapted."""
        return f"{self.name} *" if self.adapted else self.name

    def of(self, fold: Fold) -> Columns:
        return self.features(fold) if callable(self.features) else self.features


def predict(
    features: Columns, fold: Fold, truth: np.ndarray, person: np.ndarray, group: np.ndarray,
    adapted: bool = False, strength: float | None = None,
) -> np.ndarray:  # fmt: skip
    """Class probabilities of the fold's test rows, float64 `[n, K]`.

    truth, person, group: int64 of all rows; `group` keeps rows together in the inner folds.
    strength: C of the regression [chosen].
    """
    if features.ndim == 4:
        columns = _tangents(features, fold, person if adapted else None)
    else:
        columns = by_person_standardised(features, person) if adapted else features
    train, test = _standardised(columns[fold.train], columns[fold.test])
    own, groups = truth[fold.train], group[fold.train]
    found = np.zeros((len(test), int(truth.max()) + 1))
    if len(np.unique(own)) == 1:  # a few shuffled labels: nothing can be told apart
        found[:, own[0]] = 1.0
        return found
    strength = _best_strength(train, own, groups) if strength is None else strength
    model = _fitted(train, own, strength)
    found[:, model.classes_] = model.predict_proba(test)
    return found


def by_person_standardised(columns: np.ndarray, person: np.ndarray) -> np.ndarray:
    """Each column with mean 0 and deviation 1 over each person's rows."""
    found = np.empty_like(columns)
    for one in np.unique(person):
        rows = person == one
        own = columns[rows]
        found[rows] = (own - own.mean(0)) / (own.std(0) + LEAST_STD)
    return found


def _tangents(covariances: np.ndarray, fold: Fold, person: np.ndarray | None) -> np.ndarray:
    """`[n, bands * C (C + 1) / 2]` at the training rows' mean, or at each person's own."""
    from pyriemann.tangentspace import TangentSpace

    parts = []
    for band in covariances.swapaxes(0, 1):
        if person is None:
            parts.append(TangentSpace().fit(band[fold.train]).transform(band))
            continue
        # At one's own mean is what recentring gives.
        found = {one: TangentSpace().fit_transform(band[person == one])
                 for one in np.unique(person)}  # fmt: skip
        columns = np.empty((len(band), next(iter(found.values())).shape[1]))
        for one, own in found.items():
            columns[person == one] = own
        parts.append(columns)
    return np.concatenate(parts, 1)


def _standardised(train: np.ndarray, test: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    mean, std = train.mean(0), train.std(0) + LEAST_STD
    scale = std * np.sqrt(train.shape[1] / 100)
    train, test = (train - mean) / scale, (test - mean) / scale
    if train.shape[1] <= len(train):
        return train, test
    # A regression with an L2 penalty lies in the span of its rows: the same answer in n columns.
    # By QR: LAPACK's fast SVD gave up on rows of less than full rank.
    basis = np.linalg.qr(train.T)[0]
    return train @ basis, test @ basis


def _fitted(columns: np.ndarray, truth: np.ndarray, strength: float):
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression

    model = LogisticRegression(C=strength, class_weight="balanced", max_iter=300)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        return model.fit(columns, truth)


def _best_strength(columns: np.ndarray, truth: np.ndarray, group: np.ndarray) -> float:
    """By the mean AUROC of groups that were left out of the fit."""
    from sklearn.model_selection import GroupKFold

    count = min(INNER_FOLDS, len(np.unique(group)))
    if count < 2:
        return DEFAULT_STRENGTH
    totals = np.zeros(len(STRENGTHS))
    for train, held in GroupKFold(count).split(columns, truth, group):
        if len(np.unique(truth[train])) < len(np.unique(truth)):
            continue
        for place, strength in enumerate(STRENGTHS):
            model = _fitted(columns[train], truth[train], strength)
            probability = np.zeros((len(held), int(truth.max()) + 1))
            probability[:, model.classes_] = model.predict_proba(columns[held])
            scores = person_scores(truth[held], probability, group[held])["auroc"]
            if np.isfinite(scores).any():
                totals[place] += np.nanmean(scores)
    return STRENGTHS[int(totals.argmax())] if totals.any() else DEFAULT_STRENGTH
