"""Who trains, who chooses the step, and who is scored: decided by names before a trial is read.

Selection is by pictures of concepts that nothing was trained on. Holding out random trials would
keep their pictures in training; holding out test trials would choose by what is scored. The held
concepts are the first by a hash of their names: the same for all people, protocols and runs.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from data.errors import InputError, did_you_mean

RULES = "within:PERSON[,PERSON], within:all or loso:PERSON"


@dataclass(frozen=True)
class Protocol:
    """`tested`: people whose test trials are scored. `left_out`: none of their trials train."""

    text: str
    tested: tuple[str, ...]
    trained: tuple[str, ...]

    @property
    def left_out(self) -> bool:
        return not set(self.tested) & set(self.trained)


def parse_protocol(text: str, people: Sequence[str]) -> Protocol:
    """InputError for another rule, an unknown person, or nobody left to train on."""
    rule, _, names = text.partition(":")
    if rule not in ("within", "loso") or not names:
        raise InputError(f"--protocol {text}", f"write {RULES}")
    asked = tuple(sorted(people)) if names == "all" else tuple(dict.fromkeys(names.split(",")))
    for one in asked:
        if one not in people:
            known = sorted(people)
            raise InputError(f"--protocol {text}: nobody is called {one}", did_you_mean(one, known))
    if rule == "within":
        return Protocol(text, asked, asked)
    others = tuple(sorted(set(people) - set(asked)))
    if names == "all" or len(asked) > 1 or not others:
        raise InputError(
            f"--protocol {text}", "loso leaves one person out, and needs another to train on"
        )
    return Protocol(text, asked, others)


def held_concepts(concepts: Sequence[str], count: int) -> set[str]:
    """The first `count` by the hash of their names. InputError where too few would train."""
    names = sorted(set(concepts), key=lambda name: hashlib.sha256(name.encode()).hexdigest())
    if not 2 <= count <= len(names) - 2:
        raise InputError(
            f"--val_concepts {count}: the training trials show {len(names)} concepts",
            f"give 2 to {max(2, len(names) - 2)}: some must be left to train on",
        )
    return set(names[:count])


def divide(
    protocol: Protocol, subject: Sequence[str], concept: Sequence[str], held: set[str]
) -> tuple[np.ndarray, np.ndarray]:
    """(training trials, validation trials) as numbers of the trials whose subject and concept are
    given. No concept is on both sides, and nobody who is left out on either."""
    ours = np.isin(np.array(subject), protocol.trained)
    chosen = np.isin(np.array(concept), sorted(held))
    return np.flatnonzero(ours & ~chosen), np.flatnonzero(ours & chosen)


def galleries(image_concept: Sequence[str]) -> list[np.ndarray]:
    """Galleries of one picture a concept, as places among the pictures whose concepts are given:
    the first pictures of all concepts, the second ones, as long as every concept has one."""
    places: dict[str, list[int]] = {}
    for place, concept in enumerate(image_concept):
        places.setdefault(concept, []).append(place)
    count = min(map(len, places.values()), default=0)
    return [np.array([own[number] for own in places.values()]) for number in range(count)]
