"""What a run's EEG says of the test pictures, and the pixels of those that were shown."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from data.errors import InputError
from data.shards.manifest import read_manifest
from data.simulate.images import PARTS
from data.sources.simulated_images import world_of
from trainer.images.embedding.picture_files import PIXELS, list_pictures, pixels_of, read_picture
from trainer.images.embeddings import ImageEmbeddings
from trainer.images.pictures.embedding_head import EmbeddingHead, fit_head
from trainer.images.scoring.queries import Queries
from trainer.images.scoring.retrieval import Scored
from trainer.images.trials import Trials


def head_of(scored: Scored, embeddings: ImageEmbeddings) -> EmbeddingHead:
    """Fitted on the trials of the concepts that chose the run's step, averaged by person and
    picture."""
    about = scored.about
    if about["run"]["refit"]:
        raise InputError(
            "the run was refitted: it has seen the concepts that the embedding is fitted on",
            f"give the run that chose its steps, {about['run']['refit']}",
        )
    shards = about["run"]["shards"]
    trials = Trials.trained(about)
    held = np.isin(trials.concept, about["held_concepts"])
    held &= np.isin(trials.subject, [str(one) for one in about["split"]["trained"]])
    rows = np.flatnonzero(held)
    _, person = np.unique(trials.subject[rows], return_inverse=True)
    kinds, query = np.unique(person * len(trials.images) + trials.image[rows], return_inverse=True)
    place = dict(zip(rows.tolist(), query.tolist(), strict=True))
    total: np.ndarray | None = None
    for numbers, batch in trials.read_trials(rows):
        z = scored.vectors(batch.eeg.numpy(), batch.positions_m, trials.subject[numbers])
        total = np.zeros((len(kinds), z.shape[1])) if total is None else total
        np.add.at(total, [place[row] for row in numbers.tolist()], z)
    z = total / np.bincount(query)[:, None]
    images = kinds % len(trials.images)
    found = embeddings.rows_of(tuple(trials.images[one] for one in images), shards)
    layer = embeddings.layer(about["run"]["layer"] or None).astype(np.float64)
    return fit_head(z, layer[found], trials.concept_of_image()[images])


def told(scored: Scored, queries: Queries) -> np.ndarray:
    """float64 `[queries, P]`: the mean over a query's trials of the retriever's vectors."""
    people = queries.trials.subject[queries.row]
    z = scored.vectors(queries.eeg, queries.positions_m, people)
    total = np.zeros((len(queries.truth), z.shape[1]))
    np.add.at(total, queries.query, z)
    return total / np.bincount(queries.query)[:, None]


@dataclass(frozen=True)
class Pixels:
    """Pixels by picture, float32 `[side x side x 3]` from 0 to 1."""

    by_name: dict[str, np.ndarray]

    def of(self, names: list[str]) -> np.ndarray:
        """float32 `[n, side x side x 3]`. InputError where pictures are missing."""
        missing = [name for name in names if name not in self.by_name]
        if missing:
            raise InputError(
                f"--images_folder: {len(missing)} of {len(names)} pictures are not there: "
                f"{', '.join(missing[:3])}",
                "give the folder whose pictures were embedded",
            )
        return np.stack([self.by_name[name] for name in names])


def pixels_of_run(about: dict, folder: Path | None, names: list[str]) -> Pixels | None:
    """Of a folder of pictures, or of the simulated world; None where neither is given."""
    if folder is not None:
        files = {one.name: one.path for one in list_pictures(folder)}
        found = [name for name in names if name in files]
        pixels = (pixels_of([read_picture(files[name])])[0] for name in found)
        return Pixels(dict(zip(found, pixels, strict=True)))
    entry = read_manifest(about["run"]["shards"]).recordings[0]
    note = entry.get("notes", {}).get("simulated_images")
    if note is None:
        return None
    world = world_of(note)
    by_name = {}
    for part in PARTS:
        pictures = world.pictures(part).reshape(-1, PIXELS * PIXELS * 3).astype(np.float32) / 255
        by_name |= dict(zip((image for _, image in world.names(part)), pictures, strict=True))
    return Pixels(by_name)
