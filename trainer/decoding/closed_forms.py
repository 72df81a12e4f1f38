"""What a decoder is compared with: closed forms on the same windows and people.

What an expert would try first: log band power, and the covariances of the channels in five bands,
read in the tangent space. On EEGMAT (rest against arithmetic, 32 people, 5 s) the latter is the one
to beat. Both need channels that all windows have; elsewhere band power is averaged over channels.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from data.batches.batch import Batch
from trainer.decoding.estimators import Method

BANDS_HZ = ((1, 4), (4, 8), (8, 13), (13, 30), (30, 45))
SHRINKAGE = 0.02
"""Share of a covariance that is its mean variance on all channels: the average reference and dead
bands leave directions empty."""
BAND_POWER, TANGENT = "log band power", "tangent space"


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


def closed_forms(
    batches: Sequence[Batch], sfreq_hz: float, one_montage: bool, adapted: bool
) -> list[Method]:
    """What the EEG alone gives; `adapted`: also with each person's unlabelled windows."""
    power = log_band_power(batches, sfreq_hz, one_montage)
    name = BAND_POWER if one_montage else f"{BAND_POWER}, mean of channels"
    forms = [(name, power)]
    if one_montage:
        forms.append((f"{TANGENT}, {len(BANDS_HZ)} bands", band_covariances(batches, sfreq_hz)))
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
