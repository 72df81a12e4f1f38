"""`moabb:NAME`: any dataset of the installed MOABB, by class name, code or an older name.

    moabb:PhysionetMI
    moabb:BNCI2014_001,subjects=1-3+7,events=1
    moabb:Kalunga2016,subjects=available

Files under MNE_DATA are used without asking the network, and listing them takes seconds; what is
absent is downloaded while listing, by MOABB, one file after another, so that workers do not race
for one archive. MOABB gives volts. Continuous windows by default; with events=1 one window per
trial, around the start of the interval that MOABB defines for the task (the cue, in most datasets),
labelled with its name.

Of datasets that were published as trials, MOABB makes one signal: trial after trial, with zeros
between them. The zeros are marked as a skip, so that no window reaches from one trial to the next.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from mne import find_events

from data.errors import InputError
from data.files import disk_full, is_full, machine_trouble
from data.signals.profiles import Profile
from data.signals.recording import Event, Recording, safe_name
from data.sources.formats.moabb_skips import mark_skips
from data.sources.formats.offline import (
    NotOnDisk,
    data_root,
    files_on_disk,
    network_available,
    offline,
    subject_files,
)
from data.sources.formats.recording_files import montage_files
from data.sources.items import signed
from data.sources.spec import Spec
from data.subjects.moabb_names import find_class, quiet
from data.subjects.people import describe_subjects, select_subjects


@dataclass(frozen=True)
class MoabbItem:
    """One subject of one dataset."""

    dataset: str
    number: int | str
    files: tuple[Path, ...]
    by_event: bool
    montage: str | None
    mains_hz: float | None
    split: str
    needs_network: bool
    """MOABB asks the network for this dataset's list of files even when they are on disk."""

    @property
    def subject(self) -> str:
        return str(self.number)

    @property
    def key(self) -> str:
        return safe_name(f"moabb-{self.dataset}-{self.subject}")

    @property
    def signature(self) -> dict:
        return signed(self, "dataset", "subject", "by_event", "montage", "mains_hz")

    def source_files(self) -> list[Path]:
        return [*self.files, *montage_files(self.montage)]

    def load(self) -> Iterator[Recording]:
        dataset = find_class(self.dataset)()
        sessions = _read(dataset, self.number, self.needs_network)
        for session, runs in sessions.items():
            for run, raw in runs.items():
                notes = mark_skips(raw)
                yield Recording(
                    dataset=self.dataset,
                    subject=self.subject,
                    session=str(session),
                    run=str(run),
                    raw=raw,
                    events=_trials(raw, dataset) if self.by_event else None,
                    mains_hz=self.mains_hz,
                    montage=self.montage,
                    source_files=list(self.files),
                    notes=notes,
                )


def list_items(spec: Spec, profile: Profile) -> list[MoabbItem]:
    """One item per subject; downloads what is absent where there is a network.

    Raises InputError for an unknown name, and for absent files without a network: it says which
    subjects lack, where their files belong, and the command that fetches them elsewhere.
    """
    cls = find_class(spec.target)
    dataset, root = cls(), data_root()
    wanted = spec.options.get("subjects")
    available = wanted == "available"
    subjects = select_subjects(
        None if available else wanted, dataset.subject_list, f"--source {spec}"
    )
    files = {subject: files_on_disk(dataset, subject, root) for subject in subjects}
    missing = [subject for subject in subjects if files[subject] is None]
    remote: set = set()
    if available:
        subjects = [subject for subject in subjects if subject not in missing]
        if not subjects:
            raise _absent(spec, cls.__name__, missing, [], root)
    elif missing:
        present = [subject for subject in subjects if subject not in missing]
        if not network_available():
            raise _absent(spec, cls.__name__, missing, present, root)
        for subject in missing:
            files[subject] = _download(spec, dataset, subject)
            if files_on_disk(dataset, subject, root) is None:
                remote.add(subject)
    by_event, mains_hz = spec.flag("events", default=False), spec.mains()
    montage = spec.options.get("montage")
    return [
        MoabbItem(
            cls.__name__,
            subject,
            tuple(files[subject]),
            by_event,
            montage,
            mains_hz,
            spec.split,
            subject in remote,
        )
        for subject in subjects
    ]


