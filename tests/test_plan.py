"""The order of samples: properties over many splits, worlds and places."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data.batches.order import TrainingOrder, batch_sizes, temperature_counts
from data.errors import InputError
from data.shards.manifest import ShardEntry


def shards(counts) -> tuple[ShardEntry, ...]:
    """One shard for each (dataset, montage, samples)."""
    return tuple(
        ShardEntry(f"{i}.tar", dataset, "train", montage, n, 4, 100, 512, 10**6, "")
        for i, (dataset, montage, n) in enumerate(counts)
    )


splits = st.lists(
    st.tuples(st.sampled_from("AB"), st.sampled_from("xyz"), st.integers(1, 30)),
    min_size=1,
    max_size=6,
)


@settings(max_examples=60, deadline=None)
@given(splits, st.integers(0, 9), st.integers(1, 8), st.integers(1, 8))
def test_an_epoch_holds_every_sample_once(counts, seed, global_batch, run_length):
    total = sum(n for *_, n in counts)
    if total < global_batch:
        return
    order = TrainingOrder(shards(counts), seed, global_batch, run_length)
    for epoch in range(3):
        numbers = order.windows(epoch * order.epoch_samples, order.epoch_samples)
        assert len(set(numbers.tolist())) == len(numbers) == total // global_batch * global_batch


@settings(max_examples=40, deadline=None)
@given(splits, st.integers(0, 3), st.sampled_from([1, 2, 4, 8]), st.sampled_from([1, 2]))
def test_world_and_accumulation_do_not_change_the_batches(counts, seed, world, accumulation):
    global_batch = 16
    if sum(n for *_, n in counts) < global_batch:
        return
    order = TrainingOrder(shards(counts), seed, global_batch, 4)
    micro = global_batch // world // accumulation
    if micro < 1:
        return
    for step in range(3):
        wanted = order.windows(step * global_batch, global_batch).tolist() if (
            step * global_batch < order.epoch_samples) else None  # fmt: skip
        got: dict[int, int] = {}
        for rank in range(world):
            for index in range(accumulation):
                places, numbers = order.micro_batch(step * global_batch, rank, world, micro, index)
                got.update(zip(places.tolist(), numbers.tolist(), strict=True))
        assert sorted(got) == list(range(step * global_batch, (step + 1) * global_batch))
        if wanted is not None:
            assert [got[place] for place in sorted(got)] == wanted


@settings(max_examples=60, deadline=None)
@given(splits, st.integers(0, 3), st.lists(st.sampled_from([1, 2, 3, 4, 6, 12]), min_size=1))
def test_any_sequence_of_worlds_takes_each_position_once(counts, seed, worlds):
    """A new number of ranks after every step, over the ends of epochs."""
    if sum(n for *_, n in counts) < 12:
        return
    order = TrainingOrder(shards(counts), seed, 12, 4)
    for step, world in enumerate(worlds):
        places, numbers = zip(
            *(order.micro_batch(12 * step, rank, world, 12 // world, 0) for rank in range(world)),
            strict=True,
        )
        assert np.concatenate(places).tolist() == list(range(12 * step, 12 * step + 12))
        assert np.concatenate(numbers).tolist() == order.windows(12 * step, 12).tolist()


def test_runs_hold_one_montage_and_rests_come_last():
    order = TrainingOrder(shards([("A", "x", 30), ("B", "y", 21), ("B", "x", 5)]), 0, 4, 4)
    montage = np.repeat(["x", "y", "x"], [30, 21, 5])
    numbers = order.windows(0, order.epoch_samples)
    runs = montage[numbers][: (35 // 4 + 21 // 4) * 4].reshape(-1, 4)
    assert (runs == runs[:, :1]).all()
    assert len({run[0] for run in runs.tolist()}) == 2


def test_epochs_and_seeds_differ():
    split = shards([("A", "x", 64)])
    orders = [
        tuple(TrainingOrder(split, seed, 8, 4).windows(epoch * 64, 64))
        for seed in (0, 1)
        for epoch in (0, 1)
    ]
    assert len(set(orders)) == 4


def test_temperature():
    assert temperature_counts({"A": 900, "B": 100}, 1.0) == {"A": 900, "B": 100}
    assert temperature_counts({"A": 900, "B": 100}, 0.5) == {"A": 750, "B": 250}
    assert temperature_counts({"A": 900, "B": 100}, 0.0) == {"A": 500, "B": 500}
    assert temperature_counts({"A": 600, "B": 200}, 1.0, {"B": 3.0}) == {"A": 400, "B": 400}
    order = TrainingOrder(shards([("A", "x", 90), ("B", "y", 10)]), 0, 10, 5, temperature=0.5)
    counts = Counter(order.windows(0, 100).tolist())
    assert sum(counts[i] for i in range(90)) == 75
    assert max(counts[i] for i in range(90)) == 1  # a part of A, nothing twice
    assert {counts[i] for i in range(90, 100)} == {2, 3}  # B as evenly as 25 of 10 can be


@pytest.mark.parametrize(
    ("given_sizes", "found"),
    [
        ((2, 16, 1, None), (16, 1, 32)),
        ((8, 16, 2, 256), (16, 2, 256)),
        ((4, 16, 1, 256), (16, 4, 256)),
        ((2, None, None, 12), (6, 1, 12)),
        ((8, 64, 1, 32), (4, 1, 32)),
        ((1, None, None, None), (1, 1, 1)),
    ],
)
def test_batch_sizes(given_sizes, found):
    assert batch_sizes(*given_sizes) == found


@pytest.mark.parametrize("sizes", [(3, 4, 1, 16), (2, 3, 1, 16), (1, 0, 1, None), (2, 4, 1, 0)])
def test_batch_sizes_that_do_not_fit(sizes):
    with pytest.raises(InputError):
        batch_sizes(*sizes)


def test_too_few_samples_for_a_batch():
    with pytest.raises(InputError, match="fewer than one global batch"):
        TrainingOrder(shards([("A", "x", 3)]), 0, 4, 4)
