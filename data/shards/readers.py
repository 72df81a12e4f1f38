"""Readers of many shards: opened when first asked for, no more at once than a process may open.

A mapped file keeps its descriptor (CPython < 3.13), and 5,000 hours of EEG are 2,000 shards, while
`ulimit -n` often says 1,024. So the soft limit is raised to the hard one; where that is too low as
well, the reader not used for the longest time is closed, and opened again (0.2 ms) when
needed.
"""

from __future__ import annotations

import resource
from collections import OrderedDict
from collections.abc import Sequence
from contextlib import suppress

from data.shards.manifest import Manifest, ShardEntry
from data.shards.tars import ShardReader

MOST_MAPS = 60_000
"""Linux allows a process 65,530 maps (vm.max_map_count)."""


class Readers(Sequence):
    """`readers[i]` is the ShardReader of `shards[i]`. `most`: how many stay open; left out, three
    quarters of the files that this process may open. Pickled without what is open."""

    def __init__(self, manifest: Manifest, shards: Sequence[ShardEntry], most: int | None = None):
        self.manifest, self.shards, self.most = manifest, tuple(shards), most
        self.open: OrderedDict[int, ShardReader] = OrderedDict()
        self._identities: dict[int, tuple[int, int]] = {}

    def __len__(self) -> int:
        return len(self.shards)

    def __getitem__(self, index: int) -> ShardReader:
        if index in self.open:
            self.open.move_to_end(index)
            return self.open[index]
        if index >= len(self.shards):
            raise IndexError(index)  # what ends a loop over a Sequence
        most = self.most or most_open_files()
        while len(self.open) >= most:
            closed, reader = self.open.popitem(last=False)
            self._identities[closed] = reader.identity
        known = self._identities.get(index)
        self.open[index] = ShardReader(self.manifest, self.shards[index], known)
        return self.open[index]

    def __getstate__(self) -> dict:
        return {**self.__dict__, "open": OrderedDict()}


def most_open_files() -> int:
    """How many files a process is to keep open at once: three quarters of what it may."""
    return max(1, min(raised_file_limit(), MOST_MAPS) * 3 // 4)


def raised_file_limit() -> int:
    """How many files this process may have open, after raising that as far as it is allowed to."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with suppress(ValueError, OSError):  # where that is not allowed, the soft limit stays
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
        soft = hard
    return MOST_MAPS if soft == resource.RLIM_INFINITY else soft
