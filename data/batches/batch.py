"""What the loader gives and a task trains on: windows of one length that the model takes at once.

A micro-batch is a list of batches, one for each montage and length in it: nearly always one.

Shapes: B windows, C channels, T samples, K visible and M hidden tokens.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from data.errors import InputError
from data.shards.manifest import Manifest, ShardEntry


@dataclass(frozen=True, eq=False)
class Batch:
    """B windows of one length. What a task did not ask for is None."""

    eeg: Tensor
    """`[B, C, T]`, robust units: float16 from the loader, float32 on the device."""
    positions_m: Tensor
    """float32 `[C, 3]`, metres in the head frame: of the one montage; `[B, C, 3]`: of several."""
    order_index: Tensor
    """int64 `[B]`, place in the training order: with the seed, the key of every draw."""
    window: Tensor
    """int64 `[B]`, number in the split."""
    dataset: Tensor
    """int64 `[B]`, index into the `dataset_names` of what gave the batch."""
    channel_mask: Tensor | None = None
    """bool `[B, C]`, True: recorded. None: all are."""
    finite: Tensor | None = None
    """bool `[B]`: whether every value of a window is."""
    keep: Tensor | None = None
    """int64 `[B, K]`, the visible tokens."""
    hide: Tensor | None = None
    """int64 `[B, M]`, the hidden tokens."""
    recording: Tensor | None = None
    """int64 `[B]`, index into `Names.recordings` (data/batches/window_table.py)."""
    person: Tensor | None = None
    """int64 `[B]`, index into `Names.people`."""
    label: Tensor | None = None
    """int64 `[B]`, index into `Names.labels`; -1: none."""
    image: Tensor | None = None
    """int64 `[B]`, index of the image that was seen; -1: none."""
    targets: dict[str, Tensor] = field(default_factory=dict)
    """What one task alone predicts: MEG, image embeddings."""

    @classmethod
    def of(cls, eeg: Tensor, positions_m: Tensor, **more: Tensor) -> Batch:
        """Windows that come from no split: they are numbered as they lie, and of one dataset.
        `more`: other fields."""
        numbers = torch.arange(len(eeg), device=eeg.device)
        known = {"order_index": numbers, "window": numbers, "dataset": torch.zeros_like(numbers)}
        return cls(eeg, positions_m, **(known | more))

    def __len__(self) -> int:
        return len(self.eeg)

    def to(self, device: torch.device | str) -> Batch:
        """On the device, without waiting for the copy; eeg becomes float32 there, not before."""
        moved = self._each(lambda tensor: tensor.to(device, non_blocking=True))
        return replace(moved, eeg=moved.eeg.float())

    def pin_memory(self) -> Batch:
        """In page-locked memory, from which `to` copies while the host goes on."""
        return self._each(Tensor.pin_memory)

    def _each(self, change: Callable[[Tensor], Tensor]) -> Batch:
        values = {entry.name: getattr(self, entry.name) for entry in fields(self)}
        targets = {name: change(value) for name, value in values.pop("targets").items()}
        changed = {n: None if value is None else change(value) for n, value in values.items()}
        return Batch(**changed, targets=targets)


Prepare = Callable[[Batch], Batch]
"""What a task does to a batch in the loader's workers; picklable."""


@dataclass(frozen=True, eq=False)
class Request:
    """One micro-batch: places in the training order and the windows there, int64 `[B]` each."""

    order_index: np.ndarray
    window: np.ndarray


class TrainingWindows(Protocol):
    """What turns requests into batches, in a loader's worker: `WindowDataset`, or a task's own."""

    manifest: Manifest
    shards: Sequence[ShardEntry]
    """Those that are read."""
    dataset_names: list[str]
    """What `Batch.dataset` numbers."""
    window_bytes: int
    """Of the largest window in a batch."""

    def __getitem__(self, request: Request) -> list[Batch]:
        """One batch for each montage and length; with `finite`."""

    def name(self, window: int) -> tuple[ShardEntry, str]:
        """Where a window lies: its shard and its key there."""


class MicroBatches(Protocol):
    """One rank's micro-batches in the order of training, however they are read."""

    dataset_names: list[str]
    """What `Batch.dataset` numbers."""

    def __iter__(self) -> Iterator[list[Batch]]:
        """Raises InputError for a shard that cannot be read."""

    def name(self, batch: Batch, row: int) -> tuple[str, str]:
        """Where a window of a batch came from: the shard's file, and the window's key there."""

    def damaged(self) -> InputError | None:
        """Where a shard was altered, which kills a loader process: what is wrong with it."""


def finite(eeg: np.ndarray) -> np.ndarray:
    """bool `[B]` of float16 `[B, C, T]`. By bits: 27 times as fast as np.isfinite."""
    exponent_and_fraction = eeg.view(np.uint16) & 0x7FFF
    return exponent_and_fraction.reshape(len(eeg), -1).max(axis=1) < 0x7C00
