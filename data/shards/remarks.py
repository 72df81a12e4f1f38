"""What readers warn of and packing assumed, kept with each recording and printed for all of them.

A source says it with `warnings.warn(text)` where it has no Recording at hand, else by appending to
`Recording.remarks`. The packer keeps both in the manifest's record of the recording, as a list of
sentences, `remarks`; the summary prints each kind once, with how many recordings it is about and
one of them as an example.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

SHOWN = 20
"""Kinds of remarks that are printed for one data set."""
LONGEST = 300
NOT_FOR_USERS = (DeprecationWarning, PendingDeprecationWarning, FutureWarning, ResourceWarning)
NUMBER = re.compile(r"\d+(\.\d+)?(e[+-]?\d+)?")


@contextmanager
def kept_warnings(into: list[str]) -> Iterator[None]:
    """Append what is warned of inside to `into`, in place of printing it: one line of text each,
    without folders, repeated ones once. Those meant for programmers are dropped."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for category in NOT_FOR_USERS:
            warnings.simplefilter("ignore", category)
        try:
            yield
        finally:
            into += (str(entry.message) for entry in caught)
            into[:] = tidy(into)


def tidy(remarks: list[str]) -> list[str]:
    """One line each, without folders, each once."""
    lines = (without_folders(" ".join(text.split()))[:LONGEST] for text in remarks)
    return list(dict.fromkeys(filter(None, lines)))


def without_folders(text: str) -> str:
    """`text` with absolute paths cut to their last part: a manifest must not name a machine."""
    return re.sub(r"(?<![\w.])/(?:[^\s/:'\"]+/)+", "", text)


def remarks_of(entry: dict) -> list[str]:
    """The remarks of a recording's record in the manifest, with its notes of one value."""
    notes = entry.get("notes", {}).items()
    plain = [f"{key}: {value}" for key, value in notes if isinstance(value, (str, int, float))]
    return [*plain, *entry.get("remarks", [])]


def grouped(recordings: list[dict]) -> list[str]:
    """One line for each kind of remark, the most frequent first: how many recordings it is about,
    and for several one as an example. Remarks that differ in numbers only are of one kind."""
    kinds: dict[str, list[tuple[str, str]]] = {}
    for entry in recordings:
        for text in dict.fromkeys(remarks_of(entry)):
            kinds.setdefault(NUMBER.sub("#", text), []).append((entry["id"], text))
    lines = []
    for found in sorted(kinds.values(), key=len, reverse=True):
        names = list(dict.fromkeys(name for name, _ in found))
        if len(names) == 1:
            lines += [f"{names[0]}: {text}" for _, text in found]
        else:
            lines.append(f"{len(names)} recordings: {found[0][1]} (e.g. {names[0]})")
    if len(lines) > SHOWN:
        lines[SHOWN:] = [f"... and {len(lines) - SHOWN} other remarks, in manifest.json"]
    return lines
