"""`bids:ROOT`: the EEG of any BIDS dataset, also that which was recorded along with MEG.

    bids:/data/ds004504
    bids:/data/ds000117,subjects=1-10,tasks=facerecognition,events=Famous+Unfamiliar
    bids:/data/ds003474,sessions=01,montage=biosemi64
    bids:/data/ds000117,regress=eog+ecg         with --profile eeg2meg: pairs of EEG and MEG

Read by mne-bids: types, units and bad channels come from channels.tsv (many files type EOG and ECG
as EEG), positions from the file or electrodes.tsv, mains from the sidecar, events from events.tsv.
What the file itself marks as bad, or as a break, is kept as well: mne-bids would replace it by the
events. One item per recording; derivatives and empty rooms are left out.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import mne
import mne_bids

from data.errors import InputError
from data.signals.profiles import Profile
from data.signals.recording import Event, MegOptions, Recording, safe_name
from data.sources.bids.channels_table import (
    apply_types_and_bads,
    read_rows,
    rows_of_channels,
    same_spelling,
)
from data.sources.bids.files import entities, recordings_of, run_of
from data.sources.events.moments import EventChoice, find_events
from data.sources.events.table import events_on_signal, rows_outside
from data.sources.events.times import BREAKS, annotations_outside
from data.sources.formats.file_units import same_units
from data.sources.formats.opening import read_raw_and_factors
from data.sources.formats.recording_files import (
    check_own_signal,
    files_of,
    montage_files,
    with_opened,
)
from data.sources.spec import Spec
from data.subjects.moabb_names import quiet
from data.subjects.selection import file_signature, select_subjects

SIDECARS = ("channels", "events", "electrodes", "coordsystem", "eeg", "meg")


@dataclass(frozen=True)
class BidsItem:
    """One recording: the file of one subject, session, task and run."""

    path: Path
    root: Path
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
        return safe_name(f"bids-{self.dataset}-{self.path.stem}")

    @property
    def signature(self) -> dict:
        return {
            "files": file_signature(self.source_files()),
            "dataset": self.dataset,
            "run": self.run,
            "events": asdict(self.events) if self.events else None,
            "montage": self.montage,
            "mains_hz": self.mains_hz,
            "unit": self.unit,
            "meg": asdict(self.meg) if self.meg else None,
        }

    def source_files(self) -> list[Path]:
        """With every sidecar that tells something about the recording, and the montage's file."""
        return [*self.files(), *montage_files(self.montage)]

    def files(self) -> list[Path]:
        """The recording's own files and every sidecar that tells something about it."""
        path, found = bids_path(self.path, self.root), files_of(self.path)
        for suffix in SIDECARS:
            for extension in (".tsv", ".json"):
                sidecar = path.find_matching_sidecar(suffix, extension, on_error="ignore")
                if sidecar and Path(sidecar) not in found:
                    found.append(Path(sidecar))
        return found

    def load(self) -> Iterator[Recording]:
        raw = read_bids(self.path, self.root, self.unit)
        yield Recording(
            dataset=self.dataset,
            subject=self.subject,
            session=self.session,
            run=self.run,
            raw=raw,
            events=None if self.events is None else self._events(raw),
            mains_hz=self.mains_hz,
            montage=self.montage,
            source_files=with_opened(self.files(), raw),
            meg=self.meg,
        )

    def _events(self, raw: mne.io.BaseRaw) -> list[Event]:
        sidecar = bids_path(self.path, self.root).find_matching_sidecar(
            "events", ".tsv", on_error="ignore"
        )
        if sidecar:
            beyond = rows_outside(Path(sidecar), raw, self.path)
        else:
            beyond = annotations_outside(raw, self.path)
        return find_events(raw, self.events, str(self.path), beyond, from_table=bool(sidecar))


