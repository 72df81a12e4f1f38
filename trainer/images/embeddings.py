"""Embeddings of pictures on disk: NAME.safetensors holds the numbers, NAME.json whose they are.

Tensors are fp16 `[pictures, D]` and keep their lengths, which generators need: `projected`, or
`layer_LL` of an image encoder. The JSON names the encoder, what was done to pictures before it, and
each row's picture, concept and SHA-256. It is written last: a pair is whole where it has one.
16,740 pictures of 1,024 numbers are 34 MB.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load_file, save

from data.errors import InputError
from data.files import dump_json, write_atomic

FORMAT, VERSION = "image-embeddings", 1
SHOWN = 3
AGAIN = "write it again with trainer/embed_images.py"


@dataclass(frozen=True)
class ImageEmbeddings:
    """Rows belong together; `about` is the JSON's rest: encoder, its hash, preprocessing."""

    images: tuple[str, ...]
    concepts: tuple[str, ...]
    sha256: tuple[str, ...]
    layers: dict[str, np.ndarray]
    """float16 `[pictures, D]`, by name."""
    about: dict

    def layer(self, name: str | None = None) -> np.ndarray:
        """float32 `[pictures, D]`; without a name the only one, or `projected`."""
        name = name or ("projected" if "projected" in self.layers else min(self.layers))
        if name not in self.layers:
            raise InputError(f"no layer {name}", f"there are {', '.join(sorted(self.layers))}")
        return self.layers[name].astype(np.float32)

    def rows_of(self, images: tuple[str, ...], where: str) -> np.ndarray:
        """int64: the row of each picture. InputError where some have none."""
        known = {image: row for row, image in enumerate(self.images)}
        missing = [image for image in images if image not in known]
        if missing:
            raise InputError(
                f"{len(missing)} of {len(images)} pictures of {where} have no embedding: "
                f"{', '.join(missing[:SHOWN])}",
                "give --images of the pictures that these people saw",
            )
        return np.array([known[image] for image in images], np.int64)


def stem_of(path: str | Path) -> Path:
    """The pair's path without its endings: of either file, the pair's name, or a folder of one."""
    path = Path(path)
    if path.is_dir():
        found = sorted(path.glob("*.safetensors"))
        if len(found) != 1:
            raise InputError(
                f"{path}: {len(found)} embeddings", "name one: FOLDER/NAME, without an ending"
            )
        path = found[0]
    return path.with_suffix("") if path.suffix in (".safetensors", ".json") else path


def read_embeddings(path: str | Path) -> ImageEmbeddings:
    """Read and check a pair. InputError for whatever is missing, damaged or contradicts itself."""
    stem = stem_of(path)
    numbers, told = stem.with_name(stem.name + ".safetensors"), stem.with_name(stem.name + ".json")
    for file in (numbers, told):
        if not file.is_file():
            raise InputError(f"{file}: no such file", f"{AGAIN}, or check the path of --images")
    try:
        about = json.loads(told.read_bytes())
        if about["format"] != FORMAT or about["version"] != VERSION:
            raise InputError(
                f"{told}: {about['format']} of version {about['version']}, not {FORMAT} {VERSION}",
                AGAIN,
            )
        rows = about.pop("rows")
        columns = [tuple(str(row[key]) for row in rows) for key in ("image", "concept", "sha256")]
        layers = load_file(numbers)
    except (ValueError, KeyError, TypeError, AttributeError, SafetensorError) as error:
        raise InputError(f"{stem}: damaged ({type(error).__name__}: {error})", AGAIN) from None
    found = ImageEmbeddings(*columns, layers, about)
    check(found, str(stem))
    return found


def check(found: ImageEmbeddings, where: str) -> None:
    """InputError for embeddings that say nothing, or rows that contradict each other."""
    if not found.layers:
        raise InputError(f"{where}: it holds no layer", AGAIN)
    repeated = sorted({one for one in found.images if found.images.count(one) > 1}) if len(
        set(found.images)
    ) < len(found.images) else []  # fmt: skip
    if repeated:
        raise InputError(
            f"{where}: {len(repeated)} names are of several pictures: "
            f"{', '.join(repeated[:SHOWN])}",
            "rename the pictures: trials name them by file",
        )
    for name, values in found.layers.items():
        if values.ndim != 2 or len(values) != len(found.images):
            raise InputError(
                f"{where}: {name} has the shape {list(values.shape)}, for {len(found.images)} "
                "pictures",
                AGAIN,
            )
        wide = values.astype(np.float32)
        bad = np.flatnonzero(~np.isfinite(wide).all(1) | (np.ptp(wide, axis=1) == 0))
        if len(bad):
            names = ", ".join(found.images[row] for row in bad[:SHOWN])
            raise InputError(
                f"{where}: {name} of {len(bad)} pictures is constant or not finite: {names}", AGAIN
            )


def write_embeddings(path: str | Path, found: ImageEmbeddings) -> None:
    """Write a checked pair, the JSON last; the same content gives the same bytes."""
    stem = Path(path)
    check(found, str(stem))
    stem.parent.mkdir(parents=True, exist_ok=True)
    columns = zip(found.images, found.concepts, found.sha256, strict=True)
    rows = [dict(zip(("image", "concept", "sha256"), row, strict=True)) for row in columns]
    layers = {name: values.astype(np.float16) for name, values in sorted(found.layers.items())}
    write_atomic(stem.with_name(stem.name + ".safetensors"), save(layers))
    text = dump_json({**found.about, "format": FORMAT, "version": VERSION, "rows": rows})
    write_atomic(stem.with_name(stem.name + ".json"), text.encode())
