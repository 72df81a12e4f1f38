"""Look for MOABB's files on disk, without the network.

MOABB's `data_path` both finds and downloads, hashes every byte of what it finds, and retries
mirrors for up to a minute where there is no network. Under `offline()` its downloader finds files
by name alone and refuses at once what is absent, so a whole dataset is looked over in seconds.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from data.errors import InputError


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
