"""The test trials, opened once: queries and candidates.

A query is a person and a picture. Its trials are used in the order of recording: one, the first
few, all. Scores of single trials are added up, or the EEG is averaged first; published
numbers are the second.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import numpy as np
import torch

from data.errors import InputError
from data.shards.manifest import read_manifest
from trainer.images.embeddings import ImageEmbeddings, read_embeddings
from trainer.images.guards import refuse_shared
from trainer.images.scoring.scores import places
from trainer.images.trials import TEST, Trials


@dataclass(frozen=True)
class Queries:
    """The test trials of some people, in memory: eeg float16 `[n, C, T]` in queries' order."""

    trials: Trials
    eeg: np.ndarray
    positions_m: torch.Tensor
    row: np.ndarray
    """int64 `[n]`: of `trials`."""
    query: np.ndarray
    truth: np.ndarray
    """int64 `[queries]`: place among `images`."""
    person: np.ndarray
    """`[queries]`, of text."""
    images: np.ndarray
    """int64: the candidates, as numbers of `trials.images`."""

    @cached_property
    def place(self) -> np.ndarray:
        """int64 `[n]`: which repeat of its query a trial is, from 0."""
        return places(self.query, self.trials.order[self.row])

    @property
    def repeats(self) -> int:
        """That every query has."""
        return int(np.bincount(self.query).min())

    def summed(self, scores: np.ndarray, most: int) -> np.ndarray:
        """`[queries, candidates]` of trials' scores `[n, candidates]`, the first `most` added."""
        found = np.zeros((len(self.truth), scores.shape[1]))
        used = self.place < most
        np.add.at(found, self.query[used], scores[used])
        return found

    def averaged(self, most: int) -> np.ndarray:
        """float32 `[queries, C, T]`: the mean of each query's first `most` trials."""
        found = np.zeros((len(self.truth), *self.eeg.shape[1:]), np.float32)
        used = np.flatnonzero(self.place < most)
        np.add.at(found, self.query[used], self.eeg[used].astype(np.float32))
        return found / np.bincount(self.query[used])[:, None, None]


def open_queries(folder: Path, about: dict) -> Queries:
    """The test trials of the people of a run (`about`), on its montage. InputError where a person
    has none."""
    people = list(about["split"]["tested"])
    trials = Trials.read(read_manifest(folder), str(folder), TEST, about["model"]["montage"])
    if missing := sorted(set(people) - set(trials.people)):
        raise InputError(
            f"{folder}: no test trials of {', '.join(missing)}", "pack their test part too"
        )
    rows = np.flatnonzero(np.isin(trials.subject, people))
    read, order, places_m = [], [], None
    for numbers, batch in trials.read_trials(rows):
        read.append(batch.eeg.numpy())
        order.append(numbers)
        places_m = batch.positions_m
    order = np.concatenate(order)
    images = np.unique(trials.image[rows])
    names, person = np.unique(trials.subject[order], return_inverse=True)
    pair = person * len(trials.images) + trials.image[order]
    kinds, query = np.unique(pair, return_inverse=True)
    return Queries(
        trials, np.concatenate(read), places_m, order, query,
        np.searchsorted(images, kinds % len(trials.images)), names[kinds // len(trials.images)],
        images,
    )  # fmt: skip


def another_trial(queries: Queries) -> Queries:
    """A control: each query asks for the picture of the person's next one."""
    truth = queries.truth.copy()
    for one in np.unique(queries.person):
        rows = np.flatnonzero(queries.person == one)
        truth[rows] = np.roll(queries.truth[rows], 1)
    return replace(queries, truth=truth)


def refuse_what_was_trained_on(run: Path, about: dict, queries: Queries,
                               embeddings: ImageEmbeddings) -> None:  # fmt: skip
    """InputError where a run trained on pictures or concepts of the test."""
    trials = Trials.trained(about)
    trials = trials.chosen(np.isin(trials.subject, [str(o) for o in about["split"]["trained"]]))
    refuse_shared(
        trials.concept_names().tolist(), queries.trials.concept_names()[queries.row].tolist(),
        trials.images, [queries.trials.images[one] for one in queries.images],
        dict(zip(embeddings.images, embeddings.sha256, strict=True)), str(run),
        str(queries.trials.manifest.folder),
    )  # fmt: skip


def candidates_of(queries: Queries, embeddings: ImageEmbeddings, layer: str) -> torch.Tensor:
    """fp32 `[candidates, E]`, as the encoder gave them."""
    names = tuple(queries.trials.images[image] for image in queries.images)
    rows = embeddings.rows_of(names, "the test trials")
    return torch.from_numpy(embeddings.layer(layer or None)[rows])


def embeddings_of(about: dict) -> ImageEmbeddings:
    return read_embeddings(about["run"]["images"])


def other_pictures(queries: Queries, embeddings: ImageEmbeddings, layer: str) -> torch.Tensor:
    """fp32 `[pictures, E]`: all that are embedded and were not shown in the test."""
    shown = {queries.trials.images[image] for image in queries.images}
    rows = [row for row, name in enumerate(embeddings.images) if name not in shown]
    return torch.from_numpy(embeddings.layer(layer or None)[rows])
