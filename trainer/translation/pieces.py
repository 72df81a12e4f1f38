"""Paired windows cut to one length, and the batches made of them.

A piece is what the model sees at once: `sequence_length` samples of a window. Pieces are numbered
in the order of their shards, by which the loop's training order names them.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import groupby

import numpy as np
import torch

from data.batches.batch import Batch, Request
from data.batches.order import Block
from data.batches.pairs import PairedMontage, PairedWindow, PairedWindows
from data.errors import InputError
from data.shards.manifest import ShardEntry
from data.subjects.holdout import Part
from model.brainformer import BrainformerProcessor


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

    @property
    def finite(self) -> bool:
        return bool(np.isfinite(self.eeg).all() and np.isfinite(self.meg).all())


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
        length = windows[0].eeg.shape[1]
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
                f"no {name} windows of {sequence_length} samples in "
                f"{', '.join(sorted(self.groups))}",
                "use a shorter --sequence_length, or another --holdout",
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

    def finite(self, numbers: Sequence[int]) -> Iterator[tuple[int, Piece]]:
        """Those of these pieces, with their numbers, whose every value is finite."""
        for number in numbers:
            piece = self[number]
            if piece.finite:
                yield number, piece

    def shard(self, number: int) -> ShardEntry:
        """The shard that piece `number` lies in."""
        return self.windows.shard(self.index[number][0])

    @cached_property
    def shards(self) -> list[ShardEntry]:
        """Those that hold the pieces, in their order."""
        return list(dict.fromkeys(map(self.shard, range(len(self)))))

    @cached_property
    def blocks(self) -> tuple[Block, ...]:
        """The pieces as the training order takes them: those of one shard after the other."""
        return tuple(
            Block(
                sum(1 for _ in same), shard.dataset, shard.montage, shard.channels,
                self.sequence_length,
            )
            for shard, same in groupby(map(self.shard, range(len(self))))
        )  # fmt: skip


def arguments_of(pieces: Sequence[Piece], processor: BrainformerProcessor) -> dict:
    """The model's arguments for these pieces; padded, with masks, where their montages differ."""
    montages = [piece.montage for piece in pieces]
    return dict(
        processor(
            [piece.eeg for piece in pieces],
            [montage.eeg_positions_m for montage in montages],
            [montage.meg_positions_m for montage in montages],
            [montage.meg_orientations for montage in montages],
            [montage.meg_types for montage in montages],
            meg=[piece.meg for piece in pieces],
        )
    )


class PieceBatches(torch.utils.data.Dataset):
    """Requests -> batches in the processor's units, as the loop trains on (`TrainingWindows`).

    Always one batch: recordings of unlike montages are padded to one, so that all ranks call the
    model equally often. MEG and its sensors are `targets`; of pieces that are not finite what is
    not counts as zero, and `finite` says which they are.
    """

    def __init__(self, pieces: Pieces, processor: BrainformerProcessor):
        self.pieces, self.processor = pieces, processor
        self.manifest, self.shards = pieces.windows.manifest, pieces.shards
        self.dataset_names = sorted({shard.dataset for shard in self.shards})

    def __len__(self) -> int:
        return len(self.pieces)

    @property
    def window_bytes(self) -> int:
        """Of the largest piece in a batch, EEG and MEG in float32."""
        channels = max(shard.channels + shard.meg_channels for shard in self.shards)
        return 4 * channels * self.pieces.sequence_length

    def name(self, window: int) -> tuple[ShardEntry, str]:
        """The shard of a piece, and the key of its window there."""
        return self.pieces.shard(window), self.pieces.windows.key(self.pieces.index[window][0])

    def __getitem__(self, request: Request) -> list[Batch]:
        chosen = [self.pieces[number] for number in request.window.tolist()]
        finite = [piece.finite for piece in chosen]
        if not all(finite):
            chosen = [_zeroed(piece) for piece in chosen]  # the finite ones stay as they are
        found = arguments_of(chosen, self.processor)
        names = [self.pieces.shard(number).dataset for number in request.window.tolist()]
        batch = Batch(
            eeg=found.pop("eeg"),
            positions_m=found.pop("eeg_positions_m"),
            channel_mask=found.pop("eeg_mask", None),
            order_index=torch.from_numpy(request.order_index.astype(np.int64)),
            window=torch.from_numpy(request.window.astype(np.int64)),
            dataset=torch.tensor([self.dataset_names.index(name) for name in names]),
            finite=torch.tensor(finite),
            targets=found,
        )
        return [batch]


def model_arguments(batch: Batch) -> dict[str, torch.Tensor]:
    """A batch of `PieceBatches` as `BrainformerForEEG2MEG` is called."""
    masks = {} if batch.channel_mask is None else {"eeg_mask": batch.channel_mask}
    return {"eeg": batch.eeg, "eeg_positions_m": batch.positions_m, **masks, **batch.targets}


def with_sensors(arguments: dict, rows: np.ndarray) -> dict:
    """The model's arguments with some of their MEG sensors."""
    names = ("meg_positions_m", "meg_orientations", "meg_types", "meg_mask", "labels")
    index = torch.from_numpy(rows).to(arguments["meg_types"].device)
    chosen = {name: arguments[name][:, index] for name in names if name in arguments}
    if "meg_mask" in chosen and not chosen["meg_mask"].any(1).all():
        return arguments  # a recording with few sensors, none of which was drawn
    return {**arguments, **chosen}


def _zeroed(piece: Piece) -> Piece:
    """With zeros in place of NaN and infinity."""
    clean = {"nan": 0.0, "posinf": 0.0, "neginf": 0.0}
    return replace(
        piece, eeg=np.nan_to_num(piece.eeg, **clean), meg=np.nan_to_num(piece.meg, **clean)
    )
