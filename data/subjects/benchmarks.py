"""The data sets that public benchmarks test on: a list for each benchmark, data/reserve/NAME.yaml.

Each list says where it comes from and when it was read; what could not be confirmed is marked. A
data set has one name in all lists, MOABB's, OpenNeuro's or the one it is known by;
data/reserve/names.yaml holds the others that it goes by.
"""

from __future__ import annotations

import datetime
import difflib
import functools
import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import yaml

from data.errors import InputError, did_you_mean
from data.subjects.people import plain_dataset

FOLDER = Path(__file__).parent / "reserve"
NAMES = "names"
VERSION = re.compile(r"[-_ .]v?\d+(\.\d+)+$", re.IGNORECASE)
FIELDS = {"dataset", "called", "task", "subjects", "unconfirmed", "note"}


@dataclass(frozen=True)
class BenchmarkSet:
    """One data set of a list."""

    dataset: str
    called: str = ""
    """The benchmark's own name for it, where it has another."""
    task: str = ""
    subjects: str | None = None
    """As in a recipe, e.g. "90-109"; None: everybody."""
    unconfirmed: bool = False
    """Whether no source that could be read says so."""
    note: str = ""


@dataclass(frozen=True)
class Benchmark:
    """One list."""

    name: str
    title: str
    source: str
    url: str
    year: int
    read: str
    """The date on which the source was read, YYYY-MM-DD."""
    sets: tuple[BenchmarkSet, ...]
    sha256: str
    """Of the list's file."""
    arxiv: str = ""


def benchmark_names() -> list[str]:
    """The lists that are there."""
    return sorted(path.stem for path in FOLDER.glob("*.yaml") if path.stem != NAMES)


def list_called(text: str) -> str | None:
    """The list that a text names, in any case; None: it names none. InputError where it is a letter
    or two away from one: that would reserve nothing."""
    name, names = text.strip().lower().replace("-", "_"), benchmark_names()
    if name in names:
        return name
    if near := difflib.get_close_matches(name, names, 1, cutoff=0.85):
        raise InputError(f"reserved or excluded: {text}: no such list", f"Did you mean {near[0]}?")
    return None


@functools.cache
def read_benchmark(name: str) -> Benchmark:
    """One list; InputError for a name that none has."""
    if name not in benchmark_names():
        names = benchmark_names()
        raise InputError(
            f"{name}: no such list of reserved data sets",
            f"{did_you_mean(name, names)} The lists are {', '.join(names)}.".strip(),
        )
    content = (FOLDER / f"{name}.yaml").read_bytes()
    value = yaml.safe_load(content)
    sets = []
    for entry in value.pop("datasets"):
        if unknown := set(entry) - FIELDS:
            raise ValueError(f"{name}.yaml: {entry['dataset']}: unknown {sorted(unknown)}")
        sets.append(BenchmarkSet(**entry))
    read = value.pop("read")
    if not isinstance(read, datetime.date):
        raise ValueError(f"{name}.yaml: read: {read!r} is no date")
    digest = hashlib.sha256(content).hexdigest()
    return Benchmark(name=name, sets=tuple(sets), read=str(read), sha256=digest, **value)


@functools.cache
def _other_names() -> Mapping[str, frozenset[str]]:
    """Plain name of a data set -> all its plain names."""
    value = yaml.safe_load((FOLDER / f"{NAMES}.yaml").read_bytes())
    return {
        plain_dataset(name): frozenset(map(plain_dataset, (name, *others)))
        for name, others in value.items()
    }


def names_of(dataset: str) -> frozenset[str]:
    """Everything that a data set of a list may be called, as `plain_dataset` spells it."""
    plain = plain_dataset(dataset)
    return _other_names().get(plain, frozenset({plain}))


def spellings(dataset: str) -> frozenset[str]:
    """Plain names to look a packed data set up by: its own, and that without a version at the end,
    as folders of PhysioNet have it (`eegmmidb-1.0.0`)."""
    return frozenset({plain_dataset(dataset), plain_dataset(VERSION.sub("", dataset))})
