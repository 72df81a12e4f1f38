"""DeepSpeed's shared memory on CPU ranks: room for it, and nothing of it left behind.

On CPUs DeepSpeed joins the ranks of one machine through a file of 69 MB a rank in /dev/shm, and
never removes it: each run would keep that much memory until the machine restarts, and once /dev/shm
is full, ranks die of a bus error without a word (as in sgl-project/sglang#38638). A mapped file can
be removed as soon as all ranks have opened it, so that even a killed run leaves nothing.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import torch.distributed as dist

from data.errors import InputError

FOLDER = Path("/dev/shm")
PREFIX = "deepspeed_allreduce_buffer_"
BYTES_A_RANK = 70_000_000


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
