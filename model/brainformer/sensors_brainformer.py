"""Where and what a sensor is, and the signed linear map from EEG to MEG sensors.

Softmax attention averages: its weights are positive and sum to one. A field pattern is a signed
sum of potentials, which is why a linear map without softmax stands beside the attention.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import nn

SENSOR_TYPES = ("eeg", "mag", "grad")
HEAD_RADIUS_M = 0.1
FOURIER_OCTAVES = 4
POSITION_FEATURES = 3 * (2 * FOURIER_OCTAVES + 1)
ORIENTATION_FEATURES = 6
MEG_FEATURES = POSITION_FEATURES + ORIENTATION_FEATURES + len(SENSOR_TYPES)
# Of the linear map. A sphere fitted to most heads and helmets; a sensor may lie centimetres off it.
HEAD_CENTRE_M = (0.0, 0.0, 0.04)
EEG_RADIUS_M, MEG_RADIUS_M = 0.1, 0.12
ANCHOR_WIDTH_M = 0.025
# How a sensor's direction enters: normal of a magnetometer, normal and gradient of a gradiometer.
DIRECTIONS = 9
START_PENALTY = 1e-3


def position_features(positions_m: torch.Tensor) -> torch.Tensor:
    """Coordinates and their sin/cos at 4 octaves (40 to 5 cm), `[..., 3]` metres -> `[..., 27]`.

    The masked autoencoder's, written again here: a saved folder must hold all the code it needs.
    """
    unit = positions_m.float() / HEAD_RADIUS_M
    octaves = 2.0 ** torch.arange(FOURIER_OCTAVES, device=unit.device)
    angle = (unit[..., None] * octaves * (math.pi / 2)).flatten(-2)
    return torch.cat([unit, angle.sin(), angle.cos()], dim=-1)


def meg_features(positions_m, orientations, types) -> torch.Tensor:
    """`[..., C, 3]` metres, `[..., C, 6]` (the coil's normal, then the direction of the gradient, 0
    for a magnetometer) and type numbers `[..., C]` -> `[..., C, 36]` fp32."""
    kind = F.one_hot(types.long(), len(SENSOR_TYPES)).float()
    parts = [position_features(positions_m), orientations.float(), kind]
    leading = torch.broadcast_shapes(*(part.shape[:-1] for part in parts))
    return torch.cat([part.expand(*leading, -1) for part in parts], dim=-1)


class SensorEncoder(nn.Module):
    """One vector of unit scale for each sensor: from its geometry, its row in a table, or both."""

    def __init__(self, n_features: int, n_index: int, config):
        super().__init__()
        width = config.d_model
        self.uses_geometry = config.sensor_embedding != "index"
        self.uses_index = config.sensor_embedding != "geometry"
        if self.uses_geometry:
            self.into = nn.Linear(n_features, 2 * width)
            self.out = nn.Linear(2 * width, width)
        if self.uses_index:
            self.table = nn.Embedding(n_index, width)
        self.norm = nn.LayerNorm(width)

    def forward(self, features: torch.Tensor | None, index: torch.Tensor) -> torch.Tensor:
        """`features [1 or B, C, F]`, `index [1 or B, C]` -> `[1 or B, C, D]`."""
        found = 0
        if self.uses_geometry:
            found = self.out(F.gelu(self.into(features.to(self.into.weight.dtype))))
        if self.uses_index:
            found = found + self.table(index)
        return self.norm(found)


class LinearSkip(nn.Module):
    """MEG = U Vᵀ EEG, signed, of rank `skip_rank`, over `2 * skip_lags + 1` lags.

    Lag number j pairs MEG at t with EEG at t - (j - skip_lags). "montage": U and V are tables. In
    "geometry" they are smooth functions of the sensors (sums of bumps around anchor points over the
    head, and linear in a MEG sensor's direction, as a field is) and the sum over electrodes is a
    mean, so that one set of weights serves caps of any density and heads anywhere in the helmet. U
    starts at zero: the map starts as nothing.

    Why bumps: a free hidden layer of 512 units held a ridge matrix to 0.4 % where it was fitted and
    was off by 80 % on the same helmet around another person (r .59 and .20 where ridge has .73).
    """

    def __init__(self, config):
        super().__init__()
        self.kind, self.lags, self.rank = config.skip, config.skip_lags, config.skip_rank
        self.anchors = config.skip_anchors
        n_lags = 2 * self.lags + 1
        if self.kind == "montage":
            self.meg_factor = nn.Parameter(torch.zeros(config.n_meg, self.rank))
            self.eeg_factor = nn.Parameter(torch.zeros(config.n_eeg, n_lags * self.rank))
        else:
            self.meg_out = nn.Linear(DIRECTIONS * self.anchors, self.rank, bias=False)
            self.meg_out.init_gain = 0.0
            self.eeg_out = nn.Linear(self.anchors, n_lags * self.rank, bias=False)
            self.eeg_out.init_gain = self.anchors**0.5

    def hidden(self, eeg_features, meg_features) -> tuple[torch.Tensor, torch.Tensor]:
        """What the factors are linear in, `[.., Cs, anchors]` and `[.., Ct, 9 * anchors]` fp32."""
        eeg = bumps(eeg_features[..., :3] * HEAD_RADIUS_M, self.anchors, EEG_RADIUS_M)
        meg = bumps(meg_features[..., :3] * HEAD_RADIUS_M, self.anchors, MEG_RADIUS_M)
        normal, gradient = meg_features[..., POSITION_FEATURES:][..., :6].split(3, -1)
        _, mag, grad = meg_features[..., -len(SENSOR_TYPES) :].split(1, -1)
        direction = torch.cat([normal * mag, normal * grad, gradient * grad], -1)
        return eeg, (meg[..., :, None] * direction[..., None, :]).flatten(-2)

    def forward(self, eeg, sensors, eeg_mask, causal: bool, mix=None) -> torch.Tensor:
        """`eeg [B, Cs, T]`, zero where padded -> `[B, Ct, T]` fp32; `mix` changes the sources
        `[B, R, T]` in between."""
        if self.kind == "montage":
            v, u = self.eeg_factor[sensors.eeg_index], self.meg_factor[sensors.meg_index]
            share = 1.0
        else:
            eeg_hidden, meg_hidden = self.hidden(sensors.eeg_features, sensors.meg_features)
            dtype = self.eeg_out.weight.dtype
            v, u = self.eeg_out(eeg_hidden.to(dtype)), self.meg_out(meg_hidden.to(dtype))
            count = eeg.shape[1] if eeg_mask is None else eeg_mask.sum(1)[:, None, None]
            share = 1.0 / count
        batch, n_lags = len(eeg), 2 * self.lags + 1
        v = v.float().unflatten(-1, (n_lags, self.rank)).expand(batch, -1, -1, -1)
        lagged = torch.einsum("bct,bcjr->bjrt", eeg.float(), v)
        first = self.lags if causal else 0
        sources = sum(shift(lagged[:, j], j - self.lags) for j in range(first, n_lags))
        sources = sources * share
        if mix is not None:
            sources = mix(sources)
        return u.float().expand(batch, -1, -1) @ sources

    @torch.no_grad()
    def start_from(self, ridge: torch.Tensor, sensors) -> float:
        """Take `ridge [Ct, Cs, n_lags]` for one or several montages of these channels (leading side
        of `sensors`); returns the relative error that is left (Frobenius), the largest of them."""
        wanted = ridge.double()
        left, values, right = torch.linalg.svd(wanted.flatten(1), full_matrices=False)
        keep = min(self.rank, len(values))
        root = values[:keep].sqrt()
        u = F.pad(left[:, :keep] * root, (0, self.rank - keep))
        v = F.pad(right[:keep].T * root, (0, self.rank - keep))
        v = v.unflatten(0, wanted.shape[1:]).flatten(1)
        if self.kind == "montage":
            self.meg_factor[sensors.meg_index[0]] = u.to(self.meg_factor)
            self.eeg_factor[sensors.eeg_index[0]] = v.to(self.eeg_factor)
            factors = [(u, v)]
        else:
            hidden = self.hidden(sensors.eeg_features, sensors.meg_features)
            eeg_hidden, meg_hidden = (x.double() for x in hidden)
            eeg_weight = fit(eeg_hidden, v * wanted.shape[1])
            meg_weight = fit(meg_hidden, u)
            self.meg_out.weight.copy_(meg_weight.T)
            self.eeg_out.weight.copy_(eeg_weight.T)
            made_u, made_v = meg_hidden @ meg_weight, eeg_hidden @ eeg_weight / wanted.shape[1]
            count = max(len(made_u), len(made_v))
            factors = zip(made_u.expand(count, -1, -1), made_v.expand(count, -1, -1), strict=True)
        errors = []
        for made_u, made_v in factors:
            made = torch.einsum("mr,cjr->mcj", made_u, made_v.unflatten(-1, (-1, self.rank)))
            errors.append(float((made - wanted).norm() / wanted.norm()))
        return max(errors)


def bumps(positions_m: torch.Tensor, count: int, radius_m: float) -> torch.Tensor:
    """`[..., C, 3]` metres -> nearness to `count` points spread over a sphere around the head,
    `[..., C, count]` fp32, of unit length for each sensor."""
    height = 1 - 2 * (torch.arange(count, device=positions_m.device) + 0.5) / count
    angle = math.pi * (3 - 5**0.5) * torch.arange(count, device=positions_m.device)
    ring = (1 - height**2).sqrt()
    points = radius_m * torch.stack([ring * angle.cos(), ring * angle.sin(), height], dim=-1)
    points = points + torch.tensor(HEAD_CENTRE_M, device=points.device)
    distance = torch.linalg.vector_norm(positions_m.float()[..., None, :] - points, dim=-1)
    return F.normalize((-0.5 * (distance / ANCHOR_WIDTH_M) ** 2).softmax(-1), dim=-1)


def fit(hidden: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """Ridge solution of `hidden [N, C, H] @ x = target [C, R]` for all N at once; the penalty keeps
    the function smooth between the sensors that it was fitted at."""
    flat, wanted = hidden.flatten(0, 1), target.repeat(len(hidden), 1)
    penalty = START_PENALTY * len(hidden) * hidden.square().sum(-1).mean()
    wide = flat.shape[0] <= flat.shape[1]
    gram = flat @ flat.T if wide else flat.T @ flat
    gram.diagonal().add_(penalty)
    if wide:
        return flat.T @ torch.linalg.solve(gram, wanted)
    return torch.linalg.solve(gram, flat.T @ wanted)


def shift(x: torch.Tensor, lag: int) -> torch.Tensor:
    """`x` later by `lag` samples (earlier if negative), zeros where nothing is known."""
    if lag == 0:
        return x
    length = x.shape[-1]
    moved = F.pad(x, (lag, 0))[..., :length] if lag > 0 else F.pad(x, (0, -lag))[..., -lag:]
    return moved
