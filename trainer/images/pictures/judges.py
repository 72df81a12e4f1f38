"""How well a drawn picture shows the one that was seen.

Two-way identification asks of each other picture of the test: is the drawn one more like the seen
one? Half the time by chance. It forgives a generator's style, which pixel correlation and SSIM
(Wang et al. 2004) do not. All on pictures of 32 x 32.
"""

from __future__ import annotations

import numpy as np
from scipy.ndimage import gaussian_filter

from trainer.images.scoring.scores import interval

NEEDS_MODELS = ("AlexNet 2", "AlexNet 5", "Inception", "CLIP", "EfficientNet", "SwAV")
"""Judges that papers report, whose weights this project does not have."""
SIGMA, C1, C2 = 1.5, 0.01**2, 0.03**2
WEIGHTS = (0.299, 0.587, 0.114)


def two_way(drawn: np.ndarray, seen: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """float64 `[n]`: the share of other pictures that are less like the drawn one; ties half.
    drawn `[n, D]`, seen `[pictures, D]`, truth int64 `[n]`; likeness is correlation."""
    likeness = standard(drawn) @ standard(seen).T
    own = likeness[np.arange(len(drawn)), truth][:, None]
    better = (likeness < own).sum(1) + 0.5 * ((likeness == own).sum(1) - 1)
    return better / (len(seen) - 1)


def standard(rows: np.ndarray) -> np.ndarray:
    """Mean 0 and length 1, so that products are correlations; a constant row is zeros."""
    rows = rows - rows.mean(1, keepdims=True)
    return rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-12)


def correlation(drawn: np.ndarray, seen: np.ndarray) -> np.ndarray:
    """float64 `[n]` of rows `[n, D]`."""
    return (standard(drawn) * standard(seen)).sum(1)


def ssim(drawn: np.ndarray, seen: np.ndarray) -> np.ndarray:
    """float64 `[n]`, of pictures `[n, side, side, 3]` from 0 to 1, in grey."""
    x, y = (pictures.astype(np.float64) @ np.array(WEIGHTS) for pictures in (drawn, seen))

    def smooth(z: np.ndarray) -> np.ndarray:
        return gaussian_filter(z, (0, SIGMA, SIGMA), truncate=3.5)

    mx, my = smooth(x), smooth(y)
    xx, yy, xy = smooth(x * x) - mx**2, smooth(y * y) - my**2, smooth(x * y) - mx * my
    found = ((2 * mx * my + C1) * (2 * xy + C2)) / ((mx**2 + my**2 + C1) * (xx + yy + C2))
    return found.mean((1, 2))


def judged(cells: np.ndarray) -> dict:
    """mean and 95 % interval of `[people, pictures]`, JSON-able."""
    low, high = interval(cells)
    return {"mean": float(cells.mean()), "low": low, "high": high}
