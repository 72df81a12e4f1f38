"""People who look at pictures: EEG of which it is known how well the picture can be told.

A picture is a code of 16 numbers, half of them its concept's. The code decides the picture, its
embedding, and the amplitudes of 16 evoked responses over 17 posterior electrodes, each with its own
latency, frequency and place. Two things make it hard where recordings are hard: responses come up
to 60 ms early or late in every trial, which averages over repeats smear, and topographies differ
between people by half. What every picture evokes alike is three times as strong as what differs.

Shapes: K = 16 code dimensions, C = 17 electrodes, E = 64 numbers of an embedding.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property, lru_cache

import numpy as np

from data.simulate.head import montage_directions

MONTAGE = "easycap-M1"
CHANNELS = (
    "P7", "P5", "P3", "P1", "Pz", "P2", "P4", "P6", "P8", "PO7", "PO3", "POz", "PO4", "PO8", "O1",
    "Oz", "O2",
)  # fmt: skip
PARTS = ("training", "test")
CODE, EMBEDDING, PIXELS = 16, 64, 32
CONCEPT_SHARE = 0.5
BLIND = 0.3
"""Size of what an embedding holds and EEG does not."""
COMMON = 3.0
"""Size of what every picture evokes."""
PERSONAL = 0.5
"""How much of a topography is a person's own."""
SMOOTH_M, NOISE_M = 0.07, 0.06
JITTERS_S = tuple(np.arange(-3, 4) * 0.02)
NOISE = 1.7
UNIT_UV = 5.0
SPACING_S, EDGE_S = 1.0, 4.0
"""From one picture to the next; before the first and after the last."""
TMIN_S, TRIAL_S = -0.2, 1.0

CODES, PICTURES, AXES, RESPONSES, PLACES, PERSON, ORDER, SIGNAL, COLOURS = range(9)
"""Purposes of random numbers."""


@dataclass(frozen=True)
class Shown:
    """One part of the experiment: concepts, pictures of each, and how often each is shown."""

    concepts: int
    pictures: int
    repeats: int


