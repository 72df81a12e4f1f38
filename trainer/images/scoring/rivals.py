"""What a retriever is compared with: ridge, and on simulated trials the best there is."""

from __future__ import annotations

import numpy as np
import torch

from data.signals.profiles import Profile
from data.simulate.images_oracle import oracle_of
from data.sources.simulated_images import world_of
from model.images.head import centred
from trainer.images.embeddings import ImageEmbeddings
from trainer.images.scoring.queries import Queries
from trainer.images.scoring.retrieval import Score
from trainer.images.scoring.ridge import fit_ridge
from trainer.images.trials import Trials


def ridge_score(about: dict, queries: Queries, embeddings: ImageEmbeddings) -> tuple[Score, dict]:
    """Ridge on the run's training trials: per person, or of all others for a person left out."""
    shards, layer = about["run"]["shards"], about["run"]["layer"] or None
    trials = Trials.trained(about)
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
        maps[one] = fit_ridge(
            averages, target[seen], held[seen], concept[seen], refit=bool(about["run"]["refit"])
        )
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
