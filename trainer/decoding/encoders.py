"""The features of an encoder and of its untrained twins, as methods to compare."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch

from data.batches.batch import Batch
from data.errors import InputError
from model.autoencoder import MaskedVAE
from model.pooling import COVARIANCE, POOLS, ByChannel, by_channel, covariances, leading
from trainer.decoding.closed_forms import shrunk
from trainer.decoding.estimators import Method
from trainer.decoding.protocols import Fold

SIZE = 32
"""Windows that the encoder takes at once."""
LATENT_SHRINKAGE = 0.1
"""Windows of 5 s have 5 to 50 patches for 19 channels."""
DIRECTIONS = 8
COLLAPSED = 1e-4
"""Deviation of a feature over windows, relative to its size, below which it is the same for all."""
SAMPLED_ROWS = 200_000


@torch.inference_mode()
def outputs(encoder: MaskedVAE, batches: Sequence[Batch], device: torch.device) -> list[ByChannel]:
    """Tokens and latents of each batch, on the CPU. One montage and length in each batch."""
    encoder = encoder.to(device).eval()
    found = []
    for batch in batches:
        for start in range(0, len(batch), SIZE):
            eeg = batch.eeg[start : start + SIZE].to(device).float()
            found.append(by_channel(encoder.encoder, eeg, batch.positions_m.to(device)).cpu())
    return found


def encoder_methods(
    name: str, found: Sequence[ByChannel], pools: Sequence[str], adapted: bool
) -> list[Method]:
    """A method for each pool, and each `adapted` too. InputError for features that are the same for
    all windows."""
    kinds, methods = (False, True) if adapted else (False,), []
    for pool in pools:
        features = _features(found, pool)
        if not callable(features):
            _refuse_collapsed(name, pool, features)
        methods += [Method(f"{name}, {pool}", features, kind, pool) for kind in kinds]
    return methods


def _features(found: Sequence[ByChannel], pool: str) -> np.ndarray | Callable[[Fold], np.ndarray]:
    if pool != COVARIANCE:
        columns = POOLS[pool].columns
        return torch.cat([columns(out) for out in found]).double().numpy()
    latents = torch.cat([out.latents for out in found])

    def of(fold: Fold) -> np.ndarray:
        """Directions are those of the fold's training windows."""
        train = latents[torch.from_numpy(fold.train)]
        every = max(1, train[..., 0].numel() // SAMPLED_ROWS)
        mean, directions = leading(train[::every], DIRECTIONS)
        return shrunk(covariances(latents, mean, directions), LATENT_SHRINKAGE).numpy()

    return of


def _refuse_collapsed(name: str, pool: str, features: np.ndarray) -> None:
    size = np.abs(features).mean()
    if not np.isfinite(features).all() or features.std(0).max() <= COLLAPSED * size:
        raise InputError(
            f"{name}: its features ({pool}) are the same for all windows, or not finite",
            "the encoder collapsed in training, or its file is damaged: look at the run's kl and "
            "latent_spread, or convert it again",
        )
