"""Who is scored and how, by hand-made tables: selection, ranks with ties, intervals, controls."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from data.errors import InputError
from trainer.images.config import ImagesConfig, window_s
from trainer.images.scoring.ridge import _solver, fit_ridge, unit
from trainer.images.scoring.scores import (
    assigned,
    chance_p,
    hits,
    hubness,
    interval,
    places,
    ranks,
)
from trainer.images.selection import divide, galleries, held_concepts, parse_protocol

PEOPLE = ("1", "2", "3")


@pytest.mark.parametrize(
    ("text", "tested", "trained", "left_out"),
    [
        ("within:2", ("2",), ("2",), False),
        ("within:3,1", ("3", "1"), ("3", "1"), False),
        ("within:all", PEOPLE, PEOPLE, False),
        ("loso:1", ("1",), ("2", "3"), True),
    ],
)
def test_protocols(text, tested, trained, left_out):
    found = parse_protocol(text, PEOPLE)
    assert (found.tested, found.trained, found.left_out) == (tested, trained, left_out)


@pytest.mark.parametrize(
    "text", ["", "within", "within:", "loso:all", "loso:1,2", "loso:9", "within:9", "folds:3"]
)
def test_protocols_that_mean_nothing(text):
    with pytest.raises(InputError, match="--protocol"):
        parse_protocol(text, PEOPLE)


def test_nobody_is_left_to_train_on():
    with pytest.raises(InputError, match="needs another to train on"):
        parse_protocol("loso:1", ("1",))


@given(
    st.lists(st.tuples(st.sampled_from(PEOPLE), st.integers(0, 9)), min_size=40, max_size=80),
    st.sampled_from(["within:1", "within:all", "loso:2"]),
)
def test_no_concept_is_on_two_sides(trials, text):
    concept = [f"c{number}" for _, number in trials]
    if len(set(concept)) < 5:
        return
    held = held_concepts(concept, 3)
    protocol = parse_protocol(text, PEOPLE)
    train, chosen = divide(protocol, [person for person, _ in trials], concept, held)
    assert not {concept[row] for row in train} & {concept[row] for row in chosen}
    assert {trials[row][0] for row in [*train, *chosen]} <= set(protocol.trained)
    # The held concepts do not depend on who takes part, or in which order.
    assert held == held_concepts(concept[::-1], 3)


@pytest.mark.parametrize("count", [0, 1, 4, 9])
def test_too_few_concepts(count):
    with pytest.raises(InputError, match="--val_concepts"):
        held_concepts(["a", "b", "c", "d", "e"], count)


def test_galleries_hold_one_picture_a_concept():
    found = galleries(["a", "b", "a", "b", "b"])
    assert [gallery.tolist() for gallery in found] == [[0, 1], [2, 3]]
    assert galleries([]) == []


SCORES = np.array([[3.0, 1, 2, 0], [1, 1, 1, 1], [0, 5, 5, 9], [2, 2, 7, 2]])
TRUTH = np.array([0, 2, 1, 3])


@pytest.mark.parametrize(
    ("top", "expected"), [(1, [1, 1 / 4, 0, 0]), (2, [1, 2 / 4, 1 / 2, 1 / 3]), (4, [1, 1, 1, 1])]
)
def test_hits_share_ties(top, expected):
    assert hits(SCORES, TRUTH, top).tolist() == pytest.approx(expected)


def test_ranks_share_ties():
    assert ranks(SCORES, TRUTH).tolist() == [1, 2.5, 2.5, 3]


def test_a_constant_prediction_is_at_chance():
    scores = np.zeros((200, 200))
    assert hits(scores, np.arange(200), 1).mean() == pytest.approx(1 / 200)
    assert hits(scores, np.arange(200), 5).mean() == pytest.approx(5 / 200)


def test_scores_that_are_no_numbers():
    with pytest.raises(ValueError, match="finite"):
        hits(np.array([[np.nan, 1.0]]), np.array([0]), 1)


def test_repeats_are_counted_by_onset():
    query = np.array([1, 0, 1, 0, 1])
    onset_s = np.array([5.0, 2.0, 1.0, 9.0, 3.0])
    assert places(query, onset_s).tolist() == [2, 0, 0, 1, 1]


def test_intervals_hold_the_mean_and_shrink():
    rng = np.random.default_rng(0)
    few, many = (rng.random((4, count)) < 0.4 for count in (20, 2000))
    narrow, wide = interval(many.astype(float)), interval(few.astype(float))
    assert wide[0] < few.mean() < wide[1]
    assert narrow[1] - narrow[0] < 0.5 * (wide[1] - wide[0])


def test_intervals_of_one_person_redraw_pictures():
    low, high = interval(np.array([[0.0, 1.0] * 50]))
    assert low == pytest.approx(0.4, abs=0.02)
    assert high == pytest.approx(0.6, abs=0.02)


def test_a_control_that_knows_the_picture_is_found():
    rng = np.random.default_rng(0)
    truth = np.tile(np.arange(50), 2)
    person = np.repeat([0, 1], 50)
    noise = rng.standard_normal((100, 50))
    assert chance_p(noise, truth, person, 1, draws=500) > 0.01
    knowing = noise + 2 * np.eye(50)[truth]
    assert chance_p(knowing, truth, person, 1, draws=1000) < 0.002
    # A hub that takes every query is no knowledge.
    assert chance_p(noise + 9 * np.eye(50)[3], truth, person, 1, draws=500) == 1


def test_assignment_gives_each_picture_once():
    scores = np.array([[2.0, 1, 0], [3, 2.9, 0], [1, 1, 1]])
    truth, person = np.arange(3), np.zeros(3, int)
    assert hits(scores, truth, 1).sum() == pytest.approx(1 + 0 + 1 / 3)
    assert assigned(scores, truth, person) == 1
    assert hubness(scores, most=1) == 1
    assert hubness(np.eye(20), most=10) == 0.5


def test_ridge_is_fitted_again_on_all():
    rng = np.random.default_rng(1)
    averages, held = rng.standard_normal((60, 30)), np.arange(60) >= 50
    wanted = unit(averages @ rng.standard_normal((30, 8)))
    concept = np.array([f"c{row}" for row in range(60)])
    first, again = (fit_ridge(averages, wanted, held, concept, refit) for refit in (False, True))
    assert first.penalty == again.penalty
    centred = averages - averages.mean(0)
    expected = np.linalg.solve(centred.T @ centred + again.penalty * np.eye(30), centred.T @ wanted)
    np.testing.assert_allclose(again.weights, expected, atol=1e-8)


@pytest.mark.parametrize("features", [20, 90])
def test_both_forms_of_ridge_agree(features):
    rng = np.random.default_rng(2)
    x, y = rng.standard_normal((60, features)), rng.standard_normal((60, 3))
    expected = np.linalg.solve(x.T @ x + 1.5 * np.eye(features), x.T @ y)
    np.testing.assert_allclose(_solver(x, y)(1.5), expected, atol=1e-9)


def test_ridge_finds_a_linear_map():
    rng = np.random.default_rng(1)
    averages = rng.standard_normal((60, 30))
    wanted = unit(averages @ rng.standard_normal((30, 8)))
    held = np.arange(60) >= 50
    concept = np.array([f"c{row}" for row in range(60)])
    found = fit_ridge(averages + 0.1 * rng.standard_normal((60, 30)), wanted, held, concept)
    scores = found.embed(averages[held]) @ wanted[held].T
    assert hits(scores, np.arange(10), 1).mean() == 1


@pytest.mark.parametrize(
    ("text", "expected"),
    [("0-800", (0, 0.8)), ("-200-0", (-0.2, 0)), ("50-150.5", (0.05, 0.1505))],
)
def test_windows(text, expected):
    assert window_s(text) == pytest.approx(expected)


@pytest.mark.parametrize("text", ["", "800", "800-0", "a-b", "0-0"])
def test_windows_that_mean_nothing(text):
    with pytest.raises(InputError, match="--window_ms"):
        window_s(text)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ({"trunk": "convolution"}, "did you mean conv|one of"),
        ({"trunk": "encoder"}, "needs --init"),
        ({"init": "weights.safetensors"}, "use --trunk encoder"),
        ({"encoder_mode": "half"}, "use one of"),
        ({"shards": "shards/things2"}, "--images is missing"),
        ({"dropout": 1.0}, "lie in"),
        ({"val_repeats": 0}, "at least 1"),
        ({"projected": -1}, "negative"),
    ],
)
def test_settings_that_contradict(flags, message):
    with pytest.raises(InputError, match=message):
        ImagesConfig(**flags)
