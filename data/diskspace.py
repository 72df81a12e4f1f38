"""What a full disk means: known errors, free bytes, one message."""

from __future__ import annotations

import errno
import shutil
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

from data.errors import InputError

# ENOSPC: full disk; EDQUOT: full quota (clusters); EFBIG: a file-size limit.
FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
# Besides: a disk or a network file system that fails or hangs, and too many open files.
PASSING = (
    *FULL, errno.EIO, errno.ESTALE, errno.ETIMEDOUT, errno.EMFILE, errno.ENFILE, errno.ENOMEM,
    errno.EAGAIN, errno.ENOTCONN, errno.ECONNRESET,
)  # fmt: skip


class NoRoom(InputError):
    """A disk is full: to be mended by the user, and no fault of the recording in hand."""


def is_full(error: BaseException | None) -> bool:
    return isinstance(error, OSError) and error.errno in FULL


def machine_trouble(error: BaseException | None) -> BaseException | None:
    """The error itself, or what it was raised from, that is the machine's and may be gone the next
    time: then no file is damaged, and none is to be given up for it."""
    while error is not None:
        if isinstance(error, MemoryError | NoRoom):
            return error
        if isinstance(error, OSError) and error.errno in PASSING:
            return error
        error = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
    return None


def is_machine_trouble(error: BaseException) -> bool:
    return machine_trouble(error) is not None


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


class Need:
    """Bytes that a pack still has to write: unfinished items at the mean size of their dataset so
    far, and the shards of all. Asked after every item, so its cost must not grow with their number.
    """

    def __init__(self, items: Iterable[str], todo: Iterable[str]):
        """The dataset of every item, and of every unfinished one."""
        self._items, self._todo = Counter(items), Counter(todo)
        self._sizes: dict[str, tuple[int, int]] = {}

    def finish(self, dataset: str, size: int) -> None:
        """An item of `dataset` is done and took `size` bytes."""
        self._todo[dataset] -= 1
        count, total = self._sizes.get(dataset, (0, 0))
        self._sizes[dataset] = (count + 1, total + size)

    def bytes(self) -> int:
        """0 while nothing is finished."""
        if not self._sizes:
            return 0
        mean = {dataset: total / count for dataset, (count, total) in self._sizes.items()}
        overall = sum(mean.values()) / len(mean)
        written_twice = self._items + self._todo
        return int(1.02 * sum(mean.get(n, overall) * count for n, count in written_twice.items()))
