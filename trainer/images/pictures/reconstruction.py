"""One reconstruction: what EEG says of the test pictures, drawn in six conditions, and judged."""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np

from data.errors import InputError
from data.files import hash_file
from trainer.engine.task import BEST
from trainer.images.embedding.picture_files import PIXELS
from trainer.images.pictures.conditions import CONDITIONS, Conditions, make_conditions
from trainer.images.pictures.drawing import claim, draw, shrunk
from trainer.images.pictures.judges import correlation, judged, ssim, two_way
from trainer.images.pictures.linear import LinearGenerator
from trainer.images.pictures.seen import Pixels, head_of, pixels_of_run, told
from trainer.images.pictures.sheet import shown
from trainer.images.scoring.queries import (
    Queries,
    embeddings_of,
    open_queries,
    refuse_what_was_trained_on,
)
from trainer.images.scoring.retrieval import Scored
from trainer.images.scoring.scores import interval
from trainer.images.task import WEIGHTS
from trainer.ranks.ranks import choose_device

RIVALS = ("swapped", "mean")


def reconstruct(arguments: argparse.Namespace) -> tuple[dict, dict[str, np.ndarray], list[str]]:
    """(report, columns of the contact sheet, names of its rows)."""
    scored = Scored(arguments.run)
    about = scored.about
    embeddings = embeddings_of(about)
    layer = embeddings.layer(about["run"]["layer"] or None).astype(np.float64)
    folder = arguments.test_shards or Path(about["run"]["shards"]).with_name("test")
    queries = open_queries(folder, about)
    refuse_what_was_trained_on(arguments.run, about, queries, embeddings)
    candidates = [queries.trials.images[image] for image in queries.images]
    training = _training_names(about, embeddings, candidates)
    pixels = pixels_of_run(about, arguments.images_folder, [*candidates, *training])
    known = layer[embeddings.rows_of(tuple(training), "the training pictures")]
    generator = _generator(arguments, known, pixels, training)
    truth = layer[embeddings.rows_of(tuple(candidates), "the test trials")]
    head = head_of(scored, embeddings)
    conditions = make_conditions(
        head.embed(told(scored, queries)), truth[queries.truth], known, queries.person,
        arguments.seed,
    )  # fmt: skip
    chosen = shown(candidates, arguments.count or len(candidates))
    rows = np.flatnonzero(np.isin(queries.truth, chosen))
    claim(
        arguments.out,
        {
            "run": hash_file(arguments.run / BEST / WEIGHTS)[0], "seed": arguments.seed,
            "count": len(chosen), **generator.about(),
        },
    )  # fmt: skip
    drawn = {
        condition: draw(
            generator, conditions.embeddings[condition][rows],
            [f"{queries.person[row]}/{candidates[queries.truth[row]]}" for row in rows],
            arguments.out / "pictures" / condition, arguments.seed, arguments.batch,
        )
        for condition in CONDITIONS
    }  # fmt: skip
    seen = None if pixels is None else pixels.of(candidates)
    report = {
        "run": arguments.run.name, "about": generator.about(), "seed": arguments.seed,
        "people": list(about["split"]["tested"]), "pictures": len(chosen),
        "repeats": queries.repeats,
        "head": {"correlation": head.correlation, "gain": head.gain, "penalty": head.penalty},
        "not_computed": [] if seen is not None else ["judges of pixels (give --images_folder)"],
    }  # fmt: skip
    report |= _judge(drawn, conditions, queries, rows, truth, seen)
    return report, *_columns(arguments, drawn, conditions, queries, rows, candidates, training,
                             pixels)  # fmt: skip


def _training_names(about: dict, embeddings, candidates: list[str]) -> list[str]:
    """Pictures of the embeddings that are no test pictures, nor of concepts of one."""
    own = dict(zip(embeddings.images, embeddings.concepts, strict=True))
    tested = {own[name] for name in candidates if name in own}
    held = set(about["held_concepts"])
    return [name for name, concept in own.items() if concept not in tested | held]


def _generator(arguments, known: np.ndarray, pixels: Pixels | None, training: list[str]):
    if arguments.generator == "linear":
        if pixels is None:
            raise InputError(
                "--generator linear needs --images_folder", "it learns from training pictures"
            )
        return LinearGenerator(known, pixels.of(training))
    from trainer.images.pictures.diffusion import DiffusionGenerator

    return DiffusionGenerator(
        Path(arguments.generator), arguments.adapter, known.shape[1], arguments.inference_steps,
        arguments.guidance, arguments.size, choose_device(arguments.device),
    )  # fmt: skip


def _judge(
    drawn: dict, conditions: Conditions, queries: Queries, rows: np.ndarray, truth: np.ndarray,
    seen: np.ndarray | None,
) -> dict:  # fmt: skip
    """judges: by name and condition; comparisons of `eeg` with its rivals, paired."""
    names, person = np.unique(queries.person[rows], return_inverse=True)
    place = np.unique(queries.truth[rows], return_inverse=True)[1]
    cells: dict[str, dict[str, np.ndarray]] = {}

    def note(judge: str, condition: str, values: np.ndarray) -> None:
        table = np.full((len(names), place.max() + 1), np.nan)
        table[person, place] = values
        cells.setdefault(judge, {})[condition] = table

    own = queries.truth[rows]
    centre = truth.mean(0)
    for condition in CONDITIONS:
        given = conditions.embeddings[condition][rows]
        note("two-way, embedding", condition, two_way(given - centre, truth - centre, own))
        if seen is None:
            continue
        pictures = shrunk(drawn[condition], PIXELS)
        flat, true = pictures.reshape(len(rows), -1), seen[own]
        note("two-way, pixels", condition, two_way(flat, seen, own))
        note("pixel correlation", condition, correlation(flat, true))
        note("SSIM", condition, ssim(pictures, true.reshape(pictures.shape)))
    comparisons = []
    for judge, by_condition in cells.items():
        for rival in RIVALS:
            difference = by_condition["eeg"] - by_condition[rival]
            low, high = interval(difference)
            comparisons.append(
                {"judge": judge, "method": "eeg", "rival": rival,
                 "difference": float(difference.mean()), "low": low, "high": high}
            )  # fmt: skip
    found = {judge: {c: judged(t) for c, t in one.items()} for judge, one in cells.items()}
    return {"judges": found, "comparisons": comparisons}


def _columns(
    arguments, drawn: dict, conditions: Conditions, queries: Queries, rows: np.ndarray,
    candidates: list[str], training: list[str], pixels: Pixels | None,
) -> tuple[dict[str, np.ndarray], list[str]]:  # fmt: skip
    """Of the contact sheet: the first person's pictures, chosen by hash."""
    first = np.flatnonzero(queries.person[rows] == queries.person[rows][0])
    names = [candidates[queries.truth[row]] for row in rows[first]]
    places = first[shown(names, arguments.rows)]
    names = [candidates[queries.truth[row]] for row in rows[places]]
    columns: dict[str, np.ndarray] = {}

    def as_is(of: list[str]) -> np.ndarray:
        return pixels.of(of).reshape(len(of), PIXELS, PIXELS, 3)

    if pixels is not None:
        columns["seen"] = as_is(names)
    for condition in CONDITIONS:
        columns[condition] = drawn[condition][places]
        if condition == "nearest" and pixels is not None:
            columns["as it is"] = as_is([training[one] for one in conditions.nearest[rows[places]]])
    return columns, names
