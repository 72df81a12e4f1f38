"""EEG from a physical model: dipole patches with rhythms in a four-shell sphere.

What is random about the population (where patches lie, how they fold, which of them are coupled and
with what delay) is drawn from `seed` alone; what is random about a person (alpha frequency, source
strengths, cap placement, small orientation changes) from (seed, person). So people share structure
that can be learned from some and tested on others, and it is more than geometry: patches couple
across the head with delays, and half of them are tangential, which interpolation gets wrong.

Measured with 55 % of 32 channels hidden (biosemi32, people not used for the covariance): spherical
splines reach r .87-.88, the best linear estimate from other people's covariance .935-.95.

Units inside: seconds, hertz, nanoampere-metres, microvolts.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from scipy.fft import irfft, next_fast_len, rfft, rfftfreq

from data.simulate.head import (
    BRAIN_RADIUS_M,
    HEAD_CENTRE_M,
    HEAD_RADIUS_M,
    forward_uv,
    montage_directions,
)
from data.simulate.waveforms import blinks, bursts, muscle, unit_power

ADC_STEP_UV = 0.05

# Cortex lies under these 10-10 places; each holds a radial (gyral) and a tangential (sulcal) patch.
PLACES = tuple(
    """
    Fp1 Fp2 AF3 AF4 F7 F3 Fz F4 F8 FC5 FC1 FC2 FC6 T7 C3 Cz C4 T8
    CP5 CP1 CP2 CP6 P7 P3 Pz P4 P8 PO3 POz PO4 O1 O2
    """.split()  # noqa: SIM905  (a list of 32 quoted names hides the head's layout)
)
PATCH_DIPOLES = 12
EYES = {"Fp1": 0.6, "Fp2": 0.6}  # blinks: deep under the forehead, both eyes together
MUSCLES = ("T7", "T8", "F7", "F8")


@dataclass(frozen=True)
class Rhythm:
    """One narrow-band process and the patches it moves.

    `targets`: (patch, strength in nA.m, delay in seconds). `burst_s`: mean length of a burst, None
    for a rhythm that only waxes and wanes with its own bandwidth.
    """

    name: str
    centre_hz: float
    width_hz: float
    targets: tuple[tuple[int, float, float], ...]
    burst_s: float | None = None


@dataclass(frozen=True)
class Population:
    """What all simulated people share. Patches are ordered gyral 0..31, sulcal 32..63."""

    seed: int
    dipoles_m: np.ndarray
    """float64 [patches, PATCH_DIPOLES, 3], relative to the head's centre."""
    normals: np.ndarray
    """float64 [patches, 3], unit orientation of each patch."""
    background_nam: np.ndarray
    """float64 [patches], strength of the 1/f activity."""
    mixing: np.ndarray
    """float64 [patches, patches], spatial correlation of the 1/f activity."""
    rhythms: tuple[Rhythm, ...]


@dataclass(frozen=True)
class Person:
    """What differs between people; see `person`."""

    seed: tuple[int, ...]
    alpha_hz: float
    head_scale: float
    gains: np.ndarray
    normals: np.ndarray
    rhythm_gains: np.ndarray
    exponent: float
    sensor_noise_uv: float
    cap_rotation: np.ndarray


