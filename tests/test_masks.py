"""Masks: exact counts, the shape of each kind, and dependence on (seed, place) alone."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny import electrode_places

from model.config import preset
from model.masks import (
    MASKS,
    MaskKind,
    Sheet,
    draw_kind,
    draw_mask,
    generator,
    mixture_kinds,
    parse,
    scored_kinds,
)
from model.tokens import ChannelTokens


@settings(max_examples=80, deadline=None)
@given(
    st.sampled_from(tuple(MASKS)), st.integers(2, 40), st.integers(2, 12),
    st.floats(0.01, 0.99), st.integers(0, 1000),
)  # fmt: skip
def test_counts_are_exact(kind, channels, patches, ratio, seed):
    positions = electrode_places("biosemi64", channels)[1]
    count = min(max(1, round(ratio * channels * patches)), channels * patches - 1)
    hidden = draw_mask(kind, Sheet(positions, patches, 10.0), count, np.random.default_rng(seed))
    assert hidden.shape == (channels, patches)
    assert hidden.sum() == count
    tokens = ChannelTokens(20, "spline")
    keep, hide = tokens.indices(torch.from_numpy(hidden)[None])
    assert keep[0].tolist() == np.flatnonzero(~hidden).tolist()
    assert hide[0].tolist() == np.flatnonzero(hidden).tolist()
    assert torch.equal(tokens.hidden(hide, channels, patches)[0], torch.from_numpy(hidden))


def test_the_shape_of_each_kind():
    positions = electrode_places("biosemi32", 32)[1]
    rng = np.random.default_rng(0)
    sheet = Sheet(positions, 10, 10.0)
    time = draw_mask("time", sheet, 160, rng)
    assert sorted(set(time.sum(0).tolist())) == [0, 32]
    for kind in ("tube", "channel"):
        rows = draw_mask(kind, sheet, 160, rng).sum(1)
        assert sorted(set(rows.tolist())) == [0, 10]
    tube = draw_mask("tube", sheet, 60, rng).any(1)
    scattered = draw_mask("channel", sheet, 60, rng).any(1)
    assert spread(positions[tube]) < spread(positions[scattered])


def spread(positions: np.ndarray) -> float:
    return float(np.linalg.norm(positions[:, None] - positions, axis=-1).mean())


def test_a_mask_is_a_function_of_seed_and_place():
    draws = {
        (seed, place): generator(seed, place).random() for seed in (0, 1) for place in (0, 1, 2**33)
    }
    assert len(set(draws.values())) == len(draws)
    assert draws[1, 2**33] == generator(1, 2**33).random()


def test_kinds_follow_their_weights():
    rng = np.random.default_rng(0)
    kinds = [draw_kind({"block": 3.0, "time": 1.0, "tube": 0.0}, rng) for _ in range(2000)]
    assert 0.71 < kinds.count("block") / 2000 < 0.79
    assert "tube" not in kinds


@pytest.mark.parametrize("count", [0, 20])
def test_all_or_nothing_is_refused(count):
    with pytest.raises(ValueError):
        draw_mask("random", Sheet(np.zeros((4, 3)), 5, 10.0), count, np.random.default_rng(0))


def of_one_column(sheet: Sheet, rng: np.random.Generator, number: float | None) -> np.ndarray:
    piece = np.zeros((sheet.rows, sheet.columns), dtype=bool)
    piece[: int(number or 0), rng.integers(sheet.columns)] = True
    return piece


def test_a_new_kind_is_one_entry(monkeypatch):
    entry = MaskKind("the first rows", of_one_column, number="rows", needs_rows=True)
    monkeypatch.setitem(MASKS, "first_rows", entry)
    sheet = Sheet(electrode_places("biosemi32", 32)[1], 10, 10.0)
    hidden = draw_mask("first_rows=3", sheet, 30, generator(0, 0))
    assert hidden[:3].all()
    assert not hidden[3:].any()
    config = preset("tiny", mask_mixture={"first_rows=3": 1.0})
    assert config.mask_mixture == {"first_rows=3": 1.0}
    for kind in ("first_rows", "first_rows=", "first_rows=many", "first_rows=0", "first_rows=nan"):
        with pytest.raises(ValueError, match="first_rows=NUMBER"):
            preset("tiny", mask_mixture={kind: 1.0})
    with pytest.raises(ValueError, match="kinds among random, time"):
        preset("tiny", tokens="joint", mask_mixture={"first_rows=3": 1.0})


def test_a_kind_without_a_number_takes_none():
    with pytest.raises(ValueError, match="takes no number"):
        parse("random=3")
    with pytest.raises(ValueError, match="use one of random, block"):
        parse("radnom")


def test_tokens_of_all_channels_take_kinds_that_hide_all():
    assert mixture_kinds(one_row=True) == ("random", "time")
    assert scored_kinds(one_row=True) == ("time", "random-time")
    assert mixture_kinds(one_row=False) == ("random", "block", "tube", "channel", "time")


def test_evaluation_hashes_its_keys():
    """Masks of reports made before must come again: numbers of the first version."""
    assert generator(3, "k1/block").integers(2**32, size=3).tolist() == [
        2690103130,
        1623797504,
        555002794,
    ]
    assert generator(3, 1).integers(2**32, size=3).tolist() == [4161501727, 886398849, 425524382]
