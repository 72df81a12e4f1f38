"""Shards for the benchmarks, made on the spot in the real format.

Signals are random walks spread over the electrodes near a few centres, so that losses fall as they
do on EEG; 256 windows are drawn and repeated with other signs and scales, because drawing noise
would take longer than the benchmark has. Electrodes lie on the canonical grid: no MNE is needed.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from data.shards.manifest import MANIFEST, Montage, montage_id, write_manifest
from data.shards.tars import write_shard
from model.tokens import grid_positions

DRAWN = 256


def smooth_windows(
    places_m: np.ndarray, count: int, samples: int, rng: np.random.Generator
) -> np.ndarray:
    """float16 `[count, C, samples]` in robust units."""
    drawn = min(count, DRAWN)
    walks = rng.standard_normal((drawn, 4, samples), dtype=np.float32).cumsum(-1)
    walks -= walks.mean(-1, keepdims=True)
    walks /= walks.std(-1, keepdims=True)
    centres = places_m[rng.integers(len(places_m), size=(drawn, 4))]
    distance2 = ((places_m[None, :, None] - centres[:, None]) ** 2).sum(-1)
    eeg = np.exp(-distance2 / 0.003).astype(np.float32) @ walks
    eeg += 0.1 * rng.standard_normal(eeg.shape, dtype=np.float32)
    factors = rng.uniform(0.5, 1.5, (count, 1, 1)).astype(np.float32)
    factors *= rng.choice([-1, 1], (count, 1, 1)).astype(np.float32)
    return np.concatenate(
        [
            (eeg[: min(drawn, count - start)] * factors[start : start + drawn]).astype(np.float16)
            for start in range(0, count, drawn)
        ]
    )


def make_shards(
    folder: Path,
    *,
    channels: tuple[int, ...],
    samples: int,
    sfreq_hz: float,
    windows: int,
    seed: int = 0,
) -> Path:
    """A shard folder with `windows` training windows of each channel count, made if it is not there
    yet. Two shards each."""
    if (folder / MANIFEST).exists():
        return folder
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(seed)
    montages, recordings, entries = {}, [], []
    for count in channels:
        places = grid_positions(count).numpy()
        names = tuple(f"E{i}" for i in range(count))
        montage = montage_id(names, places)
        montages[montage] = Montage(names, places)
        for part in range(2):
            recording = f"walks{count}_sub-{part}"
            recordings.append(
                {"id": recording, "dataset": "walks", "subject": f"{count}-{part}", "session": "0",
                 "run": "0", "split": "train", "montage": montage, "scale_uv": 10.0, "unit": "V"}
            )  # fmt: skip
            half = windows // 2
            entry = write_shard(
                folder / f"walks{count}-{part}.tar",
                [f"{recording}_{i:06d}" for i in range(half)],
                smooth_windows(places, half, samples, rng),
                [{"recording": recording, "onset_s": float(i)} for i in range(half)],
                dataset="walks", split="train", montage=montage,
            )  # fmt: skip
            entries.append(entry)
    write_manifest(
        folder, profile={"name": "benchmark", "sfreq_hz": sfreq_hz, "window_samples": samples},
        montages=montages, recordings=recordings, shards=entries,
        split={"rule": "all train"}, source={"program": "benchmarks/shards.py"},
    )  # fmt: skip
    return folder
