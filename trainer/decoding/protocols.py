"""Who a decoder is fitted on and who is scored: folds, fixed before anything is computed.

folds:6   people in 6 groups by a hash of their names; each group is scored once
loso      each person left out in turn
within:4  each person alone: each recording's time in 4 stretches, each scored once (weaker: the
          same electrodes, and neighbouring windows at the seams)
split     fitted on the split train of the shards, scored on test (val where there is no test)
FILE      JSON: {"fold's name": {"train": [people], "test": [people]}}; a person is
          "SUBJECT", or "DATASET SUBJECT"
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from data.errors import InputError, some
from data.files import read_text

RULES = "folds:N, loso, within:N, first:N, split or a JSON file"
ALONE = ("within", "first")
"""Rules by which a person is fitted on and scored."""


@dataclass(frozen=True)
class Fold:
    """Row numbers of the windows that are fitted on, and of those that are scored."""

    name: str
    train: np.ndarray
    test: np.ndarray


@dataclass(frozen=True)
class Rows:
    """What folds are made of, each `[n]`, by window: int64 numbers of people, recordings and
    classes, seconds from the recording's start, and the split of the shards."""

    person: np.ndarray
    recording: np.ndarray
    truth: np.ndarray
    onset_s: np.ndarray
    split: np.ndarray
    people: Sequence[tuple[str, str]]
    """(dataset, subject) by number."""


def make_folds(rule: str, rows: Rows) -> list[Fold]:
    """The folds of a rule; InputError where the windows do not allow them."""
    kind, _, number = rule.partition(":")
    if kind == "loso" and not number:
        return _by_people(rule, rows, len(np.unique(rows.person)))
    makers = {"folds": (_by_people, 2), "within": (_within, 2), "first": (_first, 1)}
    if kind in makers:
        make, least = makers[kind]
        if not number.isdigit() or int(number) < least:
            raise InputError(f"--protocol {rule}", f"say how many, {least} or more: {kind}:5")
        return make(rule, rows, int(number))
    if rule == "split":
        return [_of_split(rows)]
    if Path(rule).is_file():
        return _of_file(Path(rule), rows)
    raise InputError(f"--protocol {rule}: no such file or rule", f"use {RULES}")


def inner_groups(rule: str, rows: Rows) -> np.ndarray:
    """int64 `[n]`: what is kept together where a setting is chosen on part of the training rows."""
    if not rule.startswith("within:"):
        return rows.person  # of `first` one group: too few windows to choose on
    return _stretches(rows, int(rule.partition(":")[2]))


def hashed_order(names: Sequence[tuple[str, str]]) -> list[int]:
    """Numbers of the names, ordered by SHA-256: the same whatever order people come in."""
    digests = [hashlib.sha256(json.dumps(list(name)).encode()).hexdigest() for name in names]
    return sorted(range(len(names)), key=digests.__getitem__)


def _by_people(rule: str, rows: Rows, count: int) -> list[Fold]:
    there = np.unique(rows.person)
    if len(there) < max(2, count):
        raise InputError(
            f"--protocol {rule}: the labelled windows are of {len(there)} people",
            "use fewer folds, within:N, or pack more people",
        )
    order = [there[i] for i in hashed_order([rows.people[number] for number in there])]
    tests = [np.isin(rows.person, order[place::count]) for place in range(count)]
    return [
        Fold(str(place), np.flatnonzero(~test), np.flatnonzero(test))
        for place, test in enumerate(tests)
    ]


def _stretches(rows: Rows, count: int) -> np.ndarray:
    """Which of `count` equal stretches of its recording's labelled windows a window is in."""
    found = np.zeros(len(rows.person), np.int64)
    for recording in np.unique(rows.recording):
        own = np.flatnonzero(rows.recording == recording)
        own = own[np.argsort(rows.onset_s[own], kind="stable")]
        found[own] = np.arange(len(own)) * count // len(own)
    return found


