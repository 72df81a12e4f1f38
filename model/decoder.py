"""The decoder: latents of the visible tokens -> values of all tokens.

It sees latents and places, nothing else of the window. A hidden token starts from what the visible
latents around it give by interpolation: the same closed form that fills samples, on the far side of
the bottleneck. Without it a short training finds no way from the samples through both networks and
lets the latents go silent.

Shapes: B batch, N patches in time, P samples in a patch, L = all tokens, K visible ones, M hidden
ones, E width, Z latent.
"""

from __future__ import annotations

import torch
from torch import nn

from .blocks import Stack
from .config import ModelConfig
from .encoder import TokenPositions
from .initial import draw_normal
from .latent_fill import fill_latents
from .linear import Linear


class Decoder(nn.Module):
    """Values of the visible and of the hidden tokens, `[B, K, P]` and `[B, M, P]` fp32; the visible
    ones only where the objective asks for them."""

    def __init__(self, config: ModelConfig, values_per_token: int):
        super().__init__()
        width = config.decoder_width
        self.config = config
        self.from_latent = Linear(config.latent_dim, width)
        self.hidden_token = nn.Parameter(torch.zeros(width))
        self.positions = TokenPositions(config, width)
        given = config.decoder_input == "signal_fill"
        self.from_baseline = Linear(values_per_token, width) if given else None
        self.stack = Stack(width, config.decoder_depth, config.decoder_heads, config.mlp_ratio)
        self.to_patch = Linear(width, values_per_token)
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
            places = positions_m if self.config.tokens == "channel" else None
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


def take(x_BLP: torch.Tensor, index_BK: torch.Tensor) -> torch.Tensor:
    """Rows of each sample: `[B, L, P]`, `[B, K]` -> `[B, K, P]`."""
    return x_BLP.gather(1, index_BK[..., None].expand(-1, -1, x_BLP.shape[-1]))