def list_items(spec: Spec, profile: Profile) -> list[BidsItem]:
    """One item per recording. Raises InputError where the folder is no such dataset, or holds no
    recording of the subjects, sessions, tasks and runs that are asked for."""
    root = Path(spec.target).expanduser()
    if not any(root.glob("sub-*/")):
        what = "no folder sub-* in it" if root.is_dir() else "no such folder"
        raise InputError(f"--source {spec}: {what}", "give the root of a BIDS dataset")
    everything = recordings_of(spec, root)
    people = list(dict.fromkeys(path.subject for path in everything))
    wanted = select_subjects(spec.options.get("subjects"), people, f"--source {spec}")
    paths = [path for path in everything if path.subject in wanted]
    for option, entity in (("sessions", "session"), ("tasks", "task"), ("runs", "run")):
        chosen = entities(spec, everything, option, entity)
        paths = [path for path in paths if getattr(path, entity) in chosen]
    for path in paths:
        check_own_signal(Path(path.fpath))
    events = EventChoice.of(spec, {"0": None, "1": EventChoice()})
    return [
        BidsItem(
            path=Path(path.fpath),
            root=root,
            dataset=spec.options.get("dataset") or root.resolve().name or "bids",
            subject=path.subject,
            session=path.session or "1",
            run=run_of(path),
            events=events,
            montage=spec.options.get("montage"),
            mains_hz=spec.mains(),
            split=spec.split,
            meg=spec.meg_options(profile),
            unit=spec.unit(),
        )
        for path in paths
    ]


def bids_path(path: Path, root: Path) -> mne_bids.BIDSPath:
    """mne-bids' description of a file by its name, which need not follow all rules of BIDS."""
    found = mne_bids.get_bids_path_from_fname(path, check=False)
    return found.update(root=root)


def read_bids(path: Path, root: Path, unit: str | None = None) -> mne.io.BaseRaw:
    """Open a recording with its sidecars applied, not loading its signal; `unit`: of its EEG.

    Raises InputError where it is torn or unreadable, or its channels.tsv names others.
    """
    # Says whether it is whole; its own annotations, bad channels and units.
    plain, factors = read_raw_and_factors(path, unit)
    described = bids_path(path, root)
    sidecar = described.find_matching_sidecar("channels", ".tsv", on_error="ignore")
    rows = read_rows(Path(sidecar)) if sidecar else []
    # mne-bids refuses names of another spelling or order, which say the same here.
    on_mismatch = "warn" if same_spelling(rows, plain) else "raise"
    with quiet():
        try:
            raw = mne_bids.read_raw_bids(described, on_ch_mismatch=on_mismatch, verbose="error")
        except Exception as error:  # mne-bids checks much, in many ways
            raise InputError(
                f"{path}: mne-bids cannot read it ({type(error).__name__}: {str(error)[:300]})",
                "mend the sidecar that the message is about, or take the file with raw:, which "
                "needs no sidecars",
            ) from error
    if rows:
        apply_types_and_bads(raw, rows_of_channels(rows, raw, Path(sidecar)))
    marked = {*raw.info["bads"], *plain.info["bads"]}
    raw.info["bads"] = [name for name in raw.ch_names if name in marked]
    if "eeg" not in raw.get_channel_types():
        raise InputError(f"{path}: no channel is EEG", "leave it out with subjects= or tasks=")
    same_units(raw, plain, factors)
    table = described.find_matching_sidecar("events", ".tsv", on_error="ignore")
    on_clock = events_on_signal(Path(table), path) if table else None
    events, own = on_clock or _annotations(raw), _annotations(plain)
    own = [entry for entry in own if entry[2].lower().startswith(BREAKS) and entry not in events]
    if own or on_clock:
        onset, duration, description = zip(*events, *own, strict=True)
        raw.set_annotations(mne.Annotations(onset, duration, description), verbose="error")
    return raw


def _annotations(raw: mne.io.BaseRaw) -> list[tuple[float, float, str]]:
    """(seconds from the first sample, duration, description); no date, for two may differ."""
    notes = raw.annotations
    return [
        (round(float(onset) - raw.first_time, 6), float(duration), str(name))
        for onset, duration, name in zip(
            notes.onset, notes.duration, notes.description, strict=True
        )
    ]
