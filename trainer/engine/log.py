"""What a run reports: averages between log lines, metrics.jsonl, TensorBoard, the rate of the chip,
steps that were left out and steps whose gradient was unusually large.

Values stay on the device until a log line is due, so the step itself waits for nothing. On resume,
lines past the resumed step are dropped from both logs: a curve never runs over the same steps
twice.

A step is left out on all ranks where its data or its gradients are not finite. A large gradient is
only reported: it is clipped anyway (`gradient_clipping`), and knowing of it before the optimizer's
step would make every step wait for the device.
"""

from __future__ import annotations

import json
import statistics
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from torch.utils.tensorboard import SummaryWriter

from data.files import write_atomic
from model.losses import LossTerms
from model.transformer import multiplied_in
from trainer.ranks.ranks import Ranks, SharedError, mean_over_ranks

REMEMBERED = 200  # steps that the running median spans
FEWEST = 20  # steps before which there is no median to compare with


class Meter:
    """Averages of a log interval, on the device until they are asked for."""

    def __init__(self, dataset_names: list[str], device: torch.device):
        self.names, self.device = dataset_names, device
        self.reset()

    def reset(self) -> None:
        self.count = 0
        self.scalars: dict[str, torch.Tensor] = {}
        self.vectors: dict[str, torch.Tensor] = {}
        self.windows: dict[str, torch.Tensor] = {}  # [2, data sets]: sums and counts
        self.as_they_are: dict[str, float] = {}

    def add(self, losses: LossTerms, datasets: torch.Tensor) -> None:
        """One micro-batch; datasets int64 `[B]`: which data set each window is of."""
        self.count += 1
        for name, value in {"loss": losses.total.detach(), **losses.terms}.items():
            if isinstance(value, float):
                self.as_they_are[name] = value
            else:
                self.scalars[name] = self.scalars.get(name, 0.0) + value.float()
        for name, value in losses.per_window.items():
            if name not in self.windows:
                self.windows[name] = torch.zeros(2, len(self.names), device=self.device)
            self.windows[name][0].index_add_(0, datasets, value)
            self.windows[name][1].index_add_(0, datasets, torch.ones_like(value))
        for name, value in losses.vectors.items():
            self.vectors[name] = self.vectors.get(name, 0.0) + value

    def result(self, ranks: Ranks) -> tuple[dict[str, float], dict[str, torch.Tensor]]:
        """(values, vectors): means over the interval and all ranks; every rank must call it. Empty
        where all of the interval's steps were skipped."""
        if self.count == 0:
            return {}, {}
        scalars = torch.stack(list(self.scalars.values()))
        scalars = mean_over_ranks(scalars, ranks).cpu() / self.count
        values = dict(zip(self.scalars, scalars.tolist(), strict=True))
        for name, sums in self.windows.items():
            total, count = mean_over_ranks(sums, ranks).cpu()
            values[name] = (total.sum() / count.sum().clamp_min(1e-9)).item()
            for dataset, part, of in zip(self.names, total.tolist(), count.tolist(), strict=True):
                if of:
                    values[f"{name}/{dataset}"] = part / of
        vectors = {
            name: mean_over_ranks(value, ranks).cpu() / self.count
            for name, value in self.vectors.items()
        }
        values |= self.as_they_are
        self.reset()
        return values, vectors


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


class Skips:
    """Counts steps in a row that were left out. `say` prints a line on the first rank."""

    def __init__(self, max_skips: int, log: Log, say: Callable[[str], None]):
        self.max_skips, self.log, self.say = max_skips, log, say
        self.in_a_row = 0

    def skipped(self, step: int, why: str) -> None:
        """Step `step` was left out; SharedError if there were too many. All ranks call it."""
        self.in_a_row += 1
        self.log.event(step, "skipped", why)
        if self.in_a_row >= self.max_skips:
            raise SharedError(
                f"{self.in_a_row} steps in a row were skipped, up to step {step}; the last: {why}",
                "mend the data that are named, or try a lower --lr; every skip is in metrics.jsonl",
            )
        self.say(f"step {step} skipped: {why}")

    def applied(self) -> None:
        self.in_a_row = 0


class Spikes:
    """Reports gradient norms above `factor` times the running median (0: never)."""

    def __init__(self, factor: float, log: Log, say: Callable[[str], None]):
        self.factor, self.log, self.say = factor, log, say
        self._norms: deque[float] = deque(maxlen=REMEMBERED)
        self._new: list[tuple[int, torch.Tensor]] = []

    def add(self, step: int, norm: torch.Tensor | float | None) -> None:
        """The global gradient norm of an applied step, before clipping; nothing is waited for."""
        if self.factor and norm is not None:
            self._new.append((step, torch.as_tensor(norm).detach()))

    def tell(self) -> None:
        """Look at the norms since the last call: one transfer from the device."""
        if not self._new:
            return
        norms = torch.stack([norm.float() for _, norm in self._new]).tolist()
        for (step, _), norm in zip(self._new, norms, strict=True):
            if spike := is_spike(norm, self._norms, self.factor):
                what = f"gradient norm {norm:.3g}, {spike:.1f} times the median of late"
                self.log.event(step, "spike", what)
                self.say(f"step {step}: {what}")
            self._norms.append(norm)
        self._new.clear()


def is_spike(norm: float, before: deque[float] | list[float], factor: float) -> float | None:
    """How many times the median of `before` a norm is, where that is more than `factor`."""
    if len(before) < FEWEST:
        return None
    median = statistics.median(before)
    return norm / median if norm > factor * median > 0 else None
