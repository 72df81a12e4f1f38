"""What must not be on both sides: concepts and pictures that are trained on and tested.

Names are compared, never numbers: THINGS counts the concepts of its parts apart. A picture's file
says its concept (`aardvark_01b.jpg`), else its trials' label does
(data/sources/things/image_names.py).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from data.errors import InputError
from data.shards.manifest import MANIFEST, Manifest, read_manifest
from data.signals.recording import WHITENED
from data.sources.things.image_names import concept_name, concept_of

BLOCK_DESIGNS = ("VC",)
SHOWN = 3


@dataclass(frozen=True)
class Tested:
    """What is tested, by name; pictures by their files' names."""

    concepts: frozenset[str] = frozenset()
    pictures: frozenset[str] = frozenset()


def refuse_block_designs(datasets: Iterable[str], where: str) -> None:
    """InputError for recordings whose pictures of a concept were shown in one block: there,
    whatever drifts tells the concept."""
    if found := sorted(set(datasets) & set(BLOCK_DESIGNS)):
        raise InputError(
            f"{where}: the pictures of a class were shown in one block ({', '.join(found)}): "
            "drift alone names the class",
            "docs/vc.md says why no accuracy of it means anything; use things2: or things:",
        )


def refuse_namesakes(people: Iterable[tuple[str, str]], where: str) -> None:
    """InputError where people (data set, subject) of two data sets have one name: a run knows
    people by their names."""
    seen: dict[str, str] = {}
    for dataset, subject in sorted(set(people)):
        if (other := seen.setdefault(subject, dataset)) != dataset:
            raise InputError(
                f"{where}: {subject} is a person of {other} and of {dataset}",
                "pack the data sets into folders of their own, and train on one",
            )


def refuse_whitened(manifest: Manifest, where: str, encoder: str, signal: Mapping) -> None:
    """InputError where an encoder that was trained on another `signal` (a profile) would read
    trials that were published whitened."""
    profile, units = manifest.profile, {entry.get("unit") for entry in manifest.recordings}
    if WHITENED in units and signal.get("name") != profile.get("name"):
        raise InputError(
            f"{where}: its trials were published whitened, at {profile['sfreq_hz']:g} Hz and "
            f"without a unit; the encoder {encoder} reads volts, at {signal['sfreq_hz']:g} Hz",
            "pack the raw recordings:  python data/pack.py --source things2:FOLDER,parts=training "
            f"--profile {signal.get('name', 'default')} --out DIR",
        )


def what_is_tested(path: str) -> Tested:
    """Of a folder of test trials, by its manifest alone; of a folder of pictures, one folder a
    concept (`test_images`); or of a text file, a concept a line. Nothing of ""."""
    if not path:
        return Tested()
    place, flag = Path(path), f"--drop_test_concepts {path}"
    if (place / MANIFEST).is_file():
        shown = read_manifest(place).raw.get("source", {}).get("pictures")
        if shown is None:
            raise InputError(
                f"{flag}: its manifest names no pictures",
                "pack these trials again, or give the folder of their pictures",
            )
        pictures = {str(image): str(label) for label, own in shown.items() for image in own}
        concepts = {concept_name(label, image) for image, label in pictures.items()}
        found = Tested(frozenset(concepts), frozenset(pictures))
    elif place.is_dir():
        folders = [one for one in place.iterdir() if one.is_dir()]
        pictures = {file.name for one in folders for file in one.iterdir()}
        found = Tested(frozenset(concept_of(one.name) for one in folders), frozenset(pictures))
    elif place.is_file():
        lines = (line.strip() for line in place.read_text("utf-8").splitlines())
        found = Tested(frozenset(filter(None, lines)))
    else:
        raise InputError(f"{flag}: no such file or folder", "check the path")
    if not found.concepts:
        raise InputError(
            f"{flag}: no concepts in it",
            "give the folder of packed test trials, that of their pictures, or a list",
        )
    return found


def pictures_like(
    tested: Iterable[str], images: Iterable[str], sha256: Mapping[str, str]
) -> list[str]:
    """Those of `images` that are a tested picture, by their file's name or by its content.
    sha256: of pictures, by file name; one of "" is unknown."""
    tested = set(tested)
    content = set(filter(None, (sha256.get(one) for one in tested)))
    return sorted({one for one in images if one in tested or sha256.get(one) in content})


def refuse_shared(
    training: Sequence[str], tested: Sequence[str], training_images: Sequence[str],
    tested_images: Sequence[str], sha256: dict[str, str], run: str, folder: str = "LIST",
) -> None:  # fmt: skip
    """InputError where a concept (by name) or a picture (by file name or content) is trained on
    and tested. sha256: of pictures, by file name; folder: of the test trials."""
    concepts = sorted(set(training) & set(tested))
    pictures = pictures_like(training_images, tested_images, sha256)
    found = [
        f"{len(own)} {what} that are tested: {', '.join(own[:SHOWN])}"
        for own, what in ((pictures, "pictures"), (concepts, "concepts"))
        if own
    ]
    if found:
        raise InputError(
            f"{run}: trained on {'; on '.join(found)}",
            f"train again: trainer/eeg2image.py with --drop_test_concepts {folder}",
        )


def names_of(concept: np.ndarray, image: np.ndarray, images: Sequence[str]) -> np.ndarray:
    """Concepts by name `[n]`, of trials' labels `[n]` and pictures `[n]`."""
    kinds, back = np.unique(image, return_inverse=True)
    label = np.empty(len(kinds), dtype=object)
    label[back] = concept
    return np.array([concept_name(label[row], images[one]) for row, one in enumerate(kinds)])[back]
