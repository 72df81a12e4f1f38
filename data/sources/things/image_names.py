"""What THINGS calls its pictures and concepts, so that data sets can be compared by name.

A concept is a folder of pictures: `00001_aardvark/aardvark_01b.jpg`. The numbers count another list
in each data set, and in each part of THINGS-EEG2, so that they say nothing: names are compared.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import PureWindowsPath

FILE = re.compile(r"(.+)_\d\d[a-z]\.jpe?g", re.IGNORECASE)
NUMBER = re.compile(r"^\d+_(?=.)")


def concept_of(name: str) -> str:
    """The concept that a folder or a file of THINGS is named after, with or without the folders
    above it: `aardvark` of `00001_aardvark` and of `aardvark_01b.jpg`. Another name stays."""
    own = PureWindowsPath(name).name  # which knows both slashes
    found = FILE.fullmatch(own)
    return found.group(1) if found else NUMBER.sub("", own)


def concept_name(label: str, image: str) -> str:
    """Of a trial's picture: as its file says where it is named like those of THINGS, else its
    label."""
    named = FILE.fullmatch(PureWindowsPath(image).name)
    return named.group(1) if named else concept_of(label)


def shared_concepts(first: Iterable[str], second: Iterable[str]) -> list[str]:
    """Concepts, sorted, that two lists of folders, files or concepts both name."""
    return sorted({concept_of(one) for one in first} & {concept_of(one) for one in second})
