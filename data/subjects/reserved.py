"""Subjects and datasets kept for evaluation: they never enter what an encoder is trained on.

A reservation is a list of names, e.g. `BNCI2014_001` (all of it), `PhysionetMI,subjects=90-109`,
or `neuralbench`, which stands for every dataset of that list (data/subjects/benchmarks.py). It is
kept twice: the packer leaves reserved recordings out and writes the list into the manifest, and a
trainer refuses a folder that breaks a list, its own or another's. A person reserved in one dataset
is reserved in every dataset that the same persons are known to appear in.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from data.errors import InputError, did_you_mean, some
from data.files import read_yaml
from data.shards.manifest import Manifest
from data.subjects.benchmarks import (
    Benchmark,
    benchmark_names,
    list_called,
    names_of,
    read_benchmark,
    spellings,
)
from data.subjects.people import (
    People,
    canonical_subject,
    describe_subjects,
    expand_subjects,
    plain_dataset,
)

TRAINING_SPLITS = ("train", "val")
SETTINGS = (
    "sources", "profile", "window_s", "scale", "seed", "shard_mb", "reserve", "exclude",
    "same_people", "weights",
)  # fmt: skip
"""Of a recipe: a file of reservations may be one, and is read for `reserve` and `same_people`."""


@dataclass(frozen=True)
class Entry:
    """One line of a list: a dataset, or some of its subjects."""

    dataset: str
    subjects: frozenset[str] | None
    """Canonical names; None: all."""
    benchmark: str = ""
    """The list that names it; empty: it was named by hand."""

    def __str__(self) -> str:
        if self.subjects is None:
            return self.dataset
        return f"{self.dataset},subjects={describe_subjects(sorted(self.subjects))}"


@dataclass(frozen=True)
class Reservation:
    """Who is reserved."""

    entries: tuple[Entry, ...]
    people: People
    _near: dict[str, list[Entry]] = field(default_factory=dict, compare=False, repr=False)

    @classmethod
    def of(cls, lines: Iterable[str], same_people: Iterable[Iterable[str]] = ()) -> Reservation:
        """Parse the lines of a list; InputError for one that cannot be read."""
        entries = (entry for line in lines for entry in parse_line(line))
        return cls(tuple(entries), People.known(same_people))

    def holds(self, dataset: str, subject: str) -> bool:
        """Whether this subject, or the same person under another name, is reserved."""
        return bool(self.reserving(dataset, subject))

    def reserving(self, dataset: str, subject: str) -> list[Entry]:
        """The entries that reserve this subject, or the same person under another name."""
        person = self.people.person(dataset, subject)
        found = self._near.setdefault(dataset, self._about(dataset))
        return [entry for entry in found if self._covers(entry, dataset, subject, person)]

    def _about(self, dataset: str) -> list[Entry]:
        """The entries that could reserve somebody of a dataset."""
        if dataset in self._near:
            return self._near[dataset]
        names, group = spellings(dataset), self.people.group(dataset)
        return [
            entry
            for entry in self.entries
            if names & names_of(entry.dataset) or self.people.group(entry.dataset) == group
        ]

    def _covers(self, entry: Entry, dataset: str, subject: str, person: tuple[str, str]) -> bool:
        if entry.subjects is None:
            return True
        same = bool(spellings(dataset) & names_of(entry.dataset))
        if same and canonical_subject(subject) in entry.subjects:
            return True
        return any(self.people.person(entry.dataset, name) == person for name in entry.subjects)

    def unknown(self, datasets: Iterable[str]) -> list[str]:
        """Datasets reserved by hand that are none of `datasets` nor share persons with one."""
        near = {entry for name in datasets for entry in self._about(name)}
        return [
            entry.dataset for entry in self.entries if not entry.benchmark and entry not in near
        ]


def parse_line(line: str) -> list[Entry]:
    """The entries of one line of a reservation: a list's name, or a dataset as `parse_entry`."""
    name = list_called(str(line))
    if name is None:
        return [parse_entry(line)]
    return [
        Entry(
            one.dataset,
            frozenset(expand_subjects(one.subjects, name)) if one.subjects else None,
            name,
        )
        for one in read_benchmark(name).sets
    ]


def parse_entry(line: str) -> Entry:
    """`NAME` or `NAME,subjects=1-3+7`; a `KIND:` before it is ignored."""
    name, *options = (part.strip() for part in str(line).split(","))
    name = name.rpartition(":")[2]
    subjects = None
    for option in options:
        key, _, value = option.partition("=")
        if key != "subjects" or not value or subjects is not None:
            raise InputError(f"{line}: cannot be read", "write NAME or NAME,subjects=1-3+7")
        subjects = frozenset(expand_subjects(value, line))
    if not name:
        raise InputError(f"{line!r}: names no dataset", "write NAME or NAME,subjects=1-3+7")
    return Entry(name, subjects)


def check_names(
    reservation: Reservation, datasets: Sequence[str], known: Iterable[str]
) -> list[str]:
    """Names that match nothing at hand, for a note. InputError where one looks misspelled: a wrong
    letter must not let evaluation data into training. `known`: all names that could be meant."""
    everything = {plain_dataset(name): name for name in (*datasets, *known, *benchmark_names())}
    notes = []
    for name in reservation.unknown(datasets):
        near = did_you_mean(name, list(everything.values()), count=1)
        if plain_dataset(name) not in everything and near:
            raise InputError(f"reserved or excluded: {name}: no such dataset", near)
        notes.append(name)
    return notes


