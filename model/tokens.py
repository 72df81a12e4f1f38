"""What a token is: one channel's patch, or one moment of all channels. Everything that differs
between the two is here, and nothing that has parameters. And where a token is: fixed sin/cos of its
patch's time, Fourier features of its electrode's place.

Both embeddings are functions of physical quantities, not tables, so that any montage and any length
fit one network. Computed in fp32 and cast by the caller.

Shapes: B windows, C channels, T samples, N patches in time, P samples in a patch, L = all tokens
(C x N; `joint`: N), K visible tokens, M hidden ones.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from typing import Protocol

import torch
from torch import Tensor

from .interpolation import FILLS, head_directions, linear_fill, spline_matrix

FOURIER_OCTAVES = 4
FOURIER_FEATURES = 3 * (2 * FOURIER_OCTAVES + 1)
HEAD_RADIUS_M = 0.1
GRID_CHANNELS = 128


def time_features(n_patches: int, width: int, device: torch.device | None = None) -> Tensor:
    """Sin/cos of the patch index, `[N, width]` fp32 (Vaswani et al. 2017)."""
    index = torch.arange(n_patches, device=device, dtype=torch.float32)
    octave = torch.arange(width // 2, device=device, dtype=torch.float32) / (width // 2)
    angle = index[:, None] * torch.exp(-math.log(10_000.0) * octave)
    return torch.cat([angle.sin(), angle.cos()], dim=1)


def electrode_features(positions_m: Tensor) -> Tensor:
    """Coordinates and their sin/cos at 4 octaves, `[C, 3]` metres -> `[C, 27]` fp32.

    The longest period is 40 cm and the shortest 5 cm, about twice the spacing of a 64-channel cap.
    """
    unit = positions_m.float() / HEAD_RADIUS_M
    octaves = 2.0 ** torch.arange(FOURIER_OCTAVES, device=unit.device)
    angle = (unit[..., None] * octaves * (math.pi / 2)).flatten(-2)
    return torch.cat([unit, angle.sin(), angle.cos()], dim=-1)


def grid_positions(n_points: int = GRID_CHANNELS) -> Tensor:
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


def take(x_BLP: Tensor, index_BK: Tensor) -> Tensor:
    """Rows of each window: `[B, L, P]`, `[B, K]` -> `[B, K, P]`."""
    return x_BLP.gather(1, index_BK[..., None].expand(-1, -1, x_BLP.shape[-1]))


class Settings(Protocol):
    """What tokens read of a `ModelConfig`."""

    tokens: str
    patch_samples: int
    baseline: str


class Tokens(Protocol):
    """How windows become tokens and tokens windows. Token = row of the mask * N + patch."""

    one_row: bool
    """Whether a mask has one row for all channels, instead of one for each."""
    patch_samples: int

    @property
    def values(self) -> int:
        """Numbers in a token."""

    def rows(self, channels: int) -> int:
        """Rows of a mask."""

    def count(self, channels: int, samples: int) -> int:
        """Tokens of a window."""

    def to(self, device: torch.device) -> Tokens:
        """The same, with what it holds on `device`."""

    def prepare(self, eeg: Tensor, positions_m: Tensor) -> tuple[Tensor, Tensor]:
        """The signal that is cut and its places: eeg `[B, C, T]` in fp32, whole patches;
        positions_m `[C, 3]` metres. C is then GRID_CHANNELS for joint tokens."""

    def prepare_flops(self, channels: int, samples: int) -> float:
        """Operations of `prepare` for one window."""

    def cut(self, eeg: Tensor) -> Tensor:
        """`[B, C, T]` as prepared -> `[B, L, values]`."""

    def join(self, tokens: Tensor, n_patches: int) -> Tensor:
        """The inverse of `cut`."""

    def indices(self, hidden: Tensor) -> tuple[Tensor, Tensor]:
        """keep `[B, K]` and hide `[B, M]`, ascending int64, of a mask, bool `[B, C, N]` or
        `[B, rows, N]`. ValueError where windows hide different numbers of patches, none or all, or
        joint tokens a part of a column."""

    def hidden(self, hide: Tensor, channels: int, n_patches: int) -> Tensor:
        """The mask, bool `[B, C, N]`, of hide `[B, M]`."""

    def fill(self, eeg: Tensor, positions_m: Tensor, hidden: Tensor) -> Tensor:
        """The configured baseline, on the prepared signal: see model/interpolation.py."""

    def electrodes(self, positions_m: Tensor) -> Tensor | None:
        """The places between which tokens of one patch can be interpolated; None: there is one."""

    def back(self, eeg: Tensor, positions_m: Tensor) -> Tensor:
        """From the prepared signal's places to those of the recording, `[C, 3]`."""


