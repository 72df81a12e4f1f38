"""Transformer blocks (pre-norm ViT).

Shapes: B batch, L tokens, D width.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.checkpoint import checkpoint

from .attention import attention
from .linear import Linear


class Block(nn.Module):
    """x + attention(norm(x)), then x + MLP(norm(x)). `[B, L, D]` -> `[B, L, D]`."""

    def __init__(self, width: int, heads: int, mlp_ratio: float):
        super().__init__()
        self.heads = heads
        self.norm1 = nn.LayerNorm(width)
        self.qkv = Linear(width, 3 * width)
        self.attention_out = Linear(width, width)
        self.norm2 = nn.LayerNorm(width)
        self.mlp_in = Linear(width, int(mlp_ratio * width))
        self.mlp_out = Linear(int(mlp_ratio * width), width)

    def forward(self, x_BLD: torch.Tensor) -> torch.Tensor:
        qkv = self.qkv(self.norm1(x_BLD)).unflatten(-1, (3, self.heads, -1))
        x_BLD = x_BLD + self.attention_out(attention(*qkv.unbind(2)).flatten(2))
        return x_BLD + self.mlp_out(F.gelu(self.mlp_in(self.norm2(x_BLD))))


class Stack(nn.Module):
    """`depth` blocks and a final norm. `recompute` trades a second forward pass for memory.

    What writes into the residual stream starts divided by sqrt(2 x depth), so that the sum over all
    blocks has the variance of one and deep presets start as calmly as shallow ones (Radford et al.
    2019, GPT-2).
    """

    def __init__(self, width: int, depth: int, heads: int, mlp_ratio: float):
        super().__init__()
        self.blocks = nn.ModuleList(Block(width, heads, mlp_ratio) for _ in range(depth))
        for block in self.blocks:
            block.attention_out.init_gain = block.mlp_out.init_gain = (2 * depth) ** -0.5
        self.norm = nn.LayerNorm(width)
        self.recompute = False

    def forward(self, x_BLD: torch.Tensor) -> torch.Tensor:
        for block in self.blocks:
            if self.recompute and torch.is_grad_enabled():
                x_BLD = checkpoint(block, x_BLD, use_reentrant=False)
            else:
                x_BLD = block(x_BLD)
        return self.norm(x_BLD)
