"""`raw:GLOB`: any files that MNE reads (EDF, BDF, BrainVision, FIF, EEGLAB ...).

    raw:/data/*.edf
    raw:/data/bids/**/*_eeg.vhdr,dataset=MyStudy,events=Stimulus/S  1+Stimulus/S  2
    raw:/data/*.bdf,subject=(P\\d+),montage=biosemi128,mains_hz=50
    raw:/data/*_raw.fif,sss=1                   with --profile eeg2meg: pairs of EEG and MEG

One item per file; all files of a source are one dataset, called after the last folder before the
first wildcard unless `dataset=` names it. A BIDS `*_channels.tsv` beside a file corrects the types
of its channels (files often type EOG as EEG) and marks bad ones. Files are checked for truncation
before they are read.
"""

from __future__ import annotations

import glob
import hashlib
import os
import re
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import mne

from data.errors import InputError
from data.profiles import Profile
from data.recordings import Event, MegOptions, Recording, safe_name
from data.sources import Spec
from data.sources.events import EventChoice, annotations_outside, find_events
from data.sources.integrity import companions
from data.sources.opening import read_raw
from data.sources.selection import file_signature

COMPANIONS = {".eeg": ".vhdr", ".vmrk": ".vhdr", ".fdt": ".set"}


@dataclass(frozen=True)
class RawItem:
    """One file."""

    path: Path
    dataset: str
    subject: str
    session: str
    run: str
    events: EventChoice | None
    montage: str | None
    mains_hz: float | None
    split: str
    meg: MegOptions | None = None
    unit: str | None = None

    @property
    def key(self) -> str:
        digest = hashlib.sha256(str(self.path).encode()).hexdigest()[:8]
        return safe_name(f"raw-{self.dataset}-{self.subject}-{self.path.stem}")[:60] + f"-{digest}"

    @property
    def signature(self) -> dict:
        return {
            "files": file_signature(companions(self.path)),
            "dataset": self.dataset,
            "subject": self.subject,
            "session": self.session,
            "run": self.run,
            "events": asdict(self.events) if self.events else None,
            "montage": self.montage,
            "mains_hz": self.mains_hz,
            "unit": self.unit,
            "meg": asdict(self.meg) if self.meg else None,
        }

    def load(self) -> Iterator[Recording]:
        raw = read_raw(self.path, self.unit)
        yield Recording(
            dataset=self.dataset,
            subject=self.subject,
            session=self.session,
            run=self.run,
            raw=raw,
            events=self._events(raw),
            mains_hz=self.mains_hz,
            montage=self.montage,
            source_files=companions(self.path),
            meg=self.meg,
        )

    def _events(self, raw: mne.io.BaseRaw) -> list[Event] | None:
        if self.events is None:
            return None
        beyond = annotations_outside(raw, self.path)
        return find_events(raw, self.events, str(self.path), beyond)


def list_items(spec: Spec, profile: Profile) -> list[RawItem]:
    """One item per file. Raises InputError if the glob matches nothing."""
    target = os.path.expanduser(spec.target)
    root = _fixed_part(target)
    matches = {Path(match) for match in glob.glob(target, recursive=True)}
    paths = sorted(path for path in matches if not is_part_of_another(path))
    if not paths:
        kind = "no such file" if not glob.has_magic(target) else "no file matches"
        raise InputError(
            f"--source {spec}: {kind}", "check the path; quote it so that the shell leaves * alone"
        )
    named = "subject" in spec.options or spec.split != "auto"
    if not named and sum(_entity(path, "sub") is None for path in paths) > 1:
        print(f"{spec}: every file without sub-XX in its path counts as a person of its own; where "
              "one person has several, say who with subject=REGEX", flush=True)  # fmt: skip
    dataset = spec.options.get("dataset") or root.resolve().name or "raw"
    if "dataset" not in spec.options and len({path.parent for path in paths}) > 1:
        print(f"{spec}: all folders are one dataset, {dataset!r}, and a subject's name one person; "
              "where that is wrong, give each study a source with dataset=NAME",
              flush=True)  # fmt: skip
    events = EventChoice.of(spec)
    items, ids = [], set()
    for path in paths:
        subject = subject_of(path, spec)
        session, run = _entity(path, "ses") or "1", _entity(path, "run") or path.stem
        if safe_name(f"{subject}_{session}_{run}") in ids:
            # Not of the whole path: the same files must be called the same on every machine.
            inside = path.relative_to(root).as_posix()
            run += "-" + hashlib.sha256(inside.encode()).hexdigest()[:6]
        ids.add(safe_name(f"{subject}_{session}_{run}"))
        items.append(
            RawItem(
                path,
                dataset,
                subject,
                session,
                run,
                events,
                spec.options.get("montage"),
                spec.mains(),
                spec.split,
                spec.meg_options(profile),
                spec.unit(),
            )
        )
    return items


def _fixed_part(target: str) -> Path:
    """The last folder of a path or pattern that holds no wildcard."""
    folder = Path(target).parent
    while glob.has_magic(str(folder)):
        folder = folder.parent
    return folder


def is_part_of_another(path: Path) -> bool:
    """Whether MNE reads `path` together with another file: signals, markers, later parts of FIF."""
    if path.suffix in COMPANIONS and path.with_suffix(COMPANIONS[path.suffix]).exists():
        return True
    later = re.fullmatch(r"(.+)-\d+", path.stem) if path.suffix == ".fif" else None
    if later and path.with_name(f"{later[1]}.fif").exists():
        return True
    return bool(re.search(r"_split-0*([2-9]|1\d)_", path.name))


def subject_of(path: Path, spec: Spec) -> str:
    """By the option `subject`, else BIDS's sub-XX in the path, else the file's name."""
    pattern = spec.options.get("subject")
    if pattern is None:
        return _entity(path, "sub") or path.stem
    try:
        match = re.search(pattern, str(path))
    except re.error as error:
        raise InputError(
            f"--source {spec}: subject={pattern} is not a regular expression ({error})",
            r"write e.g. subject=(P\d+)",
        ) from None
    if not match:
        raise InputError(
            f"--source {spec}: subject={pattern} is not found in {path}",
            r"write an expression that every path has, e.g. subject=(P\d+)",
        )
    return match[1] if match.groups() else match[0]


def _entity(path: Path, name: str) -> str | None:
    """The value of a BIDS entity in the file's name, else in its folders: sub-02 -> 02."""
    for part in reversed(path.parts):
        match = re.search(rf"(?:^|_){name}-([A-Za-z0-9]+)", part)
        if match:
            return match[1]
    return None
