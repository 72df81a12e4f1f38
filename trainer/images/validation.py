"""Top-1 on pictures of held-out concepts, which chooses the step of a retrieval run.

Scored as the report scores: trials of a person and a picture are added up, in galleries of one
picture a concept. Each rank embeds its share of the trials; the first adds up.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor, nn

from data.errors import InputError
from trainer.images.scoring.scores import hits, places
from trainer.images.selection import galleries
from trainer.images.trials import Trials
from trainer.ranks.ranks import Ranks, broadcast_object, together


def open_validation(
    trials: Trials, rows: np.ndarray, person: np.ndarray, table: Tensor, repeats: int, ranks: Ranks
) -> Callable[[nn.Module], dict[str, float]]:
    """What scores an engine's module on the trials `rows`, the first `repeats` of each query.
    person int64: of all trials, as the network numbers them; table fp32 `[images, E]`."""
    order = places(_pair(trials, rows), trials.order[rows])
    rows = rows[order < repeats]
    with together(ranks):
        mine = list(trials.read_trials(rows[ranks.rank :: ranks.world]))
    images = np.unique(trials.image[rows])
    shown = galleries(trials.concept_of_image()[images].tolist())

    @torch.no_grad()
    def validate(engine: nn.Module) -> dict[str, float]:
        own = {}
        for numbers, batch in mine:
            moved = batch.to(ranks.device)
            who = torch.from_numpy(person[numbers]).to(ranks.device)
            z = engine(moved.eeg, moved.positions_m, who).float().cpu().numpy()
            own |= dict(zip(numbers.tolist(), z, strict=True))
        everyone: list = [None] * ranks.world
        dist.all_gather_object(everyone, own)
        z = {row: value for share in everyone for row, value in share.items()}
        values = None
        if ranks.first:
            found = np.stack([z[row] for row in rows.tolist()])
            pictures = engine.module.pictures(table[images].to(ranks.device))
            values = top1(found @ pictures.float().cpu().numpy().T, trials, rows, images, shown)
        return broadcast_object(values, ranks)

    return validate


REFIT_SAME = ("protocol", "trunk", "encoder_mode", "projected", "layer", "seed")


def check_refit(chosen: dict, config) -> None:
    """InputError where a run that chose the steps is of another kind than the one that takes them.
    chosen: its retriever.json."""
    before, now = chosen["run"], config.as_dict()
    other = [name for name in REFIT_SAME if before[name] != now[name]]
    if other:
        raise InputError(
            f"--refit {config.refit}: its {other[0]} is {before[other[0]]}, here {now[other[0]]}",
            "give the flags of that run, and another --run",
        )


def after_refit() -> Callable[[nn.Module], dict[str, float]]:
    """Nothing is held out: the last weights are the ones that are kept."""
    calls = itertools.count(1)
    return lambda engine: {"error": 1 / next(calls)}


def last_counts(
    validate: Callable[[nn.Module], dict[str, float]],
) -> Callable[[nn.Module], dict[str, float]]:
    """The same, where the last weights are the ones that are kept: of a control."""
    calls = itertools.count(1)
    return lambda engine: {**validate(engine), "error": 1 / next(calls)}


def top1(
    scores: np.ndarray, trials: Trials, rows: np.ndarray, images: np.ndarray, shown: list
) -> dict[str, float]:
    """Of trials' scores `[rows, images]`: of each (person, picture) added up, in galleries of one
    picture a concept."""
    query = _pair(trials, rows)
    sums = np.zeros((query.max() + 1, len(images)))
    np.add.at(sums, query, scores)
    truth = np.zeros(len(sums), np.int64)
    truth[query] = np.searchsorted(images, trials.image[rows])
    found = []
    for gallery in shown:
        inside = np.isin(truth, gallery)
        place = np.searchsorted(np.sort(gallery), truth[inside])
        found.append(hits(sums[inside][:, np.sort(gallery)], place, 1))
    reached = float(np.mean(np.concatenate(found))) if found else math.nan
    if not math.isfinite(reached):
        raise InputError("no gallery holds a picture of every concept", "fewer --val_concepts")
    return {"error": 1 - reached, "top1": reached, "candidates": float(len(shown[0]))}


def _pair(trials: Trials, rows: np.ndarray) -> np.ndarray:
    """int64: a number for each (person, picture) of the rows."""
    _, person = np.unique(trials.subject[rows], return_inverse=True)
    return np.unique(person * len(trials.images) + trials.image[rows], return_inverse=True)[1]
