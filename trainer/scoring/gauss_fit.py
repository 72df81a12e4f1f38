"""Fit the Gaussian's covariance (trainer/scoring/gauss_kernel.py) to windows of any montages.

1. The covariance of all pairs of channels at every lag, for each montage; every window weighs the
   same, whatever its amplitude.
2. Bands of frequencies share out those lags: overlapping triangles over the logarithm of frequency.
3. In each band the harmonics' covariance and the sensors' noise of most likelihood, by expectation
   maximisation over all montages together (Rubin & Thayer 1982, with the loadings known).

Nothing is random. Seconds for some thousand windows on one core.

Shapes: n windows, C channels, T samples, L lags, F frequencies, R bands, H harmonics.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import torch

from model.interpolation import head_directions
from trainer.scoring.gauss_kernel import GaussKernel, harmonics

BAND_CENTRES_HZ = (0.0, 2.0, 4.0, 6.5, 9.0, 11.5, 15.0, 20.0, 28.0, 40.0, 60.0)
LARGEST_LAG_S = 1.0
FLAT_SHARE = 0.5
"""Lags up to this share of the longest keep their covariance; from there a cosine falls to 0."""
DEGREE = 10
ROUNDS = 10
START_NOISE = 1e-3
"""Of the sensors at the start, as a share of a degree-1 harmonic's variance."""
FLOOR = 1e-6
"""Of a spectrum, as a share of its maximum: what sampling makes negative becomes this."""


@dataclass
class LagMoments:
    """Summed lagged products of one montage: `sums[l, c, d]` of x_c(t + l) x_d(t), made symmetric
    in c and d, over `windows` windows of T samples that were scaled to the same power."""

    positions_m: torch.Tensor
    sums: torch.Tensor
    counts: torch.Tensor
    windows: int = 0

    @classmethod
    def of(cls, positions_m: torch.Tensor, lags: int) -> LagMoments:
        size = len(positions_m)
        zeros = torch.zeros(lags, dtype=torch.float64)
        return cls(positions_m, zeros[:, None, None].repeat(1, size, size), zeros)

    def add(self, eeg: torch.Tensor) -> None:
        """`[n, C, T]` windows. One without any power is left out."""
        eeg = eeg.float()
        power = eeg.square().mean((1, 2), keepdim=True)
        kept = (power[:, 0, 0] > 0) & power[:, 0, 0].isfinite()
        if not kept.any():
            return
        eeg = eeg[kept] / power[kept].sqrt()
        samples, lags = eeg.shape[2], len(self.counts)
        spectrum = torch.fft.rfft(eeg, n=samples + lags).permute(2, 1, 0)
        products = (spectrum @ spectrum.mH).real.double()
        self.sums += torch.fft.irfft(products, n=samples + lags, dim=0)[:lags]
        self.counts += len(eeg) * (samples - torch.arange(lags)).clamp_min(0)
        self.windows += len(eeg)

    def covariance(self) -> torch.Tensor:
        """`[L, C, C]`, unbiased at each lag; 0 at lags that no window spans."""
        return self.sums / self.counts.clamp_min(1)[:, None, None]


