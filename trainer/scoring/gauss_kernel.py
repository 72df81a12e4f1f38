"""The best linear fill of hidden patches: the conditional mean of a Gaussian in space and time.

The signal is taken as stationary in time and as a smooth function of the place on the fitted
sphere, so that one kernel serves every montage:

    cov[x(c, t), x(c', t')] = sum_r K_r(c, c') T_r(t - t'),    K_r = Y A_r Y^T + n_r I

with Y the real spherical harmonics at the electrodes, A_r positive semidefinite, n_r the sensors'
own noise, and r a band of frequencies (this is kriging with a linear model of coregionalization:
Wackernagel 2003, Multivariate Geostatistics). Average-referenced signals sum to zero over channels,
and then so does every K_r, on both sides.

Within a patch the samples are first turned into the patch's principal components. Those that carry
`VARIANCE_KEPT` are predicted jointly from all visible patches of a stretch of time; the rest, fast
and small, from the channels visible at that moment. The stretch is as long as `most_variables`
unknowns allow: the cost is one Cholesky factor of that size for each window and stretch.

Imports nothing of this project but directions on the sphere; float32 or float64, any device, the
same result for a window whatever else is in the batch (up to rounding).

Shapes: B windows, C channels, T samples, N patches of P samples, R bands, H harmonics, W patches of
a stretch, Q components kept.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from dataclasses import dataclass

import torch

from model.interpolation import head_directions

VARIANCE_KEPT = 0.95
MOST_VARIABLES = 800
JITTER = 1e-5
"""Added to the diagonal, as a share of it: a moment with all channels visible is singular."""
CACHED_MONTAGES = 4


@dataclass(frozen=True)
class GaussKernel:
    """The covariance of an EEG signal at `sfreq_hz`, without a montage; float64 tensors.

    spatial `[R, H, H]`: A_r in the basis of `harmonics`. noise `[R]`: n_r. lags `[R, L]`:
    T_r at 0 .. L - 1 samples, T_r(0) = 1, and 0 beyond. average_reference: whether the
    signal sums to zero over channels.
    """

    spatial: torch.Tensor
    noise: torch.Tensor
    lags: torch.Tensor
    sfreq_hz: float
    average_reference: bool

    def __post_init__(self):
        bands, size = self.spatial.shape[:2]
        if self.spatial.shape != (bands, size, size) or math.isqrt(size) ** 2 != size:
            raise ValueError(f"spatial {tuple(self.spatial.shape)}: not [R, H, H], H a square")
        if self.noise.shape != (bands,) or self.lags.shape[0] != bands:
            raise ValueError("spatial, noise and lags have different numbers of bands")

    @property
    def degree(self) -> int:
        """The highest degree of the harmonics."""
        return math.isqrt(self.spatial.shape[1]) - 1

    def between(self, positions_m: torch.Tensor) -> torch.Tensor:
        """K_r for every pair of electrodes at `[C, 3]` metres: float64 `[R, C, C]`."""
        Y = harmonics(head_directions(positions_m.double()), self.degree)
        K = Y @ self.spatial.to(Y.device) @ Y.T
        K = K + self.noise.to(Y.device)[:, None, None] * torch.eye(len(Y)).to(Y)
        return centred(K) if self.average_reference and len(Y) > 1 else K


def harmonics(unit: torch.Tensor, degree: int) -> torch.Tensor:
    """Real spherical harmonics of degrees 0 .. `degree`, orthonormal on the sphere.

    unit `[C, 3]` (unit vectors) -> `[C, (degree + 1)^2]`, degree by degree, in unit's dtype.
    """
    x, y, z = unit.unbind(-1)
    # sin(polar)^m cos(m azimuth) and sin(...) are polynomials of x and y.
    cosines, sines = [torch.ones_like(x)], [torch.zeros_like(x)]
    for _ in range(degree):
        c, s = cosines[-1], sines[-1]
        cosines.append(x * c - y * s)
        sines.append(x * s + y * c)
    columns: dict[tuple[int, int], torch.Tensor] = {}
    for m in range(degree + 1):
        # Normalised associated Legendre functions over sin^m, upwards in the degree.
        factor = math.sqrt((2 * m + 1) / (4 * math.pi) / math.factorial(2 * m))
        before = torch.zeros_like(z)
        current = torch.full_like(z, factor * math.prod(range(1, 2 * m, 2)))
        for n in range(m, degree + 1):
            scale = 1.0 if m == 0 else math.sqrt(2.0)
            columns[n, -m] = scale * current * sines[m]
            columns[n, m] = scale * current * cosines[m]
            up = math.sqrt((2 * n + 1) * (2 * n + 3) / ((n + 1) ** 2 - m**2))
            down = math.sqrt((n**2 - m**2) / (4 * n**2 - 1)) if n else 0.0
            before, current = current, up * (z * current - down * before)
    order = [(n, m) for n in range(degree + 1) for m in range(-n, n + 1)]
    return torch.stack([columns[key] for key in order], dim=-1)


def centred(matrix: torch.Tensor) -> torch.Tensor:
    """P M P with P = I - 1/C: the covariance `[..., C, C]` after the average reference."""
    matrix = matrix - matrix.mean(-1, keepdim=True)
    return matrix - matrix.mean(-2, keepdim=True)


@dataclass(frozen=True)
class _Stretch:
    """What depends on montage and patch alone. Variables are ordered (channel, patch, component).

    basis `[P, P]`: components as columns. joint `[C W Q, C W Q]`, fast `[C, C]`: correlations;
    slow_scale `[C, Q]`: standard deviations that were divided out of `joint`.
    """

    basis: torch.Tensor
    kept: int
    joint: torch.Tensor
    slow_scale: torch.Tensor
    fast: torch.Tensor


class GaussFill:
    """`kernel` as a fill. Called as `spline_fill`: eeg `[B, C, T]`, positions_m `[C, 3]` metres,
    hidden bool `[B, C, N]` -> `[B, C, T]` in eeg's dtype (float32 or float64).

    Visible samples come back unchanged, hidden ones are not looked at. most_variables: visible
    values that one solution may weigh together.
    """

    def __init__(self, kernel: GaussKernel, most_variables: int = MOST_VARIABLES):
        self.kernel, self.most_variables = kernel, most_variables
        self._known: OrderedDict[tuple, _Stretch] = OrderedDict()

    def __call__(
        self, eeg: torch.Tensor, positions_m: torch.Tensor, hidden: torch.Tensor
    ) -> torch.Tensor:
        B, C, T = eeg.shape
        N = hidden.shape[2]
        hidden_T = hidden.repeat_interleave(T // N, dim=2)
        spectrum = _spatial_spectrum(self.kernel, T // N)
        kept = _components(spectrum)
        share = (~hidden).float().mean((1, 2)).max().item()
        width = min(N, max(3, int(self.most_variables / max(1.0, C * kept * share))))
        stretch = self._stretch(positions_m, T // N, width, eeg)
        known = eeg.masked_fill(hidden_T, 0.0).view(B, C, N, T // N) @ stretch.basis
        slow = torch.zeros_like(known[..., :kept])
        step = N if width == N else max(1, width // 2)
        for first in range(0, N, step):
            last = min(N, first + step)
            start = min(max(0, (first + last - width) // 2), N - width)
            part = slice(start, start + width)
            found = _joint(stretch, known[:, :, part, :kept], hidden[:, :, part])
            slow[:, :, first:last] = found[:, :, first - start : last - start]
        fast = _fast(stretch.fast, known[..., kept:], hidden)
        filled = torch.cat([slow, fast], dim=-1) @ stretch.basis.T
        return torch.where(hidden_T, filled.view(B, C, T), eeg)

    def _stretch(self, positions_m, patch: int, width: int, like: torch.Tensor) -> _Stretch:
        key = (positions_m.cpu().numpy().tobytes(), patch, width, like.dtype, str(like.device))
        if key not in self._known:
            self._known[key] = _build(self.kernel, positions_m, patch, width, like)
            if len(self._known) > CACHED_MONTAGES:
                self._known.popitem(last=False)
        self._known.move_to_end(key)
        return self._known[key]


def _spatial_spectrum(kernel: GaussKernel, patch: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Variances `[P]` of a patch's components, largest first, and the components, columns."""
    # What the bands weigh on a sphere covered evenly: a basis must not depend on the montage.
    power = kernel.spatial.diagonal(dim1=1, dim2=2).sum(1) / (4 * math.pi) + kernel.noise
    variances, basis = torch.linalg.eigh(
        (power[:, None, None] * _toeplitz(kernel, 0, patch)).sum(0)
    )
    return variances.flip(0).clamp_min(0), basis.flip(1)


