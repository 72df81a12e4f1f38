"""Which patches are hidden: pure functions of a numpy generator.

Every kind hides exactly `n_hidden` patches, so that batches stay dense `[B, keep, D]` and attention
needs no mask; what a block or tube would hide beyond that is shown again, at random. Masks are
drawn on the CPU in the loader's workers (about 0.1 ms a sample at 32 x 10 patches), so the device
never waits for them.

Shapes: C channels, N patches along time; a mask is bool `[C, N]`, True = hidden.
"""

from __future__ import annotations

import numpy as np

PURPOSE_MASK = 0x6D61736B  # keeps mask draws apart from other draws of the same (seed, position)


def sample_generator(seed: int, position: int) -> np.random.Generator:
    """The generator of one sample: a function of the run's seed and the sample's place in the
    stream of samples, and of nothing else - not of the rank, world size or number of workers."""
    key = np.array([seed & (2**64 - 1), (PURPOSE_MASK << 32) ^ position], dtype=np.uint64)
    return np.random.Generator(np.random.Philox(key=key))


def draw_kind(mixture: dict[str, float], rng: np.random.Generator) -> str:
    """One kind, with probability proportional to its weight."""
    kinds = sorted(mixture)
    weights = np.array([mixture[kind] for kind in kinds], dtype=np.float64)
    return kinds[int(rng.choice(len(kinds), p=weights / weights.sum()))]


def draw_hidden(
    kind: str,
    positions_m: np.ndarray,
    n_patches: int,
    n_hidden: int,
    rng: np.random.Generator,
    sfreq_patches_hz: float = 10.0,
) -> np.ndarray:
    """A mask with exactly `n_hidden` of the C x N patches hidden.

    kind: `random` any patch; `block` a neighbourhood of electrodes for 0.3-0.6 s; `tube` a
    neighbourhood for the whole window; `channel` scattered channels for the whole window; `time`
    all channels for spans of 0.2-0.4 s. positions_m: `[C, 3]` metres. sfreq_patches_hz: patches a
    second. Raises ValueError for an unknown kind or a count that hides nothing or everything.
    """
    n_channels = len(positions_m)
    if not 0 < n_hidden < n_channels * n_patches:
        raise ValueError(f"n_hidden={n_hidden} of {n_channels * n_patches} patches")
    hidden = np.zeros((n_channels, n_patches), dtype=bool)
    if kind == "random":
        hidden.flat[rng.permutation(hidden.size)[:n_hidden]] = True
        return hidden
    if kind not in ("block", "tube", "channel", "time"):
        raise ValueError(f"mask kind {kind!r}")
    missing = n_hidden
    while missing > 0:
        piece = _piece(kind, positions_m, n_patches, rng, sfreq_patches_hz) & ~hidden
        found = np.flatnonzero(piece)
        if len(found) > missing:
            found = _trim(kind, found, missing, n_patches, rng)
        hidden.flat[found] = True
        missing -= len(found)
    return hidden


def _piece(kind, positions_m, n_patches, rng, sfreq_patches_hz) -> np.ndarray:
    n_channels = len(positions_m)
    piece = np.zeros((n_channels, n_patches), dtype=bool)
    rows: np.ndarray | slice = slice(None)
    columns: slice = slice(None)
    if kind in ("block", "tube"):
        size = int(rng.integers(1, max(2, n_channels // 4) + 1))
        centre = positions_m[rng.integers(n_channels)]
        rows = np.argsort(((positions_m - centre) ** 2).sum(1), kind="stable")[:size]
    elif kind == "channel":
        rows = rng.integers(n_channels, size=1)
    if kind in ("block", "time"):
        low, high = (0.3, 0.6) if kind == "block" else (0.2, 0.4)
        length = round(rng.uniform(low, high) * sfreq_patches_hz)
        length = min(max(1, length), n_patches)
        start = int(rng.integers(n_patches - length + 1))
        columns = slice(start, start + length)
    piece[rows, columns] = True
    return piece


def _trim(kind, found, count, n_patches, rng) -> np.ndarray:
    """`count` of the flat indices: contiguous in time for `tube`/`channel`, whole columns first for
    `time`, any for `block` - so that the exact count costs each kind as little as possible."""
    if kind == "block":
        return rng.permutation(found)[:count]
    if kind == "time":
        order = np.lexsort((rng.random(len(found)), found % n_patches))
        return found[order[:count]]
    return found[:count]


def split_indices(hidden: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(visible, hidden) flat token indices, ascending int64; token = channel * N + patch."""
    flat = hidden.reshape(-1)
    return np.flatnonzero(~flat), np.flatnonzero(flat)
