"""What must not be on both sides: concepts and pictures that are trained on and tested.

Names are compared, never numbers: THINGS counts the concepts of its parts apart. A picture's file
says its concept (`aardvark_01b.jpg`), else its trials' label does.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np

from data.errors import InputError
from trainer.images.embedding.picture_files import concept_of

BLOCK_DESIGNS = ("VC",)
SHOWN = 3
THINGS_FILE = re.compile(r"(.+)_\d\d[a-z]\.jpe?g$", re.IGNORECASE)


def concept_name(label: str, image: str) -> str:
    """Of a trial's picture: as its file says where it is named like those of THINGS."""
    found = THINGS_FILE.match(image)
    return found.group(1) if found else concept_of(label)


def refuse_block_designs(datasets: Iterable[str], where: str) -> None:
    """InputError for recordings whose pictures of a concept were shown in one block: there,
    whatever drifts tells the concept."""
    if found := sorted(set(datasets) & set(BLOCK_DESIGNS)):
        raise InputError(
            f"{where}: the pictures of a class were shown in one block ({', '.join(found)}): "
            "drift alone names the class",
            "docs/vc.md says why no accuracy of it means anything; use things2: or things:",
        )


def concepts_in(path: str) -> set[str]:
    """Names in a text file, one a line, or of a folder's folders (`test_images`)."""
    place = Path(path)
    if place.is_dir():
        found = {concept_of(one.name) for one in place.iterdir() if one.is_dir()}
    elif place.is_file():
        found = {line.strip() for line in place.read_text().splitlines() if line.strip()}
    else:
        raise InputError(f"--drop_test_concepts {path}: no such file or folder", "check the path")
    if not found:
        raise InputError(
            f"--drop_test_concepts {path}: no concepts in it", "one a line, or a folder of each"
        )
    return found


def refuse_shared(
    training: Sequence[str], tested: Sequence[str], training_images: Sequence[str],
    tested_images: Sequence[str], sha256: dict[str, str], run: str,
) -> None:  # fmt: skip
    """InputError where a concept (by name) or a picture (by file name or content) is trained on
    and tested. sha256: of pictures, by file name."""
    concepts = sorted(set(training) & set(tested))
    known = {sha256.get(one, one): one for one in training_images}
    pictures = sorted(
        {one for one in tested_images if sha256.get(one, one) in known}
        | (set(training_images) & set(tested_images))
    )
    for found, what in ((pictures, "pictures"), (concepts, "concepts")):
        if found:
            raise InputError(
                f"{run}: trained on {len(found)} {what} that are tested: "
                f"{', '.join(found[:SHOWN])}",
                "train again with --drop_test_concepts, a list of the tested concepts or the "
                "folder of their pictures",
            )


def names_of(concept: np.ndarray, image: np.ndarray, images: Sequence[str]) -> np.ndarray:
    """Concepts by name `[n]`, of trials' labels `[n]` and pictures `[n]`."""
    kinds, back = np.unique(image, return_inverse=True)
    label = np.empty(len(kinds), dtype=object)
    label[back] = concept
    return np.array([concept_name(label[row], images[one]) for row, one in enumerate(kinds)])[back]
