"""Two states of a simulated person, to be told apart: at rest, and at a task.

At the task the rhythms of alpha, mu and beta are weaker and theta is stronger, by factors that
differ between people as people do (their logarithms by .2). Nothing else changes: gains, muscle and
blinks are drawn alike, so that what decodes the state has read rhythms.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from data.simulate.eeg import Person, Population

STATES = ("rest", "task")
TASK_FACTORS = {"alpha": 0.7, "mu": 0.75, "beta": 0.75, "theta": 1.4}
"""By the first part of a rhythm's name."""
SPREAD = 0.2


def in_state(people: Population, who: Person, state: str) -> Person:
    """`who` in one of STATES."""
    if state == STATES[0]:
        return who
    rng = np.random.default_rng([*who.seed, 8])
    own = np.exp(SPREAD * rng.standard_normal(len(people.rhythms)))
    factors = [
        TASK_FACTORS[kind] * factor if (kind := rhythm.name.split("-")[0]) in TASK_FACTORS else 1.0
        for rhythm, factor in zip(people.rhythms, own, strict=True)
    ]
    return replace(who, rhythm_gains=who.rhythm_gains * np.array(factors))
