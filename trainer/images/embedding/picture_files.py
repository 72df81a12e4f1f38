"""Pictures on disk: which there are, what they are called, and their pixels.

A picture is known by its file's name, as trials name it; its concept is its folder's name without a
leading number (`00001_aardvark`), for numbers differ between the parts of THINGS.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, UnidentifiedImageError

from data.errors import InputError
from data.files import hash_file
from data.sources.things.image_names import concept_of

ENDINGS = (".jpg", ".jpeg", ".png", ".webp", ".bmp")
PIXELS = 32


@dataclass(frozen=True)
class PictureFile:
    """`sha256`: of the file."""

    path: Path
    concept: str
    sha256: str

    @property
    def name(self) -> str:
        return self.path.name


def list_pictures(folder: Path) -> list[PictureFile]:
    """All pictures below a folder by name; one that lies there twice, unchanged, once. InputError
    for no pictures, and for one name of two different pictures."""
    if not folder.is_dir():
        raise InputError(f"--images {folder}: no such folder", "give the folder of the pictures")
    paths = sorted(p for p in folder.rglob("*") if p.suffix.lower() in ENDINGS and p.is_file())
    if not paths:
        raise InputError(
            f"--images {folder}: no pictures below", f"they end in {', '.join(ENDINGS)}"
        )
    found: dict[str, PictureFile] = {}
    for path in paths:
        one = PictureFile(path, concept_of(path.parent.name), hash_file(path)[0])
        other = found.setdefault(one.name, one)
        if other.sha256 != one.sha256:
            raise InputError(
                f"{path} and {other.path} are different pictures of one name",
                "rename one, also where the trials name it",
            )
    return [found[name] for name in sorted(found)]


def read_picture(path: Path) -> Image.Image:
    """RGB, upright. InputError for a file that is no whole picture."""
    try:
        with Image.open(path) as opened:
            return opened.convert("RGB")
    except (UnidentifiedImageError, OSError, ValueError, SyntaxError) as error:
        raise InputError(f"{path}: no whole picture ({error})", "download it again") from None


def pixels_of(pictures: Sequence[Image.Image], side: int = PIXELS) -> np.ndarray:
    """float32 `[n, 3 x side x side]` from 0 to 1, of the whole picture made square."""
    small = [one.resize((side, side), Image.Resampling.BICUBIC) for one in pictures]
    return np.stack([np.asarray(one, np.float32).reshape(-1) / 255 for one in small])