def fit_kernel(
    moments: Iterable[LagMoments],
    sfreq_hz: float,
    average_reference: bool,
    degree: int = DEGREE,
    rounds: int = ROUNDS,
) -> GaussKernel:
    """The kernel of most likelihood for these moments (all with as many lags)."""
    moments = [m for m in moments if m.windows]
    lags = min(int((m.counts > 0).sum()) for m in moments)
    taper = _taper(lags)
    weights = torch.tensor([float(m.windows) for m in moments], dtype=torch.float64)
    found = [taper[:, None, None] * m.covariance()[:lags] for m in moments]
    # Channels average out of the temporal structure, montages by their windows.
    trace = (
        sum(w * R.diagonal(dim1=1, dim2=2).mean(1) for w, R in zip(weights, found, strict=True))
        / weights.sum()
    )
    size = 4 * lags
    spectrum = _spectrum(trace, size)
    spectrum = spectrum.clamp_min(FLOOR * spectrum.max())
    shares = band_shares(np.arange(size // 2 + 1) * sfreq_hz / size)
    T = torch.fft.irfft(torch.from_numpy(shares) * spectrum, n=size)[:, :lags]
    T = T / T[:, :1]
    selectors = torch.fft.irfft(torch.from_numpy(shares), n=size)[:, :lags]
    selectors[:, 1:] *= 2  # both signs of a lag
    spatial, noise = [], []
    Y = [harmonics(head_directions(m.positions_m.double()), degree) for m in moments]
    if average_reference:
        Y = [y - y.mean(0) if len(y) > 1 else y for y in Y]
    for selector in selectors:
        S = [_positive(torch.einsum("l,lcd->cd", selector, R)) for R in found]
        A, n = fit_band(Y, S, weights, average_reference, rounds)
        spatial.append(A)
        noise.append(n)
    return GaussKernel(torch.stack(spatial), torch.stack(noise), T, sfreq_hz, average_reference)


def band_shares(frequencies_hz: np.ndarray) -> np.ndarray:
    """`[R, F]`: how much of each frequency belongs to each band; every column sums to 1."""
    centres = [c for c in BAND_CENTRES_HZ if c < frequencies_hz[-1]]
    rows = np.eye(len(centres))
    return np.array([np.interp(np.log1p(frequencies_hz), np.log1p(centres), row) for row in rows])


def fit_band(
    loadings: list[torch.Tensor],
    covariances: list[torch.Tensor],
    weights: torch.Tensor,
    average_reference: bool,
    rounds: int = ROUNDS,
) -> tuple[torch.Tensor, torch.Tensor]:
    """(A `[H, H]`, noise variance) of most likelihood for x ~ N(0, Y A Y^T + noise I).

    loadings: Y `[C, H]` of each montage, covariances `[C, C]` found there, weights: windows. An
    average-referenced x lies in C - 1 dimensions, and Y with it.
    """
    dims = [len(S) - int(average_reference and len(S) > 1) for S in covariances]
    total = sum(w * d for w, d in zip(weights, dims, strict=True))
    eyes = [torch.eye(len(S), dtype=torch.float64) for S in covariances]
    degrees = torch.arange(loadings[0].shape[1]).double().sqrt().floor()
    # The start is a sphere without any preferred place, of the smoothness of a spherical spline of
    # stiffness 3, and of the most likely size. Where no electrode was, it is what remains.
    order = degrees.clamp_min(1)
    A = torch.diag((order * (order + 1)) ** -3.0)
    noise = START_NOISE * A[0, 0]
    size = sum(
        w * torch.linalg.solve(Y @ A @ Y.T + noise * eye, S).trace()
        for Y, S, w, eye in zip(loadings, covariances, weights, eyes, strict=True)
    )
    A, noise = A * (size / total).clamp_min(1e-12), noise * (size / total).clamp_min(1e-12)
    for _ in range(rounds):
        news, rest = torch.zeros_like(A), torch.zeros_like(noise)
        for Y, S, w, dim, eye in zip(loadings, covariances, weights, dims, eyes, strict=True):
            K = Y @ A @ Y.T + noise * eye
            W = torch.linalg.solve(K, Y @ A).T
            news += w * (A + W @ (S - K) @ W.T)
            # noise^2 K^-1 S K^-1 + noise - noise^2 K^-1: what is left of x, and how unsure that is.
            inverse = torch.linalg.inv(K)
            rest += w * (noise * dim + noise**2 * ((inverse @ (S - K)) * inverse.T).sum())
        A, noise = (news + news.T) / (2 * weights.sum()), rest / total
    return A, noise


def _taper(lags: int) -> torch.Tensor:
    share = torch.arange(lags).double() / lags
    fall = (share - FLAT_SHARE).clamp_min(0) / (1 - FLAT_SHARE)
    return 0.5 + 0.5 * torch.cos(torch.pi * fall)


def _spectrum(lagged: torch.Tensor, size: int) -> torch.Tensor:
    whole = torch.zeros(size, dtype=torch.float64)
    whole[: len(lagged)] = lagged
    whole[-len(lagged) + 1 :] = lagged[1:].flip(0)
    return torch.fft.rfft(whole).real


def _positive(S: torch.Tensor) -> torch.Tensor:
    values, vectors = torch.linalg.eigh((S + S.T) / 2)
    return (vectors * values.clamp_min(0)) @ vectors.T
