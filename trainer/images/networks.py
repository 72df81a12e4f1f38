"""The trunk of a run: which network reads a trial, with what it starts from."""

from __future__ import annotations

import numpy as np
import torch
from torch import nn

from data.errors import InputError
from data.shards.manifest import Manifest
from data.subjects.trained_on import subjects_of
from model.config import ModelConfig, from_dict
from model.images.encoder_trunk import EncoderTrunk
from model.images.trunks import ConvTrunk, FlatTrunk
from model.networks import Encoder
from trainer.checkpoints.lora import add_lora
from trainer.checkpoints.weights import load_model
from trainer.images.config import ImagesConfig, window_s
from trainer.images.guards import refuse_whitened
from trainer.images.trials import Trials

WHITENING_TRIALS = 8192
LEAST_VARIANCE = 1e-6
"""Of the largest: below, a direction is the average reference's, and is left out."""


def encoder_of(
    config: ImagesConfig, manifest: Manifest, where: str
) -> tuple[Encoder | None, dict[str, list[str]]]:
    """The encoder of --init, and the people that it was trained on by data set, of whom a twin
    knows nobody. InputError where it cannot take the folder's trials."""
    if config.trunk != "encoder":
        return None, {}
    model, meta = load_model(config.init, need="encoder")
    rate_hz = manifest.profile["sfreq_hz"]
    if from_dict(meta["model"]).tokens != "channel":
        raise InputError(f"{config.init}: its tokens mix channels", "give one of channel tokens")
    refuse_whitened(manifest, where, str(config.init), meta["signal"])
    if from_dict(meta["model"]).sfreq_hz != rate_hz:
        raise InputError(
            f"the encoder {config.init} reads {meta['model']['sfreq_hz']:g} Hz, {where} holds "
            f"{rate_hz:g} Hz",
            "pack the raw recordings with the encoder's --profile",
        )
    return model.encoder, {} if config.from_scratch else subjects_of(meta["trained_on"])


def describe_trunk(
    config: ImagesConfig, trials: Trials, where: str, people: int, encoder: Encoder | None
) -> dict:
    """What `build_trunk` needs: JSON. InputError for a window outside the trials, or trials that
    are not alike."""
    manifest, channels = trials.manifest, len(trials.montage.channels)
    lengths = {shard.window_samples for shard in manifest.shards}
    if len(lengths) > 1:
        raise InputError(f"{where}: trials of several lengths", "pack events of one length")
    (samples,), profile = lengths, manifest.profile
    rate_hz, begin_s = profile["sfreq_hz"], profile["event_tmin_s"]
    span = (
        f"trials of {where} span {1000 * begin_s:g} to {1000 * (begin_s + samples / rate_hz):g} ms"
    )
    if config.before_onset and begin_s >= 0:
        raise InputError(f"--before_onset: {span}", "this control needs the raw recordings, packed")
    window = (begin_s, 0.0) if config.before_onset else window_s(config.window_ms)
    first, last = (round((s - begin_s) * rate_hz) for s in window)
    if not 0 <= first < last <= samples:
        raise InputError(f"--window_ms {config.window_ms}: {span}", "choose a window inside")
    found = {"kind": config.trunk, "channels": channels, "people": people, "sfreq_hz": rate_hz}
    if encoder is None:
        found |= {"first": first, "last": last}
    else:
        patch = encoder.config.patch_samples
        if last - first < patch:
            raise InputError(
                f"--window_ms {config.window_ms}: shorter than a patch of {patch} samples",
                "use --trunk aligned, or an encoder of shorter patches",
            )
        found |= {
            "first": -(-first // patch), "last": last // patch,
            "model": encoder.config.as_dict(), "frozen": config.encoder_mode == "frozen",
            "lora_rank": config.lora_rank if config.encoder_mode == "lora" else 0,
        }  # fmt: skip
    found["weights"] = sum(p.numel() for p in build_trunk(found).parameters())
    return found


def build_trunk(told: dict) -> nn.Module:
    """The network of a description, with first weights."""
    shape = told["channels"], told["people"], told["first"], told["last"]
    if told["kind"] == "flat":
        return FlatTrunk(*shape)
    if told["kind"] == "conv":
        return ConvTrunk(*shape, told["sfreq_hz"], aligned=False)
    if told["kind"] == "aligned":
        return ConvTrunk(*shape, told["sfreq_hz"], aligned=True)
    config: ModelConfig = from_dict(told["model"])
    return EncoderTrunk(config, *shape, told["frozen"])


def begin(
    trunk: nn.Module, white: torch.Tensor, encoder: Encoder | None, config: ImagesConfig
) -> None:
    """Give a trunk its whitening and, but for a twin, the encoder's weights, in place."""
    if encoder is None:
        trunk.whitened.white.copy_(white)
        return
    trunk.white.copy_(white)
    if not config.from_scratch:
        trunk.encoder.load_state_dict(encoder.state_dict())
    if config.encoder_mode == "frozen":
        trunk.encoder.requires_grad_(False)
    if config.encoder_mode == "lora":
        add_lora(trunk.encoder, config.lora_rank, config.seed)


def whitening(trials: Trials, rows: np.ndarray) -> torch.Tensor:
    """fp32 `[C, C]`, symmetric: these trials' channels become white; a direction without variance
    is left out."""
    chosen = rows[:: max(1, len(rows) // WHITENING_TRIALS)]
    total, samples = 0.0, 0
    for _, batch in trials.read_trials(chosen):
        eeg = batch.eeg.double()
        total = total + torch.einsum("bct,bdt->cd", eeg, eeg)
        samples += len(eeg) * eeg.shape[-1]
    values, vectors = torch.linalg.eigh(total / samples)
    used = values > LEAST_VARIANCE * values.max()
    root = torch.where(used, values.clamp_min(1e-300).rsqrt(), 0.0)
    return (vectors * root @ vectors.T).float()