@dataclass(frozen=True)
class World:
    """All that is random follows from `seed`. The concepts of the two parts are different ones."""

    seed: int = 0
    training: Shown = Shown(350, 5, 4)
    test: Shown = Shown(200, 1, 10)

    def shown(self, part: str) -> Shown:
        return {"training": self.training, "test": self.test}[part]

    def rng(self, *purpose: int) -> np.random.Generator:
        return np.random.default_rng([self.seed, *purpose])

    def names(self, part: str) -> list[tuple[str, str]]:
        """(concept, file name) of each picture of a part, in order."""
        shown, first = self.shown(part), 0 if part == "training" else self.training.concepts
        return [
            (f"concept{number:04d}", f"concept{number:04d}_{picture:02d}.png")
            for number in range(first, first + shown.concepts)
            for picture in range(shown.pictures)
        ]

    def codes(self, part: str) -> np.ndarray:
        """float64 `[pictures, K]`."""
        shown, number = self.shown(part), PARTS.index(part)
        concept = self.rng(CODES, number).standard_normal((shown.concepts, 1, CODE))
        own = self.rng(PICTURES, number).standard_normal((shown.concepts, shown.pictures, CODE))
        mixed = np.sqrt(CONCEPT_SHARE) * concept + np.sqrt(1 - CONCEPT_SHARE) * own
        return mixed.reshape(-1, CODE)

    def embeddings(self, part: str) -> np.ndarray:
        """float32 `[pictures, E]`, unit length: the code along 16 directions, and noise along the
        rest."""
        axes = np.linalg.qr(self.rng(AXES).standard_normal((EMBEDDING, EMBEDDING)))[0]
        codes = self.codes(part)
        number = PARTS.index(part)
        blind = self.rng(AXES, 1, number).standard_normal((len(codes), EMBEDDING - CODE))
        found = codes @ axes[:CODE] + BLIND * blind @ axes[CODE:]
        return (found / np.linalg.norm(found, axis=1, keepdims=True)).astype(np.float32)

    def pictures(self, part: str) -> np.ndarray:
        """uint8 `[pictures, 32, 32, 3]`: smooth fields of colour, weighted by the code."""
        noise = self.rng(COLOURS).standard_normal((CODE, PIXELS, PIXELS, 3))
        freqs = np.hypot(np.fft.fftfreq(PIXELS)[:, None], np.fft.fftfreq(PIXELS)[None, :])
        low = np.exp(-((freqs / 0.06) ** 2) / 2)[..., None]
        fields = np.fft.ifft2(np.fft.fft2(noise, axes=(1, 2)) * low, axes=(1, 2)).real
        fields /= fields.std(axis=(1, 2, 3), keepdims=True)
        light = np.tensordot(self.codes(part), fields, 1) / np.sqrt(CODE) * 2
        return np.round(255 / (1 + np.exp(-light))).astype(np.uint8)

    @cached_property
    def electrodes_m(self) -> np.ndarray:
        return montage_directions(MONTAGE, CHANNELS)[1]

    def topographies(self, person: int) -> np.ndarray:
        """float64 `[C, 1 + K]`: what is common first. Person 1 is the first."""
        near = _gaussian_root(self.electrodes_m)
        shared = near @ self.rng(PLACES).standard_normal((len(CHANNELS), 1 + CODE))
        own = near @ self.rng(PERSON, person).standard_normal((len(CHANNELS), 1 + CODE))
        found = np.sqrt(1 - PERSONAL**2) * shared + PERSONAL * own
        return found * np.array([COMMON, *[1.0] * CODE])

    def responses(self, times_s: np.ndarray) -> np.ndarray:
        """float64 `[..., 1 + K]` at seconds after a picture's onset, if it comes neither early nor
        late."""
        rng = self.rng(RESPONSES)
        latency, width, freq, phase = (
            np.array([first, *rng.uniform(*between, CODE)])
            for first, between in (
                (0.12, (0.09, 0.40)), (0.03, (0.025, 0.05)), (6.0, (4.0, 10.0)),
                (0.0, (0.0, 2 * np.pi)),
            )
        )  # fmt: skip
        since = np.asarray(times_s)[..., None] - latency
        return np.exp(-(since**2) / (2 * width**2)) * np.cos(2 * np.pi * freq * since + phase)

    def order(self, person: int, part: str) -> np.ndarray:
        """int64 `[trials]`: which picture each trial shows."""
        shown = self.shown(part)
        trials = np.repeat(np.arange(shown.concepts * shown.pictures), shown.repeats)
        return self.rng(ORDER, person, PARTS.index(part)).permutation(trials)

    def record_uv(
        self, person: int, part: str, sfreq_hz: float
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """A person's recording of one part: (float64 `[C, T]` microvolts, onsets in seconds, the
        picture of each)."""
        order = self.order(person, part)
        rng = self.rng(SIGNAL, person, PARTS.index(part))
        onsets_s = EDGE_S + SPACING_S * np.arange(len(order))
        late_s = rng.choice(JITTERS_S, len(order))
        samples = round((2 * EDGE_S + SPACING_S * len(order)) * sfreq_hz)
        signal = (
            NOISE * noise_root(self.electrodes_m) @ _coloured(rng, len(CHANNELS), samples, sfreq_hz)
        )
        amplitudes = np.column_stack([np.ones(len(order)), self.codes(part)[order]])
        topographies, count = self.topographies(person), round(TRIAL_S * sfreq_hz)
        for onset_s, delay_s, sizes in zip(onsets_s, late_s, amplitudes, strict=True):
            first = round((onset_s + TMIN_S) * sfreq_hz)
            times_s = np.arange(first, first + count) / sfreq_hz - onset_s - delay_s
            signal[:, first : first + count] += topographies * sizes @ self.responses(times_s).T
        return UNIT_UV * signal, onsets_s, order


def noise_root(electrodes_m: np.ndarray) -> np.ndarray:
    """float64 `[C, C]`, a root of the noise's covariance between electrodes."""
    return np.linalg.cholesky(np.exp(-_distances(electrodes_m) / NOISE_M) + 0.05 * np.eye(17))


def noise_spectrum(freqs_hz: np.ndarray) -> np.ndarray:
    """Power of the noise: falling with frequency, an alpha rhythm, a floor."""
    alpha = np.exp(-(((freqs_hz - 10.0) / 1.5) ** 2) / 2)
    return 1 / np.maximum(freqs_hz, 1.0) + 0.15 * alpha + 0.003


def _coloured(rng: np.random.Generator, rows: int, samples: int, sfreq_hz: float) -> np.ndarray:
    """float64 `[rows, samples]` of `noise_spectrum`, variance 1, rows independent."""
    freqs = np.fft.rfftfreq(samples, 1 / sfreq_hz)
    gain = np.sqrt(noise_spectrum(freqs) / noise_spectrum(freqs).mean())
    white = rng.standard_normal((rows, samples))
    return np.stack([np.fft.irfft(np.fft.rfft(row) * gain, samples) for row in white])


def _distances(places_m: np.ndarray) -> np.ndarray:
    return np.linalg.norm(places_m[:, None] - places_m, axis=-1)


def _gaussian_root(places_m: np.ndarray) -> np.ndarray:
    """A root of exp(-d^2 / 2 SMOOTH_M^2), whose rows draw smooth fields of variance 1."""
    near = np.exp(-((_distances(places_m) / SMOOTH_M) ** 2) / 2)
    return np.linalg.cholesky(near + 1e-9 * np.eye(len(near)))


@lru_cache(maxsize=2)
def world(seed: int, training: tuple[int, int, int], test: tuple[int, int, int]) -> World:
    """One world for all of its people's recordings."""
    return World(seed, Shown(*training), Shown(*test))
