"""One run folder, one run: a lock that the kernel lets go of when its process ends, however.

Two runs that write one folder would delete each other's checkpoints and mix their logs; that
happens when a job is submitted twice, or when ranks outlive a launcher that was killed. The first
rank holds a POSIX record lock on RUN/lock, which also works between machines on NFS and Lustre; on
file systems that know no locks the run says so and goes on.

RUN/ENDED is there only where the last run came to an orderly end: DeepSpeed's launcher returns 0
even when it was killed, so a batch script cannot tell from its exit code.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import os
import socket
import time
from pathlib import Path

from data.errors import InputError

ENDED = "ENDED"
WAIT_S = 40.0  # DeepSpeed's launcher gives the ranks of a run that it ends 30 s
_held = []  # the lock lives as long as the process; forked loader workers do not share it


def take(run: Path, wait_s: float = WAIT_S) -> None:
    """Make the run folder and lock it; InputError if it cannot be written or another run has it."""
    try:
        run.mkdir(parents=True, exist_ok=True)
        file = open(run / "lock", "a+")  # noqa: SIM115
    except OSError as error:
        raise InputError(
            f"--run {run}: cannot be written ({error.strerror})",
            "give a --run folder on a disk that you may write to",
        ) from None
    deadline = time.monotonic() + wait_s
    while True:
        try:
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            break
        except OSError as error:
            if error.errno not in (errno.EACCES, errno.EAGAIN):
                print(f"{run}: no lock against a second run ({error.strerror})", flush=True)
                break
        if time.monotonic() > deadline:
            file.seek(0)
            raise InputError(
                f"--run {run}: another run writes this folder: {file.read().strip() or 'unknown'}",
                "wait for it, stop it (touch STOP in the folder, or end its process), or give "
                "another --run",
            )
        time.sleep(0.5)
    with contextlib.suppress(OSError):  # a full disk: the lock holds without its text
        file.truncate(0)
        owner = {"host": socket.gethostname(), "pid": os.getpid()}
        if job := os.environ.get("SLURM_JOB_ID"):
            owner["slurm_job"] = job
        file.write(json.dumps(owner))
        file.flush()
    _held.append(file)


def mark_begin(run: Path) -> None:
    """Say that this run has not come to its end, nor has what was here before."""
    (run / ENDED).unlink(missing_ok=True)


def mark_end(run: Path, why: str) -> None:
    """Say that this run came to its end as it should."""
    (run / ENDED).write_text(why + "\n")
