"""Trials: the windows of a folder that show a picture, and batches of those that were chosen."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch

from data.batches.batch import Batch
from data.batches.local import WindowDataset
from data.batches.window_table import NO_LABEL, WindowTable
from data.errors import InputError
from data.shards.manifest import Manifest, read_manifest
from trainer.images.guards import names_of, refuse_block_designs, refuse_namesakes
from trainer.images.montage import ALL, CommonMontage

TRAINING, TEST = "training", "test"
"""Runs of recordings, as sources of pictures name them."""
SIZE = 512
"""Trials that are read at once."""


@dataclass(frozen=True)
class Trials:
    """`n` windows with a picture; arrays are of these, `window` numbers all of the folder."""

    manifest: Manifest
    window: np.ndarray
    subject: np.ndarray
    concept: np.ndarray
    image: np.ndarray
    """int64 `[n]`, index into `images`."""
    onset_s: np.ndarray
    recording: np.ndarray
    images: tuple[str, ...]
    montage: CommonMontage

    @classmethod
    def read(cls, manifest: Manifest, where: str, part: str, channels: str | dict = ALL) -> Trials:
        """All trials of a folder of one part. channels: as `--channels` asks, or the montage of a
        run. InputError for trials of the other part, windows without pictures, block designs."""
        refuse_block_designs((entry["dataset"] for entry in manifest.recordings), where)
        runs = {str(entry["run"]) for entry in manifest.recordings}
        other = TEST if part == TRAINING else TRAINING
        if other in runs:
            held = " and ".join(sorted(runs)[:3])
            raise InputError(
                f"{where}: it holds trials of the runs {held}, {part} trials are asked for",
                "pack training and test trials into folders of their own (part=training, part=test;"
                " things2: parts=training, parts=test)",
            )
        table = WindowTable.whole(manifest)
        shown = np.flatnonzero((table.image != NO_LABEL) & (table.label != NO_LABEL))
        if not len(shown):
            raise InputError(
                f"{where}: no window names a picture and its concept",
                "pack a source of pictures with its events (things2:, simulated-images)",
            )
        refuse_namesakes(table.names.subjects, where)
        subjects = np.array([subject for _, subject in table.names.subjects])
        labels = np.array([str(label) for label in table.names.labels])
        recording = table.recording[shown]
        return cls(
            manifest, shown, subjects[recording], labels[table.label[shown]], table.image[shown],
            table.onset_s[shown], recording, table.names.images,
            CommonMontage.of(manifest, channels, where) if isinstance(channels, str)
            else CommonMontage.again(channels, manifest, where),
        )  # fmt: skip

    @property
    def people(self) -> list[str]:
        return sorted(set(self.subject.tolist()))

    @property
    def order(self) -> np.ndarray:
        """int64 `[n]`: places in the order of recording, of a person's trials."""
        found = np.empty(len(self.window), np.int64)
        found[np.lexsort((self.onset_s, self.recording))] = np.arange(len(self.window))
        return found

    def chosen(self, which: np.ndarray) -> Trials:
        """Some trials, bool `[n]`; `images` are those that they show."""
        images = np.unique(self.image[which])
        return replace(
            self, window=self.window[which], subject=self.subject[which],
            concept=self.concept[which], image=np.searchsorted(images, self.image[which]),
            onset_s=self.onset_s[which], recording=self.recording[which],
            images=tuple(self.images[one] for one in images),
        )  # fmt: skip

    def without(self, concepts: Iterable[str], pictures: Iterable[str]) -> Trials:
        """The trials that show none of these concepts and pictures, by name."""
        left_out = np.isin(self.concept_names(), list(concepts))
        left_out |= np.isin(self.images, list(pictures))[self.image]
        return self.chosen(~left_out) if left_out.any() else self

    def concept_names(self) -> np.ndarray:
        """Concepts by name `[n]`, as other data sets write them."""
        return names_of(self.concept, self.image, self.images)

    @classmethod
    def trained(cls, about: dict) -> Trials:
        """The training trials of a run, by its retriever.json: all people's, without what it left
        out."""
        shards = about["run"]["shards"]
        found = cls.read(read_manifest(shards), shards, TRAINING, about["model"]["montage"])
        return found.without(about["dropped_concepts"], about.get("dropped_pictures", ()))

    def concept_of_image(self) -> np.ndarray:
        """Concepts `[images]`, of text; InputError where a picture has two."""
        found = np.full(len(self.images), "", dtype=self.concept.dtype)
        found[self.image] = self.concept
        if (found[self.image] != self.concept).any():
            wrong = self.images[int(self.image[found[self.image] != self.concept][0])]
            raise InputError(
                f"{self.manifest.folder}: the picture {wrong} is of two concepts", "pack it again"
            )
        return found

    def read_trials(self, rows: Sequence[int]) -> Iterator[tuple[np.ndarray, Batch]]:
        """(rows, batch of them), in any order; InputError for a trial that is not finite."""
        dataset = WindowDataset(self.manifest, self.manifest.shards)
        row_of = {int(self.window[row]): int(row) for row in rows}
        for request in dataset.requests(sorted(row_of), lambda channels, samples: SIZE):
            for batch in dataset.checked(request):
                rows = np.array([row_of[one] for one in batch.window.tolist()])
                yield rows, self.montage(batch)


@dataclass(frozen=True)
class AddPicture:
    """A `Prepare`: the picture and the person of each trial, and what is drawn for it, which
    depends on (seed, place in the order) alone: on no rank, micro-batch or worker."""

    image: np.ndarray
    """int64 `[windows of the folder]`, row of the table; -1: not trained on."""
    person: np.ndarray
    """int64 `[windows of the folder]`, from 1; 0: unknown."""
    seed: int
    hidden: int
    dropout: float
    forget: float
    """Share of trials whose person is not told."""
    montage: CommonMontage

    def __call__(self, batch: Batch) -> Batch:
        batch = self.montage(batch)
        window = batch.window.numpy()
        keep = np.empty((len(batch), self.hidden), np.float32)
        person = self.person[window].copy()
        for row, place in enumerate(batch.order_index.tolist()):
            rng = np.random.default_rng([self.seed, 0x696D67, place])
            if rng.random() < self.forget:
                person[row] = 0
            keep[row] = rng.random(self.hidden, np.float32) >= self.dropout
        batch.targets["keep"] = torch.from_numpy(keep / (1 - self.dropout))
        batch.targets["person"] = torch.from_numpy(person)
        batch.targets["image"] = torch.from_numpy(self.image[window])
        return batch
