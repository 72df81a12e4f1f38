"""What a run reports: averages between log lines, metrics.jsonl, TensorBoard, the chip's rate.

Values stay on the device until a log line is due, so the step itself waits for nothing. On resume,
lines past the resumed step are dropped from both logs: a curve never runs over the same steps
twice.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from torch.utils.tensorboard import SummaryWriter

from data.files import write_atomic
from model.linear import multiplied_in
from model.losses import Losses
from trainer.ranks.ranks import Ranks, mean_over_ranks


class Accumulator:
    """Sums of a log interval, on the device."""

    def __init__(self, dataset_names: list[str], latent_dim: int, device: torch.device):
        self.names, self.device, self.latent_dim = dataset_names, device, latent_dim
        self.reset()

    def reset(self) -> None:
        self.scalars = torch.zeros(4, device=self.device)
        self.count = 0
        self.r = torch.zeros(2, len(self.names), device=self.device)
        self.kl = torch.zeros(self.latent_dim, device=self.device)

    def add(self, losses: Losses, datasets: torch.Tensor) -> None:
        """One micro-batch; datasets int64 `[B]`: which dataset each sample of `losses.r` is of."""
        terms = (losses.loss.detach(), losses.error, losses.kl, losses.spectral)
        self.scalars += torch.stack(terms).float()
        self.count += 1
        self.r[0].index_add_(0, datasets, losses.r)
        self.r[1].index_add_(0, datasets, torch.ones_like(losses.r))
        self.kl += losses.kl_per_dim

    def result(self, ranks: Ranks) -> dict[str, float]:
        """Means over the interval and all ranks; every rank must call it. Empty where all of the
        interval's steps were skipped."""
        if self.count == 0:
            return {}
        scalars = mean_over_ranks(self.scalars, ranks).cpu() / self.count
        r = mean_over_ranks(self.r, ranks).cpu()
        kl = mean_over_ranks(self.kl, ranks).cpu() / self.count
        values = dict(zip(("loss", "error", "kl", "spectral"), scalars.tolist(), strict=True))
        values["r"] = (r[0].sum() / r[1].sum().clamp_min(1e-9)).item()
        for name, total, count in zip(self.names, *r.tolist(), strict=True):
            if count:
                values[f"r/{name}"] = total / count
        values["latent/kl_max_dim"] = kl.max().item()
        values["latent/kl_min_dim"] = kl.min().item()
        self.reset()
        return values


class Log:
    """metrics.jsonl and TensorBoard events of a run; only the first rank writes."""

    def __init__(self, run: Path, step: int, ranks: Ranks):
        self.writer, self._said = None, False
        if not ranks.first:
            return
        self.path = run / "metrics.jsonl"
        if self.path.exists():
            kept = [line for line in _whole_lines(self.path) if json.loads(line)["step"] <= step]
            write_atomic(self.path, "".join(line + "\n" for line in kept).encode())
        self.writer = SummaryWriter(str(run / "tensorboard"), purge_step=step + 1)

    def scalars(self, group: str, step: int, values: dict[str, float]) -> None:
        if self.writer is None:
            return
        with self._or_say_so():
            self._append({"step": step, "group": group, **values})
            for name, value in values.items():
                self.writer.add_scalar(f"{group}/{name}", value, step)

    def event(self, step: int, kind: str, what: str) -> None:
        """One line of metrics.jsonl in words: a step that was skipped, a spike."""
        if self.writer is not None:
            with self._or_say_so():
                self._append({"step": step, "group": "event", kind: what})

    def figure(self, name: str, step: int, figure) -> None:
        if self.writer is not None:
            with self._or_say_so():
                self.writer.add_figure(name, figure, step)

    def close(self) -> None:
        if self.writer is not None:
            with self._or_say_so():
                self.writer.close()

    def _append(self, line: dict) -> None:
        with open(self.path, "a") as file:
            file.write(json.dumps(line) + "\n")

    @contextmanager
    def _or_say_so(self) -> Iterator[None]:
        """A log that cannot be written is no reason to lose the run: the next checkpoint is."""
        try:
            yield
        except OSError as error:
            if not self._said:
                print(f"{self.path.parent}: no log: {error.strerror or error}", flush=True)
            self._said = True


def _whole_lines(path: Path) -> list[str]:
    """Lines of a JSONL file; a last line that a kill cut short is left out."""
    lines = path.read_text().split("\n")
    return [line for line in lines[:-1] if line]


def measured_peak_flops(device: torch.device, dtype: torch.dtype) -> float:
    """The device's rate of large square matrix products, operations a second.

    What a chip really gives, unlike a data sheet; a CPU's rate is for this process's threads, in
    the dtype that its products are taken in. Best of six, since a busy machine only ever makes it
    slower; fewer where that takes over a second.
    """
    dtype = multiplied_in(device, dtype)
    size, repeat = (8192, 10) if device.type == "cuda" else (512, 2)
    a = torch.randn(size, size, device=device, dtype=dtype)
    best, began = float("inf"), time.perf_counter()
    for _ in range(6):
        if best < float("inf") and time.perf_counter() - began > 1:
            break
        if device.type == "cuda":
            torch.cuda.synchronize()
        start = time.perf_counter()
        for _ in range(repeat):
            a @ a
        if device.type == "cuda":
            torch.cuda.synchronize()
        best = min(best, time.perf_counter() - start)
    return repeat * 2 * size**3 / best
