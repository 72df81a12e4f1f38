"""Look for MOABB's files on disk, without the network.

MOABB's `data_path` both finds and downloads, hashes every byte of what it finds, and retries
mirrors for up to a minute where there is no network. Under `offline()` its downloader finds files
by name alone and refuses at once what is absent, so a whole dataset is looked over in seconds.

What `data_path` gives back is anything from one path to a dictionary of lists, and for some
datasets the folder of all subjects: `subject_files` makes one subject's files of it.
"""

from __future__ import annotations

import os
import re
import socket
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from data.diskspace import is_machine_trouble
from data.errors import InputError
from data.subjects.moabb_names import folder_number, quiet

NAMES_SUBJECT = re.compile(
    r"(?<![a-z0-9])(?:subject|subj|sub|sbj|participant|pp|p(?!300)|s)[-_ ]?0*(\d+)(?!\d)",
    re.IGNORECASE,
)
"""sub-03, S3, subject_3, P03, but not session3, ses-03, run3 or P300."""


class NotOnDisk(OSError):
    """A file is absent, and the network was not asked."""


@contextmanager
def offline() -> Iterator[list[Path]]:
    """Inside, MOABB takes files from disk or raises; yields the list of files it asked for."""
    from moabb.datasets import download

    touched: list[Path] = []

    def local(url, known_hash=None, fname=None, path=None, **_):
        file = Path(path or ".") / (fname or Path(url).name)
        if not file.is_file():
            raise NotOnDisk(f"{file} is absent")
        touched.append(file)
        return str(file)

    def no_hash(*_args, **_kwargs):
        return None

    def refuse(*_args, **_kwargs):
        raise NotOnDisk("a file is absent: a download was tried")

    replaced = [
        (download, "retrieve", local),
        (download, "file_hash", no_hash),
        (socket, "getaddrinfo", refuse),
        (socket, "create_connection", refuse),
    ]
    saved = [(place, name, getattr(place, name)) for place, name, _ in replaced]
    try:
        for place, name, substitute in replaced:
            setattr(place, name, substitute)
        yield touched
    finally:
        for place, name, original in saved:
            setattr(place, name, original)


def network_available() -> bool:
    """Whether a download could be tried: a proxy is set, or a data host can be reached."""
    if any(os.environ.get(name) for name in ("HTTPS_PROXY", "https_proxy", "ALL_PROXY")):
        return True
    for host in ("zenodo.org", "physionet.org"):
        try:
            socket.create_connection((host, 443), timeout=5).close()
        except OSError:
            continue
        return True
    return False


def data_root() -> Path:
    """Where MOABB looks for files; InputError if MNE_DATA names a folder that is not there."""
    import mne

    root = Path(mne.get_config("MNE_DATA") or Path.home() / "mne_data").expanduser()
    if mne.get_config("MNE_DATA") and not root.is_dir():
        raise InputError(
            f"MNE_DATA={root}: no such folder",
            f"create it with  mkdir -p {root}  or set MNE_DATA to where the recordings are",
        )
    return root


def files_on_disk(dataset, subject, root: Path) -> list[Path] | None:
    """The files of a subject, or None if any is absent. Never asks the network."""
    name = type(dataset).__name__
    with offline() as touched, quiet():
        try:
            found = flat_paths(dataset.data_path(subject))
            return subject_files([*found, *touched], name, subject)
        except Exception as error:
            if is_machine_trouble(error):
                raise
            # A loader without its files raises anything; what matters is the next try.
            touched.clear()
        try:
            # data_path of some datasets also wants files that their signals do not need.
            dataset.get_data([subject])
        except Exception as error:
            if is_machine_trouble(error):
                raise
            return None
    return subject_files(touched, name, subject) or subject_files(
        _under(root, dataset), name, subject
    )


def subject_files(paths: object, dataset: str, subject: object) -> list[Path]:
    """The files of a subject in what `data_path` gives back, sorted.

    Of a folder of all subjects, only what names this one is taken, where anything does: else a
    subject would change with every other one that is fetched beside it.
    """
    files = set()
    for path in flat_paths(paths):
        files |= {path} if path.is_file() else set()
        if path.is_dir():
            files |= _of_subject(path, folder_number(dataset, subject))
    return sorted(files)


def flat_paths(value: object) -> list[Path]:
    """A path, or any nesting of lists and dictionaries of paths, as one list."""
    if isinstance(value, str | os.PathLike):
        return [Path(value)]
    if isinstance(value, Mapping):
        value = value.values()
    if not isinstance(value, Iterable):
        return []
    return [path for part in value for path in flat_paths(part)]


def _of_subject(folder: Path, number: str) -> set[Path]:
    files = {path for path in folder.rglob("*") if path.is_file()}
    if number in (_subject_named(Path(folder.name)), _subject_named(Path(folder.parent.name))):
        return files
    own = {path for path in files if _subject_named(path.relative_to(folder)) == number}
    return own or files


def _subject_named(path: Path) -> str | None:
    """The number of the subject that the outermost folder to name one, or the file, names."""
    for part in path.parts:
        match = NAMES_SUBJECT.search(part)
        if match:
            return match[1]
    return None


def _under(root: Path, dataset) -> list[Path]:
    """The dataset's folder, by MOABB's usual name for it."""
    return list(root.glob(f"MNE-{dataset.code.lower()}*-data"))
