"""`things2:FOLDER`: THINGS-EEG2, the raw data as published (Gifford et al. 2022).

    things2:/data/things-eeg2/raw_data
    things2:/data/things-eeg2/raw_data,subjects=1-8,parts=training
    things2:/data/things-eeg2/raw_data,events=0        continuous windows instead of one per image

10 people, four sessions each, 63 channels at 1 kHz; 16,540 training images (4 times each) and 200
test images (80 times each), one every 200 ms, so that windows of neighbouring events overlap. The
files are `sub-XX/ses-YY/raw_eeg_{training,test}.npy`, in volts; they are mapped, never unpickled.
Images are named where `image_metadata.npy` lies in the folder, or in one of the two above it or
their `image_set`; labels are concepts, without the numbers that each part counts for itself. Trials
of the target (Buzz) are left out. Mains is 50 Hz (Berlin).

A training file is five recordings joined end to end, without a mark. The joins are found where,
away from all images, the channels jump together; the manifest's notes say how many were found.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import mne
import numpy as np

from data.errors import InputError
from data.signals.profiles import Profile
from data.signals.recording import Event, Recording
from data.sources.formats.numpy_files import read_dictionary
from data.sources.items import files_by_person, signed
from data.sources.spec import Spec
from data.sources.things.image_names import concept_of

DATASET = "THINGS-EEG2"
TARGET = 99_999
PARTS = {"training": "train", "test": "test"}
JOINS = {"training": 4, "test": 0}
QUIET_S = 2.0
"""Joins are looked for where no image was shown for this long."""
JUMP = 15.0
"""At a join, the median channel's step is this many times the usual one."""


@dataclass(frozen=True)
class Things2Item:
    """One person: sessions x parts."""

    subject: str
    files: tuple[Path, ...]
    metadata: Path | None
    by_event: bool
    split: str
    dataset: str = DATASET

    @property
    def key(self) -> str:
        return f"things2-{self.subject}"

    @property
    def signature(self) -> dict:
        # The names of the files repeat in every session.
        places = [f"{path.parent.name}/{path.name}" for path in self.files]
        return signed(self, "by_event") | {"places": places}

    def source_files(self) -> list[Path]:
        return [*self.files, *([self.metadata] if self.metadata else [])]

    def load(self) -> Iterator[Recording]:
        for path in self.files:
            part = path.stem.removeprefix("raw_eeg_")
            raw, codes = read_things2(path)
            joins_s = find_joins(raw, codes)
            raw.set_annotations(
                mne.Annotations(joins_s, [0.0] * len(joins_s), ["EDGE boundary"] * len(joins_s))
            )
            recording = Recording(
                dataset=DATASET,
                subject=self.subject,
                session=path.parent.name.removeprefix("ses-"),
                run=part,
                raw=raw,
                mains_hz=50.0,
                source_files=[path],
                notes={"joins": f"{len(joins_s)} found, {JOINS[part]} expected"},
            )
            if self.by_event:
                names = image_names(self.metadata, PARTS[part]) if self.metadata else {}
                recording.events = [
                    Event(float(sample / raw.info["sfreq"]), *names.get(code, (code, None)))
                    for sample, code in codes
                    if code != TARGET
                ]
            yield recording


def list_items(spec: Spec, profile: Profile) -> list[Things2Item]:
    """One item per person. Raises InputError where the folder is not such a dataset."""
    root = Path(spec.target).expanduser()
    parts = spec.several("parts", PARTS)
    people = files_by_person(
        spec,
        [f"sub-*/ses-*/raw_eeg_{part}.npy" for part in parts],
        "sub-*/ses-*/raw_eeg_*.npy",
        "give the folder raw_data of THINGS-EEG2 (osf.io/3jk45, or Figshare+ 18470912), with the "
        "archives of the people unpacked",
    )
    chosen = spec.subjects(list(people))
    known = {path.parent.name.removeprefix("ses-") for files in people.values() for path in files}
    sessions = spec.several("sessions", known)
    metadata = metadata_of(root)
    by_event = spec.flag("events", default=True)
    return [
        Things2Item(
            name,
            tuple(p for p in people[name] if p.parent.name.removeprefix("ses-") in sessions),
            metadata,
            by_event,
            spec.split,
        )
        for name in chosen
    ]


def metadata_of(root: Path) -> Path | None:
    """image_metadata.npy in a folder or above it."""
    return next(
        (
            folder / name
            for folder in (root, root.resolve().parent, root.resolve().parent.parent)
            for name in ("image_metadata.npy", "image_set/image_metadata.npy")
            if (folder / name).is_file()
        ),
        None,
    )


def read_things2(path: Path) -> tuple[mne.io.RawArray, list[tuple[int, int]]]:
    """The EEG (mapped from the file) and the (sample, code) of every image's onset."""
    content = read_dictionary(path)
    try:
        signal, names = content["raw_eeg_data"], list(content["ch_names"])
        types, sfreq_hz = list(content["ch_types"]), float(content["sfreq"])
        stimulus = np.asarray(signal[names.index("stim")])
        shape_fits = signal.ndim == 2 and len(signal) == len(names) == len(types)
    except (KeyError, ValueError, TypeError, AttributeError, IndexError):
        shape_fits = False
    if not shape_fits:
        raise InputError(
            f"{path}: no raw_eeg_data, ch_names, ch_types and sfreq that fit together",
            "it is not a raw file of THINGS-EEG2: check the folder",
        )
    info = mne.create_info(names, sfreq_hz, types)
    raw = mne.io.RawArray(np.asarray(signal, np.float64, order="C"), info, verbose="error")
    steps = np.flatnonzero((stimulus[1:] != 0) & (stimulus[1:] != stimulus[:-1])) + 1
    first = [0] if stimulus[0] != 0 else []
    return raw, [(int(i), int(stimulus[i])) for i in [*first, *steps]]


def find_joins(raw: mne.io.RawArray, codes: list[tuple[int, int]]) -> list[float]:
    """Seconds at which one recording ends and another begins, in stretches without images."""
    sfreq_hz = raw.info["sfreq"]
    picks = mne.pick_types(raw.info, eeg=True)
    edges = np.array([0, *(sample for sample, _ in codes), raw.n_times])
    usual, candidates = [], []
    for start, stop in pairwise(edges):
        if stop - start < QUIET_S * sfreq_hz:
            continue
        for begin in range(start, stop - 1, round(60 * sfreq_hz)):
            end = min(begin + round(60 * sfreq_hz) + 1, stop)
            signal = raw.get_data(picks, begin, end, verbose="error")
            step = np.median(np.abs(np.diff(signal, axis=1)), axis=0)
            usual.append(np.median(step))
            candidates.append((float(step.max()), begin + int(step.argmax()) + 1))
    limit = JUMP * float(np.median(usual)) if usual else np.inf
    return sorted(sample / sfreq_hz for step, sample in candidates if step > limit)


def image_names(metadata: Path, part: str) -> dict[int, tuple[str, str]]:
    """Code of the stimulus channel -> (concept, file name)."""
    content = read_dictionary(metadata)
    try:
        concepts = content.get(f"{part}_img_concepts_THINGS", content[f"{part}_img_concepts"])
        files = content[f"{part}_img_files"]
        pairs = list(zip(concepts, files, strict=True))
    except (KeyError, TypeError, ValueError):
        raise InputError(
            f"{metadata}: no {part}_img_concepts and {part}_img_files of one length",
            "download it again, or remove it: images are then known by their numbers",
        ) from None
    return {number: (concept_of(str(c)), str(f)) for number, (c, f) in enumerate(pairs, start=1)}
