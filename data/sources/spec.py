"""Where recordings come from: `KIND:TARGET,option=value,...` becomes a list of work items.

A work item is what one worker process loads at a time: picklable, cheap to make, and signed by the
files and options that decide its content, so that an interrupted pack can tell finished work from
work that has changed. Listing looks at names, sizes and times only; signals are read in `load`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from data.errors import InputError, did_you_mean
from data.signals.profiles import Profile
from data.signals.recording import MegOptions, Recording
from data.sources.kinds import COMMON, KINDS, WITHOUT_TARGET
from data.subjects.people import select_subjects

SPLITS = ("auto", "train", "val", "test")
ANNOTATIONS = "annotations"


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

    def wrong(self, what: str, remedy: str) -> InputError:
        """The error for something amiss with this source."""
        return InputError(f"--source {self}: {what}", remedy)

    def choice(self, name: str, values: Sequence[str], default: str | None = None) -> str | None:
        """An option that is one of `values`; InputError for another."""
        text = self.options.get(name, default)
        if text not in (default, *values):
            ways = " or ".join(f"{name}={value}" for value in values)
            raise self.wrong(f"{name}={text}", f"write {ways}")
        return text

    def flag(self, name: str, default: bool) -> bool:
        """A 0/1 option."""
        return self.choice(name, ("1", "0"), str(int(default))) == "1"

    def path(self, name: str) -> Path | None:
        """An option that names a file; InputError where there is none."""
        if name not in self.options:
            return None
        path = Path(self.options[name]).expanduser()
        if not path.is_file():
            raise self.wrong(f"{name}={path}: no such file", "check the path")
        return path

    def number(self, name: str, text: str, between: tuple, example: str) -> float | int:
        """`text` as a number between two others, a whole one where these are."""
        low, high = between
        whole = isinstance(high, int)
        try:
            value = float(text)
            good = low <= value <= high and (not whole or value == int(value))
        except ValueError:
            good = False
        if not good:
            kind = "a whole number" if whole else "a number"
            raise self.wrong(
                f"{name}={text}", f"give {kind} from {low} to {high}, e.g. {name}={example}"
            )
        return int(value) if whole else value

    def subjects(self, known: Sequence) -> list:
        """Those of `known` that the option `subjects` names; all without it."""
        return select_subjects(self.options.get("subjects"), known, f"--source {self}")

    def several(self, option: str, known: Iterable[str | None]) -> set:
        """Those of `known` that an option joins with +; all without it."""
        if option not in self.options:
            return set(known)
        wanted = {name.strip() for name in self.options[option].split("+")}
        if missing := sorted(wanted.difference(known)):
            present = "+".join(sorted(filter(None, known))) or "none at all"
            raise self.wrong(
                f"no {option.removesuffix('s')} {', '.join(missing)}",
                f"{option} are written as in the files' names; present: {present}",
            )
        return wanted

    def mains(self) -> float | None:
        """The option `mains_hz`."""
        text = self.choice("mains_hz", ("50", "60"))
        return float(text) if text else None

    def unit(self) -> str | None:
        """The option `unit`, as a key of data.units.VOLTS."""
        text = self.options.get("unit")
        plain = text.replace("µ", "u").replace("μ", "u") if text else None
        if plain not in (None, "nV", "uV", "mV", "V"):
            raise self.wrong(f"unit={text}", "write unit=uV, or another of nV, mV and V")
        return plain

    def meg_options(self, profile: Profile) -> MegOptions | None:
        """The options `sss` and `regress`; None where the profile keeps no MEG."""
        kinds = tuple(sorted(set(filter(None, self.options.get("regress", "").split("+")))))
        if not set(kinds) <= {"eog", "ecg"}:
            raise self.wrong(
                f"regress={'+'.join(kinds)}",
                "write regress=eog, regress=ecg or regress=eog+ecg",
            )
        options = MegOptions(self.flag("sss", False), kinds)
        if profile.meg:
            return options
        if options != MegOptions():
            raise self.wrong(
                "sss and regress treat recordings of EEG and MEG",
                f"add --profile eeg2meg, or leave them out (the profile is {profile.name})",
            )
        return None


@dataclass(frozen=True)
class EventChoice:
    """What the options `events`, `events_from` and `edges` say."""

    names: tuple[str, ...] = ()
    """Runs of spaces count as one. None: every event."""
    source: str | None = None
    """ANNOTATIONS, or a stimulus channel's name; None: where the names are found."""
    rising: bool = False
    """Codes count only where they rise."""

    @classmethod
    def of(
        cls, spec: Spec, words: dict[str, EventChoice | None] | None = None
    ) -> EventChoice | None:
        """From a source's options; `words`: values of `events` that are no names. None: continuous
        windows."""
        text, source = spec.options.get("events"), spec.options.get("events_from")
        edges = spec.choice("edges", ("any", "rise"), "any")
        if text is None or (words or {}).get(text, cls()) is None:
            if source or "edges" in spec.options:
                raise spec.wrong(
                    "events_from and edges choose among events",
                    "say which events with events=, or leave them out",
                )
            return None
        names = () if text in (words or {}) else text.split("+")
        plain = (" ".join(name.split()) for name in names)
        return cls(tuple(filter(None, plain)), source, edges == "rise")


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
            did_you_mean(
                name, KINDS, "Write e.g. moabb:PhysionetMI or raw:/data/*.edf. The kinds are"
            ),
        )
    known = {**KINDS[name].options, **COMMON}
    options: dict[str, str] = {}
    for part in parts:
        option, _, value = (piece.strip() for piece in part.partition("="))
        if option not in known:
            raise InputError(
                f"--source {text}: {name} has no option {option!r}",
                did_you_mean(option, known, "Its options are"),
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
    if not target and name not in WITHOUT_TARGET:
        raise InputError(
            f"--source {text}: nothing after {name}:",
            f"write {name}:TARGET, where TARGET is {KINDS[name].target}",
        )
    return Spec(name, target, options)
