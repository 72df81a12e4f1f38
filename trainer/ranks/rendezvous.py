"""Meeting: every rank reports at the first rank's address before the process group is made.

Without it, a node that never started shows as half an hour of silence and then a timeout without a
name. With it, the ranks that came learn within `EEG_JOIN_S` seconds (300) which did not.
"""

from __future__ import annotations

import os
import socket
from datetime import timedelta

import torch.distributed as dist

from data.errors import InputError

DEFAULT_S = 300.0


def join_seconds() -> float:
    """How long to wait for the others: EEG_JOIN_S, seconds."""
    text = os.environ.get("EEG_JOIN_S", str(DEFAULT_S))
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not value > 0:
        raise InputError(f"EEG_JOIN_S={text}", "give a number of seconds above 0")
    return value


def meet(rank: int, world: int, address: str, port: int, wait_s: float) -> dist.TCPStore:
    """The store that all `world` ranks have reported to; InputError names who is missing."""
    wait = timedelta(seconds=wait_s)
    try:
        store = dist.TCPStore(
            address, port, world, is_master=rank == 0, timeout=wait, wait_for_workers=False
        )
    except RuntimeError as error:
        first_line = str(error).partition("\n")[0]
        if rank == 0:
            raise InputError(
                f"cannot listen on port {port}: {first_line}", "give another --master_port"
            ) from None
        raise InputError(
            f"rank {rank} on {socket.gethostname()} cannot reach the first rank at "
            f"{address}:{port}: {first_line}",
            "see whether the first node's ranks started; if they did, its address is one that "
            "this node has no route to: give another --master_addr",
        ) from None
    store.set(f"here/{rank}", socket.gethostname())
    names = [f"here/{other}" for other in range(world)]
    try:
        store.wait(names, wait)
    except RuntimeError:
        raise InputError(
            f"after {wait_s:g} s not all of {world} ranks have reported to {address}:{port}: "
            f"{_absent(store, names)}",
            "see above whether ssh to their nodes failed, and whether the hostfile names the "
            "nodes of this job; on slow file systems allow more time with EEG_JOIN_S=SECONDS",
        ) from None
    return store


def _absent(store: dist.TCPStore, names: list[str]) -> str:
    try:
        absent = [rank for rank, name in enumerate(names) if not store.check([name])]
    except RuntimeError:  # the first rank, which holds the store, has given up already
        return "see the first rank's message"
    return f"{_spans(absent)} missing"


def _spans(numbers: list[int]) -> str:
    """[4, 5, 6, 9] -> 'ranks 4-6, 9'."""
    spans: list[list[int]] = []
    for number in numbers:
        if spans and number == spans[-1][-1] + 1:
            spans[-1] = [spans[-1][0], number]
        else:
            spans.append([number, number])
    text = ", ".join(f"{a}-{b}" if b > a else str(a) for a, b in spans)
    return f"rank {text}" if len(numbers) == 1 else f"ranks {text}"
