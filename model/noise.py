"""Normal noise from counters: the same numbers on every device, rank, world size and torch version.

The latent of a sample must be drawn the same way wherever that sample is trained, or a run that is
resumed on other hardware changes. A hash of (seed, sample position, element) costs some twenty
elementwise operations, which vanish beside a transformer; torch's generators would tie the noise to
the rank and the device.
"""

from __future__ import annotations

import math

import torch

_MASK = 0xFFFFFFFF


def _hash32(x: torch.Tensor) -> torch.Tensor:
    """A 32-bit integer hash with low bias (constants: Wellons, "hash prospector", 2018)."""
    x = (x ^ (x >> 16)) & _MASK
    x = (x * 0x7FEB352D) & _MASK
    x = (x ^ (x >> 15)) * 0x846CA68B & _MASK
    return x ^ (x >> 16)


def normal_noise(seed: int, position: torch.Tensor, shape: tuple[int, ...]) -> torch.Tensor:
    """Standard normal noise, `[B, *shape]` fp32.

    position: int64 `[B]`, each sample's place in the stream of samples. Element e of sample p is a
    function of (seed, p, e) alone (Box-Muller on two hashes).
    """
    count = math.prod(shape)
    element = _hash32(torch.arange(count, device=position.device) + (seed & 0xFFFF) * 0x9E3779B1)
    low, high = position & _MASK, position >> 32
    sample = _hash32(_hash32(low + (seed & _MASK)) ^ (_hash32(high + (seed >> 32)) + 0x85EBCA6B))
    first = _hash32(sample[:, None] ^ element)
    second = _hash32((first + 0x9E3779B9) & _MASK)
    radius = (-2.0 * torch.log((first.float() + 0.5) / 2.0**32).clamp_max(0.0)).sqrt()
    noise = radius * torch.cos(second.float() * (2 * math.pi / 2.0**32))
    return noise.view(len(position), *shape)
