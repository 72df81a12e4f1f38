"""The test trials, opened once: what each run retrieves, beside ridge, first weights and, where it
is known, the best there is.

A query is a person and a picture. Its trials are used in the order of recording: one, the first
few, all. Scores of single trials are added up, or the EEG is averaged first; published
numbers are the second.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file

from data.errors import InputError
from data.shards.manifest import read_manifest
from data.signals.profiles import Profile
from data.simulate.images_oracle import oracle_of
from data.sources.simulated_images import world_of
from model.images.head import Retriever, centred
from model.transformer import start_weights
from trainer.engine.task import BEST
from trainer.images.embeddings import ImageEmbeddings, read_embeddings
from trainer.images.guards import refuse_shared
from trainer.images.networks import build_trunk
from trainer.images.ridge import fit_ridge
from trainer.images.scores import TOPS, chance_p, hits, interval, places, ranks
from trainer.images.task import ABOUT, WEIGHTS
from trainer.images.trials import TEST, TRAINING, Trials

REPEATS = (1, 2, 4, 10, 20, 40, 80)
SIZE = 256


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
        return places(self.query, self.trials.onset_s[self.row])

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


def open_queries(folder: Path, people: list[str]) -> Queries:
    """InputError where a person has no test trials."""
    trials = Trials.read(read_manifest(folder), str(folder), TEST)
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


class Scored:
    """A retriever of a run's best weights; `untrained`: of its first weights."""

    def __init__(self, run: Path, untrained: bool = False):
        path = run / BEST
        try:
            self.about = json.loads((path / ABOUT).read_text())
        except (OSError, ValueError):
            raise InputError(
                f"{path}: no whole retriever", "train until its first validation, or give a run of "
                "trainer/eeg2image.py",
            ) from None  # fmt: skip
        told, state = self.about["model"], load_file(path / WEIGHTS)
        self.mean = state.pop("image_mean")
        trunk = build_trunk(told["trunk"])
        self.model = Retriever(trunk, told["embedding"], told["hidden"], told["projected"])
        if untrained:
            start_weights(self.model, self.about["run"]["seed"])
            white = {name: value for name, value in state.items() if name.endswith("white")}
            self.model.load_state_dict(white, strict=False)
        else:
            self.model.load_state_dict(state)
        self.model.eval()
        self.numbers = {name: number for number, name in enumerate(told["people"], start=1)}

    @torch.inference_mode()
    def vectors(self, eeg: np.ndarray, positions_m: torch.Tensor, people: np.ndarray) -> np.ndarray:
        """float64 `[n, P]`, unit length, of trials `[n, C, T]`. people: of each, of text."""
        person = torch.tensor([self.numbers.get(one, 0) for one in people.tolist()])
        found = []
        for start in range(0, len(eeg), SIZE):
            part = torch.from_numpy(eeg[start : start + SIZE]).float()
            z = self.model(part, positions_m, person[start : start + SIZE])
            found.append(z.double().numpy())
        return np.concatenate(found)

    @torch.inference_mode()
    def scores(self, queries: Queries, eeg: np.ndarray, people: np.ndarray,
               candidates: torch.Tensor) -> np.ndarray:  # fmt: skip
        """float64 `[n, candidates]`: cosines."""
        pictures = self.model.pictures(centred(candidates, self.mean)).double().numpy()
        return self.vectors(eeg, queries.positions_m, people) @ pictures.T


Score = Callable[[np.ndarray, np.ndarray], np.ndarray]
"""(EEG `[n, C, T]`, people `[n]`) -> `[n, candidates]`."""


def row_of(name: str, score: Score, queries: Queries, control: bool) -> dict:
    """All numbers of a method, JSON-able: by repeats, in both ways, with intervals."""
    people = queries.trials.subject[queries.row]
    single = score(queries.eeg, people)
    counts = [count for count in REPEATS if count < queries.repeats] + [queries.repeats]
    found = {
        "name": name, "control": control,
        "single": _numbers(single, queries.truth[queries.query]),
        "summed": {}, "averaged": {},
    }  # fmt: skip
    for count in counts:
        summed = queries.summed(single, count)
        found["summed"][count] = _numbers(summed, queries.truth)
        found["averaged"][count] = _numbers(
            score(queries.averaged(count), queries.person), queries.truth
        )
    last = queries.summed(single, queries.repeats)
    names, person = np.unique(queries.person, return_inverse=True)
    cells = np.full((len(names), len(queries.images)), np.nan)
    cells[person, queries.truth] = hits(last, queries.truth, 1)
    found["by_person"] = dict(zip(names.tolist(), np.nanmean(cells, 1).tolist(), strict=True))
    found["interval"] = interval(cells)
    found["cells"] = cells.tolist()
    found["median_rank"] = float(np.median(ranks(last, queries.truth)))
    found["p"] = chance_p(last, queries.truth, person, 1, draws=2000) if control else None
    return found


