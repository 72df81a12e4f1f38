"""Whose recording is it? The subjects of the files of one `raw:` source.

By the option `subject`, else by BIDS's sub-XX, else by names that are nothing but a subject's code.
Where none of these tells, one person could be split over training and test, so the pack stops and
shows an expression made from the names at hand; or the user says that all are one person
(`subject=one`), or each file one of its own (`subject=file`).
"""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from data.errors import some
from data.sources.spec import Spec

ONE, EACH = "one", "file"
CODE = re.compile(
    r"(?:s|p|vp|pp|id|sub|subj|subject|participant|patient|proband)[-_ ]?\d+", re.IGNORECASE
)
"""A file's whole name that is a subject's code: S01, P7, subj-3."""
CONDITIONS = (  # noqa: SIM905
    "rest resting restingstate pilot baseline eyes open closed eo ec task run ses sess session "
    "block trial day visit pre post rec record recording eeg meg raw data"
).split()
"""Words that say what was recorded, never of which person."""
PATTERNS = (
    r"([A-Za-z]+\d+)[^/]*$", r"([^/_.-]+)[^/]*$", r"([^/]+)/[^/]*$", r"^([^/]+)/", r"(\d+)[^/]*$",
)  # fmt: skip
SHOWN = 4


def name_subjects(paths: Sequence[Path], spec: Spec) -> tuple[list[str], list[str]]:
    """(the subject of each path, what was assumed, to be printed).

    Raises InputError where nothing tells persons apart, where the expression of `subject=` does
    not fit, or where it gives one person for several files.
    """
    paths = list(paths)
    common = Path(os.path.commonpath([path.parent for path in paths]))
    inside = [path.relative_to(common).as_posix() for path in paths]
    option = spec.options.get("subject")
    if option == ONE:
        return [ONE] * len(paths), []
    if option == EACH:
        stems = [path.stem for path in paths]
        unlike = len(set(stems)) == len(stems)
        return (stems if unlike else [os.path.splitext(name)[0] for name in inside]), []
    if option is not None:
        return _by_expression(option, paths, inside, spec), []
    return _by_names(paths, inside, common, spec)


def entity(text: str, name: str) -> str | None:
    """The value of a BIDS entity in a file's name, else in its folders: sub-02 -> 02."""
    for part in reversed(text.split("/")):
        match = re.search(rf"(?:^|_){name}-([A-Za-z0-9]+)", part)
        if match:
            return match[1]
    return None


def example(inside: Sequence[str]) -> str:
    """ "e.g. subject=... makes 2 people of them: ..." by an expression that fits these names."""
    found: dict[str, Counter] = {}
    for pattern in PATTERNS:
        matches = [re.search(pattern, name) for name in inside]
        people = Counter(match[1] for match in matches if match)
        if all(matches) and len(people) > 1:
            found.setdefault(pattern, people)
    if not found:
        return ""
    # Several files a person are the likelier reading, and names than numbers.
    pattern = min(
        found, key=lambda p: (len(found[p]) == len(inside), all(map(str.isdecimal, found[p])))
    )
    people = found[pattern]
    counted = [f"{name} ({n} file{'s' * (n > 1)})" for name, n in sorted(people.items())]
    return f"e.g. 'subject={pattern}' makes {len(people)} people of them: {some(counted, SHOWN)}"


def _by_expression(pattern: str, paths: list[Path], inside: list[str], spec: Spec) -> list[str]:
    """Looked for below the folder that all files have in common: what lies above them all tells
    nobody apart."""
    try:
        compiled = re.compile(pattern)
    except re.error as error:
        raise spec.wrong(
            f"subject={pattern} is not a regular expression ({error})",
            r"write e.g. subject=(P\d+)",
        ) from None
    above = not any(map(compiled.search, inside))
    names = [str(path) for path in paths] if above else inside
    subjects = []
    for name in names:
        match = compiled.search(name)
        value = match and (match[1] if match.groups() else match[0])
        if not value:
            raise spec.wrong(
                f"subject={pattern} is not found in {name}",
                r"write an expression that every path has, e.g. subject=(P\d+)",
            )
        subjects.append(value)
    plain = re.fullmatch(r"[\w-]+", pattern)
    if len(paths) > 1 and len(set(subjects)) == 1 and not plain:
        where = ", found in a folder above them all" if above else ""
        raise spec.wrong(
            f"subject={pattern} makes every file one person: {len(paths)} files "
            f"are all {subjects[0]!r}{where}",
            f"if they are one person, write subject={ONE}"
            + (f" or subject={subjects[0]}" if re.fullmatch(r"[\w-]+", subjects[0]) else "")
            + f"; else an expression that tells people apart. {example(inside)}".rstrip(". "),
        )
    return subjects


def _by_names(
    paths: list[Path], inside: list[str], common: Path, spec: Spec
) -> tuple[list[str], list[str]]:
    count, stems = len(paths), [path.stem for path in paths]
    subjects = [entity(name, "sub") for name in inside]
    if not any(subjects) and (one := _folder_above(common)):
        subjects = [one] * count
    if all(subjects):
        notes = []
        if count > 1 and len(set(subjects)) == 1:
            notes = [f"every file ({count}) is one person, {subjects[0]} (sub-{subjects[0]})"]
        return subjects, notes
    if count == 1:
        return stems, []
    if not any(subjects) and all(CODE.fullmatch(stem) for stem in stems):
        people = sorted(set(stems))
        return stems, [
            f"each file's name is taken for its subject: {len(people)} people "
            f"({some(people, SHOWN)}); if it counts one person's sessions, write subject={ONE}"
        ]
    if not any(subjects) and all(map(_names_nobody, stems)):
        return [ONE] * count, [
            f"the names ({some(stems, SHOWN)}) say what was recorded and not of which person: "
            f"every file ({count}) is taken for one person, in one split; where that is wrong, say "
            f"who with subject=REGEX, or subject={EACH} for a person each"
        ]
    unknown = [name for name, subject in zip(inside, subjects, strict=True) if not subject]
    raise spec.wrong(
        f"nothing tells whose recordings these are: {len(unknown)} of {count} "
        f"files have no sub-XX in their names ({some(unknown, SHOWN)}), and one person's must not "
        "land in two splits",
        "say who with subject=REGEX, looked for in the path below "
        f"{common.name or common}; {example(inside)}".rstrip("; ")
        + f"; if all are one person, write subject={ONE}; if each file is a person of its own, "
        f"subject={EACH}",
    )


def _folder_above(common: Path) -> str | None:
    """BIDS's sub-XX where all files lie inside one subject's folder: .../sub-01/ses-1/eeg."""
    parts = list(common.resolve().parts)
    while parts and re.fullmatch(r"ses-[A-Za-z0-9]+|eeg|meg", parts[-1]):
        parts.pop()
    match = re.fullmatch(r"sub-([A-Za-z0-9]+)", parts[-1]) if parts else None
    return match[1] if match else None


def _names_nobody(stem: str) -> bool:
    """Whether a name is made of CONDITIONS and numbers alone: rest-2, run_03, pilot-2021."""
    words = re.findall(r"[^\W\d_]+", stem.lower())
    return bool(words) and set(words) <= set(CONDITIONS)
