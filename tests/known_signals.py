"""Signals whose covariance is known, as tensors and as a shard folder."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import torch

from data.shards.manifest import Montage, montage_id, write_manifest
from data.shards.tars import write_shard
from trainer.scoring.gauss_kernel import GaussKernel

SFREQ_HZ, SAMPLES, PATCH, DEGREE = 100.0, 80, 10, 4


def places(count: int, seed: int) -> torch.Tensor:
    """Electrodes on the upper part of a sphere of 9 cm."""
    rng = np.random.default_rng(seed)
    found = rng.standard_normal((count, 3))
    found[:, 2] = np.abs(found[:, 2])
    return torch.from_numpy(0.09 * found / np.linalg.norm(found, axis=1, keepdims=True))


def known_kernel(average_reference: bool = False) -> GaussKernel:
    """Two bands: one broad in space and slow, one finer in space that oscillates at 10 Hz."""
    degrees = torch.arange((DEGREE + 1) ** 2).double().sqrt().floor()
    lags_s = torch.arange(SAMPLES).double() / SFREQ_HZ
    slow = torch.exp(-lags_s / 0.1)
    fast = torch.exp(-lags_s / 0.15) * torch.cos(2 * math.pi * 10 * lags_s)
    return GaussKernel(
        torch.stack([torch.diag(3.0**-degrees), torch.diag(0.5 * 1.5**-degrees)]),
        torch.tensor([0.01, 0.01], dtype=torch.float64),
        torch.stack([slow, fast]),
        SFREQ_HZ,
        average_reference,
    )


def whole_covariance(kernel: GaussKernel, where: torch.Tensor) -> torch.Tensor:
    """Of all channels and samples, `[C T, C T]`, written down without any shortcut."""
    lag = (torch.arange(SAMPLES)[:, None] - torch.arange(SAMPLES)).abs()
    T = kernel.lags[:, lag.clamp_max(kernel.lags.shape[1] - 1)] * (lag < kernel.lags.shape[1])
    K = kernel.between(where)
    size = len(where) * SAMPLES
    return torch.einsum("rcd,rst->csdt", K, T).reshape(size, size)


def draw(kernel: GaussKernel, where: torch.Tensor, windows: int, seed: int) -> torch.Tensor:
    values, vectors = torch.linalg.eigh(whole_covariance(kernel, where))
    noise = torch.randn(windows, len(values), generator=torch.Generator().manual_seed(seed))
    signal = noise.double() * values.clamp_min(0).sqrt() @ vectors.T
    return signal.view(windows, len(where), SAMPLES)


def write_known_shards(folder: Path, people, windows: int = 60, average_reference=True) -> Path:
    """people: {subject: (split, cap's seed, channels)}, one recording each, of `known_kernel`."""
    folder.mkdir(parents=True, exist_ok=True)
    montages, recordings, shards = {}, [], []
    for number, (subject, (split, cap, channels)) in enumerate(people.items()):
        where = places(channels, cap)
        names = [f"E{i}" for i in range(channels)]
        montage = montage_id(names, where.numpy())
        montages[montage] = Montage(tuple(names), where.numpy().astype(np.float32))
        record = f"known_sub-{subject}"
        recordings.append(
            {"id": record, "dataset": "known", "subject": subject, "split": split, "session": "0",
             "run": "0", "scale_uv": 10.0, "source_sfreq_hz": SFREQ_HZ}
        )  # fmt: skip
        eeg = draw(known_kernel(average_reference), where, windows, number)
        entry = write_shard(
            folder / f"known-{subject}.tar",
            [f"{record}_{i:04d}" for i in range(windows)],
            eeg.numpy().astype(np.float16),
            [{"recording": record, "onset_s": float(i)} for i in range(windows)],
            dataset="known",
            split=split,
            montage=montage,
        )
        shards.append(entry)
    profile = {"name": "default", "sfreq_hz": SFREQ_HZ, "l_freq_hz": 0.5, "h_freq_hz": 45.0}
    write_manifest(
        folder, profile=profile, montages=montages, recordings=recordings, shards=shards,
        split={}, source={},
    )  # fmt: skip
    return folder
