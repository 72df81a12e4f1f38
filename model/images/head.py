"""From a trunk's vector to an embedding, and how well it names the picture among all of a table.

The image side is frozen, so every rank holds the embeddings of all training pictures and the loss
is a softmax over all of them: no gathering, and the same value for any micro-batch and any number
of ranks. 16,540 pictures are 17 MB of logits at a micro-batch of 256.

Shapes: B trials, F features of a trunk, E embedding, P pictures.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..transformer import Linear

LARGEST_SCALE = 100.0
FIRST_TEMPERATURE = 0.07


class Projector(nn.Module):
    """`[B, F]` -> `[B, E]`, through one residual block. keep `[B, hidden]`: the block's dropout, by
    which it is multiplied; drawn outside, so that it depends on a trial's place in the order alone.
    """

    def __init__(self, features: int, hidden: int, embedding: int):
        super().__init__()
        self.into = Linear(features, hidden)
        self.block = Linear(hidden, hidden)
        self.norm = nn.LayerNorm(hidden)
        self.out = Linear(hidden, embedding)

    def forward(self, features: Tensor, keep: Tensor | None = None) -> Tensor:
        x = self.into(features)
        block = self.block(F.gelu(x))
        return self.out(self.norm(x + (block if keep is None else block * keep.to(block.dtype))))


class Retriever(nn.Module):
    """Trials -> unit vectors in the space of pictures. `projected`: the pictures' embeddings pass
    a learned linear map to so many numbers, which leaves out what EEG cannot tell; 0: as they are.
    """

    def __init__(self, trunk: nn.Module, embedding: int, hidden: int, projected: int):
        super().__init__()
        self.trunk = trunk
        self.projector = Projector(trunk.features, hidden, projected or embedding)
        self.image_map = Linear(embedding, projected) if projected else None
        self.log_scale = nn.Parameter(torch.full((1,), math.log(1 / FIRST_TEMPERATURE)))

    def forward(
        self, eeg: Tensor, positions_m: Tensor, person: Tensor, keep: Tensor | None = None,
        table: Tensor | None = None,
    ) -> Tensor:  # fmt: skip
        """fp32 `[B, E]`, unit length; with a table `[P, E]` the logits `[B, P]`. eeg `[B, C, T]`;
        person int64 `[B]`, 0: unknown."""
        dtype = self.projector.out.weight.dtype
        features = self.trunk(eeg, positions_m, person).to(dtype)
        z = F.normalize(self.projector(features, keep).float(), dim=-1)
        return z if table is None else self.logits(z, table)

    def pictures(self, table: Tensor) -> Tensor:
        """fp32 `[P, E]` of unit vectors -> `[P, projected]`, unit length."""
        if self.image_map is None:
            return table
        return F.normalize(self.image_map(table.to(self.image_map.weight.dtype)).float(), dim=-1)

    def logits(self, z: Tensor, table: Tensor) -> Tensor:
        """fp32 `[B, P]`."""
        scale = self.log_scale.float().clamp_max(math.log(LARGEST_SCALE)).exp()
        return scale * z @ self.pictures(table).mT


def centred(embeddings: Tensor, mean: Tensor) -> Tensor:
    """Unit vectors `[P, E]` of what differs from the training pictures' mean."""
    return F.normalize(embeddings.float() - mean.float(), dim=-1)
