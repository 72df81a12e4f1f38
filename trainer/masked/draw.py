"""Between the loader and the model: masks for each sample, and parts on the device."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from data.batches.local import Part
from model.config import ModelConfig
from model.masks import Sheet, draw_kind, draw_mask, generator
from model.tokens import tokens_of


@dataclass(frozen=True)
class DrawMasks:
    """Adds keep int64 `[b, K]` and hide `[b, M]` to a part, in the loader's worker.

    A sample's mask is a function of (seed, its position in the stream): the same on any rank, in
    any worker and after a resume. `mixture` replaces the config's kinds of masks, for scoring one
    kind.
    """

    config: ModelConfig
    seed: int
    mixture: dict[str, float] | None = None

    def __call__(self, part: Part) -> Part:
        _, channels, samples = part["eeg"].shape
        tokens = tokens_of(self.config)
        n_hidden = self.config.hidden_count(tokens.count(channels, samples))
        sheet = Sheet(
            part["positions_m"].numpy()[: tokens.rows(channels)],
            samples // self.config.patch_samples,
            self.config.sfreq_hz / self.config.patch_samples,
        )
        masks = []
        for position in part["position"].tolist():
            rng = generator(self.seed, position)
            kind = draw_kind(self.mixture or self.config.mask_mixture, rng)
            masks.append(draw_mask(kind, sheet, n_hidden, rng))
        keep, hide = tokens.indices(torch.from_numpy(np.stack(masks)))
        return {**part, "keep": keep, "hide": hide}


def to_device(parts: list[Part], device: torch.device) -> list[Part]:
    """All tensors of a micro-batch on the device; signals become fp32 there, not before."""
    moved = [{k: v.to(device, non_blocking=True) for k, v in part.items()} for part in parts]
    return [{**part, "eeg": part["eeg"].float()} for part in moved]


def hidden_mask(part: Part, config: ModelConfig) -> torch.Tensor:
    """The part's mask as bool `[b, C, N]`."""
    _, channels, samples = part["eeg"].shape
    return tokens_of(config).hidden(part["hide"], channels, samples // config.patch_samples)
