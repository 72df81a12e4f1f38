"""Files that are the same bytes every time and whole or absent, and what a full disk means."""

from __future__ import annotations

import errno
import fcntl
import functools
import hashlib
import json
import os
import shutil
import tempfile
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import yaml

from data.errors import InputError

NO_SIGNAL = (  # noqa: SIM905
    ".vhdr .ahdr .vmrk .amrk .tsv .csv .json .txt .md .xml .html .pdf .rtf .lay .dap .rs3 .cef "
    ".ceo .dpa .dpo .hpi .pnt .log .21e .head .elc .elp .sfp .loc .locs .ced .bvef .csd .xyz "
    ".hpts .pos"
).split()
"""Suffixes of headers, markers, tables and places: equal ones do not mean an equal recording."""
# ENOSPC: full disk; EDQUOT: full quota (clusters); EFBIG: a file-size limit.
FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
# Besides: a disk or a network file system that fails or hangs, and too many open files.
PASSING = (
    *FULL, errno.EIO, errno.ESTALE, errno.ETIMEDOUT, errno.EMFILE, errno.ENFILE, errno.ENOMEM,
    errno.EAGAIN, errno.ENOTCONN, errno.ECONNRESET,
)  # fmt: skip
IN_MEMORY_BYTES = 256 * 2**20
"""A scratch array up to this size is held in memory."""


class NoRoom(InputError):
    """A disk is full: to be mended by the user, and no fault of the recording in hand."""


def dump_json(value) -> str:
    """JSON with sorted keys and no NaN: the same value gives the same bytes."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)


def write_atomic(path: Path, content: bytes) -> None:
    """Write a file so that it is either whole or absent."""
    with atomic(path) as temporary:
        temporary.write_bytes(content)


@contextmanager
def atomic(path: Path) -> Iterator[Path]:
    """A path beside `path` to write a file to. At the end of the block it is on disk and becomes
    `path`; where the block raises, it is removed and `path` stays as it was."""
    temporary = path.with_name(path.name + ".partial")
    try:
        yield temporary
        with open(temporary, "rb") as file:
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def lock(path: Path, shared: bool = False, waiting: str = "") -> Iterator[None]:
    """Hold a lock on a file, which the kernel lets go of when the process ends, however.

    `shared`: beside others that share it. `waiting`: printed where another process holds it, which
    is then waited for; without, BlockingIOError. OSError where `path` cannot be written; on a file
    system without locks nothing is held.
    """
    kind = fcntl.LOCK_SH if shared else fcntl.LOCK_EX
    with open(path, "w") as file:
        try:
            fcntl.flock(file, kind | fcntl.LOCK_NB)
        except BlockingIOError:
            if not waiting:
                raise
            print(waiting, flush=True)
            fcntl.flock(file, kind)
        except OSError:
            pass  # What is written is whole or absent all the same.
        yield


def make_folder(folder: Path, option: str) -> None:
    """Make a folder that the user named with `option`; InputError where that cannot be done."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"{option} {folder}: {error.strerror}", "choose another folder") from None


def read_text(path: Path) -> str:
    """Text that a recorder or a person wrote: UTF-8, else Latin-1, which older programs write."""
    content = path.read_bytes()
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError:
        return content.decode("latin-1")


def read_yaml(path: Path, remedy: str) -> dict:
    """The mapping in a YAML file; InputError, with `remedy`, where there is none."""
    try:
        value = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: cannot be read ({type(error).__name__})", remedy) from None
    except yaml.YAMLError as error:
        raise InputError(f"{path}: not YAML: {' '.join(str(error).split())}", remedy) from None
    if not isinstance(value, dict):
        raise InputError(f"{path}: not a mapping of settings", remedy)
    return value


def require_text_names(paths: Iterable[Path]) -> None:
    """InputError for a path that is no UTF-8: neither a manifest nor a message could name it."""
    for path in paths:
        try:
            str(path).encode("utf-8")
        except UnicodeEncodeError:
            shown = os.fsencode(path).decode("latin-1")
            raise InputError(
                f"{shown!r}: a name that is no UTF-8 (shown as Latin-1)",
                "rename it, e.g. with `convmv -f latin1 -t utf8 --notest FILE`",
            ) from None


def hash_file(path: Path) -> tuple[str, int]:
    """SHA-256 (hex) and size in bytes of a file."""
    with open(path, "rb") as file:
        digest = hashlib.file_digest(file, "sha256") if hasattr(hashlib, "file_digest") else None
        if digest is None:
            digest = hashlib.sha256()
            while chunk := file.read(1 << 20):
                digest.update(chunk)
        return digest.hexdigest(), file.tell()


def hashes_of(paths: Iterable[Path]) -> dict[str, str]:
    """Name -> SHA-256 of each file, by the names of `named`."""
    return {name: hash_once(path) for name, path in named(paths).items()}


def named(paths: Iterable[Path]) -> dict[str, Path]:
    """Files by their names; those of one name are told apart by their path below the folder that
    all of them have in common. So no name tells where on a machine a file lies."""
    paths = list(dict.fromkeys(map(Path, paths)))
    count = Counter(path.name for path in paths)
    if len(count) == len(paths):
        return {path.name: path for path in paths}
    common = os.path.commonpath([path.parent for path in paths])
    return {p.name if count[p.name] == 1 else p.relative_to(common).as_posix(): p for p in paths}


def hash_once(path: Path) -> str:
    """SHA-256 of a file. One file often holds many recordings, and one recording hundreds of files:
    each is hashed once in a process, unless it changes."""
    return _hash(path, path.stat().st_mtime_ns)


@functools.cache
def _hash(path: Path, mtime_ns: int) -> str:
    return hash_file(path)[0]


def file_signature(paths: Iterable[Path]) -> list[list]:
    """[name, size in bytes, modification time in ns] of each file: cheap proof of sameness."""
    entries = []
    for name, path in named(sorted(set(paths))).items():
        status = path.stat()
        entries.append([name, status.st_size, status.st_mtime_ns])
    return entries


def holds_signal(name: str) -> bool:
    """Whether a file of a recording, by its name, can hold signal: no header, marker or table."""
    return Path(name).suffix.lower() not in NO_SIGNAL


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


def scratch_array(shape: tuple[int, ...], dtype) -> np.ndarray:
    """An uninitialised array for what grows with a recording: in memory while small, else in a file
    under TMPDIR, so that a worker's memory is bounded however long the recording is. The file has
    no name, goes away with its array, and its space is reserved first: NoRoom where it is absent.
    """
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
