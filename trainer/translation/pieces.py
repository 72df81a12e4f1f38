"""Paired windows cut to one length, the order they are trained in, and the batches made of them.

The order is a pure function of (seed, pass, ranks): every sample is seen once in each pass over the
data, whatever the number of ranks, and a step's samples are the same on one rank as on many.
transformers would shard an iterable again, and would repeat samples to fill a last batch; here a
batch that crosses the end of a pass goes on with the next.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch

from data.batches.pairs import PairedMontage, PairedWindow, PairedWindows
from data.errors import InputError
from model.brainformer import BrainformerProcessor
from trainer.translation.splits import Part


@dataclass(frozen=True)
class Piece:
    """One sample: `eeg [Cs, T]` volts and `meg [Ct, T]` tesla or tesla/metre, of `montage`."""

    eeg: np.ndarray
    meg: np.ndarray
    montage: PairedMontage
    recording: str
    subject: str
    group: str
    onset_s: float
    label: int | str | None
    """Of the event that the window was cut at, for a window's first piece."""


class Pieces(torch.utils.data.Dataset):
    """`sequence_length` samples at a time from the windows of some parts of recordings.

    Windows are cut into whole pieces from their start; what is left over is not used. A piece
    belongs to a part only if it lies in it wholly. Raises InputError where nothing is left.
    """

    def __init__(
        self, windows: PairedWindows, parts: Sequence[Part], sequence_length: int, name: str
    ):
        self.windows, self.sequence_length = windows, sequence_length
        self.groups = {part.recording: part.group for part in parts}
        self.sfreq_hz = windows.sfreq_hz
        first = windows[0]
        length = first.eeg.shape[1]
        if first.meg.shape[1] != length:
            raise InputError(
                f"{first.recording}: {length} samples of EEG, {first.meg.shape[1]} of MEG",
                "a pair must have equal lengths: pack this recording again",
            )
        if length < sequence_length:
            raise InputError(
                f"--sequence_length {sequence_length}: the windows hold {length} samples "
                f"({length / self.sfreq_hz:g} s)",
                f"use at most {length}, or pack longer windows",
            )
        starts = range(0, length - sequence_length + 1, sequence_length)
        self.index = [(i, start) for i in range(len(windows)) for start in starts]
        if any((part.start, part.stop) != (0.0, 1.0) for part in parts):
            self.index = self._in_parts(parts, length)
        if not self.index:
            raise InputError(
                f"no {name} pieces of {sequence_length} samples in "
                f"{', '.join(sorted(self.groups))}",
                "use a shorter --sequence_length, or another --split",
            )

    def _in_parts(self, parts: Sequence[Part], length: int) -> list[tuple[int, int]]:
        """The pieces that lie wholly inside one part, by their time in the recording."""
        told = [self.windows.meta(i) for i in range(len(self.windows))]
        times = [(one["recording"], float(one["onset_s"])) for one in told]
        ends: dict[str, float] = {}
        for recording, onset_s in times:
            end_s = onset_s + length / self.sfreq_hz
            ends[recording] = max(ends.get(recording, 0.0), end_s)
        bounds: dict[str, list[tuple[float, float]]] = {}
        for part in parts:
            bounds.setdefault(part.recording, []).append((part.start, part.stop))
        slack, kept = 0.5 / self.sfreq_hz, []
        for i, start in self.index:
            recording, onset_s = times[i]
            begin = onset_s + start / self.sfreq_hz
            end = begin + self.sequence_length / self.sfreq_hz
            if any(
                low * ends[recording] - slack <= begin and end <= high * ends[recording] + slack
                for low, high in bounds[recording]
            ):
                kept.append((i, start))
        return kept

    def __len__(self) -> int:
        return len(self.index)

    def recording(self, number: int) -> str:
        """Id of the recording that piece `number` is of; reads no signal."""
        return self.windows.meta(self.index[number][0])["recording"]

    def __getitem__(self, number: int) -> Piece:
        at, start = self.index[number]
        window: PairedWindow = self.windows[at]
        part = slice(start, start + self.sequence_length)
        return Piece(
            window.eeg[:, part], window.meg[:, part], self.windows.montage(at), window.recording,
            window.subject, self.groups[window.recording],
            window.onset_s + start / self.sfreq_hz, window.label if start == 0 else None,
        )  # fmt: skip


class Collate:
    """Pieces -> the model's arguments. Pickles, so that loader processes can use it."""

    def __init__(self, processor: BrainformerProcessor):
        self.processor = processor

    def __call__(self, pieces: Sequence[Piece]) -> dict[str, torch.Tensor]:
        montages = [piece.montage for piece in pieces]
        return dict(
            self.processor(
                [piece.eeg for piece in pieces],
                [montage.eeg_positions_m for montage in montages],
                [montage.meg_positions_m for montage in montages],
                [montage.meg_orientations for montage in montages],
                [montage.meg_types for montage in montages],
                meg=[piece.meg for piece in pieces],
            )
        )


@dataclass(frozen=True)
class BatchPlan:
    """Which samples this rank reads in each micro-batch of the run; a batch sampler.

    samples: of the data set; micro: samples of a micro-batch; steps: of the run; accumulation:
    micro-batches of a step on each rank.
    """

    samples: int
    micro: int
    accumulation: int
    rank: int
    world: int
    steps: int
    seed: int

    @property
    def global_batch(self) -> int:
        return self.micro * self.accumulation * self.world

    def __len__(self) -> int:
        return self.steps * self.accumulation

    def __iter__(self) -> Iterator[list[int]]:
        for number in range(len(self)):
            first = (number * self.world + self.rank) * self.micro
            yield [self.sample_at(place) for place in range(first, first + self.micro)]

    def sample_at(self, place: int) -> int:
        """The sample at a place of the endless stream of passes over the data."""
        number, at = divmod(place, self.samples)
        return int(order_of_pass(self.seed, number, self.samples)[at])


@lru_cache(maxsize=2)
def order_of_pass(seed: int, number: int, samples: int) -> np.ndarray:
    """The order of pass `number` over `samples` samples, int64 `[samples]`."""
    return np.random.default_rng([seed, number]).permutation(samples)
