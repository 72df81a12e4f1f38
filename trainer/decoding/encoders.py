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
GROUPS, IN_GROUP = 3, 32
"""Covariances of a window, and the directions that each is a mean over."""
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
    `covariance` all tokens are kept, 4 bytes x channels x patches x width a window.
    InputError for features that are the same for all windows."""
    columns: dict[str, list] = {pool: [] for pool in pools}
    for out in found:
        for pool, parts in columns.items():
            parts.append(out.tokens if pool == COVARIANCE else POOLS[pool].columns(out))
    kinds, methods = (False, True) if adapted else (False,), []
    for pool, parts in columns.items():
        whole = torch.cat(parts)
        if pool == COVARIANCE:
            features = _by_groups(whole)
        else:
            features = whole.double().numpy()
            _refuse_collapsed(name, pool, features)
        methods += [Method(f"{name}, {pool}", features, kind, pool) for kind in kinds]
    return methods


def _by_groups(tokens: torch.Tensor) -> Callable[[Fold], np.ndarray]:
    """Covariances of tokens `[n, C, N, D]` along the directions of a fold's training windows."""
    groups = max(1, min(GROUPS, tokens.shape[-1] // IN_GROUP))
    count = groups * min(IN_GROUP, tokens.shape[-1])

    def of(fold: Fold) -> np.ndarray:
        train = tokens[torch.from_numpy(fold.train)]
        every = max(1, train[..., 0].numel() // SAMPLED_ROWS)
        mean, directions = leading(train[::every], count)
        parts = [covariances(part, mean, directions, groups) for part in tokens.split(CHUNK)]
        return shrunk(torch.cat(parts)).numpy()

    return of


def _refuse_collapsed(name: str, pool: str, features: np.ndarray) -> None:
    if same_for_all(features):
        raise InputError(
            f"{name}: its features ({pool}) are the same for all windows, or not finite",
            "the encoder collapsed in training, or its file is damaged: look at the run's kl and "
            "latent_spread, or convert it again",
        )
