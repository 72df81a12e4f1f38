"""Ridge regression from a person's averaged trials to embeddings: the closed form that retrieval is
compared with.

One map a person from all samples after onset, fitted on means over each training picture's repeats;
the penalty is chosen by top-1 on the held-out concepts' pictures, repeats averaged alike. Seconds
to minutes a person: there are as many unknowns as pictures or samples, whichever are fewer.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from scipy.linalg import eigh

from trainer.images.scoring.scores import hits
from trainer.images.selection import galleries

PENALTIES = 10.0 ** np.arange(-4, 3.1, 0.5)
"""Shares of the mean eigenvalue of the Gram matrix."""


@dataclass(frozen=True)
class Ridge:
    """weights float64 `[features, E]`; mean `[features]` of the training pictures' averages."""

    weights: np.ndarray
    mean: np.ndarray
    penalty: float

    def embed(self, trials: np.ndarray) -> np.ndarray:
        """Unit vectors `[n, E]` of trials `[n, features]`."""
        return unit((trials - self.mean) @ self.weights)


def fit_ridge(
    averages: np.ndarray, embeddings: np.ndarray, held: np.ndarray, concept: np.ndarray,
    refit: bool = False,
) -> Ridge:  # fmt: skip
    """averages `[pictures, features]`, embeddings `[pictures, E]` (centred), held bool
    `[pictures]`: those of concepts that choose the penalty; concept `[pictures]`, of text. refit:
    with the penalty that they chose, fitted once more on all pictures."""
    mean = averages[~held].mean(0)
    train, chosen = averages[~held] - mean, averages[held] - mean
    solve = _solver(train, embeddings[~held])
    shown = galleries(concept[held].tolist())
    best = None
    for share in PENALTIES:
        # Of the mean eigenvalue of the pictures' Gram matrix, whichever form is solved.
        penalty = share * np.square(train).sum() / len(train)
        weights = solve(penalty)
        scores = unit(chosen @ weights) @ embeddings[held].T
        reached = np.mean(
            [
                hits(scores[np.ix_(gallery, gallery)], np.arange(len(gallery)), 1).mean()
                for gallery in shown
            ]
        )
        if best is None or reached > best[0]:
            best = reached, Ridge(weights, mean, float(penalty))
    if not refit:
        return best[1]
    mean = averages.mean(0)
    return Ridge(_solver(averages - mean, embeddings)(best[1].penalty), mean, best[1].penalty)


def _solver(x: np.ndarray, y: np.ndarray) -> Callable[[float], np.ndarray]:
    """penalty -> (X'X + penalty)^-1 X'Y, from one decomposition of the smaller of X'X and XX'."""
    wide = x.shape[1] > x.shape[0]
    values, vectors = eigh(x @ x.T if wide else x.T @ x)
    along = vectors.T @ (y if wide else x.T @ y)

    def solve(penalty: float) -> np.ndarray:
        found = vectors @ (along / (values + penalty)[:, None])
        return x.T @ found if wide else found

    return solve


def unit(rows: np.ndarray) -> np.ndarray:
    """Rows of length 1; a row of zeros stays."""
    return rows / np.maximum(np.linalg.norm(rows, axis=-1, keepdims=True), 1e-12)
