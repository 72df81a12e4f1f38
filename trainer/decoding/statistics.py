"""Scores by person and what a few people allow to be said of them.

Every person's score counts alike. Intervals are Student's; the test of a difference flips the signs
of people's differences (exactly up to 2^14 ways, else 20,000 drawn ones). A difference is called
one only above LEAST and with p < .05: with 30 people on EEGMAT the mean of two seeds of one network
differs by up to .03.
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import product

import numpy as np

LEAST = 0.04
SCORES = ("balanced_accuracy", "auroc", "kappa")
EXACT_PEOPLE = 14
DRAWN = 20_000


def balanced_accuracy(truth: np.ndarray, predicted: np.ndarray) -> float:
    """Mean over the classes that occur of the share that is right."""
    return float(np.mean([(predicted[truth == k] == k).mean() for k in np.unique(truth)]))


def by_person(truth: np.ndarray, predicted: np.ndarray, person: np.ndarray) -> np.ndarray:
    """Balanced accuracy of each person, float64 `[people]`, in the order of their numbers."""
    ones = np.unique(person)
    return np.array([balanced_accuracy(truth[person == p], predicted[person == p]) for p in ones])


def person_scores(
    truth: np.ndarray, probability: np.ndarray, person: np.ndarray
) -> dict[str, np.ndarray]:
    """Each of SCORES by person, float64 `[people]`, in the order of their numbers.

    truth: int64 `[n]`, numbers of classes; probability `[n, K]`. A person of one class has no AUROC
    and no kappa (NaN).
    """
    found: dict[str, list[float]] = {name: [] for name in SCORES}
    predicted = probability.argmax(1)
    for one in np.unique(person):
        rows = person == one
        own, said = truth[rows], predicted[rows]
        found["balanced_accuracy"].append(balanced_accuracy(own, said))
        found["auroc"].append(_auroc(own, probability[rows]))
        found["kappa"].append(_kappa(own, said))
    return {name: np.array(values) for name, values in found.items()}


def _auroc(truth: np.ndarray, probability: np.ndarray) -> float:
    """Of two classes; of more, the mean over those that occur of each against the rest."""
    from sklearn.metrics import roc_auc_score

    classes = np.unique(truth)
    if len(classes) < 2:
        return float("nan")
    if probability.shape[1] == 2:
        return float(roc_auc_score(truth, probability[:, 1]))
    return float(np.mean([roc_auc_score(truth == k, probability[:, k]) for k in classes]))


def _kappa(truth: np.ndarray, predicted: np.ndarray) -> float:
    from sklearn.metrics import cohen_kappa_score

    return float(cohen_kappa_score(truth, predicted)) if len(np.unique(truth)) > 1 else float("nan")


def interval(scores: np.ndarray) -> tuple[float, float | None]:
    """(mean, half of Student's 95 % interval) over people, without those who have no score; None:
    fewer than two have one."""
    from scipy.stats import t

    scores = scores[np.isfinite(scores)]
    if not len(scores):
        return float("nan"), None
    if len(scores) < 2:
        return float(scores.mean()), None
    half = t.ppf(0.975, len(scores) - 1) * scores.std(ddof=1) / np.sqrt(len(scores))
    return float(scores.mean()), float(half)


def with_interval(scores: np.ndarray) -> str:
    """'0.713 [0.630, 0.796] (n = 6)': mean over people with Student's 95 % interval."""
    mean, half = interval(scores)
    count = int(np.isfinite(scores).sum())
    if half is None:
        return f"{mean:.3f} (n = {count}: no interval)"
    return f"{mean:.3f} [{mean - half:.3f}, {mean + half:.3f}] (n = {count})"


def sign_flip(difference: np.ndarray, seed: int = 0) -> float:
    """Two-sided p of a mean difference over people, under random signs; 1 without people."""
    difference = difference[np.isfinite(difference)]
    count = len(difference)
    if not count:
        return 1.0
    if count <= EXACT_PEOPLE:
        signs = np.array(list(product((-1.0, 1.0), repeat=count)))
        least = 0
    else:
        signs = np.random.default_rng(seed).choice((-1.0, 1.0), (DRAWN, count))
        least = 1  # the signs as they are count as drawn, so p is never 0
    reached = np.abs(signs @ difference) >= abs(difference.sum()) - 1e-12
    return float((reached.sum() + least) / (len(signs) + least))


def compare(ours: np.ndarray, theirs: np.ndarray) -> dict:
    """What may be said of two methods' scores of the same people: mean, half interval, p, and
    `verdict` (better, worse, or no difference shown)."""
    mean, half = interval(ours - theirs)
    p = sign_flip(ours - theirs)
    shown = abs(mean) >= LEAST and p < 0.05
    verdict = ("better" if mean > 0 else "worse") if shown else "no difference shown"
    return {"difference": mean, "half": half, "p": p, "verdict": verdict}


def best_of(scores: Mapping[str, np.ndarray]) -> str:
    """The name with the highest mean over people."""
    return max(scores, key=lambda name: np.nanmean(scores[name]))


def shuffled(truth: np.ndarray, person: np.ndarray, seed: int) -> np.ndarray:
    """The classes in another order within each person; where every person has one class, the
    persons' classes in another order."""
    rng, found = np.random.default_rng(seed), truth.copy()
    rows = [person == one for one in np.unique(person)]
    if all(len(np.unique(truth[own])) == 1 for own in rows):
        for own, one in zip(rows, rng.permutation([truth[own][0] for own in rows]), strict=True):
            found[own] = one
        return found
    for own in rows:
        found[own] = rng.permutation(truth[own])
    return found
