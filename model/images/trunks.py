"""Small networks from a trial to one vector, for electrodes that all trials share: what an encoder
is compared with.

All see channels whitened by the training trials' covariance, after onset, through a linear map of
each person's own. The flat map is the strongest where responses come at one time; the convolution
where they come early or late, and more so where it aligns them.

Shapes: B trials, C channels, T samples after onset, F features.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ..transformer import Linear
from .alignment import Alignment

MAPS, FILTERS = 24, 48
KERNEL_S, STRIDE_S = 0.075, 0.010
LATER_STEPS, LATER_STRIDE = 7, 4


class PersonMap(nn.Module):
    """`[B, C, T]` -> x + A_p x, A_p `[C, C]` of each person; it starts at zero. Person 0: nobody
    known, whose map stays zero."""

    def __init__(self, people: int, channels: int):
        super().__init__()
        self.maps = nn.Parameter(torch.zeros(people, channels, channels))

    def forward(self, x: Tensor, person: Tensor) -> Tensor:
        if not len(self.maps):
            return x
        own = self.maps[(person - 1).clamp_min(0)] * (person > 0)[:, None, None]
        return x + own.to(x.dtype) @ x


class Whitened(nn.Module):
    """Trials `[B, C, all samples]` -> `[B, C, T]`: samples `first` to `last`, white between
    channels, then a person's map. The whitening matrix `[C, C]` is set once (`white`)."""

    def __init__(self, channels: int, people: int, first: int, last: int):
        super().__init__()
        self.first, self.last = first, last
        self.register_buffer("white", torch.eye(channels))
        self.person = PersonMap(people, channels)

    def forward(self, eeg: Tensor, person: Tensor) -> Tensor:
        x = self.white.float() @ eeg[..., self.first : self.last].float()
        return self.person(x.to(self.person.maps.dtype), person)


class FlatTrunk(nn.Module):
    """All samples of all channels, as they are: F = C x T."""

    def __init__(self, channels: int, people: int, first: int, last: int):
        super().__init__()
        self.whitened = Whitened(channels, people, first, last)
        self.features = channels * (last - first)

    def forward(self, eeg: Tensor, positions_m: Tensor, person: Tensor) -> Tensor:
        return self.whitened(eeg, person).flatten(1)


class ConvTrunk(nn.Module):
    """Spatial maps, then two layers of filters in time; `aligned`: with an alignment between."""

    def __init__(
        self, channels: int, people: int, first: int, last: int, sfreq_hz: float, aligned: bool
    ):
        super().__init__()
        self.whitened = Whitened(channels, people, first, last)
        self.space = Linear(channels, MAPS)
        self.kernel, self.stride = (max(1, round(s * sfreq_hz)) for s in (KERNEL_S, STRIDE_S))
        self.time = Linear(MAPS * self.kernel, FILTERS)
        steps = (last - first - self.kernel) // self.stride + 1
        self.align = Alignment(steps, FILTERS, self.stride / sfreq_hz) if aligned else None
        steps = self.align.length if aligned else steps
        self.later_steps = min(LATER_STEPS, steps)
        self.later = Linear(FILTERS * self.later_steps, FILTERS)
        self.features = FILTERS * ((steps - self.later_steps) // LATER_STRIDE + 1)

    def forward(self, eeg: Tensor, positions_m: Tensor, person: Tensor) -> Tensor:
        maps = self.space(self.whitened(eeg, person).mT)
        x = nn.functional.gelu(self.time(maps.unfold(1, self.kernel, self.stride).flatten(2)))
        x = x if self.align is None else self.align(x)
        x = nn.functional.gelu(self.later(x.unfold(1, self.later_steps, LATER_STRIDE).flatten(2)))
        return x.flatten(1)
