"""The next step's micro-batches, fetched one step ahead and looked at before they are trained.

Loader processes look for NaN and infinity in every window (0.06 ms a MB of float16 on one core) and
hand errors on as items. So each rank knows on its CPU, before the step, whether it can be trained;
the ranks agree in the all-reduce that they make after every step anyway
(trainer/ranks/stopping.py), and a step that is bad on one is left out by all. The price is one
step's batch more in host memory.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
import torch.distributed as dist
from torch.utils.data import Dataset, Sampler

from data.batches.batch import Batch, Request
from data.batches.local import TrainingRequests, WindowDataset, batches_ahead, training_loader
from data.errors import InputError
from data.shards.tars import ShardReader
from trainer.engine.task import Plan, TrainingWindows
from trainer.ranks.ranks import Ranks, SharedError
from trainer.ranks.stopping import shielded

FINE, NOT_FINITE, BROKEN = 0, 1, 2
NAMED = 5  # windows that one message names


def training_dataset(plan: Plan) -> TrainingWindows:
    """What the task trains on: windows of its own, or the training shards', prepared by it."""
    own = plan.task.dataset(plan)
    if own is not None:
        return own
    return WindowDataset(plan.manifest, plan.manifest.of_split("train"), plan.task.prepare(plan))


class Feed:
    """One rank's data from `step` on: `next`, the next step's micro-batches, and their `trouble`.

    Every rank calls `fetch` after every step but the last. `requests`: micro-batches of one's own
    (benchmarks) in place of the plan's.
    """

    def __init__(self, plan: Plan, ranks: Ranks, step: int, requests: Sampler | None = None):
        self.plan, self.ranks = plan, ranks
        self.dataset = training_dataset(plan)
        with shielded():
            self.batches = iter(self._batches(step, requests))
        self.fetch()

    def _batches(self, step: int, requests: Sampler | None):
        plan, ranks = self.plan, self.ranks
        if plan.order is None:
            from data.batches.streamed import ShardStream  # WebDataset is needed for nothing else

            return ShardStream(
                plan.manifest, list(self.dataset.shards), plan.config.shard_url,
                seed=plan.config.seed, rank=ranks.rank, world=ranks.world, micro=plan.micro,
                skip=step * plan.accumulation, prepare=self.dataset.prepare,
            )  # fmt: skip
        requests = requests or TrainingRequests(
            plan.order, rank=ranks.rank, world=ranks.world, micro=plan.micro,
            accumulation=plan.accumulation, consumed=step * plan.global_batch,
            steps=max(0, plan.config.last_step - step),
        )  # fmt: skip
        pin = ranks.device.type == "cuda"
        workers = plan.config.workers
        ahead = batches_ahead(workers, plan.micro * self.dataset.window_bytes)
        return training_loader(_ErrorsAsItems(self.dataset), requests, workers, pin, ahead)

    def fetch(self) -> None:
        """Take the next step's micro-batches; at the end of the run there are none."""
        self.next: list[list[Batch]] = []
        self.error: InputError | None = None
        try:
            for _ in range(self.plan.accumulation):
                item = next(self.batches, None)
                if isinstance(item, InputError):
                    raise item
                if item is not None:
                    self.next.append(item)
        except InputError as error:
            self.error = error
        except RuntimeError as error:
            # A loader process was killed. Reading a mapped file that was cut does that (SIGBUS).
            self.error = self._altered_shard()
            if self.error is None:
                raise error
        self._bad = [(batch, row) for batch in self._all() for row in _rows(~batch.finite)]

    def close(self) -> None:
        """Let the loader go, which ends its processes."""
        self.batches = iter(())

    @property
    def trouble(self) -> int:
        return BROKEN if self.error else NOT_FINITE if self._bad else FINE

    def micro_batches(self) -> Iterator[list[Batch]]:
        """What the task gets, on the device."""
        for batches in self.next:
            yield [batch.to(self.ranks.device) for batch in batches]

    def explain(self) -> str:
        """Which windows of all ranks' next step are not finite; every rank must call it."""
        return "; ".join(_gathered(self._names(self._bad), self.ranks))

    def suspects(self, r: list[torch.Tensor]) -> str:
        """Which windows gave no finite result in a step that DeepSpeed skipped; `r`: the first
        per-window value of each of its micro-batches. Every rank must call it."""
        found = torch.cat(r).float().cpu() if r else torch.zeros(0)
        places = [(batch, row) for batch in self._all() for row in range(len(batch))]
        bad = [place for place, value in zip(places, found, strict=False) if not value.isfinite()]
        return "; ".join(_gathered(self._names(bad), self.ranks))

    def stop_all(self) -> None:
        """Raise the first failing rank's error on all; every rank must call it."""
        everyone: list = [None] * self.ranks.world
        dist.all_gather_object(everyone, self.error)
        rank, error = next((rank, error) for rank, error in enumerate(everyone) if error)
        raise SharedError(f"{error.what} (rank {rank})", error.remedy)

    def _all(self) -> Iterator[Batch]:
        return (batch for batches in self.next for batch in batches)

    def _names(self, places: list[tuple[Batch, int]]) -> str:
        """'A-train-00000.tar: KEY, KEY (dataset A, rank 1)' of windows, or ''."""
        if not places:
            return ""
        names: dict[tuple[str, str], list[str]] = {}
        for batch, row in places[:NAMED]:
            dataset, file, key = self._name(batch, row)
            names.setdefault((dataset, file), []).append(key)
        text = ", ".join(
            f"{file}: {', '.join(keys)} (dataset {dataset}, rank {self.ranks.rank})"
            for (dataset, file), keys in names.items()
        )
        more = len(places) - NAMED
        return text + (f" and {more} more" if more > 0 else "")

    def _name(self, batch: Batch, row: int) -> tuple[str, str, str]:
        dataset = self.dataset.dataset_names[int(batch.dataset[row])]
        window = int(batch.window[row])
        if self.plan.order is None:  # streamed windows are not known by number
            return dataset, "streamed shard", f"window {window}"
        shard, key = self.dataset.name(window)
        return dataset, shard.file, key

    def _altered_shard(self) -> InputError | None:
        for shard in self.dataset.shards:
            try:
                ShardReader(self.plan.manifest, shard)
            except InputError as error:
                return error
        return None


class _ErrorsAsItems(Dataset):
    """A loader raises a worker's error with the worker's traceback as its text; this hands it on
    as it is."""

    def __init__(self, dataset: TrainingWindows):
        self.dataset = dataset

    def __getitem__(self, request: Request) -> list[Batch] | InputError:
        try:
            return self.dataset[request]
        except InputError as error:
            return error


def _rows(flags: torch.Tensor) -> list[int]:
    return flags.nonzero().flatten().tolist()


def _gathered(text: str, ranks: Ranks) -> list[str]:
    everyone: list = [None] * ranks.world
    dist.all_gather_object(everyone, text)
    return [text for text in everyone if text]
