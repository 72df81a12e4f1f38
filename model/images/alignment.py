"""Features of a trial, read as late as its response came.

Responses come early or late from trial to trial (Woody 1967, Medical and Biological Engineering
5:539), and a linear map of fixed times smears them. Here windows of features at several delays are
weighted by how well each matches one learned template, which what all pictures evoke alike gives:
attention with one query over delays. On the simulated pictures, whose delays span 120 ms, this
takes single trials of the convolution from 35 to 66 % (docs/images.md).

Shapes: B trials, N steps in time, F features of a step, L steps of a window.
"""

from __future__ import annotations

from torch import Tensor, nn

from ..transformer import Linear

DELAYS, DELAY_S = 7, 0.02
"""Windows that are compared, and the time from one to the next."""


class Alignment(nn.Module):
    """`[B, N, F]` -> `[B, L, F]`: the mean of windows, weighted by their match. step_s: seconds of
    a step. Of few steps there are fewer delays."""

    def __init__(self, steps: int, features: int, step_s: float):
        super().__init__()
        self.stride = max(1, round(DELAY_S / step_s))
        delays = min(DELAYS, 1 + (steps - 1) // (2 * self.stride))
        self.length = steps - (delays - 1) * self.stride
        self.match = Linear(self.length * features, 1)

    def forward(self, x: Tensor) -> Tensor:
        windows = x.unfold(1, self.length, self.stride).transpose(2, 3)
        weight = self.match(windows.flatten(2)).float().softmax(1).to(x.dtype)
        return (windows * weight[..., None]).sum(1)
