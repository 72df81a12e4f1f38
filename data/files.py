"""Files and text that are the same bytes every time, and whole or absent."""

from __future__ import annotations

import functools
import hashlib
import json
import os
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

from data.errors import InputError

NO_SIGNAL = (  # noqa: SIM905
    ".vhdr .ahdr .vmrk .amrk .tsv .csv .json .txt .md .xml .html .pdf .rtf .lay .dap .rs3 .cef "
    ".ceo .dpa .dpo .hpi .pnt .log .21e .head .elc .elp .sfp .loc .locs .ced .bvef .csd .xyz "
    ".hpts .pos"
).split()
"""Suffixes of headers, markers, tables and places: equal ones do not mean an equal recording."""


def dump_json(value) -> str:
    """JSON with sorted keys and no NaN: the same value gives the same bytes."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)


def write_atomic(path: Path, content: bytes) -> None:
    """Write a file so that it is either whole or absent."""
    temporary = path.with_name(path.name + ".partial")
    with open(temporary, "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    os.replace(temporary, path)


def read_text(path: Path) -> str:
    """Text that a recorder or a person wrote: UTF-8, else Latin-1, which older programs write."""
    content = path.read_bytes()
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError:
        return content.decode("latin-1")


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


def holds_signal(name: str) -> bool:
    """Whether a file of a recording, by its name, can hold signal: no header, marker or table."""
    return Path(name).suffix.lower() not in NO_SIGNAL
