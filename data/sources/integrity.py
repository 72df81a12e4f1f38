"""Is a recording whole? Readers often take a truncated file for a short one; we refuse it.

Sizes are compared with what the header promises, where the format promises anything. A BrainVision
file cut between two samples is found only if a marker lies beyond the cut.
"""

from __future__ import annotations

import configparser
import re
import struct
from pathlib import Path

import mne

from data.errors import InputError

REMEDY = "copy or download it again; a part of a recording would go unnoticed"


def check_whole(path: Path) -> None:
    """Raise InputError if `path` (EDF, BDF, FIF, BrainVision header) is cut or is no file."""
    if not path.exists():
        raise InputError(f"{path}: no such file", "check the path")
    suffix = path.suffix.lower()
    if suffix in (".edf", ".bdf"):
        _check_edf(path)
    elif suffix in (".vhdr", ".ahdr"):
        _check_brainvision(path)
    elif suffix == ".fif":
        _check_fif(path)
    elif suffix == ".lay":
        _check_persyst(path)


def check_length(raw: mne.io.BaseRaw, path: Path) -> None:
    """Raise InputError if the last sample of `raw` cannot be read (a truncated FIF or .fdt)."""
    try:
        last = raw.get_data(None, max(0, raw.n_times - 1), raw.n_times, verbose="error")
    except (OSError, ValueError, RuntimeError, EOFError, IndexError, TypeError) as error:
        raise InputError(
            f"{path}: truncated: its last sample cannot be read ({type(error).__name__})", REMEDY
        ) from error
    if last.shape[1] != 1:
        raise InputError(f"{path}: truncated: its last sample is missing", REMEDY)


def _check_edf(path: Path) -> None:
    size = path.stat().st_size
    try:
        with open(path, "rb") as file:
            fixed = file.read(256)
            header_bytes, records = int(fixed[184:192]), int(fixed[236:244])
            signals = int(fixed[252:256])
            file.seek(256 + signals * 216)
            samples = [int(file.read(8)) for _ in range(signals)]
    except ValueError:
        raise InputError(
            f"{path}: not the header of an EDF or BDF file", f"it is damaged: {REMEDY}"
        ) from None
    width = 3 if path.suffix.lower() == ".bdf" else 2
    promised = header_bytes + max(records, 0) * sum(samples) * width
    if size < promised:
        raise InputError(f"{path}: truncated: {size} bytes, its header promises {promised}", REMEDY)


def _check_fif(path: Path) -> None:
    """Walk the chain of tags: the last one says that none follows."""
    size = path.stat().st_size
    with open(path, "rb") as file:
        position = 0
        while position + 16 <= size:
            file.seek(position)
            _, _, length, following = struct.unpack(">iiii", file.read(16))
            end = position + 16 + length
            if length < 0 or end > size:
                break
            if following == -1:
                return
            position = following if following > 0 else end
    raise InputError(f"{path}: truncated: {size} bytes, and its last part is missing", REMEDY)


def _check_persyst(path: Path) -> None:
    """MNE counts the samples of Persyst's .dat by its size: a cut one passes for a short one."""
    text = path.read_text("utf-8", errors="replace")
    found = dict(re.findall(r"(?im)^\s*(File|DataType|WaveformCount)\s*=\s*(.+?)\s*$", text))
    values = {key.lower(): value for key, value in found.items()}
    width = {"0": 2, "7": 4}.get(values.get("datatype", ""))
    signal = path.parent / re.split(r"[\\/]", values.get("file", path.with_suffix(".dat").name))[-1]
    if not signal.is_file():
        raise InputError(f"{path}: its signal {signal.name} is missing", "put it beside the header")
    channels = values.get("waveformcount", "")
    if width and channels.isdecimal() and signal.stat().st_size % (width * int(channels) or 1):
        raise InputError(
            f"{signal}: truncated: {signal.stat().st_size} bytes are not the whole samples of "
            f"{channels} channels that its header promises",
            REMEDY,
        )


def _check_brainvision(path: Path) -> None:
    header = _vhdr(path)
    signal = path.parent / header.get("DataFile", path.with_suffix(".eeg").name)
    if not signal.is_file():
        raise InputError(f"{path}: its signal {signal.name} is missing", "put it beside the header")
    width = {"INT_16": 2, "IEEE_FLOAT_32": 4}.get(header.get("BinaryFormat", "").upper())
    channels = int(header.get("NumberOfChannels", 0))
    if not (width and channels):
        return
    size, frame = signal.stat().st_size, width * channels
    samples = size // frame
    if size % frame or size < frame * int(header.get("DataPoints", 0)):
        raise InputError(
            f"{signal}: truncated: {size} bytes are not the whole samples of {channels} channels "
            "that its header promises",
            REMEDY,
        )
    markers = path.parent / header.get("MarkerFile", "")
    if markers.is_file():
        text = markers.read_text("utf-8", errors="replace")
        last = max(
            map(int, re.findall(r"^Mk\d+=[^,]*,[^,]*,(\d+),", text, re.MULTILINE)), default=0
        )
        if last > samples:
            raise InputError(
                f"{signal}: truncated: {samples} samples, but a marker lies at sample {last}",
                REMEDY,
            )


def _vhdr(path: Path) -> dict[str, str]:
    """The [Common Infos] and [Binary Infos] of a BrainVision header."""
    text = path.read_text("utf-8", errors="replace").replace("\r", "")
    parser = configparser.ConfigParser(interpolation=None, strict=False, allow_no_value=True)
    parser.optionxform = str
    try:
        # The first line is a title; after [Comment] anything may follow.
        parser.read_string(text[text.index("[") :].split("[Comment]")[0])
        sections = [parser[name] for name in ("Common Infos", "Binary Infos") if name in parser]
    except (configparser.Error, ValueError) as error:
        raise InputError(f"{path}: not a BrainVision header ({error})", REMEDY) from error
    base = path.stem
    return {
        key: (value or "").replace("$b", base)
        for section in sections
        for key, value in section.items()
    }