@dataclass(frozen=True)
class ChannelTokens:
    """A token is one channel x one patch. See `Tokens`."""

    patch_samples: int
    baseline: str
    one_row = False

    @classmethod
    def of(cls, config: Settings) -> ChannelTokens:
        return cls(config.patch_samples, config.baseline)

    @property
    def values(self) -> int:
        return self.patch_samples

    def rows(self, channels: int) -> int:
        return channels

    def count(self, channels: int, samples: int) -> int:
        return channels * (samples // self.patch_samples)

    def to(self, device: torch.device) -> ChannelTokens:
        return self

    def prepare(self, eeg: Tensor, positions_m: Tensor) -> tuple[Tensor, Tensor]:
        return _whole_patches(eeg, self.patch_samples), positions_m

    def prepare_flops(self, channels: int, samples: int) -> float:
        return 0.0

    def cut(self, eeg: Tensor) -> Tensor:
        return eeg.unflatten(-1, (-1, self.patch_samples)).flatten(1, 2)

    def join(self, tokens: Tensor, n_patches: int) -> Tensor:
        return tokens.unflatten(1, (-1, n_patches)).flatten(2)

    def indices(self, hidden: Tensor) -> tuple[Tensor, Tensor]:
        return _indices(hidden)

    def hidden(self, hide: Tensor, channels: int, n_patches: int) -> Tensor:
        return _mask(hide, channels, n_patches)

    def fill(self, eeg: Tensor, positions_m: Tensor, hidden: Tensor) -> Tensor:
        return FILLS[self.baseline](eeg, positions_m, hidden)

    def electrodes(self, positions_m: Tensor) -> Tensor | None:
        return positions_m

    def back(self, eeg: Tensor, positions_m: Tensor) -> Tensor:
        return eeg


@dataclass(frozen=True)
class JointTokens:
    """A token is one patch of all channels, interpolated to a grid of 128 places. See `Tokens`.

    A mask hides all channels at once, where nothing can be interpolated in space: every fill is the
    straight line in time that it falls back to.
    """

    patch_samples: int
    grid_m: Tensor = field(default_factory=grid_positions)
    one_row = True

    @classmethod
    def of(cls, config: Settings) -> JointTokens:
        return cls(config.patch_samples)

    @property
    def values(self) -> int:
        return GRID_CHANNELS * self.patch_samples

    def rows(self, channels: int) -> int:
        return 1

    def count(self, channels: int, samples: int) -> int:
        return samples // self.patch_samples

    def to(self, device: torch.device) -> JointTokens:
        return replace(self, grid_m=self.grid_m.to(device))

    def prepare(self, eeg: Tensor, positions_m: Tensor) -> tuple[Tensor, Tensor]:
        eeg = _whole_patches(eeg, self.patch_samples)
        grid_m = self.grid_m.to(eeg.device)
        return spline_matrix(head_directions(grid_m), head_directions(positions_m)) @ eeg, grid_m

    def prepare_flops(self, channels: int, samples: int) -> float:
        return 2.0 * GRID_CHANNELS * channels * samples

    def cut(self, eeg: Tensor) -> Tensor:
        return eeg.unflatten(-1, (-1, self.patch_samples)).transpose(1, 2).flatten(2)

    def join(self, tokens: Tensor, n_patches: int) -> Tensor:
        return tokens.unflatten(-1, (-1, self.patch_samples)).transpose(1, 2).flatten(2)

    def indices(self, hidden: Tensor) -> tuple[Tensor, Tensor]:
        if not (hidden == hidden[:, :1]).all():
            raise ValueError("joint tokens: a patch is hidden on all channels or on none")
        return _indices(hidden[:, :1])

    def hidden(self, hide: Tensor, channels: int, n_patches: int) -> Tensor:
        return _mask(hide, 1, n_patches).expand(-1, channels, -1)

    def fill(self, eeg: Tensor, positions_m: Tensor, hidden: Tensor) -> Tensor:
        return linear_fill(eeg, positions_m, hidden)

    def electrodes(self, positions_m: Tensor) -> Tensor | None:
        return None

    def back(self, eeg: Tensor, positions_m: Tensor) -> Tensor:
        grid_m = self.grid_m.to(eeg.device)
        return spline_matrix(head_directions(positions_m), head_directions(grid_m)) @ eeg


TOKENS: dict[str, type[ChannelTokens] | type[JointTokens]] = {
    "channel": ChannelTokens,
    "joint": JointTokens,
}


def tokens_of(config: Settings) -> Tokens:
    """What `config.tokens` names."""
    return TOKENS[config.tokens].of(config)


def _whole_patches(eeg: Tensor, patch_samples: int) -> Tensor:
    return eeg[..., : eeg.shape[-1] // patch_samples * patch_samples].float()


def _indices(hidden: Tensor) -> tuple[Tensor, Tensor]:
    flat = hidden.flatten(1)
    count = int(flat[0].sum())
    if not (flat.sum(1) == count).all() or not 0 < count < flat.shape[1]:
        raise ValueError("every window must hide the same number of patches: some, not all")
    order = flat.int().argsort(dim=1, stable=True)
    return order[:, :-count].contiguous(), order[:, -count:].contiguous()


def _mask(hide: Tensor, rows: int, n_patches: int) -> Tensor:
    flat = torch.zeros(len(hide), rows * n_patches, dtype=torch.bool, device=hide.device)
    return flat.scatter(1, hide, True).unflatten(1, (rows, n_patches))
