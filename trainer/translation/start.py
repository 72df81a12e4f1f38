"""From a run's settings to a model that is ready to train: data, split, scales, ridge start."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from data.batches.pairs import PairedMontage, PairedWindows, require_pairs
from data.errors import InputError, did_you_mean
from data.shards.manifest import Manifest, read_manifest
from model.brainformer import BrainformerForEEG2MEG, BrainformerProcessor
from model.brainformer.processing_brainformer import meg_number
from trainer.translation.common import Common, find_common, scaled_samples, sensor_stack
from trainer.translation.pieces import Pieces
from trainer.translation.ridge import Linear, Moments, fit_ridge, group_moments
from trainer.translation.splits import Part, Split, make_split
from trainer.translation.validate import spread

MEG_TYPES = ("mag", "grad")
SCALE_PIECES = 200
TIME_FOLDS = 4
START_MONTAGES = 32


@dataclass(frozen=True)
class Data:
    """The paired folder, split."""

    folder: Path
    split: Split
    train: Pieces
    validation: Pieces


def open_data(folder: str | Path, rule: str, sequence_length: int) -> Data:
    """InputError for a folder without pairs, an impossible split, windows that are too short."""
    manifest = read_manifest(folder)
    require_pairs(manifest)
    split = make_split(rule, manifest.recordings)
    train = open_pieces(manifest, split.train, sequence_length, "training")
    validation = open_pieces(manifest, split.validation, sequence_length, "validation")
    return Data(Path(folder), split, train, validation)


def open_pieces(manifest: Manifest, parts: Sequence[Part], sequence_length: int, name: str):
    windows = PairedWindows(manifest, recordings=sorted({part.recording for part in parts}))
    return Pieces(windows, parts, sequence_length, name)


def montages_of(pieces: Pieces) -> list[PairedMontage]:
    """The montages of these pieces' recordings, each once, in order."""
    found = {}
    for window in dict.fromkeys(window for window, _ in pieces.index):
        montage = pieces.windows.montage(window)
        found.setdefault(montage_key(montage), montage)
    return list(found.values())


def montage_key(montage: PairedMontage) -> tuple:
    """Equal for equal montages."""
    return montage.eeg_names, montage.meg_names, montage.meg_positions_m.tobytes()


def fit_processor(pieces: Pieces, model_config) -> BrainformerProcessor:
    """Scales of training pieces, spread over all of them; one for each sensor type."""
    processor = BrainformerProcessor(
        quantizer_levels=model_config.quantizer_levels, quantizer_mu=model_config.quantizer_mu,
        quantizer_range=model_config.quantizer_range,
    )  # fmt: skip
    chosen = [pieces[number] for number in spread(len(pieces), SCALE_PIECES)]
    eeg = [piece.eeg.reshape(1, -1) for piece in chosen]
    for kind in sorted({kind for piece in chosen for kind in piece.montage.meg_types}):
        if kind not in MEG_TYPES:
            raise InputError(
                f"{chosen[0].recording}: unknown sensor type {kind!r}",
                f"{did_you_mean(kind, MEG_TYPES)} Known are {', '.join(MEG_TYPES)}.".strip(),
            )
        of_kind = [
            piece.meg[np.asarray(piece.montage.meg_types) == kind].reshape(1, -1)
            for piece in chosen
        ]
        try:
            processor.fit(eeg, of_kind, [kind])
        except ValueError as error:
            raise InputError(f"training recordings: {error}", "pack them again") from None
    return processor


def training_moments(pieces: Pieces, common: Common, lags: int) -> dict[str, Moments]:
    """Second moments of each training group; with one group only, of four blocks of its time, so
    that there is something to leave out."""
    samples = scaled_samples((pieces[number] for number in range(len(pieces))), common)
    if len(set(pieces.groups.values())) < 2:
        blocks = np.arange(len(pieces)) * TIME_FOLDS // len(pieces)
        samples = (
            (f"block {block}", eeg, meg)
            for block, (_, eeg, meg) in zip(blocks, samples, strict=True)
        )
    return group_moments(samples, lags)


def fit_linear(pieces: Pieces, processor: BrainformerProcessor, lags: int) -> tuple[Linear, Common]:
    """Ridge regression on the training pieces, in the processor's units."""
    common = find_common(montages_of(pieces), processor.scales)
    return fit_ridge(training_moments(pieces, common, lags), common.meg_types, lags), common


def start_from_ridge(
    model: BrainformerForEEG2MEG, pieces: Pieces, linear: Linear, common: Common
) -> float:
    """Set the model's linear map; returns the largest relative error that its form leaves."""
    montages = montages_of(pieces)
    chosen = [montages[number] for number in spread(len(montages), START_MONTAGES)]
    sensors = {
        name: torch.from_numpy(value) for name, value in sensor_stack(chosen, common).items()
    }
    sensors["meg_types"] = torch.tensor([meg_number(kind) for kind in common.meg_types])
    return model.init_skip_from_ridge(torch.from_numpy(linear.weights).float(), **sensors)
