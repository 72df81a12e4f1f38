"""Simulated pictures without a file: packed shards of both parts, and embeddings, made once."""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from data.errors import InputError
from data.packing.apart import pack_apart
from data.shards.manifest import MANIFEST, read_manifest
from data.simulate.images import PARTS
from data.sources.simulated_images import world_of
from trainer.images.embeddings import ImageEmbeddings, write_embeddings


@dataclass(frozen=True)
class Folders:
    """Where simulated trials and embeddings lie."""

    root: Path

    @property
    def training(self) -> Path:
        return self.root / "training"

    @property
    def test(self) -> Path:
        return self.root / "test"

    @property
    def embeddings(self) -> Path:
        return self.root / "embeddings"


def prepare_simulated(source: str, make: bool, root: Path = Path("runs/pictures")) -> Folders:
    """The folders of a source without its part; `make`: pack and write what is missing."""
    folders = Folders(root / re.sub(r"[^A-Za-z0-9=+._-]+", "-", source))
    if not make:
        return folders
    for part, folder in zip(PARTS, (folders.training, folders.test), strict=True):
        if not (folder / MANIFEST).is_file():
            print(f"no --shards: simulating {part} trials", flush=True)
            split = "train" if part == "training" else "test"
            pack_apart(f"{source},part={part},split={split}", folder, "--simulated")
    if not folders.embeddings.with_suffix(".json").is_file():
        write_embeddings(folders.embeddings, simulated_embeddings(folders.training))
    return folders


def simulated_embeddings(shards: Path) -> ImageEmbeddings:
    """Of all pictures of both parts of a simulated world that was packed."""
    note = read_manifest(shards).recordings[0].get("notes", {}).get("simulated_images")
    if note is None:
        raise InputError(f"{shards}: no simulated pictures", "pack --source simulated-images")
    world = world_of(note)
    names = [pair for part in PARTS for pair in world.names(part)]
    pictures = np.concatenate([world.pictures(part) for part in PARTS])
    return ImageEmbeddings(
        tuple(image for _, image in names),
        tuple(concept for concept, _ in names),
        tuple(hashlib.sha256(picture.tobytes()).hexdigest() for picture in pictures),
        {"projected": np.concatenate([world.embeddings(part) for part in PARTS])},
        {"encoder": {"kind": "simulated"}},
    )
