"""One shard written from stored windows, once.

Windows wait as .npy files, one for each recording; a shard takes rows of many of them. A receipt
beside the windows notes that a shard is written, so that a pack killed in the middle of hundreds of
gigabytes goes on with the shard in hand; it costs a small file a shard until the pack is finished.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass
from functools import lru_cache, partial
from pathlib import Path

import numpy as np

from data.files import dump_json, write_atomic
from data.shards.manifest import ShardEntry
from data.shards.readers import most_open_files
from data.shards.tars import write_shard
from data.signals.recording import safe_name


@dataclass(frozen=True)
class Group:
    """What may share a shard: one dataset, split, montage and length."""

    dataset: str
    split: str
    montage: str
    window_samples: int

    @property
    def name(self) -> str:
        return f"{safe_name(self.dataset)}-{self.split}-{self.montage}-t{self.window_samples}"


@dataclass(frozen=True)
class Row:
    """One window: row `row` of `file`, and its JSON."""

    key: str
    file: Path
    row: int
    meta: dict
    meg_file: Path | None = None
    gain: float | None = None
    """What its values are multiplied by, and clipped at +-`clip`; None: they are final."""
    clip: float = 0.0


@dataclass(frozen=True)
class ShardJob:
    """What a worker gets: one shard, and its windows in order."""

    out: Path
    file: str
    group: Group
    rows: list[Row]

    @property
    def sample_bytes(self) -> int:
        return sample_bytes(self.rows[0])

    @property
    def receipt(self) -> Path:
        """Where it is noted that this shard is written."""
        return self.rows[0].file.parent / "written" / f"{self.file}.json"


def write_one(job: ShardJob) -> ShardEntry:
    """Write one shard (in a worker), unless an interrupted pack has written the same.

    Its receipt beside the windows says of what it was made, and when: enough to know it again
    without reading it.
    """
    path, receipt = job.out / job.file, job.receipt
    content = _content(job.rows)
    try:
        known = json.loads(receipt.read_bytes())
        if known["content"] == content and known["mtime_ns"] == path.stat().st_mtime_ns:
            return ShardEntry(**known["shard"])
    except (OSError, ValueError, KeyError, TypeError):
        pass  # no receipt, or one that was cut
    shard = write_shard(
        path,
        [row.key for row in job.rows],
        map(_signal, job.rows),
        [row.meta for row in job.rows],
        dataset=job.group.dataset,
        split=job.group.split,
        montage=job.group.montage,
        megs=map(_meg, job.rows) if job.rows[0].meg_file else None,
    )
    receipt.parent.mkdir(exist_ok=True)
    made = {"content": content, "mtime_ns": path.stat().st_mtime_ns, "shard": asdict(shard)}
    write_atomic(receipt, dump_json(made).encode())
    return shard


def _content(rows: list[Row]) -> str:
    """Hash of what a shard is made of: its rows, and the identity of the files they come from."""
    files = {path for row in rows for path in (row.file, row.meg_file) if path}
    stats = {path: path.stat() for path in sorted(files)}
    digest = hashlib.sha256()
    for path, stat in stats.items():
        digest.update(f"{path.name} {stat.st_size} {stat.st_mtime_ns}\n".encode())
    for row in rows:
        text = f"{row.key} {row.file.name} {row.row} {row.gain} {dump_json(row.meta)}\n"
        digest.update(text.encode())
    return digest.hexdigest()


def _signal(row: Row) -> np.ndarray:
    window = np.array(_open(row.file)[row.row])
    if row.gain is None:
        return window
    scaled = np.float32(row.gain) * window.astype(np.float32)
    return np.clip(scaled, -row.clip, row.clip).astype(np.float16)


def _meg(row: Row) -> np.ndarray:
    return np.array(_open(row.meg_file)[row.row])


def sample_bytes(windows) -> int:
    """A sample's bytes in a shard, nearly: two tar headers, two padded members; three with MEG.
    `windows`: anything with `file` and `meg_file`."""
    size = _open(windows.file)[0].nbytes + 4 * 512
    return size + (_open(windows.meg_file)[0].nbytes + 2 * 512 if windows.meg_file else 0)


def _open(path: Path) -> np.ndarray:
    return _opened()(path)


@lru_cache(maxsize=1)
def _opened():
    """Files are opened when first needed, and as many stay open as this process may have: a shard
    takes single rows of all its dataset's recordings, and opening one takes longer than a row."""
    opening = partial(np.load, mmap_mode="r", allow_pickle=False)
    return lru_cache(maxsize=most_open_files())(opening)


def close_files() -> None:
    """Let go of the files that this process has mapped."""
    _opened.cache_clear()
