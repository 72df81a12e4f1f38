"""Which of many to look at, and how many of each, where a few stand for all."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np


def evenly(total: int, count: int) -> np.ndarray:
    """int64 `[n]`, ascending, each once: at most `count` of the numbers 0 to `total` - 1, evenly
    spaced, the first and the last among them where `count` allows; none of `total` 0."""
    return np.unique(np.linspace(0, total - 1, min(total, count)).round().astype(np.int64))


def shared_out(total: int, sizes: Sequence[int]) -> list[int]:
    """How many of each, at most its size: as equal as sizes allow, `total` together where there are
    as many, and one of each even where that is more. What does not divide goes to the first."""
    counts = [min(1, size) for size in sizes]
    while (left := total - sum(counts)) > 0:
        open_ = [place for place, size in enumerate(sizes) if counts[place] < size]
        if not open_:
            break
        each = max(1, left // len(open_))
        for place in open_[:left]:
            counts[place] = min(sizes[place], counts[place] + each)
    return counts
