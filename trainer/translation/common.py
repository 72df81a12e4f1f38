"""Recordings with unlike channels, brought to one order by name: what linear maps need.

Electrodes: all of the training recordings; one that a recording lacks counts as zero. MEG sensors:
those that all training recordings have; others are predicted as zero and counted in the report.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from data.batches.pairs import PairedMontage
from data.errors import InputError
from trainer.translation.pieces import Piece

EEG_SCALE = "eeg"


@dataclass(frozen=True)
class Common:
    """Channel names that a linear map works on, the sensors' mean places, and the scales."""

    eeg_names: tuple[str, ...]
    meg_names: tuple[str, ...]
    meg_types: tuple[str, ...]
    scales: Mapping[str, float]

    @property
    def meg_scale(self) -> np.ndarray:
        return np.array([self.scales[kind] for kind in self.meg_types])

    def eeg(self, piece: Piece) -> np.ndarray:
        """`[eeg_names, T]` float32, scaled units, zero where the piece has no such electrode."""
        out = np.zeros((len(self.eeg_names), piece.eeg.shape[1]), np.float32)
        rows, found = _rows(self.eeg_names, piece.montage.eeg_names)
        out[rows] = piece.eeg[found] / self.scales[EEG_SCALE]
        return out

    def meg(self, piece: Piece) -> np.ndarray:
        """`[meg_names, T]` float32, scaled units."""
        rows, found = _rows(self.meg_names, piece.montage.meg_names)
        out = np.zeros((len(self.meg_names), piece.meg.shape[1]), np.float32)
        out[rows] = piece.meg[found] / self.meg_scale[rows][:, None]
        return out

    def to_montage(self, prediction: np.ndarray, montage: PairedMontage) -> np.ndarray:
        """`[meg_names, T]` scaled -> `[Ct, T]` scaled, in the order of `montage`."""
        out = np.zeros((len(montage.meg_names), prediction.shape[1]))
        rows, found = _rows(montage.meg_names, self.meg_names)
        out[rows] = prediction[found]
        return out


def find_common(montages: Sequence[PairedMontage], scales: Mapping[str, float]) -> Common:
    """InputError where no MEG sensor is in all montages."""
    eeg = list(dict.fromkeys(name for montage in montages for name in montage.eeg_names))
    shared = set.intersection(*(set(montage.meg_names) for montage in montages))
    kinds = dict(zip(montages[0].meg_names, montages[0].meg_types, strict=True))
    meg = [name for name in montages[0].meg_names if name in shared]
    if not meg:
        raise InputError(
            "no MEG channel is in all training recordings", "pack recordings of one MEG system"
        )
    return Common(tuple(eeg), tuple(meg), tuple(kinds[name] for name in meg), scales)


def sensor_stack(montages: Sequence[PairedMontage], common: Common) -> dict[str, np.ndarray]:
    """Places and directions of the common channels in each of N montages, `[N, C, ..]` float32: the
    model's arguments. An electrode that a montage lacks is put at its mean place in the others."""
    eeg = _stack(common.eeg_names, [(m.eeg_names, m.eeg_positions_m) for m in montages])
    meg = _stack(
        common.meg_names,
        [
            (m.meg_names, np.concatenate([m.meg_positions_m, m.meg_orientations], axis=1))
            for m in montages
        ],
    )
    return {
        "eeg_positions_m": eeg,
        "meg_positions_m": meg[..., :3],
        "meg_orientations": meg[..., 3:],
    }


def _stack(names: Sequence[str], tables) -> np.ndarray:
    """(names, rows) of each montage -> `[N, len(names), columns]`, missing rows their mean."""
    out = np.full((len(tables), len(names), tables[0][1].shape[1]), np.nan, np.float32)
    for table, (there, rows) in zip(out, tables, strict=True):
        to, found = _rows(names, there)
        table[to] = rows[found]
    return np.where(np.isnan(out), np.nanmean(out, axis=0), out)


def scaled_samples(
    pieces: Iterable[Piece], common: Common
) -> Iterator[tuple[str, np.ndarray, np.ndarray]]:
    """(group, eeg, meg) in scaled units, for `ridge.group_moments`."""
    for piece in pieces:
        yield piece.group, common.eeg(piece), common.meg(piece)


def _rows(wanted: Sequence[str], there: Sequence[str]) -> tuple[list[int], list[int]]:
    """(rows of `wanted`, rows of `there`) with the same names."""
    at = {name: row for row, name in enumerate(there)}
    pairs = [(row, at[name]) for row, name in enumerate(wanted) if name in at]
    return [row for row, _ in pairs], [row for _, row in pairs]
