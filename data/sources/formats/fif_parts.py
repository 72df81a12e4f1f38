"""The parts of a split FIF recording, by what the files say: each names the one after it.

MNE calls later parts `x-1.fif` or `x_split-02.fif`, but a name alone proves nothing: `rest-2.fif`
may be a second recording.
"""

from __future__ import annotations

import functools
import re
import struct
from pathlib import Path

from mne.io.constants import FIFF


def fif_parts(path: Path) -> list[Path]:
    """A FIF file and the parts that follow it, each named by the one before."""
    parts = [path]
    while (following := _next_part(parts[-1])) and following not in parts:
        parts.append(following)
    return parts


def first_part(path: Path) -> Path | None:
    """The file that could name `path` as a later part, by MNE's two ways of calling parts."""
    if match := re.fullmatch(r"(.+)-\d+", path.stem):
        return path.with_name(f"{match[1]}.fif")
    if match := re.fullmatch(r"(.*_split-)(\d+)(.*)", path.stem):
        first = f"{match[1]}{1:0{len(match[2])}d}{match[3]}.fif"
        return path.with_name(first) if first != path.name else None
    return None


def _next_part(path: Path) -> Path | None:
    """The file that a FIF file says goes on after it, if it is there."""
    try:
        status = path.stat()
        name = _next_name(path, status.st_mtime_ns, status.st_size)
    except (OSError, struct.error):
        return None
    following = path.parent / name if name else None
    return following if following and following.is_file() else None


@functools.cache
def _next_name(path: Path, mtime_ns: int, size: int) -> str | None:
    """Walks the tags of a FIF file for a reference with the role of the next file."""
    role, name, number, position = None, None, None, 0
    with open(path, "rb") as file:
        while position + 16 <= size:
            file.seek(position)
            kind, _, length, following = struct.unpack(">iiii", file.read(16))
            if length < 0 or position + 16 + length > size:
                break
            if kind == FIFF.FIFF_REF_ROLE:
                role, name, number = struct.unpack(">i", file.read(4))[0], None, None
            elif kind == FIFF.FIFF_REF_FILE_NAME:
                name = file.read(length).rstrip(b"\0").decode("latin-1")
            elif kind == FIFF.FIFF_REF_FILE_NUM:
                number = struct.unpack(">i", file.read(4))[0]
            elif kind == FIFF.FIFF_BLOCK_END and role is not None:
                if role == FIFF.FIFFV_ROLE_NEXT_FILE and (name or number):
                    # Some files give the number only; the first part may have none in its name.
                    return name or f"{re.sub(r'-[0-9]+$', '', path.stem)}-{number}.fif"
                role = None
            if following == -1:
                break
            position = following if following > 0 else position + 16 + length
    return None
