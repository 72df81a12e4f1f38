"""An encoder's tokens to one vector, keeping where and when: spatial maps of the tokens, which
follow from the electrodes' places, then filters over neighbouring patches.

A query that attends to all tokens has to find out place and time from position embeddings; maps
and filters have them by their form. The price is one matrix for each person, and that windows of
one run have one length.

Shapes: B trials, C channels, N patches after onset, D encoder width, R reduced, S maps, F features.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..config import ModelConfig
from ..networks import Encoder
from ..pooling import by_channel
from ..tokens import FOURIER_FEATURES, electrode_features
from ..transformer import Linear

REDUCED, MAPS, FILTERS = 16, 24, 64
NEAR_S, LATER, LATER_STRIDE = 0.08, 5, 3
"""Filters see patches of about so long; the second layer so many of the first's steps."""


class EncoderTrunk(nn.Module):
    """Trials -> `[B, F]`. first, last: the patches that are read. white `[C, C]`: takes out what
    channels share, on the montage that the training trials had; the identity elsewhere."""

    def __init__(
        self, config: ModelConfig, channels: int, people: int, first: int, last: int, frozen: bool
    ):
        super().__init__()
        self.first, self.last, self.frozen = first, last, frozen
        self.encoder = Encoder(config)
        self.norm = nn.LayerNorm(config.width)
        self.reduce = Linear(config.width, REDUCED)
        self.space = Linear(FOURIER_FEATURES, MAPS)
        self.person = nn.Parameter(torch.zeros(people, FOURIER_FEATURES, MAPS))
        self.register_buffer("white", torch.eye(channels))
        steps = last - first
        self.near = max(1, min(steps, round(NEAR_S * config.sfreq_hz / config.patch_samples)))
        self.time = Linear(MAPS * REDUCED * self.near, FILTERS)
        steps = steps - self.near + 1
        self.later_steps = min(LATER, steps)
        self.later = Linear(FILTERS * self.later_steps, FILTERS)
        self.features = FILTERS * ((steps - self.later_steps) // LATER_STRIDE + 1)

    def forward(self, eeg: Tensor, positions_m: Tensor, person: Tensor) -> Tensor:
        with torch.set_grad_enabled(torch.is_grad_enabled() and not self.frozen):
            tokens = by_channel(self.encoder, eeg, positions_m).tokens
        dtype = self.reduce.weight.dtype
        found = self.reduce(self.norm(tokens[:, :, self.first : self.last].to(dtype)))
        mixed = torch.einsum("bcs,bcnr->bnsr", self._maps(positions_m, person, dtype), found)
        x = mixed.flatten(2).unfold(1, self.near, 1).flatten(2)
        x = F.gelu(self.time(x))
        x = F.gelu(self.later(x.unfold(1, self.later_steps, LATER_STRIDE).flatten(2)))
        return x.flatten(1)

    def _maps(self, positions_m: Tensor, person: Tensor, dtype: torch.dtype) -> Tensor:
        """`[B, C, S]`: of each trial's person, on white channels."""
        places = electrode_features(positions_m).to(dtype)
        maps = self.space(places).expand(len(person), -1, -1)
        if len(self.person):
            own = self.person[(person - 1).clamp_min(0)] * (person > 0)[:, None, None]
            maps = maps + places @ own.to(dtype)
        return self.white.to(dtype) @ maps
