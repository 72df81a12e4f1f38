"""The pre-processed arrays of THINGS-EEG2, as NICE, ATM and others publish and read them.

    things2-published:/data/Preprocessed_data_250Hz,part=training
    things2-published:/data/Preprocessed_data_250Hz,part=test,split=test

sub-XX/preprocessed_eeg_{training,test}.npy hold `[images, repeats, channels, samples]`, whitened by
the channels' covariance: no physical unit, no reference, no session and no order of trials; most
releases keep nothing before onset. So they are packed as they are, one window a trial, with a
profile of their own, and encoders for volts cannot read them. Row i is image i + 1 of
image_metadata.npy (osf.io/3jk45). Whether the whitening saw the test trials too is not written in
a file. The raw data (`things2:`) have none of these limits.

The arrays are mapped. `times` may be longer than a trial: it ends where trials end.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from data.electrodes.montages import TEMPLATE, positions_of
from data.errors import InputError, did_you_mean
from data.signals.profiles import Profile
from data.signals.recording import WHITENED, Recording
from data.sources.formats.numpy_files import read_dictionary
from data.sources.items import files_by_person, signed
from data.sources.spec import Spec
from data.sources.things.from_things2 import DATASET, PARTS, image_names, metadata_of

PROFILES = ("things2_published", "things2_published_100")
DATA, NAMES, TIMES = "preprocessed_eeg_data", "ch_names", "times"


@dataclass(frozen=True)
class PublishedItem:
    """One part of one person's arrays; see `data.sources.spec.WorkItem`."""

    subject: str
    path: Path
    metadata: Path
    part: str
    profile: Profile
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
        trials, channels, sfreq_hz = read_published(self.path, self.profile)
        names = image_names(self.metadata, PARTS[self.part])
        images, repeats, _, samples = trials.shape
        if len(names) != images:
            raise InputError(
                f"{self.path}: {images} images, {self.metadata.name} names {len(names)} of the "
                f"part {self.part}",
                "download both again: rows are named by their place",
            )
        yield Recording(
            dataset=DATASET,
            subject=self.subject,
            session="published",
            run=self.part,
            segments=trials.reshape(images * repeats, len(channels), samples),
            segment_meta=[
                # Nobody knows when a trial was: repeats are in the file's order.
                {"label": names[image][0], "image": names[image][1], "onset_s": float(repeat)}
                for image in range(1, images + 1)
                for repeat in range(repeats)
            ],
            segment_sfreq_hz=sfreq_hz,
            channel_names=channels,
            positions_m=positions_of(channels, TEMPLATE, str(self.path)),
            unit=WHITENED,
            source_files=[self.path],
            notes={
                "positions_from": f"{TEMPLATE} by name",
                "order": "unknown: onset_s counts the repeats of an image",
            },
        )


def read_published(path: Path, profile: Profile) -> tuple[np.ndarray, list[str], float]:
    """(trials `[images, repeats, C, T]`, mapped, what `profile` cuts of them; channel names; rate
    in Hz). InputError for a file that holds anything else, or trials of another time or rate."""
    content = read_dictionary(path)
    try:
        trials, channels = content[DATA], [str(name) for name in content[NAMES]]
        times_s = np.asarray(content[TIMES], np.float64)[-trials.shape[-1] :]
        steps = np.diff(times_s)
        good = (
            trials.ndim == 4
            and trials.size > 0
            and trials.dtype.kind == "f"
            and trials.shape[2] == len(channels)
            and len(times_s) == trials.shape[3] > 1
            and np.allclose(steps, steps[0], rtol=0.1)  # written in whole milliseconds, at times
        )
    except (KeyError, TypeError, ValueError, AttributeError, IndexError):
        good = False
    if not good:
        raise InputError(
            f"{path}: no {DATA} of [images, repeats, channels, samples] with {NAMES} and {TIMES}",
            "give the folder of the published pre-processed arrays, or things2: for the raw data",
        )
    sfreq_hz = float(round((len(times_s) - 1) / (times_s[-1] - times_s[0]), 1))
    first = round((profile.event_tmin_s - times_s[0]) * sfreq_hz)
    last = first + profile.event_samples
    if sfreq_hz != profile.sfreq_hz or first < 0 or last > len(times_s):
        fitting = PROFILES[sfreq_hz == 100.0]
        raise InputError(
            f"{path}: {sfreq_hz:g} Hz from {times_s[0]:g} to {times_s[-1]:g} s, the profile "
            f"{profile.name} asks for {profile.sfreq_hz:g} Hz from {profile.event_tmin_s:g} s, "
            f"{profile.event_samples} samples",
            "pack the raw data with things2:"
            if fitting == profile.name
            else f"add --profile {fitting}",
        )
    return trials[..., first:last], channels, sfreq_hz


def list_items(spec: Spec, profile: Profile) -> list[PublishedItem]:
    """One item a person. InputError for another profile, and where something is missing."""
    part = spec.options.get("part")
    if part not in PARTS:
        raise spec.wrong(
            f"part={part or '?'}: training and test trials are packed into folders of their own",
            did_you_mean(part or "", PARTS, "part= is"),
        )
    if profile.name not in PROFILES:
        raise spec.wrong(
            f"--profile {profile.name}: these arrays are filtered, cut and whitened already",
            f"leave --profile out ({PROFILES[0]}), or pack the raw data with things2:",
        )
    if profile.scale != "recording":
        raise spec.wrong(
            f"--scale {profile.scale}: nobody knows the sessions of these trials", "leave it out"
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
        PublishedItem(name, people[name][0], metadata, part, profile, spec.split)
        for name in spec.subjects(list(people))
    ]
