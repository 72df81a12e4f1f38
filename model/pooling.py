"""From a window's tokens to one vector: what a classifier reads of a frozen encoder.

A mean over all tokens is nearly blind to places and to how a rhythm's amplitude varies; by channel
it keeps places and needs one montage. Covariances of tokens between channels are to the encoder
what those of band-passed signals are to the signal: a group of the tokens' leading directions is a
band that was learnt. Each direction is scaled to one variance first: else the slowest rhythm is all
that a covariance shows. On EEGMAT this is worth .1 of AUROC over means by channel (docs/worth.md).

Shapes: B windows, C channels, N patches in time, D width, Z latent dimensions.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from .networks import Encoder
from .tokens import tokens_of


@dataclass(frozen=True)
class ByChannel:
    """An encoder's outputs, fp32: tokens `[B, C, N, D]` before the bottleneck, and the means of
    their latents `[B, C, N, Z]`. `joint` tokens have one row in place of C."""

    tokens: Tensor
    latents: Tensor

    def cpu(self) -> ByChannel:
        return ByChannel(self.tokens.cpu(), self.latents.cpu())


@dataclass(frozen=True)
class Pool:
    """`columns`: ByChannel -> `[B, columns]`. `places`: columns belong to channels, so that all
    windows need one montage."""

    meaning: str
    columns: Callable[[ByChannel], Tensor]
    places: bool


def _mean(out: ByChannel) -> Tensor:
    return out.tokens.mean((1, 2))


def _mean_std(out: ByChannel) -> Tensor:
    return torch.cat([_mean(out), _std(out.tokens).mean(1)], 1)


def _channel(out: ByChannel) -> Tensor:
    return out.latents.mean(2).flatten(1)


def _channel_std(out: ByChannel) -> Tensor:
    return torch.cat([out.latents.mean(2), _std(out.latents)], 2).flatten(1)


def _std(x: Tensor) -> Tensor:
    """Over time; 0 of a single patch."""
    return x.std(2, correction=0)


POOLS = {
    "mean": Pool("mean token", _mean, False),
    "mean_std": Pool("mean token, and its deviation in time", _mean_std, False),
    "channel": Pool("mean latent of each channel", _channel, True),
    "channel_std": Pool("mean latent of each channel, and its deviation", _channel_std, True),
}
"""Of which each window's result depends on that window alone."""
COVARIANCE = "covariance"
"""Covariances between channels along groups of the tokens' leading directions (`leading`,
`covariances`), which are found on training windows."""
LEAST_VARIANCE = 1e-12
COLLAPSED = 1e-4
"""Deviation of a feature over windows, relative to its size, below which it is the same for all."""


def by_channel(encoder: Encoder, eeg: Tensor, positions_m: Tensor) -> ByChannel:
    """The outputs of an encoder, nothing hidden; gradients flow. eeg `[B, C, T]`, robust units;
    positions_m `[C, 3]` metres; on its device."""
    cutter = tokens_of(encoder.config)
    rows, count = cutter.rows(eeg.shape[1]), eeg.shape[-1] // encoder.config.patch_samples
    eeg, positions_m = cutter.prepare(eeg, positions_m)
    tokens, latents, _ = encoder(cutter.cut(eeg), positions_m, count)
    shape = (len(eeg), rows, count, -1)
    return ByChannel(tokens.float().view(shape), latents.view(shape))


def states_by_channel(encoder: Encoder, eeg: Tensor, positions_m: Tensor) -> Iterator[Tensor]:
    """Tokens `[B, C, N, D]` as they enter the first block, leave each block but the last, and leave
    the encoder: depth + 1 of them, one after another."""
    cutter = tokens_of(encoder.config)
    rows, count = cutter.rows(eeg.shape[1]), eeg.shape[-1] // encoder.config.patch_samples
    eeg, positions_m = cutter.prepare(eeg, positions_m)
    for state in encoder.stack.states(encoder.embedded(cutter.cut(eeg), positions_m, count)):
        yield state.view(len(eeg), rows, count, -1)


def same_for_all(features: np.ndarray) -> bool:
    """Whether features `[B, D]` of windows that differ do not, or are not finite: of an encoder
    that collapsed in training, or of a damaged file."""
    size = np.abs(features).mean()
    return not np.isfinite(features).all() or features.std(0).max() <= COLLAPSED * size


def leading(tokens: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """(mean `[D]`, directions `[D, count]`) of the most variance of tokens `[B, C, N, D]`, fp64,
    each scaled so that tokens have variance 1 along it; fewer where D is smaller."""
    rows = tokens.flatten(0, 2).double()
    mean = rows.mean(0)
    centred = rows - mean
    values, vectors = torch.linalg.eigh(centred.T @ centred / len(rows))
    order = values.argsort(descending=True)[:count]
    return mean, vectors[:, order] / values[order].clamp_min(LEAST_VARIANCE).sqrt()


def covariances(tokens: Tensor, mean: Tensor, directions: Tensor, groups: int = 1) -> Tensor:
    """fp64 `[B, groups, C, C]`: second moments between channels of tokens `[B, C, N, D]`, over time
    and over the directions of each of so many equal groups, in their order."""
    along = (tokens.double() - mean) @ directions
    parts = along.unflatten(-1, (groups, -1)).permute(0, 3, 1, 2, 4).flatten(3)
    return parts @ parts.mT / parts.shape[-1]
