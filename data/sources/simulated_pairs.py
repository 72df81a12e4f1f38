"""`simulated-pairs`: EEG and MEG recorded together, from the model in `data.simulate.eeg_meg`.

    simulated-pairs                                        4 people, 3 runs of a minute each
    simulated-pairs:nonlinear,subjects=8,minutes=4,eeg=32+60+70

The best possible prediction of each recording is known: `data.simulate.oracle.oracle_of`.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

from data.errors import did_you_mean
from data.signals.profiles import Profile
from data.signals.recording import MegOptions, Recording
from data.simulate.eeg_meg import STATISTICS, World, note, simulate
from data.sources.spec import Spec

VERSION = 1  # raise it when the same options give another signal
DEFAULTS = {
    "statistics": "linear", "subjects": "4", "runs": "3", "minutes": "1", "eeg": "60",
    "sources": "150", "noise": "1", "variation": "1", "seed": "0",
}  # fmt: skip
RANGES = {
    "subjects": (1, 1000), "runs": (1, 100), "minutes": (0.05, 60.0), "sources": (8, 1000),
    "noise": (0.0, 100.0), "variation": (0.0, 3.0), "seed": (0, 2**31), "eeg": (8, 74),
}  # fmt: skip


@dataclass(frozen=True)
class SimulatedPairItem:
    """One run of one simulated person; see `data.sources.WorkItem`."""

    world: World
    electrodes: int
    person: int
    run: int
    minutes: float
    sfreq_hz: float
    split: str = "auto"

    @property
    def dataset(self) -> str:
        return f"simulated-pairs-{self.world.statistics}"

    @property
    def subject(self) -> str:
        return f"{self.person:03d}"

    @property
    def key(self) -> str:
        return f"{self.dataset}-{self.subject}-{self.run:02d}"

    @property
    def signature(self) -> dict:
        return {"version": VERSION, **asdict(self)}

    def source_files(self) -> list[Path]:
        return []

    def load(self) -> Iterator[Recording]:
        place = (self.world, self.electrodes, self.person, self.run)
        yield Recording(
            dataset=self.dataset,
            subject=self.subject,
            session="1",
            run=f"{self.run:02d}",
            raw=simulate(*place, round(60 * self.minutes * self.sfreq_hz), self.sfreq_hz),
            mains_hz=50.0,
            meg=MegOptions(),
            notes={"simulated_pairs": note(*place)},
        )


def list_items(spec: Spec, profile: Profile) -> list[SimulatedPairItem]:
    """One item per person and run. InputError for an unknown word or a number out of range."""
    if spec.target and "statistics" in spec.options:
        raise spec.wrong("statistics given twice", "give it once")
    options = {**DEFAULTS, **spec.options}
    statistics = spec.target or options["statistics"]
    if statistics not in STATISTICS:
        raise spec.wrong(
            f"statistics={statistics}",
            did_you_mean(statistics, STATISTICS, "They are"),
        )

    def number(name: str, text: str) -> float | int:
        return spec.number(name, text, RANGES[name], DEFAULTS[name])

    value = {name: number(name, options[name]) for name in RANGES if name != "eeg"}
    caps = [number("eeg", text) for text in options["eeg"].split("+")]
    names = ("seed", "noise", "variation", "sources")
    world = World(statistics=statistics, **{name: value[name] for name in names})
    return [
        SimulatedPairItem(
            world,
            caps[(person - 1) % len(caps)],
            person,
            run,
            value["minutes"],
            max(250.0, profile.sfreq_hz),
            spec.split,
        )
        for person in range(1, value["subjects"] + 1)
        for run in range(1, value["runs"] + 1)
    ]
