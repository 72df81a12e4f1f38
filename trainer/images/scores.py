"""How well pictures are retrieved: ranks with ties, intervals over people and concepts, and whether
a control has found more than chance.

Scores are logits or cosines, `[queries, candidates]`, of which one candidate is true. A tie shares
its places: a constant prediction scores exactly k / n.
"""

from __future__ import annotations

import numpy as np

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
