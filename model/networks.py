"""The encoder, visible patches -> tokens and their latents, and the decoder, latents of the visible
tokens -> values of all tokens.

The encoder is a ViT that sees the visible tokens only (He et al. 2022). The decoder sees latents
and places, nothing else of the window. A hidden token of it starts from what the visible latents
around it give by interpolation: the same closed form that fills samples, on the far side of the
bottleneck. Without it a short training finds no way from the samples through both networks, and the
latents carry nothing.

Shapes: B batch, C channels, N patches in time, P values of a token, L = all tokens (C x N; `joint`:
N), K visible tokens, M hidden ones, D encoder width, E decoder width, Z latent.
"""

from __future__ import annotations

import torch
from torch import nn

from .config import ModelConfig
from .interpolation import fill_latents
from .tokens import FOURIER_FEATURES, electrode_features, take, time_features, tokens_of
from .transformer import Linear, Stack, draw_normal


class TokenPositions(nn.Module):
    """Position embedding of every token: patch time plus a map of the electrode. `[L, width]`, and
    `[B, L, width]` of positions_m `[B, C, 3]`."""

    def __init__(self, config: ModelConfig, width: int):
        super().__init__()
        self.width = width
        self.electrode = None if tokens_of(config).one_row else Linear(FOURIER_FEATURES, width)

    def forward(self, positions_m: torch.Tensor, n_patches: int, dtype) -> torch.Tensor:
        time_ND = time_features(n_patches, self.width, positions_m.device).to(dtype)
        if self.electrode is None:
            return time_ND
        place_CD = self.electrode(electrode_features(positions_m).to(dtype))
        return (place_CD[..., None, :] + time_ND).flatten(-3, -2)


class Encoder(nn.Module):
    """Visible patches `[B, K, P]` -> (normed tokens, latent mean, log-variance or None). key_mask:
    bool `[B, K]`, the tokens that exist."""

    def __init__(self, config: ModelConfig):
        super().__init__()
        self.config = config
        self.embed = Linear(tokens_of(config).values, config.width)
        self.positions = TokenPositions(config, config.width)
        self.stack = Stack(config.width, config.depth, config.heads, config.mlp_ratio)
        self.to_mean = Linear(config.width, config.latent_dim)
        self.to_logvar = Linear(config.width, config.latent_dim) if config.variational else None
        if self.to_logvar is not None:
            # Starts at a small variance, so that noise does not drown the mean before it has
            # learnt.
            self.to_logvar.init_gain, self.to_logvar.init_bias = 0.1, -2.0

    def embedded(self, patches_BKP, positions_m, n_patches, keep_BK=None):
        """Tokens as they enter the blocks."""
        dtype = self.embed.weight.dtype
        x_BKD = self.embed(patches_BKP.to(dtype))
        position_LD = self.positions(positions_m, n_patches, dtype)
        return x_BKD + (position_LD if keep_BK is None else position_LD[keep_BK])

    def forward(self, patches_BKP, positions_m, n_patches, keep_BK=None, key_mask=None):
        x_BKD = self.stack(self.embedded(patches_BKP, positions_m, n_patches, keep_BK), key_mask)
        mean = self.to_mean(x_BKD).float()
        if self.to_logvar is None:
            return x_BKD, mean, None
        logvar = self.to_logvar(x_BKD).float()
        return x_BKD, mean, logvar.clamp(self.config.logvar_min, self.config.logvar_max)


class Decoder(nn.Module):
    """Values of the visible and of the hidden tokens, `[B, K, P]` and `[B, M, P]` fp32; the visible
    ones only where the objective asks for them."""

    def __init__(self, config: ModelConfig):
        super().__init__()
        width = config.decoder_width
        self.config, self.tokens = config, tokens_of(config)
        self.from_latent = Linear(config.latent_dim, width)
        self.hidden_token = nn.Parameter(torch.zeros(width))
        self.positions = TokenPositions(config, width)
        given = config.decoder_input == "signal_fill"
        self.from_baseline = Linear(self.tokens.values, width) if given else None
        self.stack = Stack(width, config.decoder_depth, config.decoder_heads, config.mlp_ratio)
        self.to_patch = Linear(width, self.tokens.values)
        self.to_patch.init_gain = 0.0

    def start(self, generator: torch.Generator) -> None:
        draw_normal(self.hidden_token, self.hidden_token.shape[0] ** -0.5, generator)

    def forward(self, latent_BKZ, keep_BK, hide_BM, positions_m, n_patches, filled_BLP=None):
        dtype = self.from_latent.weight.dtype
        visible, hidden = keep_BK.shape[1], hide_BM.shape[1]
        # Tokens need no order but for their positions: visible ones first, hidden ones after.
        order_BL = torch.cat([keep_BK, hide_BM], dim=1)
        hidden_BME = self.hidden_token.expand(*hide_BM.shape, -1)
        if self.config.decoder_input == "latent_fill":
            places = self.tokens.electrodes(positions_m)
            latent_BLZ = fill_latents(latent_BKZ, keep_BK, visible + hidden, n_patches, places)
            # One call for both: ZeRO-3 gathers a layer's weights in each.
            x_BLE = self.from_latent(take(latent_BLZ, order_BL).to(dtype))
            start_BKE, start_BME = x_BLE.split([visible, hidden], dim=1)
            x_BLE = torch.cat([start_BKE, start_BME + hidden_BME], dim=1)
        else:
            x_BLE = torch.cat([self.from_latent(latent_BKZ.to(dtype)), hidden_BME], dim=1)
        x_BLE = x_BLE + self.positions(positions_m, n_patches, dtype)[order_BL]
        if self.from_baseline is not None:
            x_BLE = x_BLE + self.from_baseline(take(filled_BLP, order_BL).to(dtype))
        seen_BKE, hidden_BME = self.stack(x_BLE).split([visible, hidden], dim=1)
        wanted = self.config.visible_weight > 0
        return (
            self.to_patch(seen_BKE).float() if wanted else None,
            self.to_patch(hidden_BME).float(),
        )
