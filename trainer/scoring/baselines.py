"""What costs nothing: fills of hidden patches that need no training.

A reconstruction says something only beside these. On a dense montage a spherical spline over the
visible neighbours is hard to beat; where all channels are hidden at once nothing but interpolation
in time is left, and that fails after a few tens of milliseconds. Everything is computed in fp64.

A fill takes eeg `[B, C, T]`, positions_m `[C, 3]` metres and hidden bool `[B, C, N]`, and returns
fp64 `[B, C, T]` with visible samples as they were; it never looks at hidden ones. What has to be
fitted first is elsewhere: the Gaussian in trainer/scoring/gauss.py.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable

import numpy as np
import torch
from scipy.interpolate import CubicSpline

from model import interpolation
from trainer.scoring.scores import samples_of

Fill = Callable[[torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor]


def zero(eeg: torch.Tensor, positions_m: torch.Tensor, hidden: torch.Tensor) -> torch.Tensor:
    """0 everywhere: the mean of the signal."""
    del positions_m
    return eeg.double().masked_fill(samples_of(hidden, eeg.shape[-1]), 0.0)


def linear(eeg: torch.Tensor, positions_m: torch.Tensor, hidden: torch.Tensor) -> torch.Tensor:
    """Straight lines in time between a channel's visible samples; the ends are held. A channel
    that is never visible becomes 0."""
    return interpolation.linear_fill(eeg.double(), positions_m, hidden)


def cubic(eeg: torch.Tensor, positions_m: torch.Tensor, hidden: torch.Tensor) -> torch.Tensor:
    """The twice differentiable cubic spline in time through all visible samples of a channel.

    Before the first and after the last visible sample the value is held, where a cubic would run
    away. A channel that is never visible becomes 0.
    """
    del positions_m
    shape = eeg.shape
    seen = ~samples_of(hidden, shape[-1]).reshape(-1, shape[-1]).cpu().numpy()
    values = eeg.double().reshape(-1, shape[-1]).cpu().numpy().copy()
    # Rows with the same gaps share one factorisation.
    patterns, owner = np.unique(hidden.reshape(-1, hidden.shape[-1]).cpu().numpy(), axis=0,
                                return_inverse=True)  # fmt: skip
    order = np.argsort(owner, kind="stable")
    bounds = np.searchsorted(owner[order], np.arange(len(patterns) + 1))
    for start, stop in itertools.pairwise(bounds.tolist()):
        rows = order[start:stop]
        at, gaps = np.flatnonzero(seen[rows[0]]), np.flatnonzero(~seen[rows[0]])
        if not len(gaps):
            continue
        if not len(at):
            values[rows] = 0.0
        elif len(at) == 1:
            values[rows] = values[rows][:, at]
        else:
            known = values[np.ix_(rows, at)]
            values[np.ix_(rows, gaps)] = CubicSpline(at, known, axis=1)(gaps.clip(at[0], at[-1]))
    return torch.from_numpy(values).view(shape).to(eeg.device)


def spline(eeg: torch.Tensor, positions_m: torch.Tensor, hidden: torch.Tensor) -> torch.Tensor:
    """Spherical spline over the channels visible at that moment (Perrin et al. 1989, as MNE's
    `interpolate_bads` with the origin at 0); straight lines in time where none is visible."""
    return interpolation.spline_fill(eeg.double(), positions_m.double(), hidden)


def spline_of(alpha: float) -> Fill:
    """`spline` with another regularisation than MNE's."""

    def filled(eeg, positions_m, hidden):
        return interpolation.spline_fill(eeg.double(), positions_m.double(), hidden, alpha)

    return filled


BASELINES: dict[str, Fill] = {"spline": spline, "cubic": cubic, "linear": linear, "zero": zero}


def on_device(fill: Fill, device: torch.device) -> Fill:
    """A model's `reconstruct` or `baseline_fill` as a fill that takes and gives CPU tensors."""

    def filled(eeg, positions_m, hidden):
        return fill(eeg.to(device), positions_m.to(device), hidden.to(device)).cpu()

    return filled
