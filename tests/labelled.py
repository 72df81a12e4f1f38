"""Shards whose labels can be told from the signal."""

from __future__ import annotations

import numpy as np
from tiny import electrode_places, smooth_windows

from data.shards.manifest import Montage, montage_id, write_manifest
from data.shards.tars import write_shard

SFREQ_HZ = 200.0
PEOPLE = {"train": 4, "val": 3, "test": 3}


def labelled_shards(
    folder,
    labels=("rest", "task"),
    unlabelled=2,
    each=12,
    splits=PEOPLE,
    sizes=(12, 16),
    dataset="A",
):  # fmt: skip
    """People with `each` windows of each label and some without; of the last label the windows
    have 20 Hz in them. Every person is a shard, of one of the montages of `sizes` in turn."""
    folder.mkdir(parents=True)
    rng, shards, montages, recordings = np.random.default_rng(0), [], {}, []
    for split, count in splits.items():
        for number in range(count):
            channels = sizes[number % len(sizes)]
            names, places = electrode_places("biosemi32", channels)
            montage = montage_id(names, places)
            montages[montage] = Montage(names, places)
            recording = f"{dataset}_sub-{split}{number}_ses-0_run-0"
            recordings.append(
                {
                    "id": recording, "dataset": dataset, "subject": f"{split}{number}",
                    "session": "0", "run": "0", "split": split, "montage": montage,
                    "scale_uv": 10.0, "unit": "V",
                }
            )  # fmt: skip
            own = [*labels * each, *[None] * unlabelled]
            eeg = smooth_windows(places, len(own), 100, rng)
            tone = 2 * np.sin(2 * np.pi * 20 * np.arange(100) / SFREQ_HZ)
            eeg[[label is not None and label == labels[-1] for label in own]] += tone.astype(
                np.float16
            )
            metas = [{"recording": recording, "onset_s": i / 2} for i in range(len(own))]
            for meta, label in zip(metas, own, strict=True):
                meta |= {"label": label} if label else {}
            shards.append(
                write_shard(
                    folder / f"{dataset}-{split}-{number:05d}.tar",
                    [f"{recording}_{i:05d}" for i in range(len(own))], eeg, metas,
                    dataset=dataset, split=split, montage=montage,
                )
            )  # fmt: skip
    write_manifest(
        folder,
        profile={"name": "default", "sfreq_hz": SFREQ_HZ, "l_freq_hz": 0.5, "h_freq_hz": 75.0,
                 "window_samples": 100},
        montages=montages, recordings=recordings, shards=shards,
        split={"rule": "by hand"}, source={"program": "tests"},
    )  # fmt: skip
    return folder
