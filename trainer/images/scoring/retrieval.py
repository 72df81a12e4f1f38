"""What a run retrieves: its best weights, and all numbers of a method."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file

from data.errors import InputError
from model.images.head import Retriever, centred
from model.transformer import start_weights
from trainer.engine.task import BEST
from trainer.images.networks import build_trunk
from trainer.images.scoring.queries import Queries
from trainer.images.scoring.scores import (
    TOPS,
    assigned,
    chance_p,
    hits,
    hubness,
    interval,
    ranks,
)
from trainer.images.task import ABOUT, WEIGHTS

REPEATS = (1, 2, 4, 10, 20, 40, 80)
SIZE = 256


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

    @torch.inference_mode()
    def among(self, queries: Queries, pictures: torch.Tensor, truth: np.ndarray) -> list[float]:
        """Top-1 and top-5 among more pictures `[P, E]`, all repeats added up; truth int64
        `[queries]`: which is the one that was seen. Cosines add up as vectors do."""
        people = queries.trials.subject[queries.row]
        z = self.vectors(queries.eeg, queries.positions_m, people)
        total = np.zeros((len(queries.truth), z.shape[1]))
        used = queries.place < queries.repeats
        np.add.at(total, queries.query[used], z[used])
        mapped = self.model.pictures(centred(pictures, self.mean)).double().numpy()
        return _numbers(total @ mapped.T, truth)


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
    place = ranks(last, queries.truth)
    found["median_rank"] = float(np.median(place))
    found["mean_reciprocal_rank"] = float((1 / place).mean())
    found["hubness"] = hubness(last)
    found["assigned"] = assigned(last, queries.truth, person)
    found["p"] = chance_p(last, queries.truth, person, 1, draws=2000) if control else None
    return found


def _numbers(scores: np.ndarray, truth: np.ndarray) -> list[float]:
    return [float(hits(scores, truth, top).mean()) for top in TOPS]