def _numbers(scores: np.ndarray, truth: np.ndarray) -> list[float]:
    return [float(hits(scores, truth, top).mean()) for top in TOPS]


def ridge_score(about: dict, queries: Queries, embeddings: ImageEmbeddings) -> tuple[Score, dict]:
    """Ridge on the run's training trials: per person, or of all others for a person left out."""
    shards, layer = about["run"]["shards"], about["run"]["layer"] or None
    trials = Trials.read(read_manifest(shards), shards, TRAINING)
    concept = trials.concept_of_image()
    found = embeddings.layer(layer)[embeddings.rows_of(trials.images, shards)]
    held = np.isin(concept, about["held_concepts"])
    within = bool(about["model"]["people"])
    first = _first_sample(about)
    everyone = np.unique(np.concatenate([trials.image]))
    mean = found[~held].mean(0)
    target = centred(torch.from_numpy(found), torch.from_numpy(mean)).numpy()
    maps, penalties = {}, {}
    for one in np.unique(queries.person).tolist():
        rows = np.flatnonzero((trials.subject == one) if within else (trials.subject != one))
        total = np.zeros((len(trials.images), 0), np.float32)
        count = np.bincount(trials.image[rows], minlength=len(trials.images))
        for numbers, batch in trials.read_trials(rows):
            eeg = batch.eeg[..., first:].flatten(1).float().numpy()
            if not total.shape[1]:
                total = np.zeros((len(trials.images), eeg.shape[1]), np.float32)
            np.add.at(total, trials.image[numbers], eeg)
        seen = everyone[count[everyone] > 0]
        averages = total[seen].astype(np.float64) / count[seen][:, None]
        maps[one] = fit_ridge(averages, target[seen], held[seen], concept[seen])
        penalties[one] = maps[one].penalty
    names = tuple(queries.trials.images[image] for image in queries.images)
    rows = embeddings.rows_of(names, "the test trials")
    candidates = centred(
        torch.from_numpy(embeddings.layer(layer)[rows]), torch.from_numpy(mean)
    ).numpy()

    def score(eeg: np.ndarray, people: np.ndarray) -> np.ndarray:
        flat = eeg[..., first:].reshape(len(eeg), -1).astype(np.float64)
        result = np.empty((len(eeg), len(candidates)))
        for one, own in maps.items():
            result[people == one] = own.embed(flat[people == one]) @ candidates.T
        return result

    return score, penalties


def _first_sample(about: dict) -> int:
    """Of what comes after onset."""
    return round(-about["signal"]["event_tmin_s"] * about["signal"]["sfreq_hz"])


def oracle_score(queries: Queries) -> Score | None:
    """The best there is, of simulated trials; else None. Averaged trials are no case of it: their
    delays are mixed."""
    entries = queries.trials.manifest.recordings
    if "simulated_images" not in entries[0].get("notes", {}):
        return None
    world = world_of(entries[0]["notes"]["simulated_images"])
    profile = Profile(**queries.trials.manifest.profile)
    number = {image: place for place, (_, image) in enumerate(world.names("test"))}
    codes = world.codes("test")[[number[queries.trials.images[image]] for image in queries.images]]
    oracles = {
        str(entry["subject"]): oracle_of(world, int(entry["subject"]), profile, entry["scale_uv"])
        for entry in entries
    }

    def score(eeg: np.ndarray, people: np.ndarray) -> np.ndarray:
        found = np.empty((len(eeg), len(codes)))
        for one in np.unique(people).tolist():
            rows = people == one
            found[rows] = oracles[one].log_likelihood(eeg[rows], codes)
        return found

    return score


def refuse_what_was_trained_on(run: Path, about: dict, queries: Queries,
                               embeddings: ImageEmbeddings) -> None:  # fmt: skip
    """InputError where a run trained on pictures or concepts of the test."""
    shards = about["run"]["shards"]
    trials = Trials.read(read_manifest(shards), shards, TRAINING)
    names = trials.concept_names()
    kept = ~np.isin(names, about["dropped_concepts"])
    kept &= np.isin(trials.subject, [str(one) for one in about["split"]["trained"]])
    tested = queries.trials.concept_names()[queries.row]
    refuse_shared(
        names[kept].tolist(), tested.tolist(),
        [trials.images[one] for one in np.unique(trials.image[kept])],
        [queries.trials.images[one] for one in queries.images],
        dict(zip(embeddings.images, embeddings.sha256, strict=True)), str(run),
    )  # fmt: skip


def candidates_of(queries: Queries, embeddings: ImageEmbeddings, layer: str) -> torch.Tensor:
    """fp32 `[candidates, E]`, as the encoder gave them."""
    names = tuple(queries.trials.images[image] for image in queries.images)
    rows = embeddings.rows_of(names, "the test trials")
    return torch.from_numpy(embeddings.layer(layer or None)[rows])


def embeddings_of(about: dict) -> ImageEmbeddings:
    return read_embeddings(about["run"]["images"])
