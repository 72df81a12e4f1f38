"""Which files one recording is made of: one answer for the check, the hash and the signature.

A format of several files says itself which they are, and that is asked, not the names: a
BrainVision header names its signal and its markers, an EEGLAB header its .fdt, a part of a split
FIF the next part, a Persyst header its .dat. Where MNE's reader goes by names beside the file
(Curry, Nihon Kohden, Nicolet, Artemis) or reads a folder (EGI, CTF, MEF), so is done here. What a
reader has opened is added by `with_opened`.

A header that was renamed or copied by hand may still name another recording's signal; then one
person would be packed as two. `check_own_signal` refuses that.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Iterable
from pathlib import Path

import mne

from data.errors import InputError
from data.files import holds_signal, read_text
from data.sources.formats.fif_parts import fif_parts, first_part
from data.sources.formats.integrity import _vhdr

BRAINVISION = (".vhdr", ".ahdr")
BESIDE = {
    ".dap": (".dat", ".rs3", ".cef", ".ceo"),
    ".dat": (".dap", ".rs3", ".cef", ".ceo"),
    ".rs3": (".dap", ".dat", ".cef", ".ceo"),
    ".cdt": (".cdt.dpa", ".cdt.dpo", ".cdt.cef", ".cdt.ceo", ".cdt.hpi"),
    ".eeg": (".pnt", ".log", ".21e"),
    ".data": (".head",),
    ".bin": (".txt",),
}
"""Files that MNE's readers of Curry 7 and 8, Nihon Kohden, Nicolet and Artemis look for beside one:
its suffix -> what takes the suffix's place."""
HEADERS = {
    ".eeg": (*BRAINVISION,), ".vmrk": BRAINVISION, ".amrk": BRAINVISION, ".avg": BRAINVISION,
    ".seg": BRAINVISION, ".fdt": (".set",), ".dat": (".lay", ".dap", *BRAINVISION),
    ".rs3": (".dap",), ".cef": (".dap", ".cdt"), ".ceo": (".dap", ".cdt"), ".pnt": (".eeg",),
    ".log": (".eeg",), ".21e": (".eeg",), ".head": (".data",), ".dpa": (".cdt",),
    ".dpo": (".cdt",), ".hpi": (".cdt",),
}  # fmt: skip
"""Suffix of a file that is opened along with another -> suffixes of that other one."""


def files_of(path: Path) -> list[Path]:
    """`path` and every other file that opening it reads; those that are not there are left out.

    Never raises for a damaged header: opening the recording reports that.
    """
    suffix = path.suffix.lower()
    if path.is_dir():
        return sorted(file for file in path.rglob("*") if file.is_file())
    if suffix in BRAINVISION:
        found = list(_named(path).values())
    elif suffix == ".set":
        found = [signal] if (signal := eeglab_signal(path)) else []
    elif suffix == ".fif":
        found = fif_parts(path)[1:]
    elif suffix == ".lay":
        found = list(_named(path).values())
    else:
        found = _beside(path, BESIDE.get(suffix, ()))
    return [file for file in dict.fromkeys([path, *found]) if file.is_file()]


def with_opened(files: Iterable[Path], raw: mne.io.BaseRaw) -> list[Path]:
    """`files`, and what else MNE says that it reads the signal of `raw` from."""
    found = {file.resolve(): file for file in files}
    for name in filter(None, raw.filenames):
        path = Path(name)
        for file in files_of(path) if path.is_dir() else [path]:
            if file.is_file():
                found.setdefault(file.resolve(), file)
    return list(found.values())


def signals_of(files: Iterable[Path]) -> list[Path]:
    """Those that hold signal; of an EEGLAB header with its .fdt, the .fdt alone."""
    files = list(files)
    outside = {file.parent for file in files if file.suffix.lower() == ".fdt"}
    return [
        file
        for file in files
        if holds_signal(file.name)
        and not (file.suffix.lower() == ".set" and file.parent in outside)
    ]


def is_part_of_another(path: Path) -> bool:
    """Whether MNE reads `path` together with another file that names it: signals, markers, later
    parts of a split FIF."""
    if path.suffix.lower() == ".fif":
        first = first_part(path)
        return first is not None and path in fif_parts(first)
    for suffix in HEADERS.get(path.suffix.lower(), ()):
        stem = path.stem.removesuffix(".cdt") if suffix == ".cdt" else path.stem
        own = [file for s in (suffix, suffix.upper()) if (file := path.with_name(stem + s)) != path]
        if any(header.exists() and path in files_of(header) for header in own):
            return True
        naming = path.parent.glob(f"*{suffix}") if suffix in (*BRAINVISION, ".set", ".lay") else ()
        if any(path in files_of(header) for header in naming):
            return True
    return False