def _components(spectrum: tuple[torch.Tensor, torch.Tensor]) -> int:
    share = spectrum[0].cumsum(0) / spectrum[0].sum()
    return min(int((share < VARIANCE_KEPT).sum()) + 1, len(share))


def _toeplitz(kernel: GaussKernel, patches_apart: int, patch: int) -> torch.Tensor:
    """T_r between the samples of two patches: `[R, P, P]`."""
    at = torch.arange(patch)
    lag = (at[:, None] - at[None, :] - patches_apart * patch).abs()
    inside = lag < kernel.lags.shape[1]
    return kernel.lags[:, lag.clamp_max(kernel.lags.shape[1] - 1)] * inside


def _build(kernel, positions_m, patch: int, width: int, like: torch.Tensor) -> _Stretch:
    spectrum = _spatial_spectrum(kernel, patch)
    basis, kept = spectrum[1], _components(spectrum)
    slow = basis[:, :kept]
    K = kernel.between(positions_m.cpu())
    C = K.shape[1]
    joint = torch.zeros(C, width, kept, C, width, kept, dtype=torch.float64)
    for apart in range(width):
        G = slow.T @ _toeplitz(kernel, apart, patch) @ slow
        block = torch.einsum("rcd,rpq->cpdq", K, G)
        for first in range(width - apart):
            joint[:, first, :, :, first + apart] = block
            joint[:, first + apart, :, :, first] = block.permute(2, 3, 0, 1)
    joint = joint.view(C * width * kept, -1)
    scale = joint.diagonal().clamp_min(1e-12).sqrt()
    joint = joint / (scale[:, None] * scale[None])
    # All fast components of a patch share one spatial covariance.
    G = (basis.T @ _toeplitz(kernel, 0, patch) @ basis).diagonal(dim1=1, dim2=2)[:, kept:].sum(1)
    fast = (G[:, None, None] * K).sum(0) if kept < patch else torch.eye(C, dtype=torch.float64)
    fast = fast / fast.diagonal().mean().clamp_min(1e-12)
    return _Stretch(
        basis=basis.to(like),
        kept=kept,
        joint=joint.to(like),
        slow_scale=scale.view(C, width, kept)[:, 0].to(like),
        fast=fast.to(like),
    )


