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
from data.files import read_text
from data.sources.formats.edf_header import read_edf_header

REMEDY = "copy or download it again; a part of a recording would go unnoticed"
FEWEST_LINE_FEEDS = 32
BINARY = (".edf", ".bdf", ".gdf", ".cnt", ".fif", ".set", ".fdt", ".cdt", ".mat")
"""Suffixes of files whose bytes are never text."""


def check_whole(path: Path) -> None:
    """Raise InputError if `path` (EDF, BDF, FIF, header of BrainVision or Persyst) is cut, longer
    than its header says, altered by a transfer in text mode, or no file."""
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
    for file in map(Path, filter(None, raw.filenames)):
        if file.suffix.lower() in BINARY:
            _check_line_feeds(file)
        if file.suffix.lower() == ".fdt":
            size, promised = file.stat().st_size, 4 * len(raw.ch_names) * raw.n_times
            if size != promised:
                raise InputError(
                    f"{file}: {size} bytes, {path.name} promises {promised}: it is another "
                    "recording's, or was altered",
                    REMEDY,
                )


def _check_edf(path: Path) -> None:
    """More bytes than promised are whole records of a recorder that was switched off, which MNE
    counts with a warning, or the file was altered."""
    header, size = read_edf_header(path), path.stat().st_size
    promised = header.header_bytes + max(header.records, 0) * header.record_bytes
    if size == promised:
        return
    _check_line_feeds(path)
    if size < promised:
        raise InputError(f"{path}: truncated: {size} bytes, its header promises {promised}", REMEDY)
    if header.records >= 0 and (size - promised) % (header.record_bytes or 1):
        raise InputError(
            f"{path}: {size} bytes, its header promises {promised}, and the rest are no whole data "
            "records: bytes were inserted, and every sample behind them may be torn",
            REMEDY,
        )


def _check_line_feeds(path: Path) -> None:
    """Raise InputError if a transfer in text mode made CR LF of every LF byte of a binary file.

    Of the bytes before a line feed in a signal one in 256 is a CR by chance, so that the first
    lone line feed, at the file's beginning as a rule, ends the search.
    """
    found, before = 0, b""
    with open(path, "rb") as file:
        while chunk := file.read(1 << 20):
            count = chunk.count(b"\n")
            if count > (before[-1:] + chunk).count(b"\r\n"):
                return
            found, before = found + count, chunk
    if found >= FEWEST_LINE_FEEDS:
        raise InputError(
            f"{path}: altered by a transfer in text mode: each of its {found} line feeds follows a "
            "carriage return, so every sample behind the first is torn",
            "copy or download it again in binary mode (git: mark it -text in .gitattributes; "
            "FTP: type binary)",
        )


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
    text = read_text(path)
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
    if header.get("DataFormat", "BINARY").upper() == "BINARY":
        _check_line_feeds(signal)
    size, frame = signal.stat().st_size, width * channels
    samples, promised = size // frame, int(header.get("DataPoints") or 0)
    if promised and size > frame * promised:
        raise InputError(
            f"{signal}: {samples} samples, {path.name} promises {promised}: it is another "
            "recording's, or was altered",
            REMEDY,
        )
    if size % frame or size < frame * promised:
        raise InputError(
            f"{signal}: truncated: {size} bytes are not the whole samples of {channels} channels "
            "that its header promises",
            REMEDY,
        )
    name = header.get("MarkerFile", "")
    markers = path.parent / name
    if name and not markers.is_file():
        raise InputError(
            f"{path}: its markers {name} are missing: events and pauses of the recording are there",
            "put the file beside the header; if there is none, take MarkerFile= out of the header",
        )
    if markers.is_file():
        text = read_text(markers)
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
    text = read_text(path).replace("\r", "")
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