def lists_in(lines: Iterable[str]) -> list[Benchmark]:
    """The lists that a reservation's lines name."""
    return [read_benchmark(name) for line in lines if (name := list_called(line))]


def left_out(items: Sequence, reservation: Reservation) -> str:
    """What is left out, by dataset and list, as text for a note; each item has a `dataset` and a
    `subject` that the reservation holds."""
    counts: dict[str, int] = {}
    lists: dict[str, dict[str, None]] = {}
    for item in items:
        counts[item.dataset] = counts.get(item.dataset, 0) + 1
        for entry in reservation.reserving(item.dataset, item.subject):
            lists.setdefault(item.dataset, {})[entry.benchmark] = None
    told = []
    for dataset, count in sorted(counts.items()):
        names = ", ".join(name for name in lists.get(dataset, ()) if name)
        plural = f"{count} item{'s' * (count != 1)}"
        told.append(f"{dataset} ({plural}{f'; {names}' if names else ''})")
    return f"{len(items)} item{'s' * (len(items) != 1)} left out: {', '.join(told)}"


def refuse_reserved(
    manifest: Manifest,
    reservation: Reservation | None = None,
    recordings: Iterable[Mapping] | None = None,
) -> None:
    """Raise InputError if a reserved subject is in a training or validation shard of `manifest`.

    `reservation` None: the one that the folder was packed with, read from its manifest (none in
    folders of earlier versions, which then pass). `recordings`: the manifest's entries where a task
    divides them otherwise.
    """
    if reservation is None:
        reservation = own_reservation(manifest)
    found: dict[tuple[str, str], set[str]] = {}
    for recording in manifest.recordings if recordings is None else recordings:
        if recording.get("split") in TRAINING_SPLITS:
            who = (recording["dataset"], recording["subject"])
            for entry in reservation.reserving(*who):
                found.setdefault(who, set()).add(entry.benchmark)
    if found:
        shown = some([f"{dataset} subject {subject}" for dataset, subject in sorted(found)])
        lists = sorted(set.union(*found.values()) - {""})
        by = f" (by {', '.join(lists)})" if lists else ""
        raise InputError(
            f"{manifest.folder}: reserved for evaluation{by}, but packed for training: {shown}",
            "pack again with a recipe that reserves them (reserve:), or train on another folder",
        )


def own_reservation(manifest: Manifest) -> Reservation:
    """What a folder was packed to keep out of training; nothing in folders of earlier versions."""
    source = manifest.raw.get("source", {})
    for name in source.get("reserve_lists", {}):
        read_benchmark(name)  # a list that only another version has must not reserve nothing
    return Reservation.of(source.get("reserve", ()), source.get("same_people", ()))


def refuse_trained(
    what: str, subjects: Mapping[str, Iterable[str]], reservation: Reservation
) -> None:
    """InputError where weights that training is to start from were trained on reserved people."""
    found = sorted(
        f"{dataset} subject {subject}"
        for dataset, names in subjects.items()
        for subject in names
        if reservation.holds(dataset, str(subject))
    )
    if found:
        raise InputError(
            f"{what}: reserved for evaluation, but these weights were trained on: {some(found)}",
            "start from other weights, or train on a folder that does not reserve them",
        )


def find_reservation(text: str) -> Reservation:
    """The reservation of a file, or of lists named with commas between them; InputError for a name
    that no list has."""
    names = [name.strip() for name in text.split(",")]
    if Path(text).exists() or Path(text).suffix in (".yaml", ".yml") or "/" in text:
        return read_reservation(Path(text))
    for name in names:
        read_benchmark(list_called(name) or name)
    return Reservation.of(names)


def read_reservation(path: Path) -> Reservation:
    """The reservation of a recipe, or of a file that holds `reserve:` alone."""
    remedy = "write e.g.  reserve: [BNCI2014_001]"
    value = read_yaml(path, remedy)
    refuse_unknown_keys(path, value)
    lines, same_people = value.get("reserve"), same_people_of(path, value)
    if not isinstance(lines, list) or not lines:
        raise InputError(f"{path}: reserves nothing", remedy)
    return Reservation.of(lines, same_people)


def refuse_unknown_keys(path: Path, value: dict) -> None:
    """InputError where a recipe, or a file of reservations, has a key that is no setting."""
    for key in value:
        if key not in SETTINGS:
            raise InputError(
                f"{path}: no setting is called {key!r}",
                did_you_mean(str(key), SETTINGS, "The settings are"),
            )


def same_people_of(path: Path, value: dict) -> tuple[tuple[str, ...], ...]:
    """The setting `same_people`; InputError where it is no list of lists."""
    same = value.get("same_people", [])
    if not isinstance(same, list) or not all(texts(names) and len(names) > 1 for names in same):
        raise InputError(
            f"{path}: same_people must be a list of lists of datasets",
            "write it like  same_people: [[Lee2019_MI, Lee2019_ERP]]",
        )
    return tuple(tuple(names) for names in same)


def texts(value) -> bool:
    """Whether a value of a YAML file is a list of texts."""
    return isinstance(value, list) and all(isinstance(entry, str) for entry in value)
