"""The pre-processed arrays of THINGS-EEG2, as NICE, ATM and others publish and read them.

    things2-published:/data/Preprocessed_data_250Hz,part=training    (--profile things2_published)
    things2-published:/data/Preprocessed_data_250Hz,part=test,split=test

sub-XX/preprocessed_eeg_{training,test}.npy hold `[images, repeats, channels, samples]`, cut after
onset and whitened by the channels' covariance: no physical unit, no average reference, nothing
before onset, no session and no order of trials. So they are packed as they are, one window a trial,
with a profile of their own; encoders for volts cannot read them. Row i is image i + 1 of
image_metadata.npy (osf.io/3jk45). Whether the whitening saw the test trials too is not written in
a file. The raw data (`things2:`) have none of these limits.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from data.electrodes.montages import TEMPLATE, positions_of
from data.errors import InputError, did_you_mean
from data.signals.profiles import Profile
from data.signals.recording import Recording
from data.sources.formats.numpy_files import read_dictionary
from data.sources.items import files_by_person, signed
from data.sources.spec import Spec
from data.sources.things.from_things2 import DATASET, PARTS, image_names, metadata_of

PROFILE = "things2_published"
DATA, NAMES, TIMES = "preprocessed_eeg_data", "ch_names", "times"
TRIALS = 16_540
"""Of a recording at most: a gigabyte of fp32 for 63 channels and 250 samples."""


@dataclass(frozen=True)
class PublishedItem:
    """One part of one person's arrays; see `data.sources.spec.WorkItem`."""

    subject: str
    path: Path
    metadata: Path
    part: str
    split: str = "auto"

    @property
    def dataset(self) -> str:
        return DATASET

    @property
    def key(self) -> str:
        return f"{DATASET}-published-{self.subject}-{self.part}"

    @property
    def signature(self) -> dict:
        return signed(self, "part")

    def source_files(self) -> list[Path]:
        return [self.path, self.metadata]

    def load(self) -> Iterator[Recording]:
        trials, channels, sfreq_hz = read_published(self.path)
        names = image_names(self.metadata, PARTS[self.part])
        images, repeats = trials.shape[:2]
        if len(names) != images:
            raise InputError(
                f"{self.path}: {images} images, {self.metadata.name} names {len(names)} of the "
                f"part {self.part}",
                "download both again: rows are named by their place",
            )
        positions_m = positions_of(channels, TEMPLATE, str(self.path))
        together = max(1, TRIALS // images)
        for first in range(0, repeats, together):
            chosen = [
                (image, repeat)
                for repeat in range(first, min(first + together, repeats))
                for image in range(images)
            ]
            yield Recording(
                dataset=DATASET,
                subject=self.subject,
                session=f"repeats{first + 1:02d}",
                run=self.part,
                segments=[np.float32(trials[image, repeat]) for image, repeat in chosen],
                segment_meta=[
                    # Nobody knows when a trial was: repeats are in the file's order.
                    {"label": names[image + 1][0], "image": names[image + 1][1],
                     "onset_s": float(repeat)}
                    for image, repeat in chosen
                ],
                segment_sfreq_hz=sfreq_hz,
                channel_names=channels,
                positions_m=positions_m,
                unit="standardised",
                source_files=self.source_files(),
                notes={
                    "positions_from": f"{TEMPLATE} by name",
                    "filtered_by": "none: as published, whitened by the channels' covariance",
                },
            )  # fmt: skip


def read_published(path: Path) -> tuple[np.ndarray, list[str], float]:
    """(trials `[images, repeats, C, T]`, mapped; channel names; rate in Hz). InputError for a file
    that holds anything else."""
    content = read_dictionary(path)
    try:
        trials, channels = content[DATA], [str(name) for name in content[NAMES]]
        times = np.asarray(content[TIMES], np.float64)[-trials.shape[-1] :]
        steps = np.diff(times)
        good = (
            trials.ndim == 4
            and trials.shape[2] == len(channels)
            and len(times) == trials.shape[3] > 1
            and np.allclose(steps, steps[0], rtol=1e-3)
        )
    except (KeyError, TypeError, ValueError, AttributeError):
        good = False
    if not good:
        raise InputError(
            f"{path}: no {DATA} of [images, repeats, channels, samples] with {NAMES} and {TIMES}",
            "give the folder of the published pre-processed arrays, or things2: for the raw data",
        )
    return trials, channels, float(round(1 / steps.mean(), 3))


def list_items(spec: Spec, profile: Profile) -> list[PublishedItem]:
    """One item a person. InputError for another profile, and where something is missing."""
    part = spec.options.get("part")
    if part not in PARTS:
        raise spec.wrong(
            f"part={part or '?'}: training and test trials are packed into folders of their own",
            did_you_mean(part or "", PARTS, "part= is"),
        )
    if profile.name != PROFILE:
        raise spec.wrong(
            f"--profile {profile.name}: these arrays are filtered, cut and whitened already",
            f"pack them with --profile {PROFILE}, or the raw data with things2:",
        )
    people = files_by_person(
        spec,
        [f"sub-*/preprocessed_eeg_{part}.npy"],
        f"sub-*/preprocessed_eeg_{part}.npy",
        "give the folder of the published arrays, one folder a person",
        above=1,
    )
    metadata = metadata_of(Path(spec.target).expanduser())
    if metadata is None:
        raise spec.wrong(
            "no image_metadata.npy there, nor above: rows would have no pictures",
            "download it from osf.io/3jk45 and put it into the folder",
        )
    return [
        PublishedItem(name, people[name][0], metadata, part, spec.split)
        for name in spec.subjects(list(people))
    ]
