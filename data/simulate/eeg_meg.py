"""EEG and MEG of one simulated brain through real sensors.

About 150 dipoles of fixed orientation in a sphere (fixed as on the cortex: were the orientations
free, EEG would say next to nothing about MEG), seen by electrodes of the 10-10 system and by the
306 sensors of a Vectorview helmet. Sources and sensor noise share one spectrum, 1/f with an alpha
peak. So in any band the best prediction of MEG from EEG at one instant is known in closed form, and
no other instant adds to it (data/simulate/oracle.py). The price is noise that is pinker than in a
real laboratory.

What is random about the population (dipoles, covariance, states) is drawn from `seed`, what is
random about a person (small shifts of dipoles, cap and head) from (seed, number), the head's place
in the helmet and the activity from (seed, number, run). Units inside: nA.m, volts, tesla.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from functools import lru_cache

import mne
import numpy as np
from scipy.fft import irfft, rfft, rfftfreq
from scipy.spatial.transform import Rotation

from data.errors import InputError
from data.simulate.head import (
    BRAIN_RADIUS_M,
    HEAD_CENTRE_M,
    HEAD_RADIUS_M,
    montage_directions,
)
from data.simulate.helmet import helmet_info, leadfield_si

STATISTICS = ("linear", "nonlinear")
CAP = "easycap-M1"
DIPOLE_NAM = 12.0
SPREAD_M = 0.02
"""Activity of neighbouring dipoles is correlated over about this distance."""
NOISE = {"eeg": 1e-6, "mag": 15e-15, "grad": 1.5e-12}
"""Standard deviation of sensor noise: volts, tesla, tesla/metre."""
HEAD_TO_DEVICE_M = np.array([0.0, 0.005, 0.058])
"""Where the helmet's origin lies in the head frame of a well-placed person."""
STATES, ACTIVE, GAIN_ON, GAIN_OFF = 4, 0.2, 2.0, 0.1
"""Non-linear: in each of 4 states a fifth of the dipoles is strong and the rest nearly silent."""
DWELL_S, FADE_S = 2.0, 0.04
"""A state lasts 2 s on average, and changes within 40 ms."""


@dataclass(frozen=True)
class World:
    """What decides a simulation, besides person and run; validated by the source."""

    seed: int = 0
    statistics: str = "linear"
    """"linear": Gaussian with one covariance, so that a linear map is optimal. "nonlinear": which
    dipoles are active switches between states, so that no linear map is."""
    noise: float = 1.0
    """Multiplies NOISE."""
    variation: float = 1.0
    """Multiplies how much people and runs differ; 0: one head, always in one place."""
    sources: int = 150


@dataclass(frozen=True)
class Head:
    """The sensors and leadfields of one person's run."""

    info: mne.Info
    """EEG channels, then MEG; places in it."""
    leadfield: np.ndarray
    """float64 `[Cs + Ct, sources]`: volts, tesla or tesla/metre per nA.m."""
    noise: np.ndarray
    """float64 `[Cs + Ct]`, standard deviation of each channel's noise."""


@dataclass(frozen=True)
class Population:
    places_m: np.ndarray
    """float64 `[sources, 3]`, head frame."""
    normals: np.ndarray
    """float64 `[sources, 3]`."""
    mixing: np.ndarray
    """float64 `[sources, sources]`, nA.m: its product with unit white noise is the activity."""
    gains: np.ndarray
    """float64 `[states, sources]`; ones, in one state, where the statistics are linear."""


@lru_cache(maxsize=4)
def population(world: World) -> Population:
    """What all people of a world share."""
    rng = np.random.default_rng([world.seed, 11])
    count = world.sources
    # Golden-angle spiral over the part of the sphere that cortex covers.
    height = 1 - 1.25 * (np.arange(count) + 0.5) / count
    angle = np.pi * (3 - 5**0.5) * np.arange(count)
    ring = np.sqrt(1 - height**2)
    up = np.stack([ring * np.cos(angle), ring * np.sin(angle), height], axis=1)
    depth = BRAIN_RADIUS_M * rng.uniform(0.72, 0.92, (count, 1))
    places_m = HEAD_CENTRE_M + depth * up
    normals = rng.standard_normal((count, 3))
    normals /= np.linalg.norm(normals, axis=1, keepdims=True)
    distance = np.linalg.norm(places_m[:, None] - places_m[None], axis=2)
    mixing = np.exp(-0.5 * (distance / SPREAD_M) ** 2) * rng.choice([-1, 1], (count, count))
    mixing = np.triu(mixing) + np.triu(mixing, 1).T
    strength = DIPOLE_NAM * np.exp(0.5 * rng.standard_normal((count, 1)))
    mixing *= strength / np.linalg.norm(mixing, axis=1, keepdims=True)
    gains = np.ones((1, count))
    if world.statistics == "nonlinear":
        gains = np.full((STATES, count), GAIN_OFF)
        for row in gains:
            row[rng.choice(count, max(1, round(ACTIVE * count)), replace=False)] = GAIN_ON
    return Population(places_m, normals, mixing, gains)


