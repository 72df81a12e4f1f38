"""Masks for each window, drawn in the loader's workers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch

from data.batches.batch import Batch
from model.config import ModelConfig
from model.masks import Sheet, draw_kind, draw_mask, generator
from model.tokens import tokens_of


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
        return self.draw(batch, batch.order_index.tolist())

    def draw(self, batch: Batch, keys: Sequence[int | str]) -> Batch:
        """`batch` with masks that are functions of (seed, the window's key)."""
        _, channels, samples = batch.eeg.shape
        tokens = tokens_of(self.config)
        n_hidden = self.config.hidden_count(tokens.count(channels, samples))
        sheet = Sheet(
            batch.positions_m.numpy()[: tokens.rows(channels)],
            samples // self.config.patch_samples,
            self.config.sfreq_hz / self.config.patch_samples,
        )
        masks = []
        for key in keys:
            rng = generator(self.seed, key)
            kind = draw_kind(self.mixture or self.config.mask_mixture, rng)
            masks.append(draw_mask(kind, sheet, n_hidden, rng))
        keep, hide = tokens.indices(torch.from_numpy(np.stack(masks)))
        return replace(batch, keep=keep, hide=hide)


def hidden_mask(batch: Batch, config: ModelConfig) -> torch.Tensor:
    """The batch's mask as bool `[B, C, N]`."""
    _, channels, samples = batch.eeg.shape
    return tokens_of(config).hidden(batch.hide, channels, samples // config.patch_samples)
