"""Masks: exact counts, the shape of each kind, and dependence on (seed, place) alone."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny import electrode_places

from model.config import MASK_KINDS
from model.masking import draw_hidden, draw_kind, sample_generator, split_indices


@settings(max_examples=80, deadline=None)
@given(
    st.sampled_from(MASK_KINDS), st.integers(2, 40), st.integers(2, 12),
    st.floats(0.01, 0.99), st.integers(0, 1000),
)  # fmt: skip
def test_counts_are_exact(kind, channels, patches, ratio, seed):
    positions = electrode_places("biosemi64", channels)[1]
    count = min(max(1, round(ratio * channels * patches)), channels * patches - 1)
    hidden = draw_hidden(kind, positions, patches, count, np.random.default_rng(seed))
    assert hidden.shape == (channels, patches)
    assert hidden.sum() == count
    keep, hide = split_indices(hidden)
    assert len(hide) == count
    assert sorted([*keep, *hide]) == list(range(channels * patches))


def test_the_shape_of_each_kind():
    positions = electrode_places("biosemi32", 32)[1]
    rng = np.random.default_rng(0)
    time = draw_hidden("time", positions, 10, 160, rng)
    assert sorted(set(time.sum(0).tolist())) == [0, 32]
    for kind in ("tube", "channel"):
        rows = draw_hidden(kind, positions, 10, 160, rng).sum(1)
        assert sorted(set(rows.tolist())) == [0, 10]
    tube = draw_hidden("tube", positions, 10, 60, rng).any(1)
    scattered = draw_hidden("channel", positions, 10, 60, rng).any(1)
    assert spread(positions[tube]) < spread(positions[scattered])


def spread(positions: np.ndarray) -> float:
    return float(np.linalg.norm(positions[:, None] - positions, axis=-1).mean())


def test_a_mask_is_a_function_of_seed_and_place():
    draws = {
        (seed, place): sample_generator(seed, place).random()
        for seed in (0, 1)
        for place in (0, 1, 2**33)
    }
    assert len(set(draws.values())) == len(draws)
    assert draws[1, 2**33] == sample_generator(1, 2**33).random()


def test_kinds_follow_their_weights():
    rng = np.random.default_rng(0)
    kinds = [draw_kind({"block": 3.0, "time": 1.0, "tube": 0.0}, rng) for _ in range(2000)]
    assert 0.71 < kinds.count("block") / 2000 < 0.79
    assert "tube" not in kinds


@pytest.mark.parametrize("count", [0, 20])
def test_all_or_nothing_is_refused(count):
    with pytest.raises(ValueError):
        draw_hidden("random", np.zeros((4, 3)), 5, count, np.random.default_rng(0))
