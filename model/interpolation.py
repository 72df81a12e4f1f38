"""Closed-form fills of hidden patches: what a network has to beat, and what it may start from.

`spline_fill` is spherical-spline interpolation (Perrin et al. 1989, with MNE's stiffness 4 and
alpha 1e-5) over the channels that are visible at that moment; `linear_fill` joins a channel's
visible ends in time. Both are batched for masks that differ between samples: one small Cholesky
factor for each patch in time, 32 x 32 to 128 x 128, in fp32 (within 1e-3 of fp64 on EEG; scores use
fp64). `respect_reference` makes any fill keep what is known of average-referenced EEG: its channels
sum to zero, so that the visible ones give the sum of the hidden ones away.

Every fill of `FILLS` takes eeg `[B, C, T]`, positions `[C, 3]` in metres and hidden bool
`[B, C, N]`, looks at visible samples only, and gives `[B, C, T]` in eeg's dtype, visible samples
unchanged. `fill_latents` does the same to the latents of tokens.

Shapes: B batch, C channels, T samples, N patches of P samples; L = all tokens, K visible ones, Z
latent.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch

STIFFNESS = 4
ALPHA = 1e-5
LEGENDRE_TERMS = 50


def spline_kernel(unit_to: torch.Tensor, unit_from: torch.Tensor) -> torch.Tensor:
    """Perrin's g for every pair of directions (`head_directions`), `[C_to, 3]`, `[C_from, 3]` ->
    `[C_to, C_from]`, in their dtype."""
    cosine = (unit_to @ unit_from.T).clamp(-1.0, 1.0)
    before, current = torch.ones_like(cosine), cosine
    total = torch.zeros_like(cosine)
    for n in range(1, LEGENDRE_TERMS + 1):
        total = total + (2 * n + 1) / (n**STIFFNESS * (n + 1) ** STIFFNESS) * current
        before, current = current, ((2 * n + 1) * cosine * current - n * before) / (n + 1)
    return total / (4 * math.pi)


def head_directions(places_m: torch.Tensor) -> torch.Tensor:
    """Places `[C, 3]` as unit vectors from the centre of the sphere that fits them."""
    return torch.nn.functional.normalize(places_m - sphere_centre(places_m), dim=-1)


def sphere_centre(places_m: torch.Tensor) -> torch.Tensor:
    """Centre of the sphere that fits places `[C, 3]` best, metres, in their dtype.

    Least squares with a weak pull towards 4 cm above the head frame's origin, where the centre of a
    head lies: a few electrodes on one side do not determine a sphere.
    """
    # Filled on the device: a tensor made of Python numbers is a copy that the host waits for.
    usual = torch.zeros(3, dtype=torch.float64, device=places_m.device)
    usual[2].fill_(0.04)
    scaled = (places_m.double() - usual) / 0.1
    # |x - c|^2 = r^2 is linear in (c, r^2 - |c|^2).
    design = torch.cat([2 * scaled, torch.ones_like(scaled[:, :1])], dim=1)
    pulled = torch.ones(4, dtype=torch.float64, device=places_m.device)
    pulled[3].fill_(0.0)
    pull = torch.diag(pulled * 1e-3 * len(scaled))
    right = design.T @ scaled.square().sum(1, keepdim=True)
    solved, _ = torch.linalg.solve_ex(design.T @ design + pull, right)
    return (usual + 0.1 * solved[:3, 0]).to(places_m.dtype)


def spline_matrix(unit_to: torch.Tensor, unit_from: torch.Tensor) -> torch.Tensor:
    """The matrix that interpolates from directions `unit_from` to `unit_to` (`head_directions`).

    `[C_to, C_from]`, in the inputs' device and fp32; computed in fp64.
    """
    # One call for both: its many small kernels take the host's time, not the device's.
    both = torch.cat([unit_to, unit_from]).double()
    g_to, g_from = spline_kernel(both, unit_from.double()).split([len(unit_to), len(unit_from)])
    count = len(unit_from)
    system = torch.ones(count + 1, count + 1, dtype=torch.float64, device=unit_from.device)
    system[:count, :count] = g_from + ALPHA * torch.eye(count, device=unit_from.device).double()
    system[count, count].fill_(0.0)  # `= 0.0` is a copy that the host waits for
    rows = torch.cat([g_to, torch.ones_like(g_to[:, :1])], dim=1)
    inverse, _ = torch.linalg.inv_ex(system)  # the _ex forms do not wait for the device
    return (rows @ inverse[:, :count]).float()


def respect_reference(filled: torch.Tensor, hidden: torch.Tensor) -> torch.Tensor:
    """The nearest fill whose channels sum to zero at every moment.

    filled `[B, C, T]`, hidden bool `[B, C, N]`. The hidden channels of a moment are shifted by one
    constant (the least-squares projection); visible samples, and moments without hidden ones, stay.
    Only for EEG that is referenced to the average of these very channels: `sums_to_zero`.
    """
    hidden_T = hidden.repeat_interleave(filled.shape[-1] // hidden.shape[-1], dim=-1)
    shift = filled.sum(-2, keepdim=True) / hidden_T.sum(-2, keepdim=True).clamp_min(1)
    return torch.where(hidden_T, filled - shift, filled)


def sums_to_zero(eeg: torch.Tensor) -> bool:
    """Whether the channels of `[B, C, T]` sum to zero but for rounding to fp16 and single clipped
    samples: the median moment's mean is below 1 % of the signal's size."""
    if eeg.shape[-2] < 2:
        return False
    size = eeg.square().mean().sqrt()
    return bool(eeg.mean(-2).abs().median() < 0.01 * size)


def referenced_spline_fill(
    eeg: torch.Tensor, positions_m: torch.Tensor, hidden: torch.Tensor
) -> torch.Tensor:
    """`spline_fill` of average-referenced EEG, which `respect_reference` makes of it."""
    return respect_reference(spline_fill(eeg, positions_m, hidden), hidden)


def spline_fill(
    eeg: torch.Tensor,
    positions_m: torch.Tensor,
    hidden: torch.Tensor,
    alpha: float = ALPHA,
) -> torch.Tensor:
    """Fill hidden patches from the channels visible at that time.

    eeg `[B, C, T]` (values under the mask are not looked at), positions_m `[C, 3]` metres, hidden
    bool `[B, C, N]`. alpha: the regularisation, MNE's unless it was chosen otherwise. Where no
    channel is visible the fill is `linear_fill`'s. Visible samples come back unchanged. Computed in
    eeg's dtype, fp32 or fp64.
    """
    B, C, T = eeg.shape
    N = hidden.shape[2]
    visible_BNC = (~hidden).transpose(1, 2).to(eeg.dtype)
    data_BNCP = eeg.view(B, C, N, T // N).permute(0, 2, 1, 3) * visible_BNC[..., None]
    directions = head_directions(positions_m.to(eeg.dtype))
    g = spline_kernel(directions, directions)
    outer = visible_BNC[..., :, None] * visible_BNC[..., None, :]
    # Hidden channels get a 1 on the diagonal and nothing else: they drop out of the solution.
    system = outer * g + torch.diag_embed(visible_BNC * alpha + (1 - visible_BNC))
    factor, _ = torch.linalg.cholesky_ex(system)
    right = torch.cat([data_BNCP, visible_BNC[..., None]], dim=-1)
    solved = torch.cholesky_solve(right, factor)
    weights, ones = solved[..., :-1], solved[..., -1:]
    # The constant term that makes the weights sum to zero (Perrin et al. 1989, eq. 2).
    sum_ones = ones.sum(-2, keepdim=True)
    constant = weights.sum(-2, keepdim=True) / torch.where(sum_ones > 0, sum_ones, 1.0)
    filled = g @ (weights - constant * ones) + constant
    filled = filled.permute(0, 2, 1, 3).reshape(B, C, T)
    hidden_T = hidden.repeat_interleave(T // N, dim=2)
    blind_T = hidden.all(1, keepdim=True).repeat_interleave(T // N, dim=2)
    filled = torch.where(blind_T, linear_fill(eeg, positions_m, hidden), filled)
    return torch.where(hidden_T, filled, eeg)


def linear_fill(eeg: torch.Tensor, positions_m: torch.Tensor, hidden: torch.Tensor) -> torch.Tensor:
    """Join each channel's visible ends by straight lines; ends are held, a channel that is never
    visible becomes 0. Arguments and result as `spline_fill` (positions are not used)."""
    del positions_m
    T = eeg.shape[-1]
    seen = ~hidden.repeat_interleave(T // hidden.shape[2], dim=2)
    index = torch.arange(T, device=eeg.device).expand_as(seen)
    left = torch.where(seen, index, -1).cummax(-1).values
    right = torch.where(seen, index, T).flip(-1).cummin(-1).values.flip(-1)
    start = torch.where(left < 0, right, left)
    stop = torch.where(right >= T, left, right)
    start_value = eeg.gather(-1, start.clamp(0, T - 1))
    stop_value = eeg.gather(-1, stop.clamp(0, T - 1))
    share = (index - start).to(eeg.dtype) / (stop - start).clamp_min(1)
    filled = start_value + share * (stop_value - start_value)
    filled = torch.where(seen.any(-1, keepdim=True), filled, 0.0)
    return torch.where(seen, eeg, filled)


Fill = Callable[[torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor]
FILLS: dict[str, Fill] = {"spline": spline_fill, "linear": linear_fill}
"""What `baseline` may name, besides `none`."""


def fill_latents(
    latent_BKZ: torch.Tensor,
    keep_BK: torch.Tensor,
    tokens: int,
    n_patches: int,
    places_m: torch.Tensor | None,
) -> torch.Tensor:
    """Latents of all `tokens`, `[B, L, Z]` fp32: visible ones as given, hidden ones interpolated.

    Weights come from places and masks alone, so nothing but latents enters. Each latent dimension
    is interpolated like a sample of a channel: over the electrodes that are visible in the same
    patch, by spherical splines; where there are none, along the patches, by straight lines.

    keep int64 `[B, K]`; places_m `[C, 3]` metres, None: along time only (joint tokens).
    """
    B, _, Z = latent_BKZ.shape
    C = tokens // n_patches
    latent_BKZ = latent_BKZ.float()
    index = keep_BK[..., None].expand_as(latent_BKZ)
    grid_BCNZ = (
        latent_BKZ.new_zeros(B, tokens, Z).scatter(1, index, latent_BKZ).unflatten(1, (C, -1))
    )
    hidden_BCN = torch.ones(B, tokens, dtype=torch.bool, device=keep_BK.device)
    hidden_BCN = hidden_BCN.scatter(1, keep_BK, False).unflatten(1, (C, -1))
    with torch.autocast(keep_BK.device.type, enabled=False):
        # A row of its own for each dimension: a fill joins the values along a row.
        rows = grid_BCNZ.transpose(2, 3).flatten(1, 2)
        lines = linear_fill(rows, places_m, hidden_BCN.repeat_interleave(Z, dim=1))
        filled_BCNZ = lines.unflatten(1, (C, Z)).transpose(2, 3)
        if places_m is not None:
            spline = spline_fill(grid_BCNZ.flatten(2), places_m, hidden_BCN).view_as(grid_BCNZ)
            blind = hidden_BCN.all(1)[:, None, :, None]
            filled_BCNZ = torch.where(blind, filled_BCNZ, spline)
    return filled_BCNZ.flatten(1, 2)
