"""How much the latents vary from window to window, and how much only from place to place.

A latent that says where its token lies, and nothing about the window, varies over tokens all the
same. So the variance is taken over windows at one place (one electrode, one patch in time) of one
montage, and set against the variance over everything.

Shapes: B windows, K visible tokens of L, Z latent dimensions.
"""

from __future__ import annotations

import torch

ACTIVE_VARIANCE = 0.01  # Burda et al. 2016, importance-weighted autoencoders


def spread_sums(mean_BKZ: torch.Tensor, keep_BK: torch.Tensor, tokens: int) -> torch.Tensor:
    """What adds up over parts: fp64 `[5, Z]` of the latent means of windows of one montage.

    keep int64 `[B, K]`: the token of each latent, of `tokens`. Rows: squared deviations from the
    mean at a place, their degrees of freedom, number of values, their sum, their sum of squares.
    """
    values = mean_BKZ.flatten(0, 1).double()
    place = keep_BK.flatten()
    ones = torch.ones_like(values[:, :1])
    count = ones.new_zeros(tokens, 1).index_add(0, place, ones)
    total = values.new_zeros(tokens, values.shape[1]).index_add(0, place, values)
    deviation = values - (total / count.clamp_min(1))[place]
    degrees = (count - 1).clamp_min(0).sum()
    counted = torch.stack([degrees, degrees.new_tensor(len(values))])
    return torch.stack(
        [
            deviation.square().sum(0),
            counted[0].expand(values.shape[1]),
            counted[1].expand(values.shape[1]),
            values.sum(0),
            values.square().sum(0),
        ]
    )


def spread(sums: torch.Tensor) -> dict[str, float]:
    """Of sums over parts (or any multiple of them: means over ranks do).

    `latent/window_variance`: variance over windows at a place, mean over dimensions.
    `latent/window_share`: its share of the variance over windows and places together.
    `latent/active_share`: share of the dimensions whose variance over windows exceeds 0.01.
    Empty where no place was visible in two windows of a part.
    """
    squares, degrees, count, total, total_squares = sums
    if not degrees[0] > 0:
        return {}
    between = squares / degrees
    everything = total_squares / count - (total / count).square()
    return {
        "latent/window_variance": between.mean().item(),
        "latent/window_share": (between.mean() / everything.mean().clamp_min(1e-12)).item(),
        "latent/active_share": (between > ACTIVE_VARIANCE).double().mean().item(),
    }
