"""How ranks come together: they meet at the first rank's address, and find room in shared memory.

Every rank reports to the first one before the process group is made. Without it, a node that never
started shows as half an hour of silence and then a timeout without a name. With it, the ranks that
came learn within `EEG_JOIN_S` seconds (300) which did not.

On CPUs DeepSpeed joins the ranks of one machine through a file of 69 MB a rank in /dev/shm, and
never removes it: each run would keep that much memory until the machine restarts, and once /dev/shm
is full, ranks die of a bus error without a word (as in sgl-project/sglang#38638). A mapped file can
be removed as soon as all ranks have opened it, so that even a killed run leaves nothing.
"""

from __future__ import annotations

import os
import shutil
import socket
from datetime import timedelta
from pathlib import Path

import torch.distributed as dist

from data.errors import InputError

FOLDER = Path("/dev/shm")
PREFIX = "deepspeed_allreduce_buffer_"
BYTES_A_RANK = 70_000_000
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


def require_room(ranks_here: int) -> None:
    """InputError where /dev/shm cannot hold the files of this machine's ranks. To be called before
    any rank makes its own."""
    needed = ranks_here * BYTES_A_RANK
    if not FOLDER.is_dir() or (free := shutil.disk_usage(FOLDER).free) >= needed:
        return
    remedy = "give the container more (docker: --shm-size=8g)"
    if left := left_over_bytes():
        remedy = f"killed runs left {left / 1e9:.1f} GB there: rm {FOLDER}/{PREFIX}*"
    raise InputError(
        f"{FOLDER}: {free / 1e6:.0f} MB free, {ranks_here} CPU ranks need {needed / 1e6:.0f} MB",
        remedy,
    )


def release(rank: int) -> None:
    """Remove this rank's name from /dev/shm, once all ranks have mapped what they need."""
    dist.barrier()
    address, port = os.environ["MASTER_ADDR"], os.environ["MASTER_PORT"]
    (FOLDER / f"{PREFIX}{os.getuid()}_{address}_{port}_{rank}").unlink(missing_ok=True)


def left_over_bytes() -> int:
    """Bytes of such files, of this user's running and ended programs."""
    if not FOLDER.is_dir():
        return 0
    return sum(path.stat().st_size for path in FOLDER.glob(f"{PREFIX}{os.getuid()}_*"))
