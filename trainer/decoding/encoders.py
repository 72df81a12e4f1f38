"""The features of an encoder and of its untrained twins, as methods to compare."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence

import numpy as np
import torch

from data.batches.batch import Batch
from data.errors import InputError
from model.autoencoder import MaskedVAE
from model.pooling import (
    COVARIANCE,
    POOLS,
    ByChannel,
    by_channel,
    covariances,
    leading,
    same_for_all,
)
from trainer.decoding.closed_forms import shrunk
from trainer.decoding.estimators import Method
from trainer.decoding.protocols import Fold

SIZE = 32
"""Windows that the encoder takes at once."""
LATENT_SHRINKAGE = 0.1
"""Windows of 5 s have 5 to 50 patches for 19 channels."""
DIRECTIONS = 8
SAMPLED_ROWS = 200_000
CHUNK = 512


@torch.inference_mode()
def outputs(
    encoder: MaskedVAE, batches: Sequence[Batch], device: torch.device
) -> Iterator[ByChannel]:
    """Tokens and latents of `SIZE` windows at a time, on the CPU. One montage in each batch."""
    encoder = encoder.to(device).eval()
    for batch in batches:
        for start in range(0, len(batch), SIZE):
            eeg = batch.eeg[start : start + SIZE].to(device).float()
            yield by_channel(encoder.encoder, eeg, batch.positions_m.to(device)).cpu()


def encoder_methods(
    name: str, found: Iterable[ByChannel], pools: Sequence[str], adapted: bool
) -> list[Method]:
    """A method for each pool, and each `adapted` too. Tokens are let go as they come; for
    `covariance` all latents are kept, 4 bytes x channels x patches x dimensions a window.
    InputError for features that are the same for all windows."""
    columns: dict[str, list] = {pool: [] for pool in pools}
    for out in found:
        for pool, parts in columns.items():
            parts.append(out.latents if pool == COVARIANCE else POOLS[pool].columns(out))
    kinds, methods = (False, True) if adapted else (False,), []
    for pool, parts in columns.items():
        whole = torch.cat(parts)
        if pool == COVARIANCE:
            features = _by_direction(whole)
        else:
            features = whole.double().numpy()
            _refuse_collapsed(name, pool, features)
        methods += [Method(f"{name}, {pool}", features, kind, pool) for kind in kinds]
    return methods


def _by_direction(latents: torch.Tensor) -> Callable[[Fold], np.ndarray]:
    """Covariances of latents `[n, C, N, Z]` along the directions of a fold's training windows."""

    def of(fold: Fold) -> np.ndarray:
        train = latents[torch.from_numpy(fold.train)]
        every = max(1, train[..., 0].numel() // SAMPLED_ROWS)
        mean, directions = leading(train[::every], DIRECTIONS)
        parts = [covariances(part, mean, directions) for part in latents.split(CHUNK)]
        return shrunk(torch.cat(parts), LATENT_SHRINKAGE).numpy()

    return of


def _refuse_collapsed(name: str, pool: str, features: np.ndarray) -> None:
    if same_for_all(features):
        raise InputError(
            f"{name}: its features ({pool}) are the same for all windows, or not finite",
            "the encoder collapsed in training, or its file is damaged: look at the run's kl and "
            "latent_spread, or convert it again",
        )