@lru_cache(maxsize=4)
def population(seed: int) -> Population:
    """The shared anatomy and coupling of the people of one seed."""
    rng = np.random.default_rng([seed, 1])
    names, _, directions = montage_directions("easycap-M1")
    at = {name: directions[i] for i, name in enumerate(names)}
    dipoles, normals = [], []
    for tangential in (False, True):
        for name in PLACES:
            up = _unit(at[name] + 0.08 * rng.standard_normal(3))
            across = _unit(np.cross(up, rng.standard_normal(3)))
            normal = _unit(0.35 * up + across) if tangential else _unit(up + 0.35 * across)
            depth = BRAIN_RADIUS_M * rng.uniform(0.74, 0.84 if tangential else 0.88)
            spread_m = rng.uniform(0.006, 0.012)
            points = depth * up + spread_m * rng.standard_normal((PATCH_DIPOLES, 3))
            too_shallow = np.linalg.norm(points, axis=1, keepdims=True) / (0.95 * BRAIN_RADIUS_M)
            dipoles.append(points / np.maximum(too_shallow, 1.0))
            normals.append(normal)
    dipoles, normals = np.array(dipoles), np.array(normals)
    centres = dipoles.mean(1)
    distance = np.linalg.norm(centres[:, None] - centres[None], axis=-1)
    mixing = np.linalg.cholesky(np.exp(-distance / 0.025) + 1e-6 * np.eye(len(centres)))
    background = 19.0 * rng.lognormal(0.0, 0.35, len(centres))
    return Population(seed, dipoles, normals, background, mixing, _rhythms(rng))


def person(people: Population, number: int, montage: str) -> Person:
    """Person `number` of a population, as recorded with a cap of `montage` (other caps, other
    people)."""
    # A montage's name enters as numbers, because Python's own hash() differs between processes.
    seed = (people.seed, 2, number, *montage.encode())
    rng = np.random.default_rng(seed)
    turned = people.normals + 0.2 * rng.standard_normal(people.normals.shape)
    angles = np.deg2rad(2.0) * rng.standard_normal(3)
    rhythm_gains = rng.lognormal(0.0, 0.35, len(people.rhythms))
    return Person(
        seed=seed,
        alpha_hz=float(np.clip(rng.normal(10.0, 0.8), 8.2, 11.8)),
        head_scale=float(np.clip(rng.normal(1.0, 0.03), 0.92, 1.08)),
        gains=rng.lognormal(0.0, 0.25, len(turned)),
        normals=turned / np.linalg.norm(turned, axis=1, keepdims=True),
        rhythm_gains=rhythm_gains,
        exponent=float(np.clip(rng.normal(1.25, 0.1), 0.9, 1.6)),
        sensor_noise_uv=float(rng.uniform(0.8, 1.4)),
        cap_rotation=_rotation(angles),
    )


def leadfield_uv(people: Population, who: Person, directions: np.ndarray) -> np.ndarray:
    """Scalp potential of each source, float64 [C, patches + eyes + muscles], uV per nA.m.

    `directions`: unit vectors [C, 3] of the electrodes, before this person's cap placement. The
    values are against a reference electrode on the left mastoid.
    """
    names, _, at = montage_directions("easycap-M1")
    at = dict(zip(names, at, strict=True))
    mastoid = _unit(np.array([-1.0, -0.25, -0.45]))
    jitter = 0.02 * np.random.default_rng([*who.seed, 3]).standard_normal(directions.shape)
    cap = np.vstack([(directions + jitter) @ who.cap_rotation.T, mastoid])
    cap = HEAD_CENTRE_M + HEAD_RADIUS_M * cap / np.linalg.norm(cap, axis=1, keepdims=True)
    eyes = [0.93 * BRAIN_RADIUS_M * _unit(at[name] - [0, 0, depth]) for name, depth in EYES.items()]
    muscles = [0.96 * BRAIN_RADIUS_M * _unit(at[name] - [0, 0, 0.15]) for name in MUSCLES]
    forward_gaze = np.tile(_unit(np.array([0.0, 1.0, 0.25])), (len(eyes), 1))
    normals = [
        np.repeat(who.normals, PATCH_DIPOLES, 0),
        forward_gaze,
        np.array([_unit(place) for place in muscles]),
    ]
    places = np.vstack([people.dipoles_m.reshape(-1, 3), eyes, muscles]) + HEAD_CENTRE_M
    per_dipole = forward_uv(cap, places, np.vstack(normals))
    patches = per_dipole[:, : people.dipoles_m.shape[0] * PATCH_DIPOLES]
    patches = patches.reshape(len(cap), -1, PATCH_DIPOLES).mean(2)
    extra = per_dipole[:, people.dipoles_m.shape[0] * PATCH_DIPOLES :]
    gain = np.hstack([patches, extra])
    # In a homogeneous scaling of head and sources the potential goes with 1 / radius^2.
    return (gain[:-1] - gain[-1]) / who.head_scale**2


