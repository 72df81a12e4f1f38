"""Labelled windows of a split, and their features from a frozen encoder.

Windows are spread evenly over each person's, the same for every run on the same shards. Features
are standardised by the training windows' mean and deviation: a probe then learns at one rate
whatever the encoder's scale (He et al. 2022 put a batch norm there; a fixed one is the same on
every rank).
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

import numpy as np
import torch

from data.batches.batch import Batch, Request
from data.batches.local import WindowDataset
from data.batches.window_table import NO_LABEL, WindowTable
from data.errors import InputError
from data.shards.manifest import Manifest
from data.spacing import evenly
from model.autoencoder import MaskedVAE

SPLITS = ("train", "val")


@dataclass(frozen=True)
class Labelled:
    """The windows of both splits by their labels; checked: two classes or more, and no person in
    both splits."""

    train: WindowTable
    val: WindowTable
    classes: tuple[int, ...]
    """The labels of the training windows, as numbers of `names.labels`."""

    @classmethod
    def read(cls, manifest: Manifest, where: str) -> Labelled:
        train, val = (WindowTable.read(manifest, split) for split in SPLITS)
        for split, table in zip(SPLITS, (train, val), strict=True):
            if not (table.label != NO_LABEL).any():
                raise InputError(
                    f"{where}: no window of the split {split} has a label",
                    "pack with labels (label=, labels= or events= of a source) and a split val",
                )
        both = set(_people(train)) & set(_people(val))
        if both:
            dataset, subject = sorted(both)[0]
            raise InputError(
                f"{where}: {dataset} subject {subject} is in train and val",
                "a probe is scored on people it was not trained on: pack with a split by subject",
            )
        classes = sorted(set(train.label[train.label != NO_LABEL].tolist()))
        names = [str(train.names.labels[label]) for label in classes]
        if len(classes) < 2:
            raise InputError(
                f"{where}: all training windows have one label, {names[0]}",
                "a probe tells at least two apart: pack recordings of another label too",
            )
        if strange := sorted(set(val.label.tolist()) - {*classes, NO_LABEL}):
            raise InputError(
                f"{where}: label {train.names.labels[strange[0]]} is in val and not in train",
                f"train has {', '.join(names)}: pack more people, or leave that label out",
            )
        return cls(train, val, tuple(classes))

    @property
    def names(self) -> list[str]:
        """Of the classes, in the order of the logits."""
        return [str(self.train.names.labels[label]) for label in self.classes]

    def target(self, labels: torch.Tensor) -> torch.Tensor:
        """Numbers of labels -> numbers of classes, int64 `[B]`; -1 stays."""
        lookup = torch.full((max(self.classes) + 2,), NO_LABEL, device=labels.device)
        for place, label in enumerate(self.classes):
            lookup[label] = place
        return lookup[labels]  # -1 looks at the last place, which is -1

    def weights(self) -> torch.Tensor:
        """float32 `[K]`: of each class in the loss, so that all count alike; mean 1 a window."""
        counts = Counter(self.train.label[self.train.label != NO_LABEL].tolist())
        total = sum(counts.values())
        return torch.tensor([total / len(self.classes) / counts[label] for label in self.classes])


def _people(table: WindowTable) -> list[tuple[str, str]]:
    return [table.names.people[number] for number in np.unique(table.person)]


def spread(table: WindowTable, total: int) -> np.ndarray:
    """Numbers of about `total` labelled windows, evenly over each person's, ascending."""
    labelled = table.label != NO_LABEL
    people = np.unique(table.person[labelled])
    each = -(-total // len(people))
    chosen = []
    for person in people:
        own = np.flatnonzero(labelled & (table.person == person))
        chosen.append(own[evenly(len(own), each)])
    return np.sort(np.concatenate(chosen))


def read_windows(manifest: Manifest, split: str, windows: np.ndarray, size: int) -> list[Batch]:
    """The chosen windows of a split in batches of at most `size`; InputError for one that is not
    finite."""
    dataset = WindowDataset(manifest, manifest.of_split(split))
    batches = []
    for start in range(0, len(windows), size):
        rows = windows[start : start + size]
        for batch in dataset[Request(rows, rows)]:
            for window in batch.window[~batch.finite].tolist():
                shard, key = dataset.name(window)
                raise InputError(
                    f"{shard.file}: {key}: a value of this window is not finite",
                    "pack this dataset again",
                )
            batches.append(batch)
    return batches


@torch.inference_mode()
def features(encoder: MaskedVAE, batches: list[Batch], device: torch.device) -> torch.Tensor:
    """fp32 `[n, D]` on the device: the encoder's pooled embedding of each window."""
    return torch.cat(
        [encoder.encode(b.eeg.to(device).float(), b.positions_m.to(device)).pooled for b in batches]
    )


def log_band_power(batches: list[Batch], sfreq_hz: float) -> np.ndarray:
    """float64 `[n, 5]`: log power in delta, theta, alpha, beta and gamma, averaged over channels:
    the same columns for every montage."""
    bands = ((1, 4), (4, 8), (8, 13), (13, 30), (30, 45))
    found = []
    for batch in batches:
        eeg = batch.eeg.double()
        power = torch.fft.rfft(eeg - eeg.mean(-1, keepdim=True)).abs().square()
        freqs = torch.fft.rfftfreq(eeg.shape[-1], 1 / sfreq_hz)
        columns = [
            power[..., (freqs >= low) & (freqs < high)].mean(-1).add(1e-12).log().mean(1)
            for low, high in bands
        ]
        found.append(torch.stack(columns, 1))
    return torch.cat(found).numpy()
