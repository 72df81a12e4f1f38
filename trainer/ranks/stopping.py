"""Stopping between two steps with a checkpoint, because somebody asked.

Asked by a file: `touch RUN/STOP`. Or by SIGTERM or SIGUSR1 to any rank, as schedulers send before
they kill. Or by the death of the launcher that started the ranks, after which nothing would restart
or stop them. The ranks agree after every step, by one all-reduce of two integers, so all of them
leave after the same step; the first rank looks for the file at most once a second. That took 0.4 ms
a step for 2 gloo ranks on 2 busy cores, 4 ms for 8 on the same 2. The same all-reduce tells all of
trouble that one rank has with its next step's data (trainer/engine/feed.py). It goes between the hosts,
over gloo, also where gradients go over NCCL: so no host waits for its GPU to finish the step.

Signals must reach a rank to count. DeepSpeed's launcher hands SIGTERM on, then kills after 30 s;
SIGUSR1 ends the launcher itself and leaves the ranks running. So batch scripts make the file:
slurm/launch.sh does it for Slurm's warning before the time limit.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing import resource_tracker
from pathlib import Path

import torch
import torch.distributed as dist

from trainer.ranks.ranks import Ranks

SIGNALS = (signal.SIGTERM, signal.SIGUSR1)
_ORPHANED, _BY_FILE = 1000, 1001  # above every signal's number
ORPHANED = "the death of the launcher"


class StopRequests:
    """Listens from its creation to `close`; a file left by an earlier stop is removed."""

    def __init__(self, run: Path, ranks: Ranks):
        self.file, self.ranks = run / "STOP", ranks
        if ranks.first:
            self.file.unlink(missing_ok=True)
        self._hosts = dist.new_group(backend="gloo") if ranks.device.type == "cuda" else None
        self._heard, self._looked, self._parent = 0, -1.0, os.getppid()
        self._before = {number: signal.signal(number, self._hear) for number in SIGNALS}

    def _hear(self, number: int, frame) -> None:
        self._heard = int(number)

    def agree(self, trouble: int = 0) -> tuple[str | None, int]:
        """(what asked all ranks to stop, or None; the largest `trouble` of any rank).

        Every rank must call it after every step.
        """
        now = time.monotonic()
        if self.ranks.world > 1 and os.getppid() != self._parent:  # one may be alone: nohup
            self._heard = _ORPHANED
        if self.ranks.first and now - self._looked > 1:
            self._looked = now
            if self.file.exists():
                self._heard = _BY_FILE
        flags = torch.tensor([self._heard, trouble], dtype=torch.int32)
        dist.all_reduce(flags, op=dist.ReduceOp.MAX, group=self._hosts)
        number, trouble = flags.tolist()
        named = {0: None, _ORPHANED: ORPHANED, _BY_FILE: str(self.file)}
        return (named[number] if number in named else signal.Signals(number).name), trouble

    def close(self) -> None:
        """Stop listening, and remove the file that has been obeyed."""
        for number, handler in self._before.items():
            signal.signal(number, handler)
        if self.ranks.first:
            self.file.unlink(missing_ok=True)


@contextmanager
def shielded() -> Iterator[None]:
    """Processes started in this block do not receive the stop signals.

    A launcher or scheduler signals whole process trees; loader workers that died of it would take
    the rank with them before it has saved.
    """
    # Python's resource tracker, which comes with the first of such processes, unblocks SIGTERM.
    resource_tracker.ensure_running()
    before = signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
