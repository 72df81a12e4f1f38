"""Which recordings a folder holds, by the content of their files instead of by names.

A renamed copy of a recording has other names and the same bytes. A manifest has the SHA-256 of
every source file; here they are shortened to 16 hexadecimal digits: of 10,000 recordings compared
with 10,000 others, any two that differ agree in 64 bits with a probability of 5e-12, and a
recording costs 17 bytes.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import PurePosixPath

from data.files import holds_signal
from data.subjects.people import People

DIGITS = 16
SEVERAL_PEOPLE = (".pth", ".pt", ".zip", ".tar", ".gz", ".tgz", ".7z", ".rar")
"""Suffixes of files that may hold several people at once: VC's, archives."""

Digests = dict[str, dict[str, str]]
"""{dataset: {subject: digests, with spaces between them}}."""


@dataclass(frozen=True)
class Twin:
    """A recording that is, byte for byte, one of another folder's."""

    file: str
    dataset: str
    subject: str
    known_dataset: str
    known_subject: str

    @property
    def renamed(self) -> bool:
        """Whether it is known under a name that does not say that it is the same person."""
        people = People.known()
        known = people.person(self.known_dataset, self.known_subject)
        return people.person(self.dataset, self.subject) != known

    def __str__(self) -> str:
        known = f" = {self.known_dataset} subject {self.known_subject}" if self.renamed else ""
        return f"{self.dataset} subject {self.subject}{known} ({self.file})"


def digests_of(recordings: Iterable[Mapping]) -> Digests:
    """The digests of a manifest's recordings. A file that several people share is left out: it
    holds all of them, and says nothing of one."""
    found: Digests = {}
    for dataset, subject, digest in sorted(_files_by_digest(recordings)):
        subjects = found.setdefault(dataset, {})
        subjects[subject] = f"{subjects[subject]} {digest}" if subject in subjects else digest
    return found


def union(first: Digests, second: Digests) -> Digests:
    """Both together, each digest once."""
    found: Digests = {}
    for dataset in sorted({*first, *second}):
        ours, theirs = first.get(dataset, {}), second.get(dataset, {})
        found[dataset] = {
            subject: " ".join(
                sorted({*ours.get(subject, "").split(), *theirs.get(subject, "").split()})
            )
            for subject in sorted({*ours, *theirs})
        }
    return found


def find_twins(recordings: Iterable[Mapping], known: Digests) -> list[Twin]:
    """Those of a manifest's recordings whose content `known` has, under any name."""
    owners = {
        digest: (dataset, subject)
        for dataset, subjects in known.items()
        for subject, digests in subjects.items()
        for digest in digests.split()
    }
    return [
        Twin(file, dataset, subject, *owners[digest])
        for (dataset, subject, digest), file in sorted(_files_by_digest(recordings).items())
        if digest in owners
    ]


def without_digest(recordings: Iterable[Mapping]) -> int:
    """How many recordings have no file that could be compared, as simulated ones."""
    return sum(not any(map(_tells, _files(entry))) for entry in recordings)


def _files_by_digest(recordings: Iterable[Mapping]) -> dict[tuple[str, str, str], str]:
    """{(dataset, subject, digest): file} of the files that are of one person alone."""
    people = People.known()
    found: dict[tuple[str, str, str], str] = {}
    owners: dict[str, set[tuple[str, str]]] = {}  # of a digest, the persons
    for entry in recordings:
        who = (entry["dataset"], str(entry["subject"]))
        for file, sha256 in _files(entry).items():
            if _tells(file):
                digest = sha256[:DIGITS]
                owners.setdefault(digest, set()).add(people.person(*who))
                found[(*who, digest)] = file
    return {key: file for key, file in found.items() if len(owners[key[2]]) == 1}


def _files(entry: Mapping) -> dict[str, str]:
    """{file: SHA-256} of a recording; what is none of a manifest that was altered is left out."""
    files = entry.get("source_sha256")
    if not isinstance(files, dict):
        return {}
    return {file: value for file, value in files.items() if isinstance(value, str)}


def _tells(file: str) -> bool:
    return holds_signal(file) and PurePosixPath(file).suffix.lower() not in SEVERAL_PEOPLE
