"""Who and what the windows of a split are: recording, person and label, as numbers in a batch.

Pretraining asks for none of it and never opens a window's JSON. What does ask reads a split's JSON
once (`WindowTable`, local shards), or takes what comes with each streamed window (`Names`).

    table = WindowTable.read(manifest, "train")
    dataset = WindowDataset(manifest, shards, AddFields(table, ("label", "person"), transform))
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch

from data.batches.batch import Batch, Prepare
from data.errors import InputError
from data.shards.manifest import Manifest
from data.shards.readers import Readers
from data.subjects.people import People

FIELDS = ("recording", "person", "label")
NO_LABEL = -1


@dataclass(frozen=True)
class Names:
    """What the numbers in a batch stand for."""

    recordings: tuple[str, ...]
    """Ids, in the manifest's order."""
    people: tuple[tuple[str, str], ...]
    """(dataset, or what the datasets of the same persons are counted under; subject), sorted."""
    labels: tuple[int | str, ...]
    """Numbers before texts, sorted."""

    @classmethod
    def of(cls, manifest: Manifest) -> Names:
        """All recordings and people of a folder, and the labels of whole recordings: what is known
        without opening a shard, and the same for every split."""
        entries = manifest.recordings
        labels = {entry["label"] for entry in entries if entry.get("label") is not None}
        return cls(
            tuple(entry["id"] for entry in entries),
            tuple(sorted(set(people_of(manifest).values()))),
            sorted_labels(labels),
        )


def people_of(manifest: Manifest) -> dict[str, tuple[str, str]]:
    """Recording -> its person: the same for two names that are known to be one person's."""
    people = People.known(manifest.raw.get("source", {}).get("same_people", ()))
    return {
        entry["id"]: people.known_person(entry["dataset"], entry["subject"])
        for entry in manifest.recordings
    }


def sorted_labels(labels: set) -> tuple[int | str, ...]:
    return tuple(sorted(labels, key=lambda label: (isinstance(label, str), label)))


class Numbers:
    """Turns a window's JSON into (recording, person, label) as numbers of `names`."""

    def __init__(self, manifest: Manifest, names: Names):
        self.folder = manifest.folder
        numbers = {who: number for number, who in enumerate(names.people)}
        self._people = {name: numbers[who] for name, who in people_of(manifest).items()}
        self._recordings = {name: number for number, name in enumerate(names.recordings)}
        self._labels = {label: number for number, label in enumerate(names.labels)}

    def of(self, meta: dict) -> tuple[int, int, int]:
        """InputError for a recording or a label that is not among the names."""
        name, label = meta.get("recording"), meta.get("label")
        if name not in self._recordings:
            raise InputError(
                f"{self.folder}: a window names the recording {name}, which manifest.json lacks",
                "the manifest is another pack's: copy the folder again, or pack again",
            )
        if label is not None and label not in self._labels:
            raise InputError(
                f"{self.folder}: {label!r} of {name} is an event's label; of streamed shards "
                "only the labels of whole recordings are known",
                "read local shards (without --shard_url)",
            )
        number = NO_LABEL if label is None else self._labels[label]
        return self._recordings[name], self._people[name], number


@dataclass(frozen=True)
class WindowTable:
    """The windows of a split, by their number in it (shards in the manifest's order)."""

    names: Names
    recording: np.ndarray
    """int64 `[n]`, index into `names.recordings`."""
    person: np.ndarray
    """int64 `[n]`, index into `names.people`."""
    label: np.ndarray
    """int64 `[n]`, index into `names.labels`; -1: none. An event's own label comes before its
    recording's."""

    @classmethod
    def read(cls, manifest: Manifest, split: str) -> WindowTable:
        """Read the JSON of every window of all splits (so that labels have the same numbers in
        each), keep that of `split`. InputError for a damaged shard."""
        known = Names.of(manifest)
        readers = Readers(manifest, manifest.shards)
        labels, own = set(known.labels), []
        for number, shard in enumerate(manifest.shards):
            metas = [readers[number].meta(row) for row in range(shard.samples)]
            labels |= {meta["label"] for meta in metas if meta.get("label") is not None}
            if shard.split == split:
                own += metas
        names = Names(known.recordings, known.people, sorted_labels(labels))
        numbers = Numbers(manifest, names)
        rows = np.array([numbers.of(meta) for meta in own], np.int64).reshape(-1, 3)
        return cls(names, *rows.T.copy())

    def add(self, batch: Batch, *fields: str) -> Batch:
        """`batch` of a WindowDataset over this split's shards, with int64 `[B]` for each field."""
        rows = batch.window.numpy()
        found = {field: torch.from_numpy(getattr(self, field)[rows]) for field in fields}
        return replace(batch, **found)


@dataclass(frozen=True)
class AddFields:
    """A `Prepare`: adds `fields`, then does what `then` does."""

    table: WindowTable
    fields: Sequence[str]
    then: Prepare | None = None

    def __post_init__(self):
        check_fields(self.fields)

    def __call__(self, batch: Batch) -> Batch:
        batch = self.table.add(batch, *self.fields)
        return self.then(batch) if self.then else batch


def check_fields(fields: Sequence[str]) -> None:
    if unknown := sorted(set(fields) - set(FIELDS)):
        raise ValueError(f"fields {unknown}: a batch can be given {FIELDS}")


def streamed_fields(numbers: Numbers, texts: Sequence[bytes], fields: Sequence[str]) -> dict:
    """int64 `[b]` for each of `fields`, from the JSON of `b` streamed windows."""
    try:
        metas = [json.loads(text) for text in texts]
        rows = np.array([numbers.of(meta) for meta in metas], np.int64)
    except (ValueError, TypeError, AttributeError, RecursionError):
        raise InputError(
            f"{numbers.folder}: the JSON of a streamed window is damaged",
            "copy the shard again, or pack again",
        ) from None
    return {field: torch.from_numpy(rows[:, FIELDS.index(field)].copy()) for field in fields}
