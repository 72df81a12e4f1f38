"""Draw what is missing: a picture is a PNG of its own, so that a run that was stopped goes on."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image
from tqdm import tqdm

from data.errors import InputError
from data.files import atomic, make_folder, write_atomic

NOTE = "of.json"


def claim(folder: Path, about: dict) -> None:
    """Make the folder, or see that its pictures are of the same run and generator."""
    make_folder(folder, "--out")
    text = json.dumps(about, indent=1, sort_keys=True) + "\n"
    note = folder / NOTE
    if note.is_file() and note.read_text() != text:
        raise InputError(
            f"{folder}: it holds pictures of another run, generator or seed",
            "give another --out, or remove it",
        )
    write_atomic(note, text.encode())


def seed_of(seed: int, name: str) -> int:
    """Of a picture's noise: the same for all conditions, people and batches."""
    return int.from_bytes(hashlib.sha256(f"{seed} {name}".encode()).digest()[:4], "big")


def draw(
    generator, embeddings: np.ndarray, names: Sequence[str], folder: Path, seed: int, batch: int
) -> np.ndarray:
    """uint8 `[n, side, side, 3]` of embeddings `[n, E]`: FOLDER/NAME.png, drawn or as it lies
    there. names: of the pictures, where a person's is PERSON/PICTURE."""
    paths = [folder / f"{name}.png" for name in names]
    missing = [row for row, path in enumerate(paths) if not path.is_file()]
    for start in tqdm(range(0, len(missing), batch), desc=folder.name, disable=None):
        rows = missing[start : start + batch]
        seeds = [seed_of(seed, names[row].rpartition("/")[2]) for row in rows]
        for row, pixels in zip(rows, generator.draw(embeddings[rows], seeds), strict=True):
            paths[row].parent.mkdir(parents=True, exist_ok=True)
            with atomic(paths[row]) as part:
                Image.fromarray(pixels).save(part, format="PNG")
    return np.stack([np.asarray(Image.open(path).convert("RGB")) for path in paths])


def shrunk(pictures: np.ndarray, side: int) -> np.ndarray:
    """float64 `[n, side, side, 3]` from 0 to 1 of uint8 `[n, H, W, 3]`."""
    if pictures.shape[1] == side:
        return pictures / 255
    small = [
        Image.fromarray(one).resize((side, side), Image.Resampling.BICUBIC) for one in pictures
    ]
    return np.stack([np.asarray(one) for one in small]) / 255
