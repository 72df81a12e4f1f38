"""Ranks: starting them, agreeing on errors, stopping together.

Whatever goes wrong before training starts - a missing file on one node, a damaged shard that one
rank found - is gathered, so that every rank stops with the same message instead of one exiting and
the others waiting for it until the collective's timeout (30 minutes by default).
"""

from __future__ import annotations

import os
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

import torch
import torch.distributed as dist

from data.errors import InputError
from trainer.ranks import joining
from trainer.ranks.joining import join_seconds, meet


@dataclass(frozen=True)
class Ranks:
    rank: int
    world: int
    device: torch.device

    @property
    def first(self) -> bool:
        return self.rank == 0


class SharedError(InputError):
    """An error that all ranks know of: the first rank reports it."""


def start_ranks(timeout_s: float = 0.0) -> Ranks:
    """Join the process group that the launcher prepared (one process without a launcher).

    Collectives wait half an hour (DEEPSPEED_TIMEOUT), and longer than twice `timeout_s`: before
    that trainer/ranks/watch.py says who is missing.
    """
    import deepspeed
    from deepspeed.constants import default_pg_timeout

    for name, value in {
        "RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "1",
        "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(_free_port()),
    }.items():  # fmt: skip
        os.environ.setdefault(name, value)
    local_rank = int(os.environ["LOCAL_RANK"])
    if torch.cuda.is_available():
        if local_rank >= torch.cuda.device_count():
            raise InputError(
                f"local rank {local_rank}, but {torch.cuda.device_count()} GPUs are visible",
                "make the hostfile's slots and the job's GPUs agree",
            )
        torch.cuda.set_device(local_rank)
        device = torch.device("cuda", local_rank)
    else:
        os.environ.setdefault("DS_ACCELERATOR", "cpu")
        device = torch.device("cpu")
        # DeepSpeed builds its extension with ninja; over ssh PATH lacks the virtual environment.
        programs = str(Path(sys.executable).parent)
        os.environ["PATH"] = os.pathsep.join([programs, os.environ.get("PATH", os.defpath)])
        # LOCAL_SIZE is DeepSpeed's word for the ranks of this machine, LOCAL_WORLD_SIZE torchrun's.
        here = os.environ.get("LOCAL_SIZE") or os.environ.get("LOCAL_WORLD_SIZE") or "1"
        joining.require_room(int(here))
    rank, world = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    store = meet(
        rank, world, os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"]), join_seconds()
    )
    # As DeepSpeed does it: torch 2.7.0 hangs with a bound device (pytorch/pytorch#153960).
    bind = device.type == "cuda" and world > 1 and torch.__version__ >= "2.7.1"
    dist.init_process_group(
        "nccl" if device.type == "cuda" else "gloo",
        store=store,
        rank=rank,
        world_size=world,
        timeout=max(default_pg_timeout, timedelta(seconds=2 * timeout_s)),
        device_id=device if bind else None,
    )
    deepspeed.init_distributed(verbose=False)  # takes up the group that is there
    if device.type == "cpu":
        joining.release(rank)
    return Ranks(rank, world, device)


def _free_port() -> int:
    import socket

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def choose_device(name: str) -> torch.device:
    """The device called `name`; InputError if there is none."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise InputError(f"--device {name}: {reason}", "use auto, cpu or cuda") from None
    return device


FIRST_RANK_S = 10.0
"""Before there is a group, nearly every mistake is found by all ranks. Others leave it to their
node's first rank, whose end makes the launcher end them, and speak only if that did not happen."""


@contextmanager
def together(ranks: Ranks) -> Iterator[None]:
    """Run a block on every rank; if it fails on any, all leave with the first failing rank's
    message. An exception that is no InputError keeps its traceback on its own rank."""
    error: Exception | None = None
    try:
        yield
    except Exception as caught:
        error = caught
    told = (error.what, error.remedy) if isinstance(error, InputError) else (repr(error), "")
    everyone: list = [None] * ranks.world
    dist.all_gather_object(everyone, told if error is not None else None)
    if error is not None and not isinstance(error, InputError):
        raise error
    failed = [(rank, told) for rank, told in enumerate(everyone) if told is not None]
    if failed:
        rank, (what, remedy) = failed[0]
        where = f" (rank {rank})" if len(failed) < ranks.world else ""
        raise SharedError(what + where, remedy)


def broadcast_object(value, ranks: Ranks):
    """The first rank's value, on every rank."""
    box = [value if ranks.first else None]
    dist.broadcast_object_list(box, src=0)
    return box[0]


def mean_over_ranks(value: torch.Tensor, ranks: Ranks) -> torch.Tensor:
    """Mean of a tensor over ranks (a copy)."""
    total = value.detach().clone()
    dist.all_reduce(total)
    return total / ranks.world


def run_ranks(main: Callable[[], None]) -> None:
    """`run_command` for a command that several ranks run: one message, exit code 2 everywhere.

    Exits without tearing the process group down after a failure: a peer that is still in a
    collective would be waited for. Nor is it left to the interpreter's exit, which would wait for
    loader workers; so nothing here may raise, not even where the log's disk is full.
    """
    code, text = 0, ""
    try:
        main()
    except InputError as error:
        code = 2
        if dist.is_available() and dist.is_initialized():
            if not isinstance(error, SharedError) or dist.get_rank() == 0:
                text = f"error: {error}"
        else:
            if os.environ.get("LOCAL_RANK", "0") != "0":
                time.sleep(FIRST_RANK_S)
            text = f"error: {error}"
    except KeyboardInterrupt:
        code = 130
    except Exception:
        code, text = 1, traceback.format_exc().rstrip()
    with suppress(OSError):
        if text:
            print(text, file=sys.stderr)
        sys.stderr.flush()
        sys.stdout.flush()
    if code:
        os._exit(code)
    if dist.is_available() and dist.is_initialized():
        dist.barrier()
        dist.destroy_process_group()


def check_hostfile() -> None:
    """Refuse a `--hostfile` that does not exist.

    DeepSpeed's launcher only warns and then trains on this machine alone. The launcher is an
    ancestor of this process, so its command line can be read (Linux; elsewhere nothing is checked).
    """
    process = os.getppid()
    while process > 1:
        try:
            command = Path(f"/proc/{process}/cmdline").read_bytes().decode().split("\0")
            status = Path(f"/proc/{process}/stat").read_text()
        except (OSError, UnicodeDecodeError):
            return
        if path := hostfile_argument(command):
            folder = Path(f"/proc/{process}/cwd")
            if not (folder / path).is_file():
                raise InputError(
                    f"--hostfile {path}: no such file, so this would train on one machine only",
                    "make one with hostfiles/make_hostfile.sh, or leave --hostfile out",
                )
            return
        process = int(status.rpartition(")")[2].split()[1])


def hostfile_argument(command: list[str]) -> str | None:
    """The hostfile that a `deepspeed` command line names, or None."""
    if not any(Path(word).name in ("deepspeed", "ds") for word in command[:3]):
        return None
    for word, following in zip(command, [*command[1:], ""], strict=True):
        if word in ("-H", "--hostfile"):
            return following
        if word.startswith("--hostfile="):
            return word.partition("=")[2]
    return None
