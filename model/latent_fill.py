"""Interpolation of latents: what the visible tokens' latents give for the hidden ones.

Weights come from places and masks alone, so nothing but latents enters. Each latent dimension is
interpolated like a sample of a channel: over the electrodes that are visible in the same patch, by
spherical splines; where there are none, and for joint tokens, along the patches, by straight lines.

Shapes: B batch, C channels (`joint`: 1), N patches in time, L = C x N tokens, K visible ones, Z
latent.
"""

from __future__ import annotations

import torch

from .interpolation import linear_fill, spline_fill


def fill_latents(
    latent_BKZ: torch.Tensor,
    keep_BK: torch.Tensor,
    tokens: int,
    n_patches: int,
    places_m: torch.Tensor | None,
) -> torch.Tensor:
    """Latents of all `tokens`, `[B, L, Z]` fp32: visible ones as given, hidden ones interpolated.

    keep int64 `[B, K]`; places_m `[C, 3]` metres, None: along time only (joint tokens).
    """
    B, _, Z = latent_BKZ.shape
    C = tokens // n_patches
    latent_BKZ = latent_BKZ.float()
    index = keep_BK[..., None].expand_as(latent_BKZ)
    grid_BCNZ = (
        latent_BKZ.new_zeros(B, tokens, Z).scatter(1, index, latent_BKZ).unflatten(1, (C, -1))
    )
    hidden_BCN = torch.ones(B, tokens, dtype=torch.bool, device=keep_BK.device)
    hidden_BCN = hidden_BCN.scatter(1, keep_BK, False).unflatten(1, (C, -1))
    with torch.autocast(keep_BK.device.type, enabled=False):
        # A row of its own for each dimension: a fill joins the values along a row.
        rows = grid_BCNZ.transpose(2, 3).flatten(1, 2)
        lines = linear_fill(rows, places_m, hidden_BCN.repeat_interleave(Z, dim=1))
        filled_BCNZ = lines.unflatten(1, (C, Z)).transpose(2, 3)
        if places_m is not None:
            spline = spline_fill(grid_BCNZ.flatten(2), places_m, hidden_BCN).view_as(grid_BCNZ)
            blind = hidden_BCN.all(1)[:, None, :, None]
            filled_BCNZ = torch.where(blind, filled_BCNZ, spline)
    return filled_BCNZ.flatten(1, 2)
