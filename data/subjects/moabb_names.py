"""Find a MOABB dataset by its class name, its code, or a name of earlier releases."""

from __future__ import annotations

import inspect
import logging
import os
import re
import warnings

from data.errors import InputError, did_you_mean
from data.subjects.people import OLD_NAMES, canonical_subject

GONE = {
    "demonsp300": "use BI2014a in its place: another P300 game, 64 people, 16 channels (DemonsP300 "
    "was 60 people, 8 channels)",
}
"""Datasets of earlier releases that are not there any more -> what to use."""
FOLDER_NUMBERS = {
    "Chang2025": [number for number in range(201, 231) if number not in (207, 218)],
}
"""Datasets whose folders number subjects otherwise than MOABB -> the folders' numbers, in order."""


def find_class(name: str):
    """MOABB's class for `name`; InputError suggests near names, or what replaces a lost one."""
    datasets = _datasets()
    by_plain = {_plain(cls_name): cls for cls_name, cls in datasets.items()}
    plain = _plain(name)
    plain = _plain(OLD_NAMES.get(plain, plain))
    if plain in by_plain:
        return by_plain[plain]
    for cls in datasets.values():
        if _plain(cls().code) == plain:
            return cls
    if plain in GONE:
        raise InputError(f"moabb:{name}: MOABB no longer has this dataset", GONE[plain])
    raise InputError(
        f"moabb:{name}: the installed MOABB has no dataset of this name",
        f"{did_you_mean(name, datasets)} All {len(datasets)} are listed by  "
        'python -c "import moabb.datasets as d; print(*sorted(vars(d)))"'.strip(),
    )


def folder_number(dataset: str, subject: object) -> str:
    """The number by which a dataset's folders and files name a subject of MOABB's."""
    numbers = FOLDER_NUMBERS.get(dataset)
    return str(numbers[int(str(subject)) - 1]) if numbers else canonical_subject(subject)


def class_names() -> list[str]:
    """All datasets of the installed MOABB."""
    return sorted(_datasets())


def _datasets() -> dict[str, type]:
    # Without this, a lookup with no network asks a mirror for up to a minute first.
    os.environ.setdefault("MOABB_DOWNLOAD_PROVIDER", "upstream")
    with quiet():
        import moabb.datasets
        from moabb.datasets.base import BaseDataset

    return {
        name: cls
        for name, cls in inspect.getmembers(moabb.datasets, inspect.isclass)
        if issubclass(cls, BaseDataset) and name == cls.__name__ and not name.startswith("Fake")
    }


class quiet(warnings.catch_warnings):
    """Readers' chatter hidden: what matters is found out by preprocessing, and recorded."""

    def __enter__(self):
        import mne

        super().__enter__()
        warnings.simplefilter("ignore")
        self._level = logging.getLogger("mne").level
        mne.set_log_level("error")
        return self

    def __exit__(self, *details):
        logging.getLogger("mne").setLevel(self._level)
        super().__exit__(*details)


def _plain(name: str) -> str:
    return re.sub(r"[^a-z0-9]", "", name.lower())
