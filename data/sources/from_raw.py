"""`raw:GLOB`: any files that MNE reads (EDF, BDF, BrainVision, FIF, EEGLAB ...).

    raw:/data/*.edf
    raw:/data/bids/**/*_eeg.vhdr,dataset=MyStudy,events=Stimulus/S  1+Stimulus/S  2
    raw:/data/*.bdf,subject=(P\\d+),montage=biosemi128,mains_hz=50
    raw:/data/*_raw.fif,sss=1                   with --profile eeg2meg: pairs of EEG and MEG

One item per file; all files of a source are one dataset, called after the last folder before the
first wildcard unless `dataset=` names it. Whose a file is: see data/sources/raw_subjects.py. A BIDS
`*_channels.tsv` beside a file corrects the types of its channels (files often type EOG as EEG) and
marks bad ones. Files are checked for truncation before they are read.
"""

from __future__ import annotations

import glob
import hashlib
import os
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import mne

from data.errors import InputError
from data.files import require_text_names
from data.signals.profiles import Profile
from data.signals.recording import Event, MegOptions, Recording, safe_name
from data.sources.bids.channels_table import channels_table_of
from data.sources.events.moments import EventChoice, find_events
from data.sources.events.times import annotations_outside
from data.sources.formats.opening import read_raw
from data.sources.formats.recording_files import (
    check_own_signal,
    files_of,
    is_part_of_another,
    montage_files,
    with_opened,
)
from data.sources.raw_subjects import entity, name_subjects
from data.sources.spec import Spec
from data.subjects.selection import file_signature


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
            "files": file_signature(self.source_files()),
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

    def source_files(self) -> list[Path]:
        table = channels_table_of(self.path)
        return [*files_of(self.path), *([table] if table else []), *montage_files(self.montage)]

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
            source_files=with_opened(files_of(self.path), raw),
            meg=self.meg,
        )

    def _events(self, raw: mne.io.BaseRaw) -> list[Event] | None:
        if self.events is None:
            return None
        beyond = annotations_outside(raw, self.path)
        return find_events(raw, self.events, str(self.path), beyond)


def list_items(spec: Spec, profile: Profile) -> list[RawItem]:
    """One item per file. Raises InputError if the glob matches nothing, a header names another's
    signal, or nothing tells whose the files are."""
    target = os.path.expanduser(spec.target)
    root = _fixed_part(target)
    matches = {Path(match) for match in glob.glob(target, recursive=True)}
    paths = sorted(path for path in matches if not is_part_of_another(path))
    if not paths:
        kind = "no such file" if not glob.has_magic(target) else "no file matches"
        raise InputError(
            f"--source {spec}: {kind}", "check the path; quote it so that the shell leaves * alone"
        )
    require_text_names(paths)
    for path in paths:
        check_own_signal(path)
    subjects, notes = name_subjects(paths, spec)
    for note in notes:
        print(f"{spec}: {note}", flush=True)
    dataset = spec.options.get("dataset") or root.resolve().name or "raw"
    if "dataset" not in spec.options and len({path.parent for path in paths}) > 1:
        print(f"{spec}: all folders are one dataset, {dataset!r}, and a subject's name one person; "
              "where that is wrong, give each study a source with dataset=NAME",
              flush=True)  # fmt: skip
    events = EventChoice.of(spec)
    items, ids = [], set()
    for path, subject in zip(paths, subjects, strict=True):
        session = entity(path.as_posix(), "ses") or "1"
        run = entity(path.as_posix(), "run") or path.stem
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
