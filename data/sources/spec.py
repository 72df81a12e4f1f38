"""Where recordings come from: `KIND:TARGET,option=value,...` becomes a list of work items.

A work item is what one worker process loads at a time: picklable, cheap to make, and signed by the
files and options that decide its content, so that an interrupted pack can tell finished work from
work that has changed. Listing looks at names, sizes and times only; signals are read in `load`.

Each kind is one module of this package with `list_items(spec, profile) -> list[WorkItem]`. Modules
are imported when first asked for, because MOABB and torch take seconds to import.
"""

from __future__ import annotations

import importlib
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from data.errors import InputError, did_you_mean
from data.signals.profiles import Profile
from data.signals.recording import MegOptions, Recording
from data.sources.kinds import CHOSEN_BY_SUBJECT, COMMON, KINDS, PAIRED
from data.sources.labels.choose import label_items
from data.subjects.selection import select_subjects

SPLITS = ("auto", "train", "val", "test")


@dataclass(frozen=True)
class Spec:
    """One parsed `--source`: e.g. kind "moabb", target "PhysionetMI", options {"subjects": "1"}."""

    kind: str
    target: str
    options: dict[str, str] = field(default_factory=dict)

    def __str__(self) -> str:
        head = f"{self.kind}:{self.target}" if self.target else self.kind
        return ",".join([head, *(f"{key}={value}" for key, value in self.options.items())])

    @property
    def split(self) -> str:
        return self.options.get("split", "auto")

    def flag(self, name: str, default: bool) -> bool:
        """A 0/1 option."""
        text = self.options.get(name, str(int(default)))
        if text not in ("0", "1"):
            raise InputError(f"--source {self}: {name}={text}", f"write {name}=1 or {name}=0")
        return text == "1"

    def mains(self) -> float | None:
        """The option `mains_hz`."""
        text = self.options.get("mains_hz")
        if text not in (None, "50", "60"):
            raise InputError(
                f"--source {self}: mains_hz={text}", "write mains_hz=50 or mains_hz=60"
            )
        return float(text) if text else None

    def unit(self) -> str | None:
        """The option `unit`, as a key of data.units.VOLTS."""
        text = self.options.get("unit")
        plain = text.replace("µ", "u").replace("μ", "u") if text else None
        if plain not in (None, "nV", "uV", "mV", "V"):
            raise InputError(
                f"--source {self}: unit={text}", "write unit=uV, or another of nV, mV and V"
            )
        return plain

    def meg_options(self, profile: Profile) -> MegOptions | None:
        """The options `sss` and `regress`; None where the profile keeps no MEG."""
        kinds = tuple(sorted(set(filter(None, self.options.get("regress", "").split("+")))))
        if not set(kinds) <= {"eog", "ecg"}:
            raise InputError(
                f"--source {self}: regress={'+'.join(kinds)}",
                "write regress=eog, regress=ecg or regress=eog+ecg",
            )
        options = MegOptions(self.flag("sss", False), kinds)
        if profile.meg:
            return options
        if options != MegOptions():
            raise InputError(
                f"--source {self}: sss and regress treat recordings of EEG and MEG",
                f"add --profile eeg2meg, or leave them out (the profile is {profile.name})",
            )
        return None


class WorkItem(Protocol):
    """One unit of packing work. Implementations are frozen dataclasses of plain values."""

    @property
    def key(self) -> str:
        """Unique, stable and safe in a file name, e.g. "moabb-PhysionetMI-1"."""

    @property
    def dataset(self) -> str: ...

    @property
    def subject(self) -> str:
        """Known before loading, so that subjects can be split first."""

    @property
    def split(self) -> str:
        """One of SPLITS."""

    @property
    def signature(self) -> dict:
        """JSON-able: everything besides the profile that decides the content; under "files", the
        `file_signature` of `source_files`."""

    def source_files(self) -> list[Path]:
        """Every file that decides the content: signals, headers, tables, places."""

    def load(self) -> Iterator[Recording]:
        """Read the recordings, one at a time."""


def parse_spec(text: str) -> Spec:
    """Parse `KIND:TARGET,option=value,...`; InputError for an unknown kind, option or split.

    A comma counts as a separator only before `name=`, so paths may hold commas.
    """
    head, *parts = re.split(r",(?=\s*[A-Za-z_]+=)", text.strip())
    name, _, target = head.partition(":")
    name, target = name.strip().lower(), target.strip()
    if name not in KINDS:
        raise InputError(
            f"--source {text}: there is no kind of source called {name!r}",
            f"{did_you_mean(name, KINDS)} The kinds are {', '.join(KINDS)}; "
            "write e.g. moabb:PhysionetMI or raw:/data/*.edf".strip(),
        )
    known = {**KINDS[name].options, **COMMON}
    options: dict[str, str] = {}
    for part in parts:
        option, _, value = (piece.strip() for piece in part.partition("="))
        if option not in known:
            raise InputError(
                f"--source {text}: {name} has no option {option!r}",
                f"{did_you_mean(option, known)} Its options are {', '.join(known)}.".strip(),
            )
        if option in options or not value:
            raise InputError(
                f"--source {text}: option {option} is {'given twice' if value else 'empty'}",
                f"write {option}=VALUE once: {known[option]}",
            )
        options[option] = value
    if options.get("split", "auto") not in SPLITS:
        raise InputError(
            f"--source {text}: split={options['split']}", f"use one of {', '.join(SPLITS)}"
        )
    if not target and name not in ("simulated", *PAIRED):
        raise InputError(
            f"--source {text}: nothing after {name}:",
            f"write {name}:TARGET, where TARGET is {KINDS[name].target}",
        )
    return Spec(name, target, options)


def list_items(spec: Spec, profile: Profile) -> list[WorkItem]:
    """The work items of a source, in a stable order.

    Raises InputError for what is missing or wrong (a file, a dataset's name, no network ...).
    """
    items = importlib.import_module(KINDS[spec.kind].module).list_items(spec, profile)
    if not items:
        raise InputError(f"--source {spec}: nothing to pack", "check the path and the options")
    if spec.kind in CHOSEN_BY_SUBJECT:
        people = list(dict.fromkeys(item.subject for item in items))
        wanted = select_subjects(spec.options.get("subjects"), people, f"--source {spec}")
        items = [item for item in items if item.subject in wanted]
    return label_items(spec, items)


def help_text() -> str:
    """Every kind of source with its options, for a command's --help."""
    lines = []
    for name, kind in KINDS.items():
        lines.append(f"{name}:TARGET  TARGET is {kind.target}")
        lines += [f"    ,{option}=  {text}" for option, text in {**kind.options, **COMMON}.items()]
    return "\n".join(lines)
