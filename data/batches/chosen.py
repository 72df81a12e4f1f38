"""Training on some windows of a folder, whatever split its shards are of."""

from __future__ import annotations

from itertools import groupby

import numpy as np

from data.batches.batch import Batch, Prepare, Request
from data.batches.local import WindowDataset
from data.batches.order import Block, locate
from data.shards.manifest import Manifest, ShardEntry


class ChosenWindows:
    """`TrainingWindows` of some windows of a folder, numbered 0, 1, ... in the folder's order."""

    def __init__(self, manifest: Manifest, window: np.ndarray, prepare: Prepare | None = None):
        self.manifest, self.window = manifest, np.sort(window)
        self.all = WindowDataset(manifest, manifest.shards, prepare)
        self.dataset_names, self.window_bytes = self.all.dataset_names, self.all.window_bytes
        owners, _ = locate(self.all.starts, self.window)
        self.blocks = tuple(
            Block(
                sum(1 for _ in own), shard.dataset, shard.montage, shard.channels,
                shard.window_samples,
            )
            for shard, own in groupby(manifest.shards[owner] for owner in owners.tolist())
        )  # fmt: skip
        self.shards = tuple(manifest.shards[owner] for owner in sorted(set(owners.tolist())))

    def __len__(self) -> int:
        return len(self.window)

    def __getitem__(self, request: Request) -> list[Batch]:
        return self.all[Request(request.order_index, self.window[request.window])]

    def name(self, window: int) -> tuple[ShardEntry, str]:
        return self.all.name(window)