def _read(dataset, subject, needs_network: bool) -> dict:
    """{session: {run: raw}} of one subject."""
    with quiet():
        try:
            if needs_network:
                return dataset.get_data([subject])[subject]
            with offline():
                return dataset.get_data([subject])[subject]
        except NotOnDisk as error:
            raise InputError(
                f"moabb:{type(dataset).__name__}: subject {subject}: {error}",
                "the file was there when the sources were listed: start again",
            ) from error
        except Exception as error:  # every dataset has a reader of its own
            if machine_trouble(error):  # the file may be whole: nobody is to delete it
                raise
            raise InputError(
                f"moabb:{type(dataset).__name__}: subject {subject} cannot be read "
                f"({type(error).__name__}: {str(error)[:200]})",
                "a file is truncated or damaged: delete it and fetch it again; its folder is under "
                f"{data_root()}",
            ) from error


def _trials(raw, dataset) -> list[Event]:
    """MOABB annotates each trial with its class over the task's interval. Trials whose interval
    begins beyond the signal are dropped by that; they are added, for the cutter to count."""
    notes = raw.annotations
    events = [
        Event(float(onset) - raw.first_time, str(name))
        for onset, name in zip(notes.onset, notes.description, strict=True)
        if str(name) in dataset.event_id
    ]
    return events + _trials_outside(raw, dataset)


def _trials_outside(raw, dataset) -> list[Event]:
    """The triggers of a stimulus channel whose task begins before the signal or after its end."""
    if "stim" not in raw.get_channel_types():
        return []
    names = {
        code: str(name)
        for name, codes in dataset.event_id.items()
        for code in np.atleast_1d(codes).tolist()
    }
    sfreq_hz = raw.info["sfreq"]
    delay = int(dataset.interval[0] * sfreq_hz)
    found = find_events(raw, shortest_event=0, verbose="error")
    at = found[:, 0] - raw.first_samp + delay
    return [
        Event(sample / sfreq_hz, names[code])
        for sample, code in zip(at.tolist(), found[:, 2].tolist(), strict=True)
        if code in names and not 0 <= sample < raw.n_times
    ]


def _download(spec: Spec, dataset, subject) -> list[Path]:
    print(f"{spec}: fetching subject {subject} ...", flush=True)
    try:
        paths = dataset.data_path(subject)
    except Exception as error:  # hosts, archives and checksums fail in their own ways
        if is_full(error):
            raise disk_full(data_root(), None) from error
        raise spec.wrong(
            f"subject {subject} could not be fetched ({type(error).__name__}: {str(error)[:200]})",
            "try again later, or from MOABB's mirror with  MOABB_DOWNLOAD_PROVIDER=nemar",
        ) from error
    return subject_files(paths, type(dataset).__name__, subject)


def _absent(spec: Spec, name: str, missing: list, present: list, root: Path) -> InputError:
    subjects = repr(missing) if len(missing) <= 12 else f"d.subject_list  # {len(missing)} absent"
    remedy = (
        f"on a machine with a network run  MNE_DATA=DIR python -c 'from moabb.datasets import "
        f"{name}; d = {name}(); [d.data_path(s) for s in {subjects}]'  "
        f"and copy the content of DIR to {root}"
    )
    if len(missing) > 12:
        remedy = remedy.replace(f"  # {len(missing)} absent", "")
    if present:
        remedy += f"; or pack what is here with subjects=available ({describe_subjects(present)})"
    return spec.wrong(
        f"no files under {root} for {len(missing)} of "
        f"{len(missing) + len(present)} subjects ({describe_subjects(missing)}), and no network to "
        "fetch them from",
        remedy,
    )
