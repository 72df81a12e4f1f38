"""Embed a folder of pictures, so that a run that was stopped goes on where it was.

Every few hundred pictures become a file beside the result, OUT.parts/HASH.safetensors, named by
what it is of: the encoder's hashes and the pictures'. So parts of other pictures or another encoder
are never taken. The pair OUT.safetensors and OUT.json is written once, at the end.
"""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from safetensors.numpy import load_file, save
from tqdm import tqdm

from data.files import dump_json, write_atomic
from trainer.images.embedding.picture_encoder import FolderEncoder, PixelsEncoder
from trainer.images.embedding.picture_files import PictureFile, read_picture
from trainer.images.embeddings import ImageEmbeddings, stem_of, write_embeddings

PART = 512
"""Pictures a file: seconds of a GPU, minutes of a core."""


def embed_pictures(
    pictures: Sequence[PictureFile], encoder: FolderEncoder | PixelsEncoder, out: Path, batch: int
) -> ImageEmbeddings:
    """Embed, write OUT's pair and return it; InputError names the picture that cannot be read."""
    stem = stem_of(out)
    about = {"encoder": encoder.about(), "layers": list(encoder.layers)}
    folder = stem.with_name(stem.name + ".parts")
    folder.mkdir(parents=True, exist_ok=True)
    shares = [pictures[start : start + PART] for start in range(0, len(pictures), PART)]
    parts = [folder / f"{_name(about, own)}.safetensors" for own in shares]
    if done := sum(part.is_file() for part in parts):
        print(f"{done} of {len(parts)} parts are there already", flush=True)
    for part, own in zip(tqdm(parts, unit="part", disable=None), shares, strict=True):
        if part.is_file():
            continue
        batches = [
            encoder.embed([read_picture(one.path) for one in own[first : first + batch]])
            for first in range(0, len(own), batch)
        ]
        layers = {name: np.concatenate([one[name] for one in batches]) for name in batches[0]}
        write_atomic(part, save({k: v.astype(np.float16) for k, v in layers.items()}))
    loaded = [load_file(part) for part in parts]
    found = ImageEmbeddings(
        tuple(one.name for one in pictures),
        tuple(one.concept for one in pictures),
        tuple(one.sha256 for one in pictures),
        {name: np.concatenate([part[name] for part in loaded]) for name in encoder.layers},
        about,
    )
    write_embeddings(stem, found)
    shutil.rmtree(folder)
    return found


def _name(about: dict, pictures: Sequence[PictureFile]) -> str:
    text = dump_json({**about, "sha256": [one.sha256 for one in pictures]})
    return hashlib.sha256(text.encode()).hexdigest()[:16]
