"""Steps that were left out on all ranks, and steps whose gradient was unusually large.

A step is left out where its data or its gradients are not finite: it is counted, told, written to
metrics.jsonl, and after `max_skips` in a row all ranks stop. A large gradient is only told: it is
clipped anyway (`gradient_clipping`), and knowing of it before the optimizer's step would make every
step wait for the device. Norms stay on the device until a log line is due.
"""

from __future__ import annotations

import statistics
from collections import deque
from collections.abc import Callable

import torch

from trainer.engine.log import Log
from trainer.ranks.ranks import SharedError

REMEMBERED = 200  # steps that the running median spans
FEWEST = 20  # steps before which there is no median to compare with


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
    """Tells of gradient norms above `factor` times the running median (0: never)."""

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
