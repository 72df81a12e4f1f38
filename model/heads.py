"""Small networks on an encoder's features."""

from __future__ import annotations

import torch
from torch import nn


class LinearHead(nn.Module):
    """Features `[B, D]` -> fp32 logits `[B, K]`. Starts at zero: every class is equally likely."""

    def __init__(self, features: int, classes: int):
        super().__init__()
        self.linear = nn.Linear(features, classes)
        nn.init.zeros_(self.linear.weight)
        nn.init.zeros_(self.linear.bias)

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        return self.linear(features.to(self.linear.weight.dtype)).float()
