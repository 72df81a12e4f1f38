"""What a full disk means: known errors, free bytes, one message."""

from __future__ import annotations

import errno
import shutil
from pathlib import Path

from data.errors import InputError

# ENOSPC: full disk; EDQUOT: full quota (clusters); EFBIG: a file-size limit.
FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def is_full(error: BaseException) -> bool:
    return isinstance(error, OSError) and error.errno in FULL


def disk_full(folder: Path, needed_bytes: int | None) -> InputError:
    """The error for a disk that is, or is about to be, full."""
    free = shutil.disk_usage(folder).free
    need = f"about {readable(needed_bytes)} more are needed" if needed_bytes else "more is needed"
    return InputError(
        f"{folder}: not enough room on this disk or quota: {readable(free)} free, {need}",
        "free some, then run the same command again: it continues where it stopped "
        "(or choose another --out)",
    )


def require_free(folder: Path, needed_bytes: int) -> None:
    """Raise `disk_full` unless `needed_bytes` fit on the folder's disk."""
    if shutil.disk_usage(folder).free < needed_bytes:
        raise disk_full(folder, needed_bytes)


def require_room(folder: Path, needed_bytes: int, what: str) -> None:
    """InputError unless `what`, of `needed_bytes`, fits on the folder's disk; says by how much."""
    free = shutil.disk_usage(folder).free
    if free < needed_bytes:
        raise InputError(
            f"{folder}: this disk is {readable(needed_bytes - free)} too small: {what} take "
            f"{readable(needed_bytes)}, {readable(free)} are free",
            "ask for more local disk (Slurm: --tmp=), choose another folder, or pack fewer "
            "recordings",
        )


def readable(count: float) -> str:
    """Bytes for people: '3.2 GB'."""
    for unit in ("B", "kB", "MB", "GB", "TB"):
        if count < 1000 or unit == "TB":
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1000
    raise AssertionError("unreachable")
