"""`things:BIDS_ROOT`: THINGS-EEG, OpenNeuro ds003825 (Grootswagers et al. 2022).

    things:/data/ds003825
    things:/data/ds003825,subjects=1-10
    things:/data/ds003825,events=0          continuous windows instead of one per image

50 people saw 22,248 images in rapid series of ten a second; `Event/E  1` is the onset of one. Image
names come from the events table where it has one row for each event, and are left out otherwise;
labels are the concepts that they name.
At ten images a second the windows of neighbouring events overlap. Mains is 50 Hz (Sydney).
"""

from __future__ import annotations

import csv
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from data.signals.profiles import Profile
from data.signals.recording import Event, Recording
from data.sources.events.moments import find_events
from data.sources.formats.opening import read_raw
from data.sources.formats.recording_files import check_own_signal, files_of
from data.sources.items import files_by_person, signed
from data.sources.spec import EventChoice, Spec
from data.sources.things.image_names import concept_of

DATASET = "THINGS-EEG"
IMAGE_ON = "Event/E 1"


@dataclass(frozen=True)
class ThingsItem:
    """One person."""

    subject: str
    headers: tuple[Path, ...]
    by_event: bool
    split: str
    dataset: str = DATASET

    @property
    def key(self) -> str:
        return f"things-{self.subject}"

    @property
    def signature(self) -> dict:
        return signed(self, "by_event")

    def source_files(self) -> list[Path]:
        return [file for header in self.headers for file in _files(header)]

    def load(self) -> Iterator[Recording]:
        for number, header in enumerate(self.headers, start=1):
            raw = read_raw(header)
            recording = Recording(
                dataset=DATASET,
                subject=self.subject,
                session="1",
                run=str(number),
                raw=raw,
                mains_hz=50.0,
                source_files=_files(header),
            )
            if self.by_event:
                events = find_events(raw, EventChoice((IMAGE_ON,)), str(header))
                table = _table(header)
                recording.events = name_images(events, table)
                if len(table) != len(events):
                    recording.notes["images"] = (
                        f"not named: {len(events)} events, {len(table)} rows in the events table"
                    )
            yield recording


def list_items(spec: Spec, profile: Profile) -> list[ThingsItem]:
    """One item per person. Raises InputError where the folder is not such a dataset."""
    people = files_by_person(
        spec,
        ["sub-*/eeg/*.vhdr"],
        "sub-*/eeg/*.vhdr",
        "give the root of OpenNeuro ds003825; it is fetched with  "
        "openneuro-py download --dataset ds003825 --target_dir DIR  or  "
        "aws s3 sync --no-sign-request s3://openneuro.org/ds003825 DIR",
    )
    chosen = spec.subjects(list(people))
    for header in (header for name in chosen for header in people[name]):
        check_own_signal(header)
    by_event = spec.flag("events", default=True)
    return [ThingsItem(name, tuple(people[name]), by_event, spec.split) for name in chosen]


def name_images(events: list[Event], rows: list[dict]) -> list[Event]:
    """Give the events their image's name and concept, if there is one row for each event."""
    if len(rows) != len(events):
        return [Event(event.onset_s) for event in events]
    names = [row.get("stimname") or None for row in rows]
    return [
        Event(event.onset_s, concept_of(name) if name else None, name)
        for event, name in zip(events, names, strict=True)
    ]


def _table(header: Path) -> list[dict]:
    """The rows of the events table beside a header: events.tsv, else events.csv."""
    stem = header.name.removesuffix("_eeg.vhdr")
    for suffix, delimiter in ((".tsv", "\t"), (".csv", ",")):
        table = header.with_name(f"{stem}_events{suffix}")
        if table.is_file():
            with open(table, encoding="utf-8-sig", newline="") as file:
                return list(csv.DictReader(file, delimiter=delimiter))
    return []


def _files(header: Path) -> list[Path]:
    stem = header.name.removesuffix("_eeg.vhdr")
    tables = (header.with_name(f"{stem}_events{suffix}") for suffix in (".tsv", ".csv"))
    return files_of(header) + [table for table in tables if table.is_file()]
