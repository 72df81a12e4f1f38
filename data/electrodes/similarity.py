"""Sets of places fitted to each other, and to a sphere."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

KEPT_SHARE = 0.75
"""Share of the electrodes that the second fit is made with."""


@dataclass(frozen=True)
class Similarity:
    """x -> scale * rotation @ x + shift. `rotation` `[3, 3]` proper, `shift` `[3]`."""

    scale: float
    rotation: np.ndarray
    shift: np.ndarray

    def __call__(self, places: np.ndarray) -> np.ndarray:
        """`[n, 3]` -> `[n, 3]`."""
        return self.scale * np.asarray(places) @ self.rotation.T + self.shift


def fit_similarity(places: np.ndarray, target: np.ndarray) -> Similarity:
    """The similarity that brings `places` `[n, 3]` nearest to `target` `[n, 3]`, by least squares
    and without mirroring."""
    middle, aim = places.mean(0), target.mean(0)
    centred = places - middle
    u, values, vt = np.linalg.svd((target - aim).T @ centred)
    signs = np.array([1.0, 1.0, np.sign(np.linalg.det(u @ vt)) or 1.0])
    rotation = (u * signs) @ vt
    scale = float((values * signs).sum() / max((centred**2).sum(), np.finfo(float).tiny))
    return Similarity(scale, rotation, aim - scale * rotation @ middle)


def fit_robustly(places: np.ndarray, target: np.ndarray, rounds: int = 10) -> Similarity:
    """As `fit_similarity`, by the KEPT_SHARE of the electrodes that fit best, which a few wrong
    places or names do not move."""
    kept = np.arange(len(places))
    count = int(np.ceil(KEPT_SHARE * len(places)))
    for _ in range(rounds):
        fit = fit_similarity(places[kept], target[kept])
        nearest = np.argsort(np.linalg.norm(fit(places) - target, axis=1), kind="stable")[:count]
        if set(nearest) == set(kept):
            break
        kept = nearest
    return fit_similarity(places[kept], target[kept])


def fit_sphere(places: np.ndarray) -> tuple[np.ndarray, float, float]:
    """(centre `[3]`, radius, scatter of the radius relative to it) of the sphere nearest to
    `places` `[n, 3]`, by linear least squares."""
    middle = places.mean(0)
    size = np.linalg.norm(places - middle, axis=1).mean() or 1.0
    x = (places - middle) / size
    solution, *_ = np.linalg.lstsq(
        np.column_stack([2 * x, np.ones(len(x))]), (x**2).sum(1), rcond=None
    )
    centre = solution[:3]
    radii = np.linalg.norm(x - centre, axis=1)
    radius = float(radii.mean())
    return middle + size * centre, size * radius, float(radii.std() / radius)


def median_distance(places: np.ndarray, target: np.ndarray) -> float:
    return float(np.median(np.linalg.norm(places - target, axis=1)))


def thickness(places: np.ndarray) -> float:
    """Smallest extent of `places` `[n, 3]` in any direction, relative to the largest."""
    extents = np.linalg.svd(places - places.mean(0), compute_uv=False)
    return float(extents[-1] / extents[0]) if extents[0] else 0.0
