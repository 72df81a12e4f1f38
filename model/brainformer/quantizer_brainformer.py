"""Mu-law levels: fine near zero, coarse at the range's ends, and zero is exactly a level.

Ids 0, 1, 2 are PAD, BOS, EOS; a level's id is its number plus 3. With 255 levels and mu = 255 a
level is 0.17 % of the range wide at zero and 4.3 % at the ends.
"""

from __future__ import annotations

import math

import torch

PAD_ID, BOS_ID, EOS_ID = 0, 1, 2
SPECIAL_IDS = 3


class MuLawQuantizer:
    """Between scaled signals and ids. Values beyond `value_range` take the outermost level.

    `decode(encode(x))` is off by at most half a level; `encode(decode(ids))` is `ids`.
    """

    def __init__(self, levels: int = 255, mu: float = 255.0, value_range: float = 10.0):
        self.levels, self.mu, self.value_range = levels, mu, value_range

    @property
    def vocabulary(self) -> int:
        return self.levels + SPECIAL_IDS

    def encode(self, signal: torch.Tensor) -> torch.Tensor:
        """Scaled signal of any shape -> int64 ids in [3, levels + 2]. NaN is an error."""
        if torch.isnan(signal).any():
            raise ValueError("NaN in the signal to quantize: mask or drop those samples first")
        return self.to_ids(signal)

    def to_ids(self, signal: torch.Tensor) -> torch.Tensor:
        """`encode` without its check, which would make a GPU wait at each training step."""
        unit = (signal.float() / self.value_range).clamp(-1, 1)
        bent = unit.sign() * torch.log1p(self.mu * unit.abs()) / math.log1p(self.mu)
        return torch.round((bent + 1) / 2 * (self.levels - 1)).long() + SPECIAL_IDS

    def decode(self, ids: torch.Tensor) -> torch.Tensor:
        """Ids of levels -> fp32 scaled signal. PAD, BOS and EOS stand for no value: an error."""
        if (ids < SPECIAL_IDS).any() or (ids >= self.vocabulary).any():
            raise ValueError(f"ids to decode must lie in [{SPECIAL_IDS}, {self.vocabulary - 1}]")
        return self._expand(ids.float() - SPECIAL_IDS)

    def level_values(self, device: torch.device | None = None) -> torch.Tensor:
        """Each level's value, `[levels]` fp32, rising."""
        return self._expand(torch.arange(self.levels, device=device, dtype=torch.float32))

    def level_widths(self, device: torch.device | None = None) -> torch.Tensor:
        """How much of the range each level stands for, `[levels]` fp32."""
        edges = torch.arange(self.levels + 1, device=device, dtype=torch.float32) - 0.5
        return self._expand(edges).diff()

    def _expand(self, number: torch.Tensor) -> torch.Tensor:
        bent = number * 2 / (self.levels - 1) - 1
        size = torch.expm1(bent.abs() * math.log1p(self.mu)) / self.mu
        return bent.sign() * size * self.value_range