def source_activity(
    people: Population, who: Person, n_samples: int, sfreq_hz: float, run: int = 0
) -> np.ndarray:
    """Moments of all sources over time, float64 [patches + eyes + muscles, n_samples], nA.m."""
    rng = np.random.default_rng([*who.seed, 4, run])
    size = next_fast_len(n_samples + int(sfreq_hz), real=True)
    freqs = rfftfreq(size, 1 / sfreq_hz)
    patches = len(people.background_nam)
    noise = rfft(rng.standard_normal((patches, size)), axis=1)
    noise *= unit_power((np.maximum(freqs, 1.0) ** (-who.exponent / 2)) * (freqs > 0.1), size)
    spectrum = people.mixing @ noise
    spectrum *= (people.background_nam * who.gains)[:, None]
    for rhythm, gain in zip(people.rhythms, who.rhythm_gains, strict=True):
        shift = (who.alpha_hz - 10.0) if rhythm.name.startswith(("alpha", "mu")) else 0.0
        shape = np.exp(-0.5 * ((freqs - rhythm.centre_hz - shift) / rhythm.width_hz) ** 2)
        wave = irfft(rfft(rng.standard_normal(size)) * unit_power(shape, size), n=size)
        if rhythm.burst_s is not None:
            wave *= bursts(rng, size, sfreq_hz, rhythm.burst_s)
        wave = rfft(wave)
        for patch, strength, delay_s in rhythm.targets:
            turn = np.exp(-2j * np.pi * freqs * delay_s)
            spectrum[patch] += gain * who.gains[patch] * strength * wave * turn
    activity = np.empty((patches + len(EYES) + len(MUSCLES), n_samples))
    activity[:patches] = irfft(spectrum, n=size, axis=1)[:, :n_samples]
    activity[patches : patches + len(EYES)] = blinks(rng, n_samples, sfreq_hz)
    for row in range(patches + len(EYES), len(activity)):
        activity[row] = muscle(rng, n_samples, sfreq_hz)
    return activity


def record_uv(
    people: Population,
    who: Person,
    leadfield: np.ndarray,
    activity: np.ndarray,
    sfreq_hz: float,
    mains_hz: float = 50.0,
    run: int = 0,
) -> np.ndarray:
    """What an amplifier stores: float64 [C, samples], uV.

    Potentials, sensor noise (broadband, and the slow noise of electrode and skin) and mains,
    rounded to `ADC_STEP_UV`, which also makes it the same bits for any number of BLAS threads.
    """
    rng = np.random.default_rng([*who.seed, 5, run])
    signal = leadfield @ activity
    n_channels, n_samples = signal.shape
    # Broadband noise is stated for 0-125 Hz, so that it does not depend on the sampling rate.
    sigma = who.sensor_noise_uv * np.sqrt(sfreq_hz / 250.0)
    signal += sigma * rng.standard_normal(signal.shape)
    size = next_fast_len(n_samples, real=True)
    freqs = np.maximum(rfftfreq(size, 1 / sfreq_hz), 0.3)
    drift = rfft(rng.standard_normal((n_channels, size)), axis=1) * unit_power(1 / freqs, size)
    signal += 2 * who.sensor_noise_uv * irfft(drift, n=size, axis=1)[:, :n_samples]
    phase = 2 * np.pi * mains_hz * np.arange(n_samples) / sfreq_hz + rng.uniform(0, 2 * np.pi)
    signal += rng.uniform(0.5, 2.5, (n_channels, 1)) * np.sin(phase)
    return ADC_STEP_UV * np.round(signal / ADC_STEP_UV)


