"""The linear map changed by the state the brain is in: a mixture of linear maps.

What EEG says about MEG depends on which sources are active: with other sources another linear map
is best, and one map for all is a compromise. The map's own sources (EEG seen through its right
factor, `[B, R, T]`) tell the state by the pattern of their power; a small attention layer along
time reads it, and mixes R x R matrices that change the sources before they reach the MEG sensors.
The matrices start at zero, so the model still starts at its linear map.

On simulated pairs with switching states this is what beats the linear map: see docs/brainformer.md.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn

from .layers_brainformer import Attention, Mlp, over_time, rotary_angles

# Of the mean power: what is added before the logarithm, so that silence is no infinity.
POWER_FLOOR = 1e-3


class StateMixer(nn.Module):
    """Sources `[B, R, T]` -> as many, mixed by the state of their segment."""

    def __init__(self, config):
        super().__init__()
        width, rank = config.d_model, config.skip_rank
        self.heads, self.segment = config.n_heads, config.segment_samples
        self.into = nn.Linear(rank, width)
        self.norm_time = nn.LayerNorm(width)
        self.time = Attention(width, config.n_heads, config.dropout, n_branches=2)
        self.norm_mlp = nn.LayerNorm(width)
        self.mlp = Mlp(width, config.d_ff, n_branches=2)
        self.norm_out = nn.LayerNorm(width)
        self.to_states = nn.Linear(width, config.skip_states)
        self.mixing = nn.Parameter(torch.zeros(config.skip_states, rank, rank))
        self.drop = nn.Dropout(config.dropout)

    def forward(self, sources, time_mask, causal: bool) -> torch.Tensor:
        """`sources [B, R, T]` fp32, `time_mask [B, T]` or None -> `[B, R, T]` fp32."""
        length = sources.shape[-1]
        power, mask = self.power(sources, time_mask, causal)
        states = self.states(power, mask, causal)
        share = states.repeat_interleave(self.segment, dim=1)[:, :length]
        mixed = torch.einsum("kqr,brt->bkqt", self.mixing.float(), sources)
        return sources + torch.einsum("btk,bkqt->bqt", share, mixed)

    def power(self, sources, time_mask, causal: bool):
        """Log power of each source in each segment, `[B, L, R]`, and which segments are real.

        In causal mode a segment ends at the first sample of the output it serves.
        """
        length = sources.shape[-1]
        count = -(-length // self.segment)
        before = self.segment - 1 if causal else 0
        filler = (before, count * self.segment - before - length)
        real = torch.ones_like(sources[:, :1]) if time_mask is None else time_mask[:, None].float()
        shown = F.pad(sources * real, filler).unflatten(-1, (count, self.segment))
        seen = F.pad(real, filler).unflatten(-1, (count, self.segment)).sum(-1)
        power = shown.square().sum(-1) / seen.clamp(min=1)
        power = power / power.mean(1, keepdim=True).clamp(min=1e-12)
        mask = None if time_mask is None else seen[:, 0] > 0
        return (power + POWER_FLOOR).log().transpose(1, 2), mask

    def states(self, power, mask, causal: bool) -> torch.Tensor:
        """How much each segment is in each state, `[B, L, K]` fp32; sums to 1."""
        x = self.into(power.to(self.into.weight.dtype))
        head_width = x.shape[-1] // self.heads
        angles = rotary_angles(x.shape[1], head_width, x.device)
        allowed = over_time(mask, causal)
        allowed = None if allowed is None else allowed[:, None]
        x = x + self.drop(self.time(self.norm_time(x), self.norm_time(x), allowed, causal, angles))
        x = x + self.drop(self.mlp(self.norm_mlp(x)))
        return self.to_states(self.norm_out(x)).float().softmax(-1)
