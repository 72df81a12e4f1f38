"""How the weights start: every module draws from a generator of its own.

The key is (seed, the module's name), so a module's first values depend on nothing else: not on
which other modules there are, nor on the order in which they are made. Two configurations that
differ in one switch (`beta = 0`, say) start from the same weights wherever they have the same
modules, and their difference is the switch's.
"""

from __future__ import annotations

import hashlib

import torch
from torch import nn


def named_generator(seed: int, name: str) -> torch.Generator:
    """A CPU generator keyed by (seed, name)."""
    digest = hashlib.blake2b(f"{seed} {name}".encode(), digest_size=8).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest, "little"))


def start_weights(model: nn.Module, seed: int) -> None:
    """Call `start(generator)` of every module that has one. Modules without (norms) keep the
    constants that torch gives them."""
    for name, module in model.named_modules():
        if hasattr(module, "start"):
            module.start(named_generator(seed, name))


@torch.no_grad()
def draw_normal(parameter: torch.Tensor, std: float, generator: torch.Generator) -> None:
    """Fill with normal numbers drawn on the CPU: the same on every device. On the meta device there
    is nothing to fill."""
    if not parameter.is_meta:
        parameter.copy_(
            torch.empty(parameter.shape, device="cpu").normal_(0.0, std, generator=generator)
        )
