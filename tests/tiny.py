"""Tiny shard folders for tests: smooth signals on real electrode places, written in a second."""

from __future__ import annotations

from pathlib import Path

import mne
import numpy as np

from data.pack import main as pack
from data.shards.manifest import Montage, montage_id, write_manifest
from data.shards.sensors import MegSensors
from data.shards.tars import write_shard
from model.masks import MASKS

FOLDER = {"A": ("biosemi32", 16), "B": ("biosemi16", 12)}
MASK_KINDS = tuple(
    f"{name}={number:g}" if entry.number else name
    for name, entry in MASKS.items()
    for number in ((0.01, 4.0, 1000.0) if entry.number else (0.0,))
)
"""All of MASKS as users write them, those that take a number with small, usual and large ones."""


def electrode_places(name: str, channels: int) -> tuple[tuple[str, ...], np.ndarray]:
    """Names and places `[C, 3]` of the first channels of a montage built into MNE."""
    montage = mne.channels.make_standard_montage(name)
    places = montage.get_positions()["ch_pos"]
    names = tuple(list(places)[:channels])
    return names, np.array([places[n] for n in names], dtype=np.float32)


def smooth_windows(places: np.ndarray, count: int, samples: int, rng) -> np.ndarray:
    """float16 `[count, C, samples]`: four random walks, each spread over the electrodes near it."""
    walks = rng.standard_normal((count, 4, samples)).cumsum(-1)
    walks -= walks.mean(-1, keepdims=True)
    centres = places[rng.integers(len(places), size=4)]
    weights = np.exp(-((places[:, None] - centres) ** 2).sum(-1) / 0.003)
    eeg = weights @ walks / 5 + 0.1 * rng.standard_normal((count, len(places), samples))
    return (eeg - eeg.mean(1, keepdims=True)).astype(np.float16)


def tiny_sensors(places: np.ndarray, count: int) -> MegSensors:
    """Magnetometers and gradiometers in turn, 3 cm outside the first `count` of `places`."""
    outward = places[:count] / np.linalg.norm(places[:count], axis=1, keepdims=True)
    along = np.cross(outward, [0.0, 0.0, 1.0])
    types = tuple("mag" if row % 2 == 0 else "grad" for row in range(count))
    along[np.array(types) == "mag"] = 0
    return MegSensors(
        tuple(f"MEG{row:04d}" for row in range(count)),
        types,
        (places[:count] + 0.03 * outward).astype(np.float32),
        np.concatenate([outward, along], axis=1).astype(np.float32),
    )


def tiny_shards(
    folder: Path,
    *,
    train=(37, 20),
    held_out: int = 12,
    samples: int = 100,
    sfreq_hz: float = 200.0,
    seed: int = 0,
    datasets=FOLDER,
    meg: int = 0,
) -> Path:
    """A folder of shards: `train` gives the windows of each training shard of each dataset; one
    subject in val and one in test with `held_out` windows each (0: none). `meg`: that many sensors
    beside the electrodes, whose signals are those of the first electrodes."""
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(seed)
    shards, montages, recordings = [], {}, []
    for dataset, (name, channels) in datasets.items():
        names, places = electrode_places(name, channels)
        sensors = tiny_sensors(places, meg) if meg else None
        montage = montage_id(names, places, sensors)
        montages[montage] = Montage(names, places, sensors)
        for split, counts in (("train", train), ("val", (held_out,)), ("test", (held_out,))):
            for index, count in enumerate(filter(None, counts)):
                recording = f"{dataset}_sub-{split}{index}_ses-0_run-0"
                recordings.append(
                    {
                        "id": recording, "dataset": dataset, "subject": f"{split}{index}",
                        "session": "0", "run": "0", "split": split, "montage": montage,
                        "scale_uv": 10.0, "unit": "V",
                        **({"meg_scale": {"mag": 1e-13, "grad": 3e-12}} if meg else {}),
                    }
                )  # fmt: skip
                windows = smooth_windows(places, count, samples, rng)
                entry = write_shard(
                    folder / f"{dataset}-{split}-{index:05d}.tar",
                    [f"{recording}_{i:05d}" for i in range(count)],
                    windows,
                    [{"recording": recording, "onset_s": i / 2} for i in range(count)],
                    dataset=dataset,
                    split=split,
                    montage=montage,
                    megs=windows[:, :meg] if meg else None,
                )
                shards.append(entry)
    write_manifest(
        folder,
        profile={"name": "default", "sfreq_hz": sfreq_hz, "l_freq_hz": 0.5, "h_freq_hz": 75.0,
                 "window_samples": samples},
        montages=montages,
        recordings=recordings,
        shards=shards,
        split={"rule": "by hand"},
        source={"program": "tests"},
    )  # fmt: skip
    return folder


TINY_TRANSLATION = [
    "--model", "d_model=16", "--model", "n_heads=2", "--model", "d_ff=32", "--model",
    "skip_anchors=48", "--model", "dropout=0", "--model", "skip_rank=16", "--sequence_length", 64,
    "--meg_sensors", 12, "--micro_batch", 4,
]  # fmt: skip
"""Flags of a translation that trains in seconds."""


def tiny_pairs(folder: Path) -> Path:
    """Three simulated people, 6 s each, 16 electrodes, 306 sensors, windows of 64 samples."""
    source = "simulated-pairs:linear,subjects=3,runs=1,minutes=0.1,eeg=16"
    pack(["--source", source, "--window_s", "0.256", "--workers", "1", "--out", str(folder)])
    return folder