def _joint(stretch: _Stretch, known: torch.Tensor, hidden: torch.Tensor) -> torch.Tensor:
    """Slow components of a stretch, `[B, C, W, Q]`: the conditional mean given the visible."""
    B, C, W, Q = known.shape
    values = (known / stretch.slow_scale[:, None]).reshape(B, -1)
    seen = (~hidden)[..., None].expand(-1, -1, -1, Q).reshape(B, -1)
    most = int(seen.sum(1).max())
    found = torch.zeros_like(values)
    if most:
        # Visible variables first; where a window has fewer than another, the rest drop out.
        order = seen.int().argsort(dim=1, descending=True, stable=True)[:, :most]
        for b in range(B):
            count = int(seen[b].sum())
            at = order[b, :count]
            if not count:
                continue
            rows = stretch.joint[at]
            system = rows[:, at]
            system.diagonal().add_(JITTER)
            factor, _ = torch.linalg.cholesky_ex(system)
            weights = torch.cholesky_solve(values[b, at, None], factor)
            found[b] = (weights.T @ rows)[0]
    return found.view(B, C, W, Q) * stretch.slow_scale[:, None]


def _fast(correlation: torch.Tensor, known: torch.Tensor, hidden: torch.Tensor) -> torch.Tensor:
    """Fast components, `[B, C, N, P - Q]`, from the channels visible in the same patch."""
    if not known.shape[-1]:
        return known
    seen = (~hidden).transpose(1, 2).to(known.dtype)
    outer = seen[..., :, None] * seen[..., None, :]
    system = outer * correlation + torch.diag_embed(seen * JITTER + (1 - seen))
    factor, _ = torch.linalg.cholesky_ex(system)
    values = known.transpose(1, 2) * seen[..., None]
    return (correlation @ torch.cholesky_solve(values, factor)).transpose(1, 2)
