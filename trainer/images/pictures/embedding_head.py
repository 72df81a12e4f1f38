"""The picture's embedding as EEG tells it, for a generator.

What retrieval gives has no length and lies in a space of its own: fed to a generator it draws the
mean of all pictures. Here ridge regression takes it back to embeddings, fitted on pictures of the
concepts that chose the step. Training pictures are no use: the network knows them by heart, and
what it says of new ones is weaker. Predictions that hedge lie near the mean, so they are stretched
to the length that pictures' own embeddings have.

Shapes: n queries, P numbers of a retriever's vector, E of an embedding.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from sklearn.linear_model import Ridge
from sklearn.model_selection import GroupKFold, cross_val_predict

PENALTIES = 10.0 ** np.arange(-3, 3.1, 0.5)
FOLDS = 5


@dataclass(frozen=True)
class EmbeddingHead:
    """embedding = mean + gain x ((z - z_mean) weights)."""

    weights: np.ndarray
    """float64 `[P, E]`."""
    z_mean: np.ndarray
    mean: np.ndarray
    gain: float
    penalty: float
    correlation: float
    """Of what was predicted and what is, over held-out concepts of the fit, about the mean."""

    def embed(self, z: np.ndarray) -> np.ndarray:
        """float64 `[n, E]` of means of unit vectors `[n, P]`."""
        return self.mean + self.gain * ((z - self.z_mean) @ self.weights)


def fit_head(z: np.ndarray, embeddings: np.ndarray, concept: np.ndarray) -> EmbeddingHead:
    """z `[n, P]`, embeddings `[n, E]` of the same pictures, concept `[n]` of text: the penalty is
    chosen on concepts that are left out. Raises ValueError for fewer than two concepts."""
    folds = GroupKFold(min(FOLDS, len(np.unique(concept))))
    mean, z_mean = embeddings.mean(0), z.mean(0)
    target = embeddings - mean
    best = None
    for penalty in PENALTIES * np.square(z - z_mean).sum() / z.shape[1]:
        model = Ridge(alpha=penalty)
        found = cross_val_predict(model, z - z_mean, target, cv=folds, groups=concept)
        error = np.square(found - target).sum()
        if best is None or error < best[0]:
            best = error, penalty, found
    _, penalty, found = best
    length = np.sqrt(np.square(found).sum())
    gain = np.sqrt(np.square(target).sum()) / max(length, 1e-12)
    correlation = (found * target).sum() / max(length * np.sqrt(np.square(target).sum()), 1e-12)
    weights = Ridge(alpha=penalty, fit_intercept=False).fit(z - z_mean, target).coef_.T
    return EmbeddingHead(weights, z_mean, mean, float(gain), float(penalty), float(correlation))
