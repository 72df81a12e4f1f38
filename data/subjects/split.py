"""Which subjects train, validate and test: whole subjects, decided by a hash.

Subjects of a dataset are ordered by SHA-256 of (seed, dataset, subject), and the first are held
out; datasets that share persons (data/subjects/people.py) count as one. So the split depends on names and
the seed alone; the price is that a subject added later can move one other across a rounding step,
which is why the manifest records the result.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from data.errors import InputError
from data.shards.manifest import SPLITS
from data.subjects.people import People

FRACTIONS = {"train": 0.8, "val": 0.1, "test": 0.1}


def held_out_counts(n_subjects: int, fractions: dict[str, float] = FRACTIONS) -> tuple[int, int]:
    """(validation, test) subjects of `n_subjects`: at least one of each from 3 on, and one
    validation subject of 2. A fraction of 0 holds out none."""
    if n_subjects < 2:
        return 0, 0
    if n_subjects == 2:
        return (1, 0) if fractions["val"] > 0 else (0, 0)
    return tuple(
        max(1, round(fractions[split] * n_subjects)) if fractions[split] > 0 else 0
        for split in ("val", "test")
    )


def split_subjects(
    subjects: Iterable[str],
    dataset: str,
    seed: int,
    fractions: dict[str, float] = FRACTIONS,
) -> dict[str, str]:
    """{subject: "train" | "val" | "test"} for the subjects of one dataset, in any order given."""

    def rank(subject: str) -> str:
        return hashlib.sha256(json.dumps([seed, dataset, subject]).encode()).hexdigest()

    ordered = sorted(set(subjects), key=rank)
    n_val, n_test = held_out_counts(len(ordered), fractions)
    return {
        subject: "val" if i < n_val else "test" if i < n_val + n_test else "train"
        for i, subject in enumerate(ordered)
    }


@dataclass(frozen=True)
class Wish:
    """Where one work item is to go: `split` is "auto" or one of SPLITS; `source` numbers the
    --source that it comes from."""

    source: int
    dataset: str
    subject: str
    split: str


def assign_splits(wishes: Sequence[Wish], seed: int, people: People | None = None) -> list[str]:
    """The split of each wish, in order.

    A split asked for holds for all items of the person, also in other datasets (`people`; None:
    what is known of MOABB's); the other persons of a dataset, or group of datasets that share
    persons, are divided among themselves. Only a source that itself names several splits for one
    subject may divide it (VC with by=image, the published way). Raises InputError where two sources
    ask one person into different splits, or a wish is no split.
    """
    people = people or People.known()
    asked: dict[tuple[str, str], dict[int, set[str]]] = {}
    names: dict[tuple[str, str], set[str]] = {}
    for wish in wishes:
        if wish.split not in (*SPLITS, "auto"):
            raise InputError(f"split={wish.split}: no such split", "use train, val, test or auto")
        person = people.person(wish.dataset, wish.subject)
        names.setdefault(person, set()).add(f"{wish.dataset} subject {wish.subject}")
        if wish.split != "auto":
            by_source = asked.setdefault(person, {})
            by_source.setdefault(wish.source, set()).add(wish.split)
    for person, by_source in asked.items():
        if len({frozenset(splits) for splits in by_source.values()}) > 1:
            splits = sorted(set().union(*by_source.values()), key=SPLITS.index)
            raise InputError(
                f"{_listed(names[person])} is asked into {' and '.join(splits)}",
                "give each subject one split= only",
            )
    free: dict[str, set[str]] = {}
    for group, subject in names:
        if (group, subject) not in asked:
            free.setdefault(group, set()).add(subject)
    automatic = {group: split_subjects(found, group, seed) for group, found in free.items()}

    def decide(wish: Wish) -> str:
        if wish.split != "auto":
            return wish.split
        group, subject = people.person(wish.dataset, wish.subject)
        if subject in automatic.get(group, ()):
            return automatic[group][subject]
        (splits,) = {frozenset(s) for s in asked[group, subject].values()}
        if len(splits) > 1:
            raise InputError(
                f"{_listed(names[group, subject])} is split by one source and not by another",
                "name each subject by one --source only",
            )
        return next(iter(splits))

    return [decide(wish) for wish in wishes]


def _listed(names: set[str]) -> str:
    """One name, or several of one person."""
    first, *others = sorted(names)
    return f"{first} (the same person as {', '.join(others[:3])})" if others else first
