"""The run folder: its lock, what the run was, and whether it came to its end.

Two runs that write one folder would delete each other's checkpoints and mix their logs; that
happens when a job is submitted twice, or when ranks outlive a launcher that was killed. The first
rank holds a POSIX record lock on RUN/lock, which the kernel lets go of when its process ends,
however, and which also works between machines on NFS and Lustre; on file systems that know no locks
the run says so and goes on.

config.json, code.diff: versions, state of the code and settings, written before the first step.

RUN/ENDED is there only where the last run came to an orderly end: DeepSpeed's launcher returns 0
even when it was killed, so a batch script cannot tell from its exit code.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import importlib.metadata
import json
import os
import platform
import socket
import subprocess
import time
from pathlib import Path

from data.errors import InputError
from data.files import write_atomic

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = (
    "torch", "deepspeed", "transformers", "accelerate", "numpy", "scipy", "mne", "webdataset",
    "flash-attn",
)  # fmt: skip
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


def versions() -> dict[str, str]:
    """Versions of Python and of the packages that decide a run's numbers."""
    found = {"python": platform.python_version()}
    for name in PACKAGES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            found[name] = "not installed"
    return found


def git_state() -> dict[str, str]:
    """Commit and uncommitted changes of the code, or why they are not known."""
    try:
        commit, diff = (
            subprocess.run(
                ["git", "-C", str(ROOT), *arguments], capture_output=True, text=True, check=True
            ).stdout
            for arguments in (["rev-parse", "HEAD"], ["diff", "HEAD"])
        )
    except (OSError, subprocess.CalledProcessError) as error:
        return {"commit": f"unknown ({error})", "diff": ""}
    return {"commit": commit.strip(), "diff": diff}


def with_provenance(run: Path, config: dict) -> dict:
    """`config` with versions and git state; the code's uncommitted changes go into code.diff."""
    git = git_state()
    write_atomic(run / "code.diff", git.pop("diff").encode())
    return {**config, "versions": versions(), "git": git}


def write_run_files(run: Path, config: dict) -> None:
    """config.json, and the code's uncommitted changes as code.diff."""
    run.mkdir(parents=True, exist_ok=True)
    text = json.dumps(with_provenance(run, config), indent=1) + "\n"
    write_atomic(run / "config.json", text.encode())
