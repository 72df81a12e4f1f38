"""The split is by subject, a pure function of names and seed."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from data.errors import InputError
from data.subjects.split import Wish, assign_splits, held_out_counts, split_subjects


@pytest.mark.parametrize(
    ("subjects", "val_test"),
    [
        (1, (0, 0)),
        (2, (1, 0)),
        (3, (1, 1)),
        (4, (1, 1)),
        (10, (1, 1)),
        (20, (2, 2)),
        (109, (11, 11)),
    ],
)
def test_held_out_counts(subjects, val_test):
    assert held_out_counts(subjects) == val_test


def test_a_fraction_of_zero_holds_out_nobody():
    none = {"train": 1.0, "val": 0.0, "test": 0.0}
    assert [held_out_counts(n, none) for n in (1, 2, 3, 50)] == [(0, 0)] * 4


@given(st.sets(st.text(min_size=1, max_size=8), min_size=3, max_size=40), st.integers(0, 99))
def test_every_subject_gets_one_split_whatever_the_order(names, seed):
    forwards = split_subjects(sorted(names), "set", seed)
    assert forwards == split_subjects(sorted(names, reverse=True), "set", seed)
    assert set(forwards) == names
    assert set(forwards.values()) == {"train", "val", "test"}


def test_seed_and_dataset_matter():
    names = [str(i) for i in range(30)]
    first = split_subjects(names, "a", 0)
    assert first != split_subjects(names, "a", 1)
    assert first != split_subjects(names, "b", 0)


def test_known_split_does_not_move():
    """These are in published manifests: a change of the rule must be seen."""
    split = split_subjects([str(i) for i in range(1, 13)], "simulated-biosemi32", 0)
    held_out = {name: where for name, where in split.items() if where != "train"}
    assert held_out == HELD_OUT_OF_TWELVE


def splits_of(*wishes: tuple, seed: int = 0) -> list[str]:
    return assign_splits([Wish(*wish) for wish in wishes], seed)


def test_a_split_asked_for_wins_and_the_rest_divide_themselves():
    found = splits_of(
        (0, "d", "1", "test"), (1, "d", "2", "auto"), (1, "d", "3", "auto"), (1, "d", "3", "auto")
    )
    assert found[0] == "test"
    assert sorted(found[1:3]) == ["train", "val"]
    assert found[3] == found[2]


def test_a_split_asked_for_once_holds_for_all_items_of_the_subject():
    assert splits_of((0, "d", "1", "auto"), (1, "d", "1", "val")) == ["val", "val"]


def test_one_name_in_two_datasets_is_two_people():
    assert splits_of((0, "a", "1", "val"), (1, "b", "1", "test")) == ["val", "test"]


def test_a_source_may_divide_its_own_subject():
    wishes = [(0, "VC", subject, split) for subject in "12" for split in ("train", "val", "test")]
    assert splits_of(*wishes) == ["train", "val", "test"] * 2


@pytest.mark.parametrize(
    ("wishes", "words"),
    [
        ([(0, "d", "1", "val"), (1, "d", "1", "test")], "asked into val and test"),
        ([(0, "d", "1", "val"), (0, "d", "1", "test"), (1, "d", "1", "test")], "asked into"),
        ([(0, "d", "1", "val"), (0, "d", "1", "test"), (1, "d", "1", "auto")], "one source and"),
        ([(0, "d", "1", "valid")], "split=valid"),
    ],
)
def test_contradictions_are_refused(wishes, words):
    with pytest.raises(InputError, match=words):
        splits_of(*wishes)


HELD_OUT_OF_TWELVE = {"7": "val", "2": "test"}
