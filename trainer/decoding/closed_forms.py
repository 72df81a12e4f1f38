"""What a probe is compared with: closed forms on the same windows and people.

Log band power and logistic regression is what an expert would try first; the same regression on
the features of the untrained encoder says what pretraining gives; on those of the given one, what
the probe should reach.
"""

from __future__ import annotations

import warnings

import numpy as np


def balanced_accuracy(truth: np.ndarray, predicted: np.ndarray, classes: int) -> float:
    """Mean over the classes that occur of the share that is right."""
    hits = [(predicted[truth == k] == k).mean() for k in range(classes) if (truth == k).any()]
    return float(np.mean(hits))


def by_person(
    truth: np.ndarray, predicted: np.ndarray, person: np.ndarray, classes: int
) -> np.ndarray:
    """Balanced accuracy of each person, float64 `[people]`, in the order of their numbers."""
    return np.array(
        [
            balanced_accuracy(truth[person == one], predicted[person == one], classes)
            for one in np.unique(person)
        ]
    )


def logistic_regression(train: np.ndarray, truth: np.ndarray, val: np.ndarray) -> np.ndarray:
    """Predicted classes of `val` `[n, D]`, by scikit-learn with balanced classes."""
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    regression = LogisticRegression(class_weight="balanced", max_iter=1000)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        return make_pipeline(StandardScaler(), regression).fit(train, truth).predict(val)


def with_interval(scores: np.ndarray) -> str:
    """'0.71 [0.63, 0.79] (n = 6)': mean over people with Student's 95 % interval."""
    from scipy.stats import t

    mean, n = scores.mean(), len(scores)
    if n < 2:
        return f"{mean:.3f} (n = 1: no interval)"
    half = t.ppf(0.975, n - 1) * scores.std(ddof=1) / np.sqrt(n)
    return f"{mean:.3f} [{mean - half:.3f}, {mean + half:.3f}] (n = {n})"
