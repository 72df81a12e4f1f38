"""A rank that hangs is named, with its stack, and the run ends; nobody waits for hours.

A collective that one rank never joins holds all others, and its own timeout names nobody. So every
rank says where it is (`at`: a microsecond, nothing is sent), and a thread of each passes that on
through the store at which the ranks met, a few times a timeout. A rank that has not moved for
`timeout_s` compares all places: who is behind, or whose thread is silent too (a stopped process, a
dead node), did not arrive. If even Python is stuck, faulthandler prints the stack by itself.
"""

from __future__ import annotations

import contextlib
import faulthandler
import json
import os
import socket
import sys
import threading
import time
import traceback
from datetime import timedelta
from pathlib import Path

import torch.distributed as dist

from trainer.ranks.ranks import Ranks

REMEDY = (
    "  -> look at that process or node, then start the same command again: it goes on from the "
    "last checkpoint; if the wait was honest, allow more with --timeout_s"
)


class Watch:
    """Watches this rank from its first `at` to `close`; `timeout_s` 0: never."""

    def __init__(self, ranks: Ranks, timeout_s: float):
        self.ranks, self.timeout_s = ranks, timeout_s
        self.interval_s = min(10.0, timeout_s / 10)
        self._place = (0, time.monotonic(), "the start")
        self._closed = threading.Event()
        self._main = threading.get_ident()
        self._threads: list[threading.Thread] = []
        if timeout_s and ranks.world > 1:
            # A connection of its own: the process group's would wait behind a slow one.
            store = dist.TCPStore(
                os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"]), ranks.world,
                is_master=False, wait_for_workers=False,
                timeout=timedelta(seconds=max(5.0, 2 * self.interval_s)),
            )  # fmt: skip
            self._asked: float | None = None  # since when the store has not answered
            self._tell(store, 0)
            self._threads = [
                threading.Thread(target=self._run, args=(store,), name="watch", daemon=True),
                threading.Thread(target=self._guard, name="watch_store", daemon=True),
            ]
            for thread in self._threads:
                thread.start()

    def at(self, step: int, what: str) -> None:
        """This rank arrives at `what`; all ranks make the same calls."""
        self._place = (self._place[0] + 1, time.monotonic(), f"{what}, step {step}")

    def close(self) -> None:
        self._closed.set()
        for thread in self._threads:  # none may be in the store when the interpreter ends
            thread.join(timeout=5.0)
        faulthandler.cancel_dump_traceback_later()

    def _run(self, store: dist.TCPStore) -> None:
        beat, seen = 0, -1
        while not self._closed.wait(self.interval_s):
            count, since, _ = self._place
            if count != seen:
                faulthandler.dump_traceback_later(self.timeout_s + 6 * self.interval_s)
                seen = count
            beat += 1
            self._tell(store, beat)
            if time.monotonic() - since > self.timeout_s:
                self._end(store, beat)

    def _guard(self) -> None:
        """The store lives in the first rank: where that is silent, asking never returns."""
        while not self._closed.wait(self.interval_s):
            asked, (_, since, what), now = self._asked, self._place, time.monotonic()
            patience_s = max(3.0, 4 * self.interval_s)
            if asked and now - asked > patience_s and now - since > self.timeout_s:
                if self.ranks.rank == 1:
                    _print(
                        f"error: no progress for {self.timeout_s:g} s at {what}: rank 0 at "
                        f"{os.environ['MASTER_ADDR']} does not answer: its process is stopped, or "
                        f"its node is gone\n{REMEDY}"
                    )
                os._exit(1)

    def _tell(self, store: dist.TCPStore, beat: int) -> None:
        """Say where this rank is, and wait for the store to have heard it."""
        count, _, what = self._place
        place = {"beat": beat, "count": count, "what": what}
        place |= {"host": socket.gethostname(), "pid": os.getpid()}
        self._asked = time.monotonic()
        with contextlib.suppress(RuntimeError):  # it is gone: then `_asked` stays
            store.set(f"watch/{self.ranks.rank}", json.dumps(place))
            store.check([f"watch/{self.ranks.rank}"])
            self._asked = None

    def _end(self, store: dist.TCPStore, beat: int) -> None:
        """This rank has waited too long: find out for whom, let one rank say so, and leave."""
        first = _told(store, self.ranks.world)
        for _ in range(3):
            time.sleep(self.interval_s)
            if self._closed.is_set():
                return
            beat += 1
            self._tell(store, beat)
        second = _told(store, self.ranks.world)
        absent = behind(first, second)
        if self.ranks.rank in absent:
            frame = sys._current_frames().get(self._main)
            stack = "".join(traceback.format_stack(frame))
            store.set(f"watch/stack/{self.ranks.rank}", stack)
        present = [rank for rank in range(self.ranks.world) if rank not in absent]
        if self.ranks.rank == (present or absent)[0]:
            time.sleep(2 * self.interval_s)
            lines = [f"error: no progress for {self.timeout_s:g} s: all wait for"]
            lines += [self._describe(store, rank, second.get(rank)) for rank in absent]
            _print("\n".join([*lines, REMEDY]))
            store.set("watch/told", "1")
        else:
            with contextlib.suppress(RuntimeError):
                store.wait(["watch/told"], timedelta(seconds=max(5.0, 6 * self.interval_s)))
        os._exit(1)

    def _describe(self, store: dist.TCPStore, rank: int, place: dict | None) -> str:
        if place is None:
            return f"  rank {rank}, which never began"
        text = f"  rank {rank} on {place['host']} (process {place['pid']}), at {place['what']}"
        if store.check([f"watch/stack/{rank}"]):
            return f"{text}; its stack:\n{store.get(f'watch/stack/{rank}').decode().rstrip()}"
        text += "; it does not answer: its process is stopped, or its node is gone"
        if place["host"] == socket.gethostname():
            with contextlib.suppress(OSError):
                status = Path(f"/proc/{place['pid']}/status").read_text().splitlines()
                state = next(line for line in status if line.startswith("State:"))
                text += f" ({state.replace(chr(9), ' ').lower()})"
        return text


def behind(first: dict[int, dict], second: dict[int, dict]) -> list[int]:
    """Who holds the others up, of what all ranks told at two times some beats apart: the silent
    ones; else those that made the fewest calls; all, where all are at one place."""
    silent = [
        rank
        for rank, place in second.items()
        if not place or (first[rank] and first[rank]["beat"] == place["beat"])
    ]
    if silent:
        return silent
    fewest = min(place["count"] for place in second.values())
    return [rank for rank, place in second.items() if place["count"] == fewest]


def _told(store: dist.TCPStore, world: int) -> dict[int, dict | None]:
    names = {rank: f"watch/{rank}" for rank in range(world)}
    return {
        rank: json.loads(store.get(name)) if store.check([name]) else None
        for rank, name in names.items()
    }


def _print(text: str) -> None:
    print(text, file=sys.stderr, flush=True)
