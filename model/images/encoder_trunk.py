"""An encoder's tokens to one vector, keeping where and when: all layers' tokens, cut to steps of
20 ms, spatial maps that follow from the electrodes' places, filters in time, and an alignment.

A query that attends to all tokens has to find out place and time from position embeddings; maps
and filters have them by their form. Tokens as they enter the first block are read too: there a
patch's size is not yet normed away, which a map across electrodes needs. The price is one matrix
for each person, and that windows of one run have one length.

Shapes: B trials, C channels, N patches after onset, D encoder width, R numbers of a step and
channel, S maps, F features of a step.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..config import ModelConfig
from ..networks import Encoder
from ..pooling import states_by_channel
from ..tokens import FOURIER_FEATURES, electrode_features
from ..transformer import Linear
from .alignment import Alignment

STEP_S = 0.02
REDUCED, MAPS, FILTERS, OUT = 8, 24, 64, 48
NEAR, LATER, LATER_STRIDE = 4, 5, 2
"""Filters see so many steps; the second layer so many of the aligned ones."""


class EncoderTrunk(nn.Module):
    """Trials -> `[B, features]`. first, last: the patches that are read. white `[C, C]`: takes out
    what channels share, on the montage that the training trials had; the identity elsewhere."""

    def __init__(
        self, config: ModelConfig, channels: int, people: int, first: int, last: int, frozen: bool
    ):
        super().__init__()
        self.first, self.last, self.frozen = first, last, frozen
        self.encoder = Encoder(config)
        step_samples = STEP_S * config.sfreq_hz
        self.steps = max(1, round(config.patch_samples / step_samples))
        self.reduce = nn.ModuleList(
            Linear(config.width, self.steps * REDUCED) for _ in range(config.depth + 1)
        )
        self.space = Linear(FOURIER_FEATURES, MAPS)
        self.person = nn.Parameter(torch.zeros(people, FOURIER_FEATURES, MAPS))
        self.register_buffer("white", torch.eye(channels))
        steps = (last - first) * self.steps
        self.near = min(NEAR, steps)
        self.time = Linear(MAPS * REDUCED * self.near, FILTERS)
        step_s = config.patch_samples / config.sfreq_hz / self.steps
        self.align = Alignment(steps - self.near + 1, FILTERS, step_s)
        self.later_steps = min(LATER, self.align.length)
        self.later = Linear(FILTERS * self.later_steps, OUT)
        self.features = OUT * ((self.align.length - self.later_steps) // LATER_STRIDE + 1)

    def forward(self, eeg: Tensor, positions_m: Tensor, person: Tensor) -> Tensor:
        found = self._reduced(eeg, positions_m)
        maps = self._maps(positions_m, person, found.dtype)
        mixed = torch.einsum("bcs,bcnr->bnsr", maps, found)
        x = F.gelu(self.time(mixed.flatten(2).unfold(1, self.near, 1).flatten(2)))
        x = self.align(x)
        x = F.gelu(self.later(x.unfold(1, self.later_steps, LATER_STRIDE).flatten(2)))
        return x.flatten(1)

    def _reduced(self, eeg: Tensor, positions_m: Tensor) -> Tensor:
        """`[B, C, steps, R]`, of all layers."""
        with torch.set_grad_enabled(torch.is_grad_enabled() and not self.frozen):
            states = [
                state[:, :, self.first : self.last]
                for state in states_by_channel(self.encoder, eeg, positions_m)
            ]
        found = sum(reduce(state) for reduce, state in zip(self.reduce, states, strict=True))
        return found.unflatten(-1, (self.steps, REDUCED)).flatten(2, 3)

    def _maps(self, positions_m: Tensor, person: Tensor, dtype: torch.dtype) -> Tensor:
        """`[B, C, S]`: of each trial's person, on white channels."""
        places = electrode_features(positions_m).to(dtype)
        maps = self.space(places).expand(len(person), -1, -1)
        if len(self.person):
            own = self.person[(person - 1).clamp_min(0)] * (person > 0)[:, None, None]
            maps = maps + places @ own.to(dtype)
        return self.white.to(dtype) @ maps
