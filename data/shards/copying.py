"""Verified copies of shards: hashed while copied, in parallel, continued after a kill.

A file is copied under a temporary name and renamed when its SHA-256 is the manifest's. A list of
what was verified (with size and time of change) lies beside the copies, so that a second call need
not read them again; a copy that is not on the list is hashed before it is kept. Threads suffice:
reading, hashing and writing all release Python's lock.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from tqdm import tqdm

from data.diskspace import disk_full, is_full, require_room
from data.errors import InputError
from data.files import hash_file, write_atomic
from data.shards.manifest import MANIFEST, Manifest, ShardEntry, read_manifest

CHUNK = 4 << 20
VERIFIED = ".verified.json"
LOCK = ".staging.lock"
SHOWN = 10


@dataclass(frozen=True)
class Staged:
    """What `copy_shards` did."""

    copied: int
    kept: int
    copied_bytes: int


class Damaged(Exception):
    """A shard that does not fit the manifest; the text says how."""


class Stopped(Exception):
    """Another shard failed, or the user did."""


def copy_shards(source: Path, target: Path, workers: int) -> Staged:
    """Copy a shard folder, so that afterwards every byte in `target` is what the manifest says.

    Raises InputError for shards that are missing, cut or damaged at the source (all are named), a
    `target` that holds other shards, and a disk too small (by how much). What was copied by then
    stays, and the next call goes on from there.
    """
    manifest = read_manifest(source)
    content = (source / MANIFEST).read_bytes()
    _check_source(manifest)
    try:
        target.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"--to {target}: {error.strerror}", "choose another folder") from None
    if os.path.samefile(source, target):
        raise InputError(f"--to {target}: this is the folder of --shards", "choose another folder")
    with _alone(target):
        there = target / MANIFEST
        if there.exists() and there.read_bytes() != content:
            raise InputError(
                f"{target}: holds other shards than {source}",
                "empty that folder, or choose another --to",
            )
        for partial in target.glob("*.partial"):
            partial.unlink()
        keeper = _Verified(target)
        todo, kept = _compare(manifest, target, keeper, workers)
        size = sum(shard.bytes for shard in todo)
        replaced = sum((target / s.file).stat().st_size for s in todo if (target / s.file).exists())
        require_room(target, size + len(content) - replaced, f"the {len(todo)} shards to copy")
        if todo:
            there.unlink(missing_ok=True)
        _copy_all(manifest, todo, target, keeper, workers)
        write_atomic(there, content)
    return Staged(len(todo), kept, size)


def _check_source(manifest: Manifest) -> None:
    """Missing and cut shards are told before anything is copied."""
    wrong = []
    for shard in manifest.shards:
        try:
            size = manifest.path(shard).stat().st_size
        except FileNotFoundError:
            wrong.append(f"{shard.file} is missing")
        else:
            if size != shard.bytes:
                wrong.append(f"{shard.file} has {size} bytes, the manifest says {shard.bytes}")
    _raise_for(wrong, manifest)


def _raise_for(wrong: list[str], manifest: Manifest) -> None:
    if wrong:
        more = [f"... and {len(wrong) - SHOWN} more"] if len(wrong) > SHOWN else []
        lines = "\n  ".join([*wrong[:SHOWN], *more])
        raise InputError(
            f"{manifest.folder}: {len(wrong)} of {len(manifest.shards)} shards are damaged\n"
            f"  {lines}",
            "copy them again from where they were packed, or pack again",
        )


@contextmanager
def _alone(target: Path) -> Iterator[None]:
    """One copier at a time in a folder; a second one (another rank of the node) waits."""
    with ExitStack() as files:
        try:
            file = files.enter_context(open(target / LOCK, "w"))
        except OSError as error:
            raise InputError(
                f"--to {target}: nothing can be written there ({error.strerror})",
                "choose another folder",
            ) from None
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            print(f"waiting: another process is copying to {target}", flush=True)
            fcntl.flock(file, fcntl.LOCK_EX)
        except OSError:
            pass  # No locks on this file system: renames keep the copies whole all the same.
        yield


class _Verified:
    """The list of verified copies in a folder: {file: [sha256, size, time of change]}."""

    def __init__(self, folder: Path):
        self.folder, self._lock = folder, threading.Lock()
        try:
            value = json.loads((folder / VERIFIED).read_bytes())
            self.entries = value if isinstance(value, dict) else {}
        except (FileNotFoundError, ValueError):
            self.entries = {}

    def holds(self, shard: ShardEntry) -> bool:
        entry = self._entry(shard)
        return entry is not None and self.entries.get(shard.file) == entry

    def add(self, shard: ShardEntry) -> None:
        with self._lock:
            self.entries[shard.file] = self._entry(shard)
            write_atomic(self.folder / VERIFIED, json.dumps(self.entries).encode())

    def _entry(self, shard: ShardEntry) -> list | None:
        try:
            found = (self.folder / shard.file).stat()
        except FileNotFoundError:
            return None
        return [shard.sha256, found.st_size, found.st_mtime_ns]


def _compare(
    manifest: Manifest, target: Path, keeper: _Verified, workers: int
) -> tuple[list[ShardEntry], int]:
    """(shards still to copy, how many are there and right)."""
    listed = [shard for shard in manifest.shards if keeper.holds(shard)]
    unknown = [
        shard
        for shard in manifest.shards
        if not keeper.holds(shard) and _size(target / shard.file) == shard.bytes
    ]
    right = {shard.file for shard in listed}
    with ThreadPoolExecutor(workers) as pool:
        hashes = pool.map(hash_file, (target / shard.file for shard in unknown))
        for shard, found in zip(unknown, hashes, strict=True):
            if found == (shard.sha256, shard.bytes):
                keeper.add(shard)
                right.add(shard.file)
    return [shard for shard in manifest.shards if shard.file not in right], len(right)


def _size(path: Path) -> int | None:
    return path.stat().st_size if path.is_file() else None


def _copy_all(
    manifest: Manifest, todo: list[ShardEntry], target: Path, keeper: _Verified, workers: int
) -> None:
    stop = threading.Event()
    total = sum(shard.bytes for shard in todo)
    with (
        tqdm(total=total, desc="staging", unit="B", unit_scale=True, disable=not todo) as bar,
        ThreadPoolExecutor(workers) as pool,
    ):
        futures = [
            pool.submit(_copy_one, manifest, shard, target, keeper, bar, stop) for shard in todo
        ]
        wrong = []
        try:
            for future in futures:
                try:
                    future.result()
                except Damaged as error:  # The others are copied all the same: they will be needed.
                    wrong.append(str(error))
        except OSError:
            raise disk_full(target, total - int(bar.n)) from None
        finally:
            stop.set()
            for future in futures:
                future.cancel()
    _raise_for(wrong, manifest)


def _copy_one(
    manifest: Manifest,
    shard: ShardEntry,
    target: Path,
    keeper: _Verified,
    bar: tqdm,
    stop: threading.Event,
) -> None:
    path = target / shard.file
    temporary = path.with_name(path.name + ".partial")
    digest = hashlib.sha256()
    try:
        with open(manifest.path(shard), "rb") as source, open(temporary, "wb") as copy:
            while chunk := source.read(CHUNK):
                if stop.is_set():
                    raise Stopped
                digest.update(chunk)
                copy.write(chunk)
                bar.update(len(chunk))
            copy.flush()
            os.fsync(copy.fileno())
        if digest.hexdigest() != shard.sha256:
            raise Damaged(
                f"{shard.file}: its SHA-256 is {digest.hexdigest()[:12]}…, the manifest says "
                f"{shard.sha256[:12]}…"
            )
        os.replace(temporary, path)
    except OSError as error:
        if is_full(error):
            raise
        raise Damaged(
            f"{shard.file}: {error.strerror} ({error.filename or 'read or write'})"
        ) from None
    finally:
        temporary.unlink(missing_ok=True)
    keeper.add(shard)
