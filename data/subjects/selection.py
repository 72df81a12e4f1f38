"""Subject lists (`1-3+7`) and file signatures, the same for every source."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from pathlib import Path

from data.errors import InputError
from data.files import named


def canonical_subject(subject: object) -> str:
    """'sub-02', '02' and 2 all name subject '2'; other names stay as they are."""
    text = re.sub(r"^sub-", "", str(subject).strip())
    return str(int(text)) if text.isdecimal() else text


def select_subjects(text: str | None, known: Sequence, what: str) -> list:
    """The entries of `known` that `text` names, in the order of `known`; None names all.

    `text` joins single subjects and ranges of numbers with +, e.g. "1-3+7". InputError for one
    that `known` lacks, or for text that cannot be read; `what` opens the message.
    """
    if text is None:
        return list(known)
    by_name = {canonical_subject(subject): subject for subject in known}
    wanted = expand_subjects(text, what)
    missing = [name for name in wanted if name not in by_name]
    if missing or not wanted:
        raise InputError(
            f"{what}: subjects={text}: no subject {', '.join(missing[:10]) or 'is named'}",
            f"the subjects are {describe_subjects(known)}; write e.g. subjects=1-3+7",
        )
    return [subject for name, subject in by_name.items() if name in wanted]


def expand_subjects(text: str, what: str) -> list[str]:
    """ "1-3+7" -> canonical names 1, 2, 3, 7; InputError for text that cannot be read."""
    wanted: dict[str, None] = {}
    for part in text.split("+"):
        span = re.fullmatch(r"\s*(\d+)\s*-\s*(\d+)\s*", part)
        if span:
            first, last = int(span[1]), int(span[2])
            if last < first or last - first > 100_000:
                raise InputError(f"{what}: subjects={text}", f"the range {part.strip()} is not one")
            wanted.update(dict.fromkeys(str(number) for number in range(first, last + 1)))
        elif part.strip():
            wanted[canonical_subject(part)] = None
    return list(wanted)


def describe_subjects(subjects: Iterable) -> str:
    """Subjects as short text that `select_subjects` reads back: [1, 2, 3, 7] -> "1-3+7"."""
    names = [canonical_subject(subject) for subject in subjects]
    numbers = sorted(int(name) for name in names if name.isdecimal())
    runs: list[list[int]] = []
    for number in numbers:
        if runs and number == runs[-1][1] + 1:
            runs[-1][1] = number
        else:
            runs.append([number, number])
    parts = [str(a) if a == b else f"{a}-{b}" for a, b in runs]
    return "+".join(parts + [name for name in names if not name.isdecimal()])


def file_signature(paths: Iterable[Path]) -> list[list]:
    """[name, size in bytes, modification time in ns] of each file: cheap proof of sameness."""
    entries = []
    for name, path in named(sorted(set(paths))).items():
        status = path.stat()
        entries.append([name, status.st_size, status.st_mtime_ns])
    return entries
