"""Masks for each window, drawn in the loader's workers."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch

from data.batches.batch import Batch
from model.config import ModelConfig
from model.masking import draw_hidden, draw_kind, sample_generator, split_indices


@dataclass(frozen=True)
class DrawMasks:
    """A `Prepare` that fills keep and hide.

    A window's mask is a function of (seed, its place in the training order): the same on any rank,
    in any worker and after a resume. `mixture` replaces the config's kinds of masks, for scoring
    one kind.
    """

    config: ModelConfig
    seed: int
    mixture: dict[str, float] | None = None

    def __call__(self, batch: Batch) -> Batch:
        _, channels, samples = batch.eeg.shape
        n_patches = samples // self.config.patch_samples
        places = batch.positions_m.numpy()
        if self.config.tokens == "joint":
            places = places[:1]
        n_hidden = self.config.hidden_count(self.config.token_count(channels, samples))
        rate_hz = self.config.sfreq_hz / self.config.patch_samples
        pairs = []
        for order_index in batch.order_index.tolist():
            rng = sample_generator(self.seed, order_index)
            kind = draw_kind(self.mixture or self.config.mask_mixture, rng)
            pairs.append(
                split_indices(draw_hidden(kind, places, n_patches, n_hidden, rng, rate_hz))
            )
        keep, hide = (torch.from_numpy(np.stack(side)) for side in zip(*pairs, strict=True))
        return replace(batch, keep=keep, hide=hide)


def hidden_mask(batch: Batch, config: ModelConfig) -> torch.Tensor:
    """The batch's mask as bool `[B, C, N]`."""
    windows, channels, samples = batch.eeg.shape
    n_patches = samples // config.patch_samples
    rows = 1 if config.tokens == "joint" else channels
    flat = torch.zeros(windows, rows * n_patches, dtype=torch.bool, device=batch.hide.device)
    flat = flat.scatter(1, batch.hide, True)
    return flat.unflatten(1, (rows, n_patches)).expand(-1, channels, -1)
