"""Where a token is: fixed sin/cos of its patch's time, Fourier features of its electrode's place.

Both are functions of physical quantities, not tables, so that any montage and any length fit one
network. Computed in fp32 and cast by the caller.
"""

from __future__ import annotations

import math

import torch

FOURIER_OCTAVES = 4
FOURIER_FEATURES = 3 * (2 * FOURIER_OCTAVES + 1)
HEAD_RADIUS_M = 0.1


def time_features(n_patches: int, width: int, device: torch.device | None = None) -> torch.Tensor:
    """Sin/cos of the patch index, `[N, width]` fp32 (Vaswani et al. 2017)."""
    index = torch.arange(n_patches, device=device, dtype=torch.float32)
    octave = torch.arange(width // 2, device=device, dtype=torch.float32) / (width // 2)
    angle = index[:, None] * torch.exp(-math.log(10_000.0) * octave)
    return torch.cat([angle.sin(), angle.cos()], dim=1)


def electrode_features(positions_m: torch.Tensor) -> torch.Tensor:
    """Coordinates and their sin/cos at 4 octaves, `[C, 3]` metres -> `[C, 27]` fp32.

    The longest period is 40 cm and the shortest 5 cm, about twice the spacing of a 64-channel cap.
    """
    unit = positions_m.float() / HEAD_RADIUS_M
    octaves = 2.0 ** torch.arange(FOURIER_OCTAVES, device=unit.device)
    angle = (unit[..., None] * octaves * (math.pi / 2)).flatten(-2)
    return torch.cat([unit, angle.sin(), angle.cos()], dim=-1)


def grid_positions(n_points: int = 128) -> torch.Tensor:
    """The canonical grid: `n_points` spread evenly over the part of the head that caps cover.

    A Fibonacci spiral from the vertex down to 20 degrees below the equator; `[n_points, 3]` metres.
    """
    index = torch.arange(n_points, dtype=torch.float64)
    lowest = -math.sin(math.radians(20.0))
    z = 1 - (1 - lowest) * (index + 0.5) / n_points
    angle = index * math.pi * (3 - math.sqrt(5.0))
    radius = (1 - z**2).sqrt()
    points = torch.stack([radius * angle.cos(), radius * angle.sin(), z], dim=1)
    return (HEAD_RADIUS_M * points).float()
