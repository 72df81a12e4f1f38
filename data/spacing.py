"""Which of many to look at, where a few stand for all."""

from __future__ import annotations

import numpy as np


def evenly(total: int, count: int) -> np.ndarray:
    """int64 `[n]`, ascending, each once: at most `count` of the numbers 0 to `total` - 1, evenly
    spaced, the first and the last among them where `count` allows; none of `total` 0."""
    return np.unique(np.linspace(0, total - 1, min(total, count)).round().astype(np.int64))
