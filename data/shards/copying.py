"""Verified copies of shards: hashed while copied, in parallel, continued after a kill.

A file is copied under a temporary name and renamed when its SHA-256 is the manifest's. A stamp is
written last: copies that were not touched since are verified, and a second call need not read them
again; any other copy is hashed before it is kept. Threads suffice: reading, hashing and writing all
release Python's lock.
"""

from __future__ import annotations

import hashlib
import os
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from tqdm import tqdm

from data.files import disk_full, is_full, require_room
from data.errors import InputError, few
from data.files import atomic, hash_file, lock, make_folder, write_atomic
from data.shards.manifest import MANIFEST, Manifest, ShardEntry, read_manifest

CHUNK = 4 << 20
STAMP = ".verified"
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
    make_folder(target, "--to")
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
        stamp = _stamp(target, content)
        todo, kept = _compare(manifest, target, stamp, workers)
        size = sum(shard.bytes for shard in todo)
        replaced = sum((target / s.file).stat().st_size for s in todo if (target / s.file).exists())
        require_room(target, size + len(content) - replaced, f"the {len(todo)} shards to copy")
        if todo:
            there.unlink(missing_ok=True)
        _copy_all(manifest, todo, target, workers)
        write_atomic(there, content)
        write_atomic(target / STAMP, stamp)
    return Staged(len(todo), kept, size)


def _check_source(manifest: Manifest) -> None:
    """Missing and cut shards are reported before anything is copied."""
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
        lines = "\n  ".join(few(wrong, SHOWN))
        raise InputError(
            f"{manifest.folder}: {len(wrong)} of {len(manifest.shards)} shards are damaged\n"
            f"  {lines}",
            "copy them again from where they were packed, or pack again",
        )


@contextmanager
def _alone(target: Path) -> Iterator[None]:
    """One copier at a time in a folder; a second one (another rank of the node) waits."""
    with ExitStack() as held:
        waiting = f"waiting: another process is copying to {target}"
        try:
            held.enter_context(lock(target / LOCK, waiting=waiting))
        except OSError as error:
            raise InputError(
                f"--to {target}: nothing can be written there ({error.strerror})",
                "choose another folder",
            ) from None
        yield


def _stamp(target: Path, manifest: bytes) -> bytes:
    """Of these shards in this very folder: a copy of the folder has another inode."""
    return f"{hashlib.sha256(manifest).hexdigest()} {target.stat().st_ino}\n".encode()


def _compare(
    manifest: Manifest, target: Path, stamp: bytes, workers: int
) -> tuple[list[ShardEntry], int]:
    """(shards still to copy, how many are there and right)."""
    there = [shard for shard in manifest.shards if _size(target / shard.file) == shard.bytes]
    path = target / STAMP
    verified = path.is_file() and path.read_bytes() == stamp
    # The time of the last change to an inode: unlike the content's, no program can set it.
    since_ns = path.stat().st_ctime_ns if verified else 0
    touched = [s for s in there if (target / s.file).stat().st_ctime_ns >= since_ns]
    right = {shard.file for shard in there} - {shard.file for shard in touched}
    with ThreadPoolExecutor(workers) as pool:
        hashes = pool.map(hash_file, (target / shard.file for shard in touched))
        for shard, found in zip(touched, hashes, strict=True):
            if found == (shard.sha256, shard.bytes):
                right.add(shard.file)
    return [shard for shard in manifest.shards if shard.file not in right], len(right)


def _size(path: Path) -> int | None:
    return path.stat().st_size if path.is_file() else None


def _copy_all(manifest: Manifest, todo: list[ShardEntry], target: Path, workers: int) -> None:
    stop = threading.Event()
    total = sum(shard.bytes for shard in todo)
    with (
        tqdm(total=total, desc="staging", unit="B", unit_scale=True, disable=not todo) as bar,
        ThreadPoolExecutor(workers) as pool,
    ):
        futures = [pool.submit(_copy_one, manifest, shard, target, bar, stop) for shard in todo]
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
    manifest: Manifest, shard: ShardEntry, target: Path, bar: tqdm, stop: threading.Event
) -> None:
    digest = hashlib.sha256()
    try:
        with atomic(target / shard.file) as temporary:
            with open(manifest.path(shard), "rb") as source, open(temporary, "wb") as copy:
                while chunk := source.read(CHUNK):
                    if stop.is_set():
                        raise Stopped
                    digest.update(chunk)
                    copy.write(chunk)
                    bar.update(len(chunk))
            if digest.hexdigest() != shard.sha256:
                raise Damaged(
                    f"{shard.file}: its SHA-256 is {digest.hexdigest()[:12]}…, the manifest says "
                    f"{shard.sha256[:12]}…"
                )
    except OSError as error:
        if is_full(error):
            raise
        raise Damaged(
            f"{shard.file}: {error.strerror} ({error.filename or 'read or write'})"
        ) from None
