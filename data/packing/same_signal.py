"""Files that hold the same signal under two names: one person, or an error before all else.

A copy under another person's or dataset's name puts one recording into training and into test. Only
files of one size can be equal; of those a few blocks are compared first, and what agrees there is
hashed whole. So looking costs little where nothing is copied.
"""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from itertools import combinations
from pathlib import Path

from data.errors import InputError
from data.files import hash_once
from data.sources.formats.recording_files import signals_of
from data.sources.spec import WorkItem
from data.subjects.people import People

LEAST_BYTES = 256
"""A shorter file holds no recording; empty ones are all alike."""
BLOCK_BYTES, BLOCKS = 1 << 16, 3
SHOWN = 5


def check_same_signal(items: Iterable[WorkItem], people: People) -> list[str]:
    """Raise InputError where two persons' items have equal signal files; returns notes on files
    that one person has twice.

    A file that holds several people (MOABB's archives, VC) belongs to all of them.
    """
    owners: dict[Path, list[WorkItem]] = defaultdict(list)
    for item in items:
        for path in signals_of(item.source_files()):
            owners[path.resolve()].append(item)
    clashes, notes = [], []
    for path, several in owners.items():
        if len({_person(item, people) for item in several}) > 1 and not _shared(several):
            clashes.append(f"{path}: is {_names(several)}")
        elif len(several) > 1 and not _shared(several):
            notes.append(f"{path.name} is named by {len(several)} recordings of one person")
    for group in equal_files(owners):
        for one, other in combinations(sorted(group), 2):
            if {_person(i, people) for i in owners[one]} & {
                _person(i, people) for i in owners[other]
            }:
                notes.append(f"{one.name} and {other.name} of one person hold the same bytes")
            else:
                clashes.append(
                    f"{one} ({_names(owners[one])}) and {other} ({_names(owners[other])}) hold the "
                    "same bytes"
                )
    if clashes:
        more = [f"... and {len(clashes) - SHOWN} more"] * (len(clashes) > SHOWN)
        raise InputError(
            "one recording under two persons' names\n  " + "\n  ".join([*clashes[:SHOWN], *more]),
            "leave one of the two out; or make them one person: give both one subject (subject= of "
            "raw:), or list their datasets under same_people: in a recipe",
        )
    return notes


def equal_files(paths: Iterable[Path]) -> list[list[Path]]:
    """Groups of two or more files with equal content."""
    groups = [[path for path in paths if path.is_file() and path.stat().st_size >= LEAST_BYTES]]
    for key in (lambda path: path.stat().st_size, _sampled, hash_once):
        groups = [found for group in groups for found in _apart(group, key)]
    return groups


def _apart(group: list[Path], key: Callable) -> Iterator[list[Path]]:
    """The parts of `group` with equal keys, but for those of one file."""
    found = defaultdict(list)
    for path in group:
        found[key(path)].append(path)
    yield from (equal for equal in found.values() if len(equal) > 1)


def _sampled(path: Path) -> bytes:
    """Hash of a block at the start, in the middle and at the end."""
    digest, size = hashlib.sha256(), path.stat().st_size
    with open(path, "rb") as file:
        for part in range(BLOCKS):
            file.seek(max(0, size - BLOCK_BYTES) * part // (BLOCKS - 1))
            digest.update(file.read(BLOCK_BYTES))
    return digest.digest()


def _person(item: WorkItem, people: People) -> tuple[str, str]:
    return people.person(item.dataset, item.subject)


def _shared(items: list[WorkItem]) -> bool:
    """Whether these are people of one archive, each cut out of it by its loader."""
    return len({(type(item), item.dataset) for item in items}) == 1 and not any(
        hasattr(item, "run") for item in items
    )


def _names(items: list[WorkItem]) -> str:
    return " and ".join(sorted({f"{item.dataset} subject {item.subject}" for item in items})[:3])
