"""The model that a run starts from: drawn weights, a pretrained encoder, scales and ridge start."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import torch

from data.errors import InputError
from data.subjects.trained_on import subjects_of
from model.brainformer import BrainformerForEEG2MEG, BrainformerProcessor
from trainer.checkpoints.weights import load_state
from trainer.ranks.ranks import Ranks, together
from trainer.translation.config import TranslationConfig
from trainer.translation.start import (
    Data,
    fit_linear,
    fit_processor,
    montages_of,
    start_from_ridge,
)


@dataclass(frozen=True)
class Fitted:
    """What is fitted to the training recordings before the first step, on the first rank."""

    processor: BrainformerProcessor
    weights: dict[str, torch.Tensor]
    notes: dict


def fit(config: TranslationConfig, data: Data, ranks: Ranks, fresh: bool) -> Fitted | None:
    """Scales and ridge solution from the training recordings, on the first rank; a run that goes on
    takes them from its folder."""
    found = None
    with together(ranks):
        if ranks.first and not fresh:
            best = Path(config.run) / "best"
            try:
                processor = BrainformerProcessor.from_pretrained(best)
            except (OSError, ValueError, TypeError, KeyError) as error:
                raise InputError(
                    f"{best}: its scales cannot be read ({error})",
                    "restore it from a copy, or give another --run",
                ) from None
            notes = json.loads((Path(config.run) / "config.json").read_text())["start"]
            found = Fitted(processor, {}, notes)
        elif ranks.first:
            model = new_model(config, data)
            processor = fit_processor(data.train, model.config)
            notes: dict = {"init": config.init, "scales": processor.scales}
            if model.skip is not None and config.init == "ridge":
                linear, common = fit_linear(data.train, processor, config.lags)
                notes["ridge"] = linear.chosen
                notes["start_error"] = start_from_ridge(model, data.train, linear, common)
            found = Fitted(processor, dict(model.state_dict()), notes)
    return found


def new_model(config: TranslationConfig, data: Data) -> BrainformerForEEG2MEG:
    """Weights drawn from the run's seed."""
    montages = montages_of(data.train)
    n_eeg = max(len(montage.eeg_names) for montage in montages)
    n_meg = max(len(montage.meg_names) for montage in montages)
    torch.manual_seed(config.seed)
    if config.eeg_encoder is None:
        return BrainformerForEEG2MEG(config.model_config(n_eeg, n_meg))
    state, settings = read_encoder(config.eeg_encoder, data.train.sfreq_hz)
    model = BrainformerForEEG2MEG(config.model_config(n_eeg, n_meg, settings))
    model.brainformer.pretrained.encoder.load_state_dict(state)
    if config.freeze_encoder:
        model.brainformer.pretrained.encoder.requires_grad_(False)
    return model


def read_encoder(path: str, sfreq_hz: float) -> tuple[dict[str, torch.Tensor], dict]:
    """(weights, settings) of a pretrained EEG encoder: a run of trainer/pretrain.py, a file or
    folder of trainer/convert.py. InputError where it was trained at another sampling rate."""
    if (Path(path) / "model.safetensors").is_file():
        from model.hub import EegEncoderModel

        try:
            found = EegEncoderModel.from_pretrained(path)
        except (OSError, ValueError, RuntimeError) as error:
            raise InputError(f"--eeg_encoder {path}: {error}", "convert it again") from None
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
            f"--eeg_encoder {path}: trained at {vae['sfreq_hz']:g} Hz, the pairs have {sfreq_hz:g}",
            "pack the pairs with  --profile eeg2meg_200  for an encoder of the default profile",
        )
    settings = {"vae": vae, "signal": signal, "trained_on": subjects_of(people)}
    return state, settings | {"trained_recordings": recordings}


def build_model(config: TranslationConfig, data: Data, weights: dict | None):
    model = new_model(config, data)
    if weights is not None:
        model.load_state_dict(weights)
    return model
