"""The encoder: visible patches -> tokens and their latents.

A ViT that sees the visible tokens only (He et al. 2022).

Shapes: B batch, C channels, N patches in time, P samples in a patch, L = all tokens (C x N;
`joint`: N), K visible tokens, D width, Z latent.
"""

from __future__ import annotations

import torch
from torch import nn

from .blocks import Stack
from .config import ModelConfig
from .linear import Linear
from .positions import FOURIER_FEATURES, electrode_features, time_features


class TokenPositions(nn.Module):
    """Position embedding of every token, `[L, width]`: patch time plus a map of the electrode."""

    def __init__(self, config: ModelConfig, width: int):
        super().__init__()
        self.width = width
        self.electrode = Linear(FOURIER_FEATURES, width) if config.tokens == "channel" else None

    def forward(self, positions_m: torch.Tensor, n_patches: int, dtype) -> torch.Tensor:
        time_ND = time_features(n_patches, self.width, positions_m.device).to(dtype)
        if self.electrode is None:
            return time_ND
        place_CD = self.electrode(electrode_features(positions_m).to(dtype))
        return (place_CD[:, None] + time_ND).flatten(0, 1)


class Encoder(nn.Module):
    """Visible patches `[B, K, P]` -> (normed tokens, latent mean, log-variance or None)."""

    def __init__(self, config: ModelConfig, values_per_token: int):
        super().__init__()
        self.config = config
        self.embed = Linear(values_per_token, config.width)
        self.positions = TokenPositions(config, config.width)
        self.stack = Stack(config.width, config.depth, config.heads, config.mlp_ratio)
        self.to_mean = Linear(config.width, config.latent_dim)
        self.to_logvar = Linear(config.width, config.latent_dim) if config.variational else None
        if self.to_logvar is not None:
            # Starts at a small variance, so that noise does not drown the mean before it has
            # learnt.
            self.to_logvar.init_gain, self.to_logvar.init_bias = 0.1, -2.0

    def forward(self, patches_BKP, positions_m, n_patches, keep_BK=None):
        dtype = self.embed.weight.dtype
        x_BKD = self.embed(patches_BKP.to(dtype))
        position_LD = self.positions(positions_m, n_patches, dtype)
        x_BKD = x_BKD + (position_LD if keep_BK is None else position_LD[keep_BK])
        x_BKD = self.stack(x_BKD)
        mean = self.to_mean(x_BKD).float()
        if self.to_logvar is None:
            return x_BKD, mean, None
        logvar = self.to_logvar(x_BKD).float()
        return x_BKD, mean, logvar.clamp(self.config.logvar_min, self.config.logvar_max)
