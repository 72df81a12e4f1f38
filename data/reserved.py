"""Subjects and datasets kept for evaluation: they never enter what an encoder is trained on.

A reservation is a list of names, e.g. `BNCI2014_001` (all of it) or `PhysionetMI,subjects=90-109`.
It is kept twice: the packer leaves reserved recordings out and writes the list into the manifest,
and a trainer refuses a folder that breaks a list, its own or another's. A person reserved in one
dataset is reserved in every dataset that the same persons are known to appear in.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from data.errors import InputError, did_you_mean
from data.manifest import Manifest
from data.people import People, plain_dataset
from data.sources.selection import canonical_subject, describe_subjects, expand_subjects

TRAINING_SPLITS = ("train", "val")
SHOWN = 5


@dataclass(frozen=True)
class Entry:
    """One line of a list: a dataset, or some of its subjects."""

    dataset: str
    subjects: frozenset[str] | None
    """Canonical names; None: all."""

    def __str__(self) -> str:
        if self.subjects is None:
            return self.dataset
        return f"{self.dataset},subjects={describe_subjects(sorted(self.subjects))}"


@dataclass(frozen=True)
class Reservation:
    """Who is reserved."""

    entries: tuple[Entry, ...]
    people: People

    @classmethod
    def of(cls, lines: Iterable[str], same_people: Iterable[Iterable[str]] = ()) -> Reservation:
        """Parse the lines of a list; InputError for one that cannot be read."""
        return cls(tuple(map(parse_entry, lines)), People.known(same_people))

    def holds(self, dataset: str, subject: str) -> bool:
        """Whether this subject, or the same person under another name, is reserved."""
        person = self.people.person(dataset, subject)
        return any(self._covers(entry, dataset, subject, person) for entry in self.entries)

    def _covers(self, entry: Entry, dataset: str, subject: str, person: tuple[str, str]) -> bool:
        same = plain_dataset(entry.dataset) == plain_dataset(dataset)
        if entry.subjects is None:
            return same or self.people.group(entry.dataset) == person[0]
        if same and canonical_subject(subject) in entry.subjects:
            return True
        return any(self.people.person(entry.dataset, name) == person for name in entry.subjects)

    def unknown(self, datasets: Iterable[str]) -> list[str]:
        """Datasets that are reserved but are none of `datasets` nor share persons with one."""
        present = {plain_dataset(name) for name in datasets}
        groups = {self.people.group(name) for name in datasets}
        return [
            entry.dataset
            for entry in self.entries
            if plain_dataset(entry.dataset) not in present
            and self.people.group(entry.dataset) not in groups
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
    everything = {plain_dataset(name): name for name in (*datasets, *known)}
    notes = []
    for name in reservation.unknown(datasets):
        near = did_you_mean(name, list(everything.values()), 1)
        if plain_dataset(name) not in everything and near:
            raise InputError(f"reserved or excluded: {name}: no such dataset", near)
        notes.append(name)
    return notes


def refuse_reserved(manifest: Manifest, reservation: Reservation | None = None) -> None:
    """Raise InputError if a reserved subject is in a training or validation shard of `manifest`.

    `reservation` None: the one that the folder was packed with, read from its manifest (none in
    folders of earlier versions, which then pass).
    """
    source = manifest.raw.get("source", {})
    if reservation is None:
        reservation = Reservation.of(source.get("reserve", ()), source.get("same_people", ()))
    found = sorted(
        {
            (recording["dataset"], recording["subject"])
            for recording in manifest.recordings
            if recording.get("split") in TRAINING_SPLITS
            and reservation.holds(recording["dataset"], recording["subject"])
        }
    )
    if found:
        shown = ", ".join(f"{dataset} subject {subject}" for dataset, subject in found[:SHOWN])
        more = f" and {len(found) - SHOWN} more" if len(found) > SHOWN else ""
        raise InputError(
            f"{manifest.folder}: reserved for evaluation, but packed for training: {shown}{more}",
            "pack again with a recipe that reserves them (reserve:), or train on another folder",
        )


def read_reservation(path: Path) -> Reservation:
    """The reservation of a recipe, or of a file that holds `reserve:` alone."""
    from data.recipe import read_yaml

    value = read_yaml(path)
    lines, same_people = value.get("reserve"), value.get("same_people", [])
    if not isinstance(lines, list) or not lines:
        raise InputError(f"{path}: reserves nothing", "write e.g.  reserve: [BNCI2014_001]")
    return Reservation.of(lines, same_people)
