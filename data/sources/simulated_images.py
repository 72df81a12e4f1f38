"""`simulated-images`: people who look at pictures, from the model in `data.simulate.images`.

    simulated-images,part=training             4 people, 350 concepts x 5 pictures x 4 repeats
    simulated-images,part=test                 the same people, 200 other pictures, 10 repeats each
    simulated-images,part=training,subjects=2,concepts=40,pictures=2,repeats=2,seed=1

Labels are concepts, images file names; a recording's run is its part. How well the picture can be
told at best is known: `data.simulate.images_oracle`.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import mne

from data.errors import did_you_mean
from data.signals.profiles import Profile
from data.signals.recording import Event, Recording
from data.simulate.images import CHANNELS, MONTAGE, PARTS, Shown, World, world
from data.sources.spec import Spec

DATASET = "simulated-images"
VERSION = 1  # raise it when the same options give another signal
RANGES = {
    "subjects": (1, 1000), "concepts": (2, 2000), "test_concepts": (2, 2000), "pictures": (1, 100),
    "repeats": (1, 100), "test_repeats": (1, 100), "seed": (0, 2**31),
}  # fmt: skip
DEFAULTS = {
    "subjects": "4", "concepts": "350", "test_concepts": "200", "pictures": "5", "repeats": "4",
    "test_repeats": "10", "seed": "0",
}  # fmt: skip


@dataclass(frozen=True)
class SimulatedImagesItem:
    """One part of one simulated person's experiment; see `data.sources.spec.WorkItem`."""

    world: World
    part: str
    person: int
    sfreq_hz: float
    split: str = "auto"

    @property
    def dataset(self) -> str:
        return DATASET

    @property
    def subject(self) -> str:
        return f"{self.person:02d}"

    @property
    def key(self) -> str:
        return f"{DATASET}-{self.subject}-{self.part}"

    @property
    def signature(self) -> dict:
        return {"version": VERSION, **{k: v for k, v in asdict(self).items() if k != "split"}}

    def source_files(self) -> list[Path]:
        return []

    def load(self) -> Iterator[Recording]:
        signal_uv, onsets_s, order = self.world.record_uv(self.person, self.part, self.sfreq_hz)
        info = mne.create_info(list(CHANNELS), self.sfreq_hz, "eeg")
        names = self.world.names(self.part)
        yield Recording(
            dataset=DATASET,
            subject=self.subject,
            session="1",
            run=self.part,
            raw=mne.io.RawArray(1e-6 * signal_uv, info, verbose="error"),
            mains_hz=50.0,
            montage=MONTAGE,
            events=[
                Event(float(onset_s), *names[picture])
                for onset_s, picture in zip(onsets_s, order, strict=True)
            ],
            notes={"simulated_images": {"world": asdict(self.world), "person": self.person,
                                        "part": self.part}},
        )  # fmt: skip


def list_items(spec: Spec, profile: Profile) -> list[SimulatedImagesItem]:
    """One item a person. InputError for an unknown word or a number out of range."""
    if spec.target:
        raise spec.wrong(f"nothing follows {spec.kind}:", "write its options after a comma")
    part = spec.options.get("part")
    if part not in PARTS:
        raise spec.wrong(
            f"part={part or '?'}: training and test trials are packed into folders of their own",
            did_you_mean(part or "", PARTS, "part= is"),
        )
    given = {name: spec.options.get(name, value) for name, value in DEFAULTS.items()}
    found = {n: spec.number(n, given[n], RANGES[n], DEFAULTS[n]) for n in RANGES}
    own = world(
        int(found["seed"]),
        (int(found["concepts"]), int(found["pictures"]), int(found["repeats"])),
        (int(found["test_concepts"]), 1, int(found["test_repeats"])),
    )
    return [
        SimulatedImagesItem(own, part, person, profile.sfreq_hz, spec.split)
        for person in range(1, int(found["subjects"]) + 1)
    ]


def world_of(note: dict) -> World:
    """The world that a recording's note tells of."""
    told = note["world"]
    return World(told["seed"], Shown(**told["training"]), Shown(**told["test"]))
