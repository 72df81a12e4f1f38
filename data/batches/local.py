"""Shards -> batches, read by offset from local files.

Reading by offset copies each window once, out of the page cache; `benchmarks/loader.py` measures it
against `wds.WebDataset` over the same shards. The order comes from data/batches/order.py, so worker
processes and prefetching change nothing but speed: the main process hands out requests in order,
and results come back in order. A micro-batch is a list of `Batch`es, nearly always one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset, Sampler

from data.batches.batch import Batch, Prepare, Request, TrainingWindows, finite
from data.batches.order import TrainingOrder, locate
from data.errors import InputError
from data.shards.manifest import Manifest, ShardEntry
from data.shards.readers import Readers
from data.shards.tars import ShardReader
from data.workers import loader_context, start_loader

MOST_AHEAD = 4
AHEAD_BYTES = 2**30


class WindowDataset(Dataset):
    """Turns a `Request` into batches. Readers open on first use, in whichever process asks.

    One `Batch` for each montage and length in the request, in a fixed order: eeg, positions_m,
    order_index, window, dataset, finite, and what `prepare` adds.
    """

    def __init__(
        self, manifest: Manifest, shards: Sequence[ShardEntry], prepare: Prepare | None = None
    ):
        self.manifest, self.shards, self.prepare = manifest, tuple(shards), prepare
        self.starts = np.cumsum([0, *(shard.samples for shard in self.shards)])
        self.dataset_names = sorted({shard.dataset for shard in self.shards})
        self._dataset_of = _numbered(shard.dataset for shard in self.shards)
        self._shape_of = _numbered((shard.montage, shard.window_samples) for shard in self.shards)
        self.readers = Readers(manifest, self.shards)

    def __len__(self) -> int:
        return int(self.starts[-1])

    @property
    def window_bytes(self) -> int:
        """Of the largest window in a batch."""
        return 2 * max(shard.channels * shard.window_samples for shard in self.shards)

    def meta(self, window: int) -> dict:
        """The JSON of a window."""
        shard, index = locate(self.starts, np.array([window]))
        return self.readers[int(shard[0])].meta(int(index[0]))

    def name(self, window: int) -> tuple[ShardEntry, str]:
        """The shard and the key of a window."""
        shard, index = (int(x[0]) for x in locate(self.starts, np.array([window])))
        return self.shards[shard], self.readers[shard].key(index)

    def key(self, window: int) -> str:
        """The text that names a window within its folder, for good."""
        return self.name(window)[1]

    def requests(self, windows: Sequence[int], size: Callable[[int, int], int]) -> list[Request]:
        """Dense requests for the windows: each of one dataset, montage and length, at most
        `size(channels, samples)` windows. Groups and windows come in the order given. Their
        order_index is their number in the split."""
        owners, _ = locate(self.starts, np.asarray(windows, np.int64))
        groups: dict[tuple, list[int]] = {}
        for window, owner in zip(windows, owners.tolist(), strict=True):
            shard = self.shards[owner]
            shape = (shard.channels, shard.window_samples)
            groups.setdefault((shard.dataset, shard.montage, shape), []).append(int(window))
        found = []
        for (_, _, shape), own in groups.items():
            count = max(1, size(*shape))
            for start in range(0, len(own), count):
                chosen = np.array(own[start : start + count])
                found.append(Request(chosen, chosen))
        return found

    def checked(self, request: Request, remedy: str = "pack this dataset again") -> list[Batch]:
        """The batches of a request; InputError for a window that is not finite."""
        batches = self[request]
        for batch in batches:
            for window in batch.window[~batch.finite].tolist():
                shard, key = self.name(window)
                what = f"{shard.file}: {key}: a value of this held-out window is not finite"
                raise InputError(what, remedy)
        return batches

    def __getitem__(self, request: Request) -> list[Batch]:
        owners, indices = locate(self.starts, request.window)
        shapes = self._shape_of[owners]
        # In the order in which they first appear: nearly always there is one.
        _, firsts = np.unique(shapes, return_index=True)
        groups = (np.flatnonzero(shapes == shapes[first]) for first in np.sort(firsts))
        return [self._batch(request, rows, owners, indices) for rows in groups]

    def _batch(self, request, rows, owners, indices) -> Batch:
        first = self.shards[owners[rows[0]]]
        eeg = np.empty((len(rows), first.channels, first.window_samples), dtype=np.float16)
        mine = owners[rows]
        signals = {}
        for owner in set(mine.tolist()):
            reader = self.readers[owner]
            reader.check_unchanged()
            signals[owner] = reader.signals
        places = zip(mine.tolist(), indices[rows].tolist(), strict=True)
        for out, (owner, index) in enumerate(places):
            eeg[out] = signals[owner][index]
        batch = Batch(
            eeg=torch.from_numpy(eeg),
            positions_m=torch.from_numpy(self.manifest.montages[first.montage].positions_m),
            order_index=torch.from_numpy(request.order_index[rows].astype(np.int64)),
            window=torch.from_numpy(request.window[rows].astype(np.int64)),
            dataset=torch.from_numpy(self._dataset_of[mine]),
            finite=torch.from_numpy(finite(eeg)),
        )
        return self.prepare(batch) if self.prepare else batch


def _numbered(values: Iterable) -> np.ndarray:
    """int64 `[n]`: the place of each value among the sorted different ones."""
    values = list(values)
    places = {value: number for number, value in enumerate(sorted(set(values)))}
    return np.array([places[value] for value in values], dtype=np.int64)


class TrainingRequests(Sampler):
    """The requests of one rank from `consumed` on, for `steps` steps of `accumulation` each."""

    def __init__(
        self,
        order: TrainingOrder,
        *,
        rank: int,
        world: int,
        micro: int,
        accumulation: int,
        consumed: int,
        steps: int,
    ):
        if micro * accumulation * world != order.global_batch or consumed % order.global_batch:
            raise ValueError(
                f"{micro} x {accumulation} x {world} ranks, consumed {consumed}: "
                f"not batches of {order.global_batch}"
            )
        self.order, self.rank, self.world = order, rank, world
        self.micro, self.accumulation = micro, accumulation
        self.consumed, self.steps = consumed, steps

    def __len__(self) -> int:
        return self.steps * self.accumulation

    def __iter__(self) -> Iterator[Request]:
        for step in range(self.steps):
            consumed = self.consumed + step * self.order.global_batch
            for index in range(self.accumulation):
                yield Request(
                    *self.order.micro_batch(consumed, self.rank, self.world, self.micro, index)
                )


class LocalMicroBatches:
    """`MicroBatches` (data/batches/batch.py) of windows that are read by number.

    requests: of one rank, with a length where there are `workers` (0: read in this process).
    batch_bytes: of one micro-batch; decides how many each worker may be ahead.
    """

    def __init__(
        self,
        windows: TrainingWindows,
        requests: Iterable[Request],
        *,
        workers: int,
        pin_memory: bool = False,
        batch_bytes: int = 1,
    ):
        self.windows, self.requests = windows, requests
        self.workers, self.pin_memory = workers, pin_memory
        self.ahead = batches_ahead(workers, batch_bytes)
        self.dataset_names = windows.dataset_names

    def __iter__(self) -> Iterator[list[Batch]]:
        items = _ErrorsAsItems(self.windows)
        if self.workers or self.pin_memory:
            found = iter(_data_loader(items, self.requests, self))
        else:
            found = (items[request] for request in self.requests)
        return _raised(found)

    def name(self, batch: Batch, row: int) -> tuple[str, str]:
        shard, key = self.windows.name(int(batch.window[row]))
        return shard.file, key

    def damaged(self) -> InputError | None:
        """Reading a mapped file that was cut kills a loader process (SIGBUS)."""
        for shard in self.windows.shards:
            try:
                ShardReader(self.windows.manifest, shard)
            except InputError as error:
                return error
        return None


class _ErrorsAsItems(Dataset):
    """A loader raises a worker's error with the worker's traceback as its text; this hands it on
    as it is."""

    def __init__(self, windows: TrainingWindows):
        self.windows = windows

    def __getitem__(self, request: Request) -> list[Batch] | InputError:
        try:
            return self.windows[request]
        except InputError as error:
            return error


def _raised(items: Iterator[list[Batch] | InputError]) -> Iterator[list[Batch]]:
    for item in items:
        if isinstance(item, InputError):
            raise item
        yield item


def _data_loader(items: Dataset, requests: Iterable[Request], by: LocalMicroBatches) -> DataLoader:
    return DataLoader(
        items,
        sampler=requests,
        batch_size=None,
        collate_fn=_as_they_are,
        num_workers=by.workers,
        multiprocessing_context=loader_context(by.workers, __name__),
        pin_memory=by.pin_memory,
        prefetch_factor=by.ahead if by.workers else None,
        worker_init_fn=start_loader if by.workers else None,
    )


def batches_ahead(workers: int, batch_bytes: int) -> int:
    """How many micro-batches each worker may be ahead, so that those of a rank fit in 1 GiB.

    One of brain2image is 134 MB: 4 from each of 8 workers would fill 4 GB of shared and as much of
    page-locked memory.
    """
    return min(MOST_AHEAD, max(1, AHEAD_BYTES // (max(1, workers) * batch_bytes)))


def _as_they_are(batches: list[Batch]) -> list[Batch]:
    """Tensors they are already: torch would look at each again."""
    return batches