def _rhythms(rng: np.random.Generator) -> tuple[Rhythm, ...]:
    """Known rhythms at their places, and networks that couple distant patches with delays."""
    gyral = {name: i for i, name in enumerate(PLACES)}
    sulcal = {name: i + len(PLACES) for i, name in enumerate(PLACES)}
    rhythms = [
        Rhythm("alpha-left", 10.0, 0.7, (
            (gyral["O1"], 48, 0.0), (sulcal["O1"], 44, 0.0), (gyral["PO3"], 48, 0.008),
            (sulcal["P3"], 36, 0.016), (sulcal["P7"], 32, 0.014), (sulcal["F3"], -24, 0.035))),
        Rhythm("alpha-right", 10.0, 0.7, (
            (gyral["O2"], 48, 0.0), (sulcal["O2"], 44, 0.0), (gyral["PO4"], 48, 0.008),
            (sulcal["P4"], 36, 0.016), (sulcal["P8"], 32, 0.014), (sulcal["F4"], -24, 0.035))),
        Rhythm("alpha-midline", 10.3, 0.9, (
            (sulcal["POz"], 48, 0.0), (gyral["Pz"], 36, 0.01), (sulcal["Cz"], 28, 0.022))),
        Rhythm("mu-left", 10.8, 0.9, (
            (sulcal["C3"], 35, 0.0), (sulcal["CP5"], 20, 0.006), (gyral["FC1"], 15, 0.012)), 1.0),
        Rhythm("mu-right", 10.8, 0.9, (
            (sulcal["C4"], 35, 0.0), (sulcal["CP6"], 20, 0.006), (gyral["FC2"], 15, 0.012)), 1.0),
        Rhythm("beta-left", 20.0, 2.0, (
            (sulcal["C3"], 17.5, 0.0), (gyral["FC5"], 10, 0.005)), 0.4),
        Rhythm("beta-right", 20.0, 2.0, (
            (sulcal["C4"], 17.5, 0.0), (gyral["FC6"], 10, 0.005)), 0.4),
        Rhythm("theta", 6.0, 0.7, (
            (gyral["Fz"], 30, 0.0), (sulcal["FC1"], 17.5, 0.01), (sulcal["Pz"], -17.5, 0.03)), 1.5),
        Rhythm("temporal-left", 8.5, 1.0, ((sulcal["T7"], 25, 0.0), (gyral["F7"], 15, 0.01)), 1.2),
        Rhythm("temporal-right", 8.5, 1.0, ((sulcal["T8"], 25, 0.0), (gyral["F8"], 15, 0.01)), 1.2),
    ]  # fmt: skip
    for number in range(12):
        members = rng.choice(2 * len(PLACES), 4, replace=False)
        signs = rng.choice([-1.0, 1.0], 4)
        delays = rng.uniform(0.0, 0.03, 4)
        targets = tuple(
            (int(patch), float(28 * sign), float(delay))
            for patch, sign, delay in zip(members, signs, delays, strict=True)
        )
        rhythms.append(Rhythm(f"network-{number}", rng.uniform(3, 15), 4.0, targets))
    return tuple(rhythms)


def _rotation(angles: np.ndarray) -> np.ndarray:
    """Rotation matrix about x, y and z, in radians."""
    matrix = np.eye(3)
    for axis, angle in enumerate(angles):
        i, j = (axis + 1) % 3, (axis + 2) % 3
        turn = np.eye(3)
        turn[i, i] = turn[j, j] = np.cos(angle)
        turn[j, i], turn[i, j] = np.sin(angle), -np.sin(angle)
        matrix = turn @ matrix
    return matrix


def _unit(vector: np.ndarray) -> np.ndarray:
    return vector / np.linalg.norm(vector)
