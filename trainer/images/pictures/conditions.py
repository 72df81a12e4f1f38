"""The six embeddings that are drawn of each picture, side by side.

`eeg` is what this is about. `truth`, the picture's own embedding, is the best that the generator
can do, `mean` what it draws when nothing is known. `random` is a training picture, `swapped` the
EEG of another test picture, `nearest` the training picture that is nearest to what EEG says. A
generator makes good pictures in all six: EEG has told something only where `eeg` beats `swapped`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

CONDITIONS = ("truth", "eeg", "nearest", "swapped", "random", "mean")


@dataclass(frozen=True)
class Conditions:
    """embeddings: of each condition float64 `[queries, E]`. nearest, swapped: which training
    picture, and whose query, int64 `[queries]`."""

    embeddings: dict[str, np.ndarray]
    nearest: np.ndarray
    swapped: np.ndarray
    random: np.ndarray


def make_conditions(
    eeg: np.ndarray, truth: np.ndarray, training: np.ndarray, person: Sequence, seed: int
) -> Conditions:
    """eeg, truth `[queries, E]`; training `[pictures, E]`; person `[queries]`: swapped EEG is of
    the same person. Raises ValueError for a person of one query."""
    rng = np.random.default_rng([seed, 0x706963])
    mean = training.mean(0)
    person = np.asarray(person)
    swapped = np.empty(len(eeg), np.int64)
    for one in np.unique(person):
        rows = rng.permutation(np.flatnonzero(person == one))
        if len(rows) < 2:
            raise ValueError(f"{one} has one picture: nothing to swap it with")
        swapped[rows] = np.roll(rows, 1)
    nearest = (_unit(eeg - mean) @ _unit(training - mean).T).argmax(1)
    random = rng.integers(len(training), size=len(eeg))
    return Conditions(
        {
            "truth": truth, "eeg": eeg, "nearest": training[nearest], "swapped": eeg[swapped],
            "random": training[random], "mean": np.repeat(mean[None], len(eeg), 0),
        },
        nearest, swapped, random,
    )  # fmt: skip


def _unit(rows: np.ndarray) -> np.ndarray:
    return rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-12)
