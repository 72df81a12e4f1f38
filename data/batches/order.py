"""In which order samples are trained: pure functions of (manifest, seed, epoch, world, consumed).

An epoch is one permutation of sample numbers that depends on neither world size nor workers; a
global batch is the next G of them, and a rank's micro-batch a slice of that. So the place in the
data is one integer (samples consumed), a resumed run goes on in the middle of an epoch, and another
number of ranks with the same global batch sees the same batches.

Samples of one montage and length come in runs of `run_length`, so that micro-batches are dense;
what does not fill a run comes at the epoch's end, where a micro-batch may hold several montages.
Shuffling 4.5 million samples (5,000 hours) takes about a second and 36 MB, once an epoch.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from data.errors import InputError
from data.shards.manifest import ShardEntry

PURPOSE_ORDER = 0x6F726465  # keeps this order's draws apart from other uses of the same seed


@dataclass(frozen=True)
class Block:
    """Samples with consecutive numbers that are alike, where they are not those of whole shards."""

    samples: int
    dataset: str
    montage: str
    channels: int
    window_samples: int


@dataclass(frozen=True)
class TrainingOrder:
    """The endless sequence of a split's samples, epoch after epoch.

    shards: the split's shards, in manifest order; sample numbers count through them. global_batch:
    G, samples a step over all ranks. run_length: see the module. temperature: datasets are drawn in
    proportion to size ** temperature; 1 takes every sample exactly once an epoch, 0 all datasets
    equally often (large ones then in part, small ones repeatedly). weights: factors on the share of
    some datasets, (name, factor) pairs.
    """

    shards: tuple[ShardEntry | Block, ...]
    seed: int
    global_batch: int
    run_length: int
    temperature: float = 1.0
    weights: tuple[tuple[str, float], ...] = ()

    def __post_init__(self):
        if self.global_batch < 1 or self.run_length < 1:
            raise ValueError(f"global_batch={self.global_batch}, run_length={self.run_length}")
        if not 0 <= self.temperature <= 1:
            raise InputError(f"temperature={self.temperature}", "it must lie between 0 and 1")
        if self.samples < self.global_batch:
            raise InputError(
                f"the training split holds {self.samples} windows, fewer than one global batch of "
                f"{self.global_batch}",
                "pack more data, or make the batch smaller (--micro_batch, fewer ranks)",
            )

    @property
    def samples(self) -> int:
        return sum(shard.samples for shard in self.shards)

    @property
    def epoch_samples(self) -> int:
        """Samples an epoch: all, up to the last incomplete global batch."""
        return self.samples // self.global_batch * self.global_batch

    def windows(self, start: int, count: int) -> np.ndarray:
        """Window numbers at the places start .. start + count - 1 of the order, int64."""
        epoch, offset = divmod(start, self.epoch_samples)
        if offset + count > self.epoch_samples:
            raise ValueError(f"{count} samples from place {start} cross an epoch's end")
        return self._order(epoch)[offset : offset + count]

    def micro_batch(
        self, consumed: int, rank: int, world: int, micro: int, micro_index: int
    ) -> tuple[np.ndarray, np.ndarray]:
        """What one rank trains: (order indices, window numbers), int64 `[micro]` each.

        consumed: samples of earlier steps, a multiple of G. micro_index counts the micro-batches of
        a step (gradient accumulation). Ranks and micro-batches together take each of the step's G
        places once.
        """
        start = consumed + (micro_index * world + rank) * micro
        return np.arange(start, start + micro), self.windows(start, micro)

    def _order(self, epoch: int) -> np.ndarray:
        return _epoch_order(
            self.shards, self.seed, epoch, self.run_length, self.temperature, self.weights
        )


@lru_cache(maxsize=2)
def _epoch_order(
    shards: tuple[ShardEntry | Block, ...],
    seed: int,
    epoch: int,
    run_length: int,
    temperature: float,
    weights: tuple[tuple[str, float], ...],
) -> np.ndarray:
    key = np.array([seed & (2**64 - 1), (PURPOSE_ORDER << 32) ^ epoch], dtype=np.uint64)
    rng = np.random.Generator(np.random.Philox(key=key))
    starts = np.cumsum([0, *(shard.samples for shard in shards)])
    by_dataset: dict[str, list[int]] = {}
    for index, shard in enumerate(shards):
        by_dataset.setdefault(shard.dataset, []).append(index)
    wanted = temperature_counts(
        {name: sum(shards[i].samples for i in indices) for name, indices in by_dataset.items()},
        temperature,
        dict(weights),
    )
    by_shape: dict[tuple[str, int], list[np.ndarray]] = {}
    for name in sorted(by_dataset):
        for index, numbers in _draw(shards, starts, by_dataset[name], wanted[name], rng):
            shape = (shards[index].montage, shards[index].window_samples)
            by_shape.setdefault(shape, []).append(numbers)
    runs, rests = [], []
    for shape in sorted(by_shape):
        numbers = rng.permutation(np.concatenate(by_shape[shape]))
        whole = len(numbers) // run_length * run_length
        runs.extend(numbers[:whole].reshape(-1, run_length))
        rests.append(numbers[whole:])
    order = [runs[i] for i in rng.permutation(len(runs))]
    return np.concatenate([*order, *(rests[i] for i in rng.permutation(len(rests)))])


def _draw(shards, starts, indices, wanted, rng):
    """`wanted` sample numbers of a dataset, by shard: whole passes, then a part drawn once."""
    numbers = np.concatenate([np.arange(starts[i], starts[i + 1]) for i in indices])
    whole, part = divmod(wanted, len(numbers))
    drawn = np.concatenate([*([numbers] * whole), rng.permutation(numbers)[:part]])
    owner = np.searchsorted(starts, drawn, side="right") - 1
    by_owner = np.argsort(owner, kind="stable")
    bounds = np.searchsorted(owner[by_owner], [*indices, len(starts)])
    for index, begin, end in zip(indices, bounds[:-1], bounds[1:], strict=True):
        if begin < end:
            yield index, drawn[by_owner[begin:end]]


def temperature_counts(
    sizes: dict[str, int], temperature: float, weights: dict[str, float] | None = None
) -> dict[str, int]:
    """How many samples of each dataset an epoch takes; they add up to the total of `sizes`.

    In proportion to weight x size ** temperature (weight 1 where `weights` names none), rounded by
    largest remainders; temperature 1 without weights gives `sizes`.
    """
    names = sorted(sizes)
    total = sum(sizes.values())
    factors = [(weights or {}).get(name, 1.0) for name in names]
    powers = [sizes[name] ** temperature if sizes[name] else 0.0 for name in names]
    share = np.array(factors) * np.array(powers)
    shares = total * share / share.sum()
    counts = np.floor(shares + 1e-9).astype(int)
    for i in np.argsort(counts - shares, kind="stable")[: total - counts.sum()]:
        counts[i] += 1
    return dict(zip(names, counts.tolist(), strict=True))


def locate(starts: Sequence[int], numbers: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(shard index, index within the shard) of sample numbers; `starts` are cumulative counts."""
    shard = np.searchsorted(starts, numbers, side="right") - 1
    return shard, numbers - np.asarray(starts)[shard]


def batch_sizes(
    world: int, micro: int | None, accumulation: int | None, global_batch: int | None
) -> tuple[int, int, int]:
    """(micro-batch, accumulation steps, global batch) from those that are given.

    global = micro x accumulation x world. With a global batch given, what is missing follows from
    it; else accumulation defaults to 1. Raises InputError where the numbers do not fit.
    """
    if micro is not None and micro < 1:
        raise InputError(f"micro_batch={micro}", "it must be at least 1")
    if global_batch is None:
        micro, accumulation = micro or 1, accumulation or 1
        return micro, accumulation, micro * accumulation * world
    if global_batch < 1 or global_batch % world:
        raise InputError(
            f"global_batch={global_batch} does not divide over {world} ranks",
            f"use a multiple of {world}",
        )
    per_rank = global_batch // world
    micro = min(micro, per_rank) if micro else per_rank // (accumulation or 1)
    if micro < 1 or per_rank % micro:
        raise InputError(
            f"global_batch={global_batch} over {world} ranks is {per_rank} a rank, which "
            f"micro-batches of {micro} do not divide",
            "choose a micro_batch that divides it",
        )
    return micro, per_rank // micro, global_batch
