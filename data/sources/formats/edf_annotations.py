"""Annotations of EDF+ and BDF+ files. The standard asks for UTF-8; many recorders write Latin-1."""

from __future__ import annotations

from pathlib import Path

import mne

LATIN_1 = "latin1"


def read_annotations(path: Path) -> mne.Annotations:
    """`mne.read_annotations` of any file, of an EDF in whichever of the two encodings fits."""
    try:
        return mne.read_annotations(path)
    except UnicodeDecodeError:
        return mne.read_annotations(path, encoding=LATIN_1)


def is_latin_1(path: Path, error: Exception) -> bool:
    """Whether what MNE raised on opening an EDF or BDF file is that its text is no UTF-8."""
    edf = path.suffix.lower() in (".edf", ".bdf")
    return edf and (isinstance(error, UnicodeDecodeError) or "encoding='latin1'" in str(error))
