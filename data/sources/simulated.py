"""`simulated`: people recorded with real caps, from the physical model in `data.simulate.eeg`.

    simulated                              every montage of DEFAULT_MONTAGES
    simulated:biosemi32,subjects=20,minutes=2,seed=3
    simulated,montages=biosemi32+1020-19
    simulated:1020-19,states=1             labelled: each person at rest and at a task

Each montage is a dataset of its own, `simulated-MONTAGE`, with people of its own; a person has one
recording. Some recordings have a flat or a very noisy channel, listed in the JSON of
`raw.info["description"]`, so that what finds bad channels can be tested against the truth. With
`states=1` they are other people, of datasets `simulated-states-MONTAGE`, with good channels and two
recordings each, labelled `rest` and `task` (data/simulate/states.py).
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import mne
import numpy as np

from data.errors import did_you_mean
from data.signals.profiles import Profile
from data.signals.recording import Recording
from data.simulate.eeg import (
    leadfield_uv,
    person,
    population,
    record_uv,
    source_activity,
)
from data.simulate.head import montage_directions
from data.simulate.states import STATES, in_state
from data.sources.spec import Spec

VERSION = 1  # raise it when the same options give another signal
MONTAGES: dict[str, tuple[str, str | None]] = {
    "biosemi32": ("biosemi32", None),
    "biosemi64": ("biosemi64", None),
    "easycap61": ("easycap-M10", None),
    "1020-19": (
        "easycap-M1",
        "Fp1 Fp2 F7 F3 Fz F4 F8 T7 C3 Cz C4 T8 P7 P3 Pz P4 P8 O1 O2",
    ),
}
"""Name -> (MNE's built-in montage, the channels used of it or None for all)."""
DEFAULT_MONTAGES = ("biosemi32", "1020-19", "biosemi64")
DEFAULTS = {"subjects": "12", "minutes": "4", "seed": "0", "states": "0"}
RANGES = {"subjects": (1, 10_000), "minutes": (0.05, 600.0), "seed": (0, 2**31), "states": (0, 1)}


@dataclass(frozen=True)
class SimulatedItem:
    """One simulated person's recording; see `data.sources.spec.WorkItem`."""

    montage: str
    number: int
    minutes: float
    seed: int
    sfreq_hz: float
    split: str = "auto"
    state: str = ""
    """One of STATES; "": unlabelled."""

    @property
    def cap(self) -> str:
        """By which people are drawn: other caps, other people."""
        return f"states-{self.montage}" if self.state else self.montage

    @property
    def dataset(self) -> str:
        return f"simulated-{self.cap}"

    @property
    def run(self) -> int:
        """0, or the state's number."""
        return STATES.index(self.state) if self.state else 0

    @property
    def subject(self) -> str:
        return f"{self.number:03d}"

    @property
    def key(self) -> str:
        return f"{self.dataset}-{self.subject}" + f"-{self.state}" * bool(self.state)

    @property
    def signature(self) -> dict:
        left_out = {"split"} if self.state else {"split", "state"}
        fields = {name: value for name, value in asdict(self).items() if name not in left_out}
        return {"version": VERSION, **fields}

    def source_files(self) -> list[Path]:
        return []

    def load(self) -> Iterator[Recording]:
        yield simulate(self)


def list_items(spec: Spec, profile: Profile) -> list[SimulatedItem]:
    """One item per montage and person. Raises InputError for an unknown montage or a
    number out of range."""
    options = {**DEFAULTS, **spec.options}
    if spec.target and "montages" in options:
        raise spec.wrong(
            "montages given twice",
            "give a name after the colon, or montages=, not both",
        )
    named = spec.target or options.get("montages")
    montages = named.split("+") if named else list(DEFAULT_MONTAGES)
    for montage in montages:
        if montage not in MONTAGES:
            raise spec.wrong(
                f"no montage {montage!r}",
                did_you_mean(montage, MONTAGES, "Joined by + several of"),
            )
    subjects, minutes, seed, states = (
        spec.number(name, options[name], between, DEFAULTS[name])
        for name, between in RANGES.items()
    )
    # 250 Hz holds every band of the default profile; faster profiles get their own rate.
    sfreq_hz = max(250.0, profile.sfreq_hz)
    return [
        SimulatedItem(montage, number, minutes, seed, sfreq_hz, spec.split, state)
        for montage in dict.fromkeys(montages)
        for number in range(1, subjects + 1)
        for state in (STATES if states else ("",))
    ]


def planted_bads(seed: int, montage: str, number: int, channels: list[str]) -> dict[str, str]:
    """The bad channels of one recording: every third person has a flat one, every fourth a very
    noisy one. Returns {channel: "flat" | "noise"}."""
    rng = np.random.default_rng([seed, 6, number, *montage.encode()])
    flat, noisy = rng.choice(len(channels), 2, replace=False)
    bads = {}
    if number % 3 == 1:
        bads[channels[flat]] = "flat"
    if number % 4 == 2:
        bads[channels[noisy]] = "noise"
    return bads


def simulate(item: SimulatedItem) -> Recording:
    """The recording of one person: EEG in volts, montage set (the cap's nominal places; the true
    ones differ a little), bad channels in the description. The same item gives the same bits."""
    standard, chosen = MONTAGES[item.montage]
    names, _, directions = montage_directions(standard, tuple(chosen.split()) if chosen else None)
    people = population(item.seed)
    who = person(people, item.number, item.cap)
    leadfield = leadfield_uv(people, who, directions)
    who = in_state(people, who, item.state) if item.state else who
    samples = round(60 * item.minutes * item.sfreq_hz)
    activity = source_activity(people, who, samples, item.sfreq_hz, item.run)
    signal = record_uv(people, who, leadfield, activity, item.sfreq_hz, run=item.run)
    bads = {} if item.state else planted_bads(item.seed, item.montage, item.number, names)
    rng = np.random.default_rng([item.seed, 7, item.number])
    for name, reason in bads.items():
        row = names.index(name)
        if reason == "flat":
            signal[row] = 0.0
        else:
            signal[row] += 250.0 * rng.standard_normal(signal.shape[1])
    info = mne.create_info(names, item.sfreq_hz, "eeg")
    with info._unlock():
        info["line_freq"] = 50.0
    info["description"] = json.dumps({"bad_channels": bads})
    raw = mne.io.RawArray(1e-6 * signal, info, verbose="error")
    raw.set_montage(mne.channels.make_standard_montage(standard), verbose="error")
    return Recording(
        dataset=item.dataset,
        subject=item.subject,
        session="1",
        run=str(item.run + 1),
        raw=raw,
        mains_hz=50.0,
        montage=standard,  # where the model's electrodes are, not where a head's would be
        source_files=[],
        label=item.state or None,
    )
