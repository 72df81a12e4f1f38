"""The closed-form fill that a model's output is added to: chosen by `baseline`, in one place.

A fill takes eeg `[B, C, T]`, positions `[C, 3]` in metres and hidden bool `[B, C, N]`, looks at
visible samples only, and gives `[B, C, T]` in eeg's dtype, visible samples unchanged.
"""

from __future__ import annotations

from collections.abc import Callable

import torch

from .config import ModelConfig
from .interpolation import linear_fill, spline_fill

Fill = Callable[[torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor]
FILLS: dict[str, Fill] = {"spline": spline_fill, "linear": linear_fill}


def fill_of(config: ModelConfig) -> Fill | None:
    """The fill that `config.baseline` names; None for `none`.

    A mask of joint tokens hides all channels at once, where nothing can be interpolated in space:
    there every fill is the straight line in time that it falls back to.
    """
    if config.baseline == "none":
        return None
    return linear_fill if config.tokens == "joint" else FILLS[config.baseline]
