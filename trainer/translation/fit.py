"""What a run starts from: paired shards and their division, scales and ridge start of the training
recordings, the model's first weights."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from data.batches.pairs import PairedMontage, PairedWindows, require_pairs
from data.errors import InputError, did_you_mean
from data.shards.manifest import Manifest
from data.spacing import evenly
from data.subjects.holdout import Part, Split, make_split
from data.subjects.trained_on import subjects_of
from model.brainformer import BrainformerConfig, BrainformerForEEG2MEG, BrainformerProcessor
from model.brainformer.processing_brainformer import meg_number
from trainer.checkpoints.run_folder import ROOT
from trainer.checkpoints.weights import load_state
from trainer.translation.common import Common, find_common, scaled_samples, sensor_stack
from trainer.translation.pieces import Pieces
from trainer.translation.ridge import Linear, Moments, fit_ridge, group_moments

MEG_TYPES = ("mag", "grad")
SCALE_PIECES = 200
TIME_FOLDS = 4
START_MONTAGES = 32


def simulated_folder(source: str, sequence_length: int) -> Path:
    """Where the pairs of `--simulated` lie; another one for another length."""
    name = re.sub(r"[^A-Za-z0-9=+._-]+", "-", source)
    return Path("runs") / "pairs" / f"{name}-{sequence_length}"


def pack_simulated(source: str, sequence_length: int, folder: Path) -> None:
    """`data/pack.py`, as a user would start it: its workers must not be forks of a rank. Half a
    minute, the first time."""
    print(f"no --shards: simulating pairs ({source}) into {folder}", flush=True)
    words = ["--source", source, "--profile", "eeg2meg", "--out", str(folder)]
    if sequence_length != 256:
        words += ["--window_s", repr(sequence_length / 250.0)]
    command = [sys.executable, str(ROOT / "data" / "pack.py"), *words]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise InputError(f"--simulated {source}: {done.stderr.strip()}")


@dataclass(frozen=True)
class Data:
    """The paired folder, divided."""

    split: Split
    train: Pieces
    validation: Pieces


def open_data(manifest: Manifest, rule: str, sequence_length: int) -> Data:
    """InputError for a folder without pairs, an impossible rule, windows that are too short."""
    require_pairs(manifest)
    split = make_split(rule, manifest.recordings)
    train = open_pieces(manifest, split.train, sequence_length, "training")
    validation = open_pieces(manifest, split.validation, sequence_length, "validation")
    return Data(split, train, validation)


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
    chosen = [piece for _, piece in pieces.finite(evenly(len(pieces), SCALE_PIECES).tolist())]
    if not chosen:
        raise InputError("training recordings: no window is finite", "pack them again")
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
    one_group = len(set(pieces.groups.values())) < 2

    def samples():
        for number, piece in pieces.finite(range(len(pieces))):
            ((group, eeg, meg),) = scaled_samples([piece], common)
            block = f"block {number * TIME_FOLDS // len(pieces)}"
            yield block if one_group else group, eeg, meg

    return group_moments(samples(), lags)


def fit_linear(pieces: Pieces, scales: dict[str, float], lags: int) -> tuple[Linear, Common]:
    """Ridge regression on the training pieces, in scaled units."""
    common = find_common(montages_of(pieces), scales)
    return fit_ridge(training_moments(pieces, common, lags), common.meg_types, lags), common


def start_from_ridge(
    model: BrainformerForEEG2MEG, pieces: Pieces, linear: Linear, common: Common
) -> float:
    """Set the model's linear map; returns the largest relative error that its form leaves."""
    montages = montages_of(pieces)
    chosen = [montages[number] for number in evenly(len(montages), START_MONTAGES)]
    sensors = {
        name: torch.from_numpy(value) for name, value in sensor_stack(chosen, common).items()
    }
    sensors["meg_types"] = torch.tensor([meg_number(kind) for kind in common.meg_types])
    return model.init_skip_from_ridge(torch.from_numpy(linear.weights).float(), **sensors)


# ---- the model -----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Encoder:
    """A pretrained EEG encoder: weights under the names of `EegEncoderModel`, and the settings that
    `BrainformerConfig.eeg_encoder` keeps."""

    state: dict[str, torch.Tensor]
    settings: dict


def read_encoder(path: str, sfreq_hz: float) -> Encoder:
    """A run of trainer/pretrain.py, a file or folder of trainer/convert.py. InputError where it was
    trained at another sampling rate."""
    if (Path(path) / "model.safetensors").is_file():
        from model.eeg_encoder import EegEncoderModel

        try:
            found = EegEncoderModel.from_pretrained(path)
        except (OSError, ValueError, RuntimeError) as error:
            raise InputError(f"--encoder {path}: {error}", "convert it again") from None
        told = found.config
        state, vae, signal, people = found.state_dict(), told.vae, told.signal, told.trained_on
        recordings = told.trained_recordings
    else:
        whole, meta = load_state(path)
        state = {name: value for name, value in whole.items() if name.startswith("encoder.")}
        vae, signal, people = meta["model"], meta["signal"], meta["trained_on"]
        recordings = people.get("recordings")
    if vae["sfreq_hz"] != sfreq_hz:
        raise InputError(
            f"--encoder {path}: trained at {vae['sfreq_hz']:g} Hz, the pairs have {sfreq_hz:g}",
            "pack the pairs with  --profile eeg2meg_200  for an encoder of the default profile",
        )
    settings = {"vae": vae, "signal": signal, "trained_on": subjects_of(people)}
    return Encoder(state, settings | {"trained_recordings": recordings})


def new_model(
    config: BrainformerConfig, seed: int, encoder: Encoder | None, freeze: bool
) -> BrainformerForEEG2MEG:
    """Weights drawn from the seed, but for a pretrained encoder's; `freeze` leaves those as they
    are."""
    torch.manual_seed(seed)
    model = BrainformerForEEG2MEG(config)
    if encoder is not None:
        own = model.brainformer.pretrained.encoder
        own.load_state_dict(encoder.state)
        own.requires_grad_(not freeze)
    return model


@dataclass(frozen=True)
class Fitted:
    """What the training recordings say before the first step. `linear`: the linear map's weights,
    under their names in the model; none where it starts at zero."""

    processor: BrainformerProcessor
    linear: dict[str, torch.Tensor]
    notes: dict


def fit(pieces: Pieces, model: BrainformerForEEG2MEG, linear_start: str) -> Fitted:
    """Scales, and with `linear_start` "ridge" the ridge solution; `model` is set to start there."""
    processor = fit_processor(pieces, model.config)
    notes: dict = {"linear_start": linear_start, "scales": processor.scales}
    if model.skip is None or linear_start != "ridge":
        return Fitted(processor, {}, notes)
    linear, common = fit_linear(pieces, processor.scales, model.config.skip_lags)
    notes["ridge"] = linear.chosen
    notes["start_error"] = start_from_ridge(model, pieces, linear, common)
    weights = {name: x for name, x in model.state_dict().items() if name.startswith("skip.")}
    return Fitted(processor, weights, notes)
