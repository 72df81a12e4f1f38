"""The same windows in other projects' formats, and read the way those projects read them.

Readers copy their models' loaders: one HDF5 group for each recording, chunks of all channels x one
second, sliced at any window (LaBraM, data_processor/dataset.py); one pickle for each window in LMDB
(CBraMod); one .npy file for each window (the DreamDiffusion line). All three keep float32, as those
projects do or more, and collate with PyTorch's default.
"""

from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
import torch
from torch.utils.data import Dataset

from data.shards.manifest import Manifest
from data.shards.tars import ShardReader

RECORDING_WINDOWS = 100
CHUNK_S = 1.0


def write_all(manifest: Manifest, folder: Path) -> dict[str, int]:
    """Write the training windows in every format; returns the bytes of each."""
    import h5py
    import lmdb

    windows = np.concatenate([ShardReader(manifest, s).signals for s in manifest.of_split("train")])
    windows = windows.astype(np.float32)
    _, channels, length = windows.shape
    chunk = (channels, min(length, round(CHUNK_S * manifest.profile["sfreq_hz"])))
    with h5py.File(folder / "recordings.h5", "w") as file:
        for number in range(0, len(windows), RECORDING_WINDOWS):
            signal = np.concatenate(windows[number : number + RECORDING_WINDOWS], axis=1)
            group = file.create_group(f"recording{number:06d}")
            group.create_dataset("eeg", data=signal, chunks=chunk)
    size = 3 * windows.nbytes
    with (
        lmdb.open(str(folder / "lmdb"), map_size=size) as database,
        database.begin(write=True) as t,
    ):
        for number, window in enumerate(windows):
            t.put(str(number).encode(), pickle.dumps({"sample": window, "label": 0}))
    (folder / "npy").mkdir()
    for number, window in enumerate(windows):
        np.save(folder / "npy" / f"{number:06d}.npy", window)
    return {
        "HDF5": _size(folder / "recordings.h5"),
        "LMDB": _size(folder / "lmdb" / "data.mdb"),
        "npy": sum(_size(path) for path in (folder / "npy").iterdir()),
    }


def _size(path: Path) -> int:
    return path.stat().st_blocks * 512


class Hdf5Windows(Dataset):
    """LaBraM: a group for each recording, sliced in time."""

    def __init__(self, folder: Path, length: int):
        import h5py

        self.file, self.length = h5py.File(folder / "recordings.h5", "r"), length
        self.places = [
            (name, start)
            for name in self.file
            for start in range(0, self.file[name]["eeg"].shape[1], length)
        ]

    def __len__(self) -> int:
        return len(self.places)

    def __getitem__(self, index: int) -> np.ndarray:
        name, start = self.places[index]
        return self.file[name]["eeg"][:, start : start + self.length]


class LmdbWindows(Dataset):
    """CBraMod: a pickle for each window."""

    def __init__(self, folder: Path):
        import lmdb

        self.database = lmdb.open(
            str(folder / "lmdb"), readonly=True, lock=False, readahead=True, meminit=False
        )
        with self.database.begin() as transaction:
            self.count = transaction.stat()["entries"]

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> torch.Tensor:
        with self.database.begin(write=False) as transaction:
            pair = pickle.loads(transaction.get(str(index).encode()))  # this program wrote it
        return torch.from_numpy(pair["sample"])


class NpyWindows(Dataset):
    """A file for each window."""

    def __init__(self, folder: Path):
        self.paths = sorted((folder / "npy").iterdir())

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> torch.Tensor:
        return torch.from_numpy(np.load(self.paths[index], allow_pickle=False))