@lru_cache(maxsize=16)
def head(world: World, electrodes: int, person: int, run: int) -> Head:
    """The sensors around one person's head in one run, and the fields of the dipoles there."""
    people = population(world)
    own = np.random.default_rng([world.seed, 12, person])
    amount = world.variation
    count = len(people.places_m)
    normals = people.normals + 0.1 * amount * own.standard_normal((count, 3))
    normals /= np.linalg.norm(normals, axis=1, keepdims=True)
    places = people.places_m + 0.0015 * amount * own.standard_normal((count, 3)) - HEAD_CENTRE_M
    radius = np.linalg.norm(places, axis=1, keepdims=True)
    places *= np.minimum(1, 0.97 * BRAIN_RADIUS_M / radius)
    cap = Rotation.from_rotvec(np.deg2rad(1.5) * amount * own.standard_normal(3))
    names, directions = _cap(electrodes)
    electrodes_m = HEAD_CENTRE_M + HEAD_RADIUS_M * cap.apply(directions)

    turn, shift = np.deg2rad(2.0) * own.standard_normal(3), 0.003 * own.standard_normal(3)
    moved = np.random.default_rng([world.seed, 13, person, run])
    turn += np.deg2rad(0.5) * moved.standard_normal(3)
    shift += 0.001 * moved.standard_normal(3)
    transform = np.eye(4)
    transform[:3, :3] = Rotation.from_rotvec(amount * turn).as_matrix()
    transform[:3, 3] = HEAD_TO_DEVICE_M + amount * shift

    info = helmet_info(names, electrodes_m, transform)
    noise = [NOISE[kind] for kind in info.get_channel_types()]
    leadfield = leadfield_si(info, HEAD_CENTRE_M + places, normals)
    return Head(info, leadfield, world.noise * np.array(noise))


def simulate(
    world: World, electrodes: int, person: int, run: int, samples: int, sfreq_hz: float
) -> mne.io.RawArray:
    """One run: EEG in volts (no reference), MEG in tesla and tesla/metre, places set."""
    people, sensors = population(world), head(world, electrodes, person, run)
    rng = np.random.default_rng([world.seed, 14, person, run])
    shape = _spectrum(samples, sfreq_hz)
    activity = people.mixing @ _coloured(rng, len(people.mixing), samples, shape)
    gains = people.gains.T @ states(world, person, run, samples, sfreq_hz)
    signal = sensors.leadfield @ (gains * activity)
    signal += sensors.noise[:, None] * _coloured(rng, len(signal), samples, shape)
    info = mne.create_info(
        sensors.info["ch_names"], sfreq_hz, sensors.info.get_channel_types(), verbose="error"
    )
    with info._unlock():
        info["line_freq"], info["dev_head_t"] = 50.0, sensors.info["dev_head_t"]
        info["chs"] = [
            {**channel, "cal": 1.0, "range": 1.0} for channel in sensors.info.copy()["chs"]
        ]
        info["dig"] = sensors.info["dig"]
    return mne.io.RawArray(signal, info, verbose="error")


def states(world: World, person: int, run: int, samples: int, sfreq_hz: float) -> np.ndarray:
    """float64 `[states, samples]`: how much each state is on; sums to 1 at every instant."""
    count = len(population(world).gains)
    active = np.zeros((count, samples))
    if count == 1:
        return active + 1
    rng = np.random.default_rng([world.seed, 15, person, run])
    at, state = 0, int(rng.integers(count))
    while at < samples:
        stop = at + max(1, round(rng.exponential(DWELL_S) * sfreq_hz))
        active[state, at:stop] = 1.0
        at, state = stop, (state + int(rng.integers(1, count))) % count
    fade = np.hanning(2 * round(FADE_S / 2 * sfreq_hz) + 3)[1:-1]
    padded = np.pad(active, ((0, 0), (len(fade) // 2, len(fade) // 2)), mode="edge")
    return np.array([np.convolve(row, fade / fade.sum(), mode="valid") for row in padded])


def note(world: World, electrodes: int, person: int, run: int) -> dict:
    """What the manifest keeps, so that `oracle_of` can make the same world again."""
    return {"world": asdict(world), "electrodes": electrodes, "person": person, "run": run}


@lru_cache(maxsize=8)
def _cap(electrodes: int) -> tuple[tuple[str, ...], np.ndarray]:
    """Names and directions of that many electrodes, spread evenly: each next one is the farthest
    from those chosen before."""
    names, _, directions = montage_directions(CAP)
    if not 8 <= electrodes <= len(names):
        raise InputError(f"simulated-pairs: eeg={electrodes}", f"give 8 to {len(names)} electrodes")
    chosen = [names.index("Cz")]
    nearest = np.full(len(names), np.inf)
    while len(chosen) < electrodes:
        step = np.linalg.norm(directions - directions[chosen[-1]], axis=1)
        nearest = np.minimum(nearest, step)
        chosen.append(int(np.argmax(nearest)))
    chosen.sort()
    return tuple(names[index] for index in chosen), directions[chosen]


def _spectrum(samples: int, sfreq_hz: float) -> np.ndarray:
    """Amplitude at each frequency of `rfft`: 1/f power with an alpha peak, unit variance."""
    freqs = rfftfreq(samples, 1 / sfreq_hz)
    power = 1 / np.maximum(freqs, 1.0) + 0.25 * np.exp(-0.5 * ((freqs - 10) / 1.2) ** 2)
    power[freqs < 0.3] = 0.0
    return np.sqrt(power / power.mean())


def _coloured(rng, channels: int, samples: int, shape: np.ndarray) -> np.ndarray:
    """Gaussian noise `[channels, samples]` of unit variance with that spectrum."""
    white = rng.standard_normal((channels, samples))
    return irfft(rfft(white, axis=1) * shape, samples, axis=1)