def _within(rule: str, rows: Rows, count: int) -> list[Fold]:
    stretch, folds = _stretches(rows, count), []
    for person in np.unique(rows.person):
        own = rows.person == person
        for place in range(count):
            test = own & (stretch == place)
            if not test.any() or not (own & ~test).any():
                name = " ".join(rows.people[person])
                raise InputError(
                    f"--protocol {rule}: {name} has too few windows", "use a smaller N"
                )
            train = np.flatnonzero(own & ~test)
            folds.append(Fold(f"{person}:{place}", train, np.flatnonzero(test)))
    return folds


def _first(rule: str, rows: Rows, count: int) -> list[Fold]:
    folds = []
    for person in np.unique(rows.person):
        train = []
        for label in np.unique(rows.truth):
            own = np.flatnonzero((rows.person == person) & (rows.truth == label))
            train += own[np.lexsort((rows.onset_s[own], rows.recording[own]))][:count].tolist()
        test = np.setdiff1d(np.flatnonzero(rows.person == person), train)
        if len(train) < count * len(np.unique(rows.truth)) or not len(test):
            name = " ".join(rows.people[person])
            what = f"--protocol {rule}: {name} has too few windows of a class"
            raise InputError(what, "use a smaller N, or --labels with those that everybody has")
        folds.append(Fold(str(person), np.array(sorted(train)), test))
    return folds


def _of_split(rows: Rows) -> Fold:
    test = "test" if (rows.split == "test").any() else "val"
    found = Fold("split", np.flatnonzero(rows.split == "train"), np.flatnonzero(rows.split == test))
    both = np.intersect1d(rows.person[found.train], rows.person[found.test])
    if not len(found.train) or not len(found.test) or len(both):
        what = f"{len(found.train)} labelled windows in train, {len(found.test)} in {test}"
        named = some([" ".join(rows.people[number]) for number in both])
        raise InputError(
            f"--protocol split: {what}" + (f"; in both: {named}" if len(both) else ""),
            "pack with a split by subject, or use folds:N",
        )
    return found


def _of_file(path: Path, rows: Rows) -> list[Fold]:
    try:
        content = json.loads(read_text(path))
    except ValueError as error:
        raise InputError(f"{path}: not JSON: {error}", "mend the file") from None
    good = (
        isinstance(content, dict)
        and content
        and all(
            isinstance(fold, dict) and {"train", "test"} <= set(fold) for fold in content.values()
        )
    )
    if not good:
        raise InputError(
            f"{path}: not folds", '{"NAME": {"train": ["SUBJECT", ...], "test": [...]}, ...}'
        )
    numbers = _numbers_by_name(rows)
    folds = []
    for name, sides in content.items():
        people = {side: _people(path, name, sides[side], numbers) for side in ("train", "test")}
        if both := people["train"] & people["test"]:
            named = some([" ".join(rows.people[number]) for number in sorted(both)])
            raise InputError(f"{path}: fold {name}: in train and in test: {named}",
                             "a person is fitted on or scored, not both")  # fmt: skip
        inside = {side: np.isin(rows.person, sorted(chosen)) for side, chosen in people.items()}
        folds.append(Fold(name, np.flatnonzero(inside["train"]), np.flatnonzero(inside["test"])))
    return folds


def _numbers_by_name(rows: Rows) -> dict[str, set[int]]:
    found: dict[str, set[int]] = {}
    for number in np.unique(rows.person).tolist():
        dataset, subject = rows.people[number]
        for name in (subject, f"{dataset} {subject}"):
            found.setdefault(name, set()).add(number)
    return found


def _people(path: Path, fold: str, names: Sequence, numbers: dict[str, set[int]]) -> set[int]:
    chosen: set[int] = set()
    for name in map(str, names):
        there = numbers.get(name, set())
        if len(there) != 1:
            what = "nobody with labelled windows" if not there else "people of several datasets"
            raise InputError(
                f"{path}: fold {fold}: {name!r} is {what}", f"people: {some(sorted(numbers))}"
            )
        chosen |= there
    if not chosen:
        raise InputError(f"{path}: fold {fold}: an empty side", "name at least one person each")
    return chosen
