"""What is said of an encoder before any score: that it tells no input from another, or that it was
trained on the people who are to be scored.

That its file lacks a tensor is said when it is loaded (trainer/checkpoints/weights.py).
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Mapping

import numpy as np
import torch

from data.errors import InputError, some
from data.subjects.people import People
from data.subjects.trained_on import known_among, subjects_of
from model.autoencoder import MaskedVAE
from model.pooling import POOLS, by_channel, same_for_all

WINDOWS, CHANNELS, PATCHES = 4, 16, 4
HEAD_M = 0.09
WHY = "it collapsed in training (see the run's latent/active_share), or its file is damaged"


@torch.inference_mode()
def collapsed_pools(model: MaskedVAE) -> list[str]:
    """The pools whose features are the same for windows as different as white noise and random
    walks, or are not finite."""
    draw = torch.Generator().manual_seed(0)
    eeg = torch.randn(WINDOWS, CHANNELS, PATCHES * model.config.patch_samples, generator=draw)
    eeg[::2] = eeg[::2].cumsum(-1)
    eeg = eeg - eeg.mean((1, 2), keepdim=True)
    eeg = eeg / eeg.std((1, 2), keepdim=True)
    device = next(model.parameters()).device
    out = by_channel(model.encoder, eeg.to(device), _places().to(device)).cpu()
    return [name for name, pool in POOLS.items() if same_for_all(pool.columns(out).numpy())]


def warn_of_collapse(model: MaskedVAE, path: str) -> None:
    """A warning, not an error: whoever looks into a collapsed encoder has to load it."""
    if pools := collapsed_pools(model):
        warnings.warn(
            f"{path}: features are the same for all inputs (pool={', '.join(pools)}): {WHY}",
            stacklevel=3,
        )


def refuse_collapsed(features: np.ndarray, what: str) -> None:
    """InputError where features `[B, D]` of windows that differ are all the same."""
    if same_for_all(features):
        raise InputError(f"{what}: features are the same for all trials, or not finite", WHY)


def refuse_trained_on(
    trained_on: Mapping | None, dataset: str, subjects: Iterable, allowed: bool = False
) -> None:
    """InputError where people of `dataset` (MOABB's class name, or the name it was packed by) were
    trained on, under any name by which they are known; `allowed`: a warning."""
    asked = {(dataset, str(subject)) for subject in subjects}
    if known := known_among(asked, subjects_of(trained_on), People.known()):
        what = (
            f"the encoder was trained on people who are to be scored: {dataset} subject "
            f"{some([subject for _, subject in sorted(known)])}"
        )
        if not allowed:
            raise InputError(
                what,
                "score other people; or give allow_trained_on=True, and say so with the score",
            )
        warnings.warn(f"{what}: a score on them says nothing of new people", stacklevel=3)


def _places() -> torch.Tensor:
    """fp32 `[CHANNELS, 3]` metres: evenly over the upper half of a head."""
    number = torch.arange(CHANNELS)
    height = (number + 0.5) / CHANNELS
    turn = number * torch.pi * (3 - 5**0.5)
    around = (1 - height**2).sqrt()
    return HEAD_M * torch.stack([around * turn.cos(), around * turn.sin(), height], 1)
