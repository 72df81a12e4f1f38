"""Arrays that grow with the recording: in memory while small, else in a file under TMPDIR.

So a worker's memory is bounded however long a recording is. The file has no name, goes away with
its array, and its space is reserved first: a full disk is told at once.
"""

from __future__ import annotations

import os
import tempfile

import numpy as np

from data.diskspace import NoRoom

IN_MEMORY_BYTES = 256 * 2**20


def scratch_array(shape: tuple[int, ...], dtype) -> np.ndarray:
    """An uninitialised array; NoRoom where TMPDIR cannot hold it."""
    size = int(np.prod(shape)) * np.dtype(dtype).itemsize
    if size <= IN_MEMORY_BYTES:
        return np.empty(shape, dtype)
    with tempfile.TemporaryFile(prefix="pack-") as file:
        try:
            os.posix_fallocate(file.fileno(), 0, size)
        except OSError as error:
            raise NoRoom(
                f"{tempfile.gettempdir()}: no room for {size / 1e9:.1f} GB of a long recording "
                f"({error.strerror})",
                "set TMPDIR to a folder on a disk with more room, e.g. $SLURM_TMPDIR",
            ) from None
        return np.memmap(file, dtype, "r+", shape=shape)
