"""Who and what the windows of a split are: recording, person and label, as numbers in a batch.

Training on masks asks for none of it and never opens a training window's JSON. What does ask reads
a split's JSON once (`WindowTable`: 100,000 windows in half a second), or takes what comes with each
streamed window (`StreamedFields`).

    table = WindowTable.read(manifest, "train")
    dataset = WindowDataset(manifest, shards, AddFields(table, ("label", "person"), transform))

Held-out windows are chosen here (`spread`) and read by `WindowDataset.requests` and `.checked`, by
every command.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from sys import maxsize

import numpy as np
import torch

from data.batches.batch import Batch, Prepare
from data.errors import InputError
from data.shards.manifest import Manifest, ShardEntry
from data.shards.readers import Readers
from data.spacing import evenly, shared_out
from data.subjects.people import People

FIELDS = ("recording", "person", "label", "image")
STREAMED = FIELDS[:3]
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
    subjects: tuple[tuple[str, str], ...]
    """(dataset, subject) of each recording, in the manifest's order."""
    images: tuple[str, ...] = ()
    """Names of the pictures that windows show, sorted; known only of windows that were opened."""

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
            tuple((entry["dataset"], str(entry["subject"])) for entry in entries),
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
    """Turns a window's JSON into (recording, person, label, image) as numbers of `names`."""

    def __init__(self, manifest: Manifest, names: Names):
        self.folder = manifest.folder
        numbers = {who: number for number, who in enumerate(names.people)}
        self._people = {name: numbers[who] for name, who in people_of(manifest).items()}
        self._recordings = {name: number for number, name in enumerate(names.recordings)}
        self._labels = {label: number for number, label in enumerate(names.labels)}
        self._images = {image: number for number, image in enumerate(names.images)}

    def of(self, meta: dict) -> tuple[int, int, int, int]:
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
        image = self._images.get(meta.get("image"), NO_LABEL)
        return self._recordings[name], self._people[name], number, image


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
    image: np.ndarray
    """int64 `[n]`, index into `names.images`; -1: none."""
    onset_s: np.ndarray
    """float64 `[n]`, seconds from the recording's start; 0 where a window does not say."""

    @classmethod
    def read(cls, manifest: Manifest, split: str) -> WindowTable:
        """The table of one split. InputError for a damaged shard, or for windows of recordings
        that the manifest lacks."""
        return cls.read_all(manifest, (split,))[split]

    @classmethod
    def read_all(cls, manifest: Manifest, splits: Sequence[str]) -> dict[str, WindowTable]:
        """The tables of some splits, in which a label has the same number."""
        return cls._read(manifest, {split: manifest.of_split(split) for split in splits})

    @classmethod
    def whole(cls, manifest: Manifest) -> WindowTable:
        """The table of all windows of a folder, numbered through `manifest.shards`."""
        return cls._read(manifest, {"": manifest.shards})[""]

    @classmethod
    def _read(
        cls, manifest: Manifest, asked: dict[str, Sequence[ShardEntry]]
    ) -> dict[str, WindowTable]:
        known, metas = Names.of(manifest), {split: [] for split in asked}
        for split, shards in asked.items():
            for reader in Readers(manifest, shards):
                metas[split] += [reader.meta(row) for row in range(reader.shard.samples)]
        labels, images = (
            {meta[key] for own in metas.values() for meta in own if meta.get(key) is not None}
            for key in ("label", "image")
        )
        names = replace(
            known,
            labels=sorted_labels({*known.labels, *labels}),
            images=tuple(sorted(map(str, images))),
        )
        numbers = Numbers(manifest, names)
        return {split: cls._of(names, numbers, own) for split, own in metas.items()}

    @classmethod
    def _of(cls, names: Names, numbers: Numbers, metas: list[dict]) -> WindowTable:
        rows = np.array([numbers.of(meta) for meta in metas], np.int64).reshape(-1, 4)
        onsets = np.array([float(meta.get("onset_s", 0.0)) for meta in metas])
        return cls(names, *rows.T.copy(), onsets)

    def subject(self, window: int) -> tuple[str, str]:
        """(dataset, subject) of a window."""
        return self.names.subjects[self.recording[window]]

    def spread(
        self, per_subject: int = maxsize, total: int = maxsize, among: np.ndarray | None = None
    ) -> np.ndarray:
        """int64: at most `per_subject` windows of each subject and `total` together (but one of
        each), as many of each subject as there are, spread evenly over the subject's recordings and
        each recording's time; subject by subject. `among`: bool `[n]`, the windows to choose
        from."""
        windows = np.arange(len(self.recording)) if among is None else np.flatnonzero(among)
        _, rank = np.unique(np.array(self.names.recordings), return_inverse=True)
        recording = self.recording[windows]
        windows = windows[np.lexsort((windows, self.onset_s[windows], rank[recording]))]
        own: dict[tuple[str, str], list[int]] = {}
        for window in windows.tolist():
            own.setdefault(self.subject(window), []).append(window)
        lists = [np.array(own[who]) for who in sorted(own)]
        counts = shared_out(total, [min(len(one), per_subject) for one in lists])
        chosen = [one[evenly(len(one), count)] for one, count in zip(lists, counts, strict=True)]
        return np.concatenate(chosen) if chosen else np.zeros(0, np.int64)

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


def check_fields(fields: Sequence[str], known: Sequence[str] = FIELDS) -> None:
    if unknown := sorted(set(fields) - set(known)):
        raise ValueError(f"fields {unknown}: a batch can be given {known}")


class StreamedFields:
    """What `AddFields` is to local shards: int64 `[B]` for each of `fields`, from the JSON that
    comes with `B` streamed windows. A label can only be one of a whole recording."""

    def __init__(self, manifest: Manifest, fields: Sequence[str]):
        check_fields(fields, STREAMED)
        self.fields, self.names = tuple(fields), Names.of(manifest)
        self._numbers = Numbers(manifest, self.names)

    def __call__(self, texts: Sequence[bytes]) -> dict[str, torch.Tensor]:
        try:
            metas = [json.loads(text) for text in texts]
            rows = np.array([self._numbers.of(meta) for meta in metas], np.int64)
        except (ValueError, TypeError, AttributeError, RecursionError):
            raise InputError(
                f"{self._numbers.folder}: the JSON of a streamed window is damaged",
                "copy the shard again, or pack again",
            ) from None
        columns = {name: rows[:, FIELDS.index(name)].copy() for name in self.fields}
        return {name: torch.from_numpy(column) for name, column in columns.items()}
