"""The next step's micro-batches, fetched one step ahead and looked at before they are trained.

Loader processes look for NaN and infinity in every window (0.06 ms a MB of float16 on one core).
So each rank knows on its CPU, before the step, whether it can be trained;
the ranks agree in the all-reduce that they make after every step anyway
(trainer/ranks/stopping.py), and a step that is bad on one is left out by all. The price is one
step's batch more in host memory.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
import torch.distributed as dist
from torch.utils.data import Sampler

from data.batches.batch import Batch, MicroBatches, TrainingWindows
from data.batches.local import LocalMicroBatches, TrainingRequests, WindowDataset
from data.errors import InputError
from trainer.engine.task import Plan
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


def open_batches(
    plan: Plan, ranks: Ranks, step: int, requests: Sampler | None = None
) -> MicroBatches:
    """One rank's micro-batches from `step` on: of local shards, or streamed from a URL.

    `requests`: micro-batches of one's own (benchmarks) in place of the plan's.
    """
    windows, config = training_dataset(plan), plan.config
    if plan.order is None:
        from data.batches.streamed import ShardStream  # WebDataset is needed for nothing else

        return ShardStream(
            plan.manifest, list(windows.shards), config.shard_url,
            seed=config.seed, rank=ranks.rank, world=ranks.world, micro=plan.micro,
            skip=step * plan.accumulation, prepare=windows.prepare,
        )  # fmt: skip
    requests = requests or TrainingRequests(
        plan.order, rank=ranks.rank, world=ranks.world, micro=plan.micro,
        accumulation=plan.accumulation, consumed=step * plan.global_batch,
        steps=max(0, config.last_step - step),
    )  # fmt: skip
    return LocalMicroBatches(
        windows, requests, workers=config.workers, pin_memory=ranks.device.type == "cuda",
        batch_bytes=plan.micro * windows.window_bytes,
    )  # fmt: skip


class Feed:
    """One rank's data from `step` on: `next`, the next step's micro-batches, and their `trouble`.

    Every rank calls `fetch` after every step but the last.
    """

    def __init__(self, plan: Plan, ranks: Ranks, step: int, requests: Sampler | None = None):
        self.plan, self.ranks = plan, ranks
        self.source = open_batches(plan, ranks, step, requests)
        with shielded():
            self.batches = iter(self.source)
        self.fetch()

    def fetch(self) -> None:
        """Take the next step's micro-batches; at the end of the run there are none."""
        self.next: list[list[Batch]] = []
        self.error: InputError | None = None
        try:
            for _ in range(self.plan.accumulation):
                batches = next(self.batches, None)
                if batches is not None:
                    self.next.append(batches)
        except InputError as error:
            self.error = error
        except RuntimeError as error:
            self.error = self.source.damaged()  # a loader process was killed
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
            file, key = self.source.name(batch, row)
            dataset = self.source.dataset_names[int(batch.dataset[row])]
            names.setdefault((dataset, file), []).append(key)
        text = ", ".join(
            f"{file}: {', '.join(keys)} (dataset {dataset}, rank {self.ranks.rank})"
            for (dataset, file), keys in names.items()
        )
        more = len(places) - NAMED
        return text + (f" and {more} more" if more > 0 else "")


def _rows(flags: torch.Tensor) -> list[int]:
    return flags.nonzero().flatten().tolist()


def _gathered(text: str, ranks: Ranks) -> list[str]:
    everyone: list = [None] * ranks.world
    dist.all_gather_object(everyone, text)
    return [text for text in everyone if text]
