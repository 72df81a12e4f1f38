"""How well pictures are retrieved: ranks with ties, intervals over people and concepts, and whether
a control has found more than chance.

Scores are logits or cosines, `[queries, candidates]`, of which one candidate is true. A tie shares
its places: a constant prediction scores exactly k / n.
"""

from __future__ import annotations

import numpy as np
from scipy.optimize import linear_sum_assignment

DRAWS = 10_000
TOPS = (1, 5)


def hits(scores: np.ndarray, truth: np.ndarray, top: int) -> np.ndarray:
    """float64 `[queries]`: the chance that the true candidate is among the best `top`, ties broken
    by lot. Raises ValueError for scores that are not numbers."""
    if not np.isfinite(scores).all():
        raise ValueError("scores that are not finite")
    own = scores[np.arange(len(scores)), truth][:, None]
    better, equal = (scores > own).sum(1), (scores == own).sum(1)
    return np.clip((top - better) / equal, 0.0, 1.0)


def ranks(scores: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """float64 `[queries]` from 1: the mean place of the true candidate."""
    own = scores[np.arange(len(scores)), truth][:, None]
    return 1 + (scores > own).sum(1) + ((scores == own).sum(1) - 1) / 2


def places(query: np.ndarray, order: np.ndarray) -> np.ndarray:
    """int64: each trial's place among those of its query, by `order`."""
    by = np.lexsort((order, query))
    starts = np.searchsorted(query[by], query[by], side="left")
    found = np.empty(len(query), np.int64)
    found[by] = np.arange(len(query)) - starts
    return found


def hubness(scores: np.ndarray, most: int = 10) -> float:
    """The share of queries that are won by the `most` pictures that win most often; under even
    winning most / candidates."""
    wins = np.bincount(scores.argmax(1), minlength=scores.shape[1])
    return float(np.sort(wins)[::-1][:most].sum() / len(scores))


def assigned(scores: np.ndarray, truth: np.ndarray, person: np.ndarray) -> float:
    """Top-1 where each person's queries share the pictures out, one each: it uses that every
    picture was shown, which nobody knows of a new trial."""
    right = 0
    for one in np.unique(person):
        rows = np.flatnonzero(person == one)
        chosen, given = linear_sum_assignment(scores[rows], maximize=True)
        right += (truth[rows][chosen] == given).sum()
    return float(right / len(scores))


def interval(cells: np.ndarray, seed: int = 0, draws: int = DRAWS) -> tuple[float, float]:
    """The middle 95 % of means of `cells` `[people, pictures]` in which people and pictures are
    redrawn independently; of one or two people, pictures alone."""
    rng = np.random.default_rng([seed, 1])
    people, pictures = cells.shape
    found = np.empty(draws)
    for number in range(draws):
        columns = cells[:, rng.integers(pictures, size=pictures)].mean(1)
        found[number] = columns[rng.integers(people, size=people)].mean() if people > 2 else (
            columns.mean()
        )  # fmt: skip
    low, high = np.quantile(found, (0.025, 0.975))
    return float(low), float(high)


def chance_p(
    scores: np.ndarray, truth: np.ndarray, person: np.ndarray, top: int, seed: int = 0,
    draws: int = DRAWS,
) -> float:  # fmt: skip
    """One-sided p of so many hits or more where true pictures are shuffled among each person's
    queries: hub pictures stay hubs, which a binomial test forgets."""
    rng = np.random.default_rng([seed, 2])
    own = [np.flatnonzero(person == one) for one in np.unique(person)]
    # Of every query against every candidate, once.
    table = np.column_stack(
        [hits(scores, np.full(len(scores), one), top) for one in range(scores.shape[1])]
    )
    reached = table[np.arange(len(truth)), truth].sum()
    count = 0
    for _ in range(draws):
        shuffled = truth.copy()
        for rows in own:
            shuffled[rows] = truth[rng.permutation(rows)]
        count += table[np.arange(len(truth)), shuffled].sum() >= reached - 1e-9
    return float((1 + count) / (1 + draws))
