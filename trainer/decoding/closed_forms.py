"""What a decoder is compared with: closed forms on the same windows and people.

What an expert would try first: log band power, common spatial patterns, and the covariances of the
channels in five bands, read in the tangent space. On EEGMAT (rest against arithmetic, 32 people,
5 s) the last is the one to beat. All need channels that all windows have; elsewhere there is band
power averaged over channels.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch

from data.batches.batch import Batch
from trainer.decoding.estimators import Method
from trainer.decoding.protocols import Fold

BANDS_HZ = ((1, 4), (4, 8), (8, 13), (13, 30), (30, 45))
SHRINKAGE = 0.02
"""Share of a covariance that is its mean variance on all channels: the average reference and dead
bands leave directions empty."""
BAND_POWER, CSP, TANGENT = "log band power", "CSP", "tangent space"
CSP_FILTERS = 4
"""In each band."""


def log_band_power(batches: Sequence[Batch], sfreq_hz: float, each_channel: bool) -> np.ndarray:
    """float64 `[n, 5]` or `[n, 5 C]`: log power in delta, theta, alpha, beta and gamma, averaged
    over channels (the same columns for every montage) or of each."""
    found = []
    for batch in batches:
        eeg = batch.eeg.double()
        power = torch.fft.rfft(eeg - eeg.mean(-1, keepdim=True)).abs().square()
        bands = [power[..., rows].sum(-1).add(1e-12).log() for rows in _bands(eeg, sfreq_hz)]
        columns = torch.stack(bands, -1)
        found.append(columns.flatten(1) if each_channel else columns.mean(1))
    return torch.cat(found).numpy()


def log_total_power(batches: Sequence[Batch], each_channel: bool) -> np.ndarray:
    """float64 `[n, 1]` or `[n, C]`: log variance, by which gain and muscle tell themselves."""
    found = [batch.eeg.double().var(-1).add(1e-12).log() for batch in batches]
    return torch.cat([v if each_channel else v.mean(1, keepdim=True) for v in found]).numpy()


def band_covariances(batches: Sequence[Batch], sfreq_hz: float) -> np.ndarray:
    """float64 `[n, 5, C, C]` of batches of one montage: covariance of the channels in each band."""
    found = []
    for batch in batches:
        spectrum = torch.fft.rfft(batch.eeg.double())
        bands = []
        for rows in _bands(batch.eeg, sfreq_hz):
            own = spectrum[..., rows]
            bands.append(shrunk((own @ own.mH).real * 2 / batch.eeg.shape[-1] ** 2))
        found.append(torch.stack(bands, 1))
    return torch.cat(found).numpy()


def shrunk(covariance: torch.Tensor, share: float = SHRINKAGE) -> torch.Tensor:
    """`[..., C, C]` towards its mean variance on every channel; positive definite."""
    size = covariance.shape[-1]
    mean = covariance.diagonal(dim1=-2, dim2=-1).mean(-1)[..., None, None].clamp_min(1e-12)
    return (1 - share) * covariance + share * mean * torch.eye(size, dtype=covariance.dtype)


def common_spatial_patterns(covariances: np.ndarray, truth: np.ndarray) -> Callable:
    """Log power of the filters that tell the classes of a fold's training rows apart, in each band,
    `[n, bands * CSP_FILTERS]` (Blankertz et al. 2008, by pyriemann)."""

    def of(fold: Fold) -> np.ndarray:
        from pyriemann.spatialfilters import CSP

        parts = []
        for band in covariances.swapaxes(0, 1):
            filters = CSP(nfilter=CSP_FILTERS, log=True)
            parts.append(filters.fit(band[fold.train], truth[fold.train]).transform(band))
        return np.concatenate(parts, 1)

    return of


def closed_forms(
    batches: Sequence[Batch], truth: np.ndarray, sfreq_hz: float, one_montage: bool, adapted: bool
) -> list[Method]:
    """What the EEG alone gives; `adapted`: also with each person's unlabelled windows. truth: int64
    `[n]`, which common spatial patterns read of the training rows."""
    bands = f"{len(BANDS_HZ)} bands"
    power = log_band_power(batches, sfreq_hz, one_montage)
    if not one_montage:
        forms = [(f"{BAND_POWER}, mean of channels", power)]
    else:
        covariances = band_covariances(batches, sfreq_hz)
        forms = [
            (BAND_POWER, power),
            (f"{CSP}, {bands}", common_spatial_patterns(covariances, truth)),
            (f"{TANGENT}, {bands}", covariances),
        ]
    kinds = (False, True) if adapted else (False,)
    return [Method(name, features, kind) for kind in kinds for name, features in forms]


def _bands(eeg: torch.Tensor, sfreq_hz: float) -> list[torch.Tensor]:
    """Of the spectrum's rows, bool `[F]` a band; bands between two rows have the nearest one."""
    freqs = torch.fft.rfftfreq(eeg.shape[-1], 1 / sfreq_hz)
    found = []
    for low, high in BANDS_HZ:
        rows = (freqs >= low) & (freqs < high)
        if not rows.any():
            rows[(freqs - (low + high) / 2).abs().argmin()] = True
        found.append(rows)
    return found
