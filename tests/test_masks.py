"""Masks: exact counts, the shape of each kind, and dependence on (seed, place) alone."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from test_config import parse as parse_flags
from tiny import MASK_KINDS, electrode_places

from data.batches.batch import Batch
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
    usual_kinds,
)
from model.tokens import ChannelTokens
from trainer.masked.draw import DrawMasks, hidden_mask


@settings(max_examples=80, deadline=None)
@given(
    st.sampled_from(MASK_KINDS), st.integers(2, 40), st.integers(2, 12),
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


def distances_cm(positions_m: np.ndarray) -> np.ndarray:
    return 100 * np.linalg.norm(positions_m[:, None] - positions_m, axis=-1)


def test_every_kind_is_written_as_users_write_it():
    assert {kind.partition("=")[0] for kind in MASK_KINDS} == set(MASKS)
    assert all(parse(kind) for kind in MASK_KINDS)


@pytest.mark.parametrize("name", ["biosemi32", "biosemi128"])
@pytest.mark.parametrize("radius_cm", [3.0, 4.5, 9.0])
def test_a_radius_hides_the_electrodes_within_it_and_no_others(name, radius_cm):
    places = electrode_places(name, int(name.removeprefix("biosemi")))[1]
    sheet, near = Sheet(places, 10, 10.0), distances_cm(places) <= radius_cm
    drawn = set()
    for seed in range(600):
        hidden = MASKS["radius_cm"].piece(sheet, np.random.default_rng(seed), radius_cm)
        rows = hidden.any(1)
        assert np.array_equal(rows, hidden.all(1))
        assert any(np.array_equal(near[centre], rows) for centre in np.flatnonzero(rows))
        drawn.add(rows.tobytes())
        mask = draw_mask(
            f"radius_cm={radius_cm}", sheet, int(hidden.sum()), np.random.default_rng(seed)
        )
        assert np.array_equal(mask, hidden)
    assert len(drawn) > 0.9 * len({row.tobytes() for row in near})  # any electrode may be chosen


def test_a_radius_is_in_centimetres_and_places_are_in_metres():
    places_m = np.array([[0.01 * step, 0.0, 0.0] for step in range(20)])  # one a centimetre
    sheet = Sheet(places_m, 3, 10.0)
    for seed in range(30):
        piece = MASKS["radius_cm"].piece(sheet, np.random.default_rng(seed), 2.5)
        rows = np.flatnonzero(piece.all(1)).tolist()
        assert rows == list(range(rows[0], rows[-1] + 1))
        assert len(rows) == 5 or (3 <= len(rows) < 5 and (rows[0] == 0 or rows[-1] == 19))


def test_a_radius_is_the_same_on_any_cap():
    """Unlike a share of the channels."""
    widths_cm = []
    for name, channels in (("biosemi32", 32), ("biosemi128", 128)):
        places = electrode_places(name, channels)[1]
        sheet = Sheet(places, 4, 10.0)
        pieces = [
            MASKS["radius_cm"].piece(sheet, np.random.default_rng(seed), 7.0).all(1)
            for seed in range(100)
        ]
        widths_cm.append(np.mean([distances_cm(places[rows]).max() for rows in pieces]))
        assert max(distances_cm(places[rows]).max() for rows in pieces) <= 14.0
    assert widths_cm[0] == pytest.approx(widths_cm[1], rel=0.2)


def test_a_radius_hides_more_than_is_asked_for_and_is_cut_by_whole_electrodes():
    places = electrode_places("biosemi32", 32)[1]
    sheet = Sheet(places, 10, 10.0)
    kept = np.zeros(32, dtype=int)
    for seed in range(200):
        hidden = draw_mask("radius_cm=30", sheet, 87, np.random.default_rng(seed))
        rows = hidden.sum(1)
        assert sorted(rows[rows > 0].tolist()) == [7, *[10] * 8]
        partial = hidden[rows == 7][0]
        assert partial[:7].all()  # contiguous in time
        kept += rows > 0
    assert kept.min() > 25  # 56 each on average: no electrode is favoured
    assert kept.max() < 95


def test_electrodes_in_one_place_are_hidden_together():
    sheet = Sheet(np.zeros((4, 3)), 5, 10.0)
    assert MASKS["radius_cm"].piece(sheet, np.random.default_rng(0), 1e-9).all()


def test_a_tiny_radius_hides_scattered_electrodes():
    places = electrode_places("biosemi32", 32)[1]
    sheet = Sheet(places, 10, 10.0)
    for seed in range(20):
        piece = MASKS["radius_cm"].piece(sheet, np.random.default_rng(seed), 1e-6)
        assert piece.all(1).sum() == 1
        assert piece.sum() == 10
        hidden = draw_mask("radius_cm=0.000001", sheet, 319, np.random.default_rng(seed))
        assert hidden.sum() == 319


def test_a_radius_in_training():
    flags = ("--preset", "tiny", "--model", 'mask_mixture={"radius_cm=4": 1}')
    config = parse_flags(*flags).model_config()
    assert config.mask_mixture == {"radius_cm=4": 1}
    places = torch.from_numpy(electrode_places("biosemi64", 64)[1])
    eeg = torch.zeros(8, 64, 10 * config.patch_samples)
    batch = DrawMasks(config, 0)(Batch.of(eeg, places))
    hidden = hidden_mask(batch, config).numpy()
    assert hidden.sum((1, 2)).tolist() == [config.hidden_count(640)] * 8
    again = hidden_mask(DrawMasks(config, 0)(Batch.of(eeg, places)), config).numpy()
    assert np.array_equal(hidden, again)
    for mask in hidden:
        # At most one electrode, the last one cut, is hidden for a part of the window.
        assert (mask.any(1) & ~mask.all(1)).sum() <= 1
    assert len({mask.tobytes() for mask in hidden}) == 8


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
    assert mixture_kinds(one_row=False) == (
        "random", "block", "tube", "radius_cm", "channel", "time",
    )  # fmt: skip
    assert usual_kinds(one_row=False) == ("random", "block", "tube", "channel", "time")


def test_evaluation_hashes_its_keys():
    """Masks of reports made before must come again: numbers of the first version."""
    assert generator(3, "k1/block").integers(2**32, size=3).tolist() == [
        2690103130,
        1623797504,
        555002794,
    ]
    assert generator(3, 1).integers(2**32, size=3).tolist() == [4161501727, 886398849, 425524382]