def check_own_signal(path: Path) -> None:
    """InputError where a header names the signal or markers of another recording.

    A header that was renamed alone, so that no other claims its signal and none lies there under
    its own name, is taken at its word.
    """
    if path.suffix.lower() not in (*BRAINVISION, ".set"):
        return
    kinds = (".set",) if path.suffix.lower() == ".set" else BRAINVISION
    for key, named in _named(path).items():
        if named.stem == path.stem or not named.is_file():
            continue
        folders = {path.parent, named.parent}
        headers = sorted(h for folder in folders for kind in kinds for h in folder.glob(f"*{kind}"))
        others = [h for h in headers if h != path and named in _named(h).values()]
        own = path.with_suffix(named.suffix)
        if not (others or own.is_file()):
            continue
        whose = f", which is that of {others[0].name}" if others else ""
        beside = f", while {own.name} lies beside it" if own.is_file() else ""
        raise InputError(
            f"{path}: names another recording's file: {key}={named.name}{whose}{beside}",
            f"write {key}={own.name} into it if that is its own, else leave it out; renaming a "
            "header needs the name inside changed too (mne_bids.copyfiles does both)",
        )


def eeglab_signal(path: Path) -> Path | None:
    """The .fdt of an EEGLAB header, as MNE finds it; None where the signal is in the .set."""
    # A .set with its signal inside takes as long to read as it is large: only where one can be.
    if not any(file.suffix.lower() == ".fdt" for file in path.parent.glob("*.*")):
        return None
    try:
        status = path.stat()
        named = _eeglab_data(path, status.st_mtime_ns, status.st_size)
    except OSError:
        named = None
    if named is None:
        return None
    inside = path.parent / named
    return inside if inside.is_file() else path.with_suffix(".fdt")


def montage_files(montage: str | None) -> list[Path]:
    """The file that `montage=` names, unless it names one that is built into MNE."""
    if montage is None or montage in mne.channels.get_builtin_montages():
        return []
    path = Path(montage)
    return [path] if path.is_file() else []


def _named(path: Path) -> dict[str, Path]:
    """What a header calls its files: {"DataFile": path, ...}; nothing where it cannot be read."""
    suffix = path.suffix.lower()
    try:
        if suffix in BRAINVISION:
            header = _vhdr(path)
            return {k: path.parent / header[k] for k in ("DataFile", "MarkerFile") if header.get(k)}
        if suffix == ".set":
            signal = eeglab_signal(path)
            return {"EEG.data": signal} if signal else {}
        if suffix == ".lay":
            text = read_text(path)
            match = re.search(r"^\s*File\s*=\s*(.+?)\s*$", text, re.MULTILINE | re.IGNORECASE)
            name = re.split(r"[\\/]", match[1])[-1] if match else path.with_suffix(".dat").name
            return {"File": path.parent / name}
    except (InputError, OSError):
        pass
    return {}


def _beside(path: Path, endings: Iterable[str]) -> list[Path]:
    stem = path.with_suffix("")
    both = [ending for lower in endings for ending in (lower, lower.upper())]
    return [file for ending in both if (file := Path(f"{stem}{ending}")).is_file()]


@functools.cache
def _eeglab_data(path: Path, mtime_ns: int, size: int) -> str | None:
    """The name that EEG.data holds in place of a signal."""
    import scipy.io

    try:
        content = scipy.io.loadmat(
            path, variable_names=["EEG", "data"], squeeze_me=True, struct_as_record=False
        )
        value = content["EEG"].data if "EEG" in content else content.get("data")
    except NotImplementedError:  # MATLAB 7.3, which is HDF5
        value = _hdf5_text(path)
    except Exception:  # SciPy raises nearly anything on damaged files; opening it tells
        return None
    return str(value) if isinstance(value, str) and value else None


def _hdf5_text(path: Path) -> str | None:
    try:
        import h5py

        with h5py.File(path) as file:
            data = file["EEG/data"] if "EEG" in file else file["data"]
            if data.attrs.get("MATLAB_class") != b"char":
                return None
            return "".join(map(chr, data[()].ravel()))
    except (ImportError, OSError, KeyError, ValueError):
        return None
