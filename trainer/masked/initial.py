"""What a run of the masked autoencoder starts from, whether shards and weights fit it, and the
batch by which its weights are known again.

The batch is fixed and made from nothing: its loss is written into each checkpoint and must come out
of the converted weights again. It needs no shards, so a conversion can be proved anywhere.
"""

from __future__ import annotations

from collections.abc import Callable

import torch

from data.batches.batch import Batch
from data.errors import InputError
from data.shards.manifest import Manifest
from model.autoencoder import MaskedVAE, normal_noise
from model.config import ModelConfig, with_new_fields
from model.tokens import grid_positions
from trainer.checkpoints.weights import load_state
from trainer.engine.task import Plan
from trainer.masked.draw import DrawMasks

PARITY_SEED = 12_345
CHANNELS, PATCHES, SAMPLES = 8, 8, 4


def check_fit(model: ModelConfig, manifest: Manifest, where: str) -> None:
    """Whether a model can take a folder's windows."""
    rate = manifest.profile["sfreq_hz"]
    if rate != model.sfreq_hz:
        raise InputError(
            f"preset {model.preset} is made for {model.sfreq_hz:g} Hz, {where} holds {rate:g} Hz",
            f"pack with another --profile, take another --preset, or --model sfreq_hz={rate:g}",
        )
    for shard in manifest.shards:
        tokens = model.token_count(shard.channels, shard.window_samples)
        if tokens < 2:
            raise InputError(
                f"{where}/{shard.file}: windows of {shard.window_samples} samples give {tokens} "
                f"token(s) of {model.patch_samples} samples",
                "pack longer windows (--window_s), or set --model patch_samples=SMALLER",
            )


def initial_model(
    plan: Plan, config: ModelConfig, fresh: bool = True, say: Callable[[str], None] = print
) -> MaskedVAE:
    """A model with weights drawn from the run's seed, or taken from `--init`; not `fresh`: a
    checkpoint's will replace them, so `--init` is not read and may be gone."""
    model = MaskedVAE(config, plan.config.seed)
    if plan.config.init and fresh:
        state, meta = load_state(plan.config.init)
        for line in check_initial(plan, model, state, meta):
            say(f"init: {line}")
        model.load_state_dict(state, strict=meta["part"] == "whole")
    return model


# Another value of these may leave the weights' shapes as they are, and makes nonsense of them.
OF_ENCODER = ("tokens", "sfreq_hz", "patch_samples", "heads")
OF_DECODER = ("decoder_heads", "decoder_input", "baseline")


def check_initial(plan: Plan, model: MaskedVAE, state: dict, meta: dict) -> list[str]:
    """InputError where the weights of `--init` are not this model's; what to tell of them."""
    init, own, theirs = plan.config.init, model.state_dict(), with_new_fields(meta["model"])
    remedy = f"it was trained as {theirs['preset']}: give the same --preset and --model"
    if bad := [n for n, x in state.items() if n not in own or own[n].shape != x.shape]:
        raise InputError(f"--init {init}: {bad[0]} does not fit this model", remedy)
    wanted = [n for n in own if meta["part"] == "whole" or n.startswith("encoder.")]
    if lacking := [name for name in wanted if name not in state]:
        raise InputError(
            f"--init {init}: {len(lacking)} weights are missing, as {lacking[0]}",
            "the file is not whole, or of another version: convert the run again",
        )
    ours = model.config.as_dict()
    for name in OF_ENCODER + (OF_DECODER if meta["part"] == "whole" else ()):
        if name in theirs and theirs[name] != ours[name]:
            raise InputError(
                f"--init {init}: its {name} is {theirs[name]}, this model's {ours[name]}",
                f"--model {name}={theirs[name]}",
            )
    signal, profile = meta["signal"], plan.manifest.profile
    return [
        f"trained on EEG with {key} {signal[key]}, these shards have {profile[key]}"
        for key in sorted({*signal} & {*profile} - {"name", "window_samples", "window_s"})
        if signal[key] != profile[key]
    ]


def parity_batch(config: ModelConfig) -> list[Batch]:
    """A batch of 4 windows with 8 channels and 8 patches: cumulated noise at fixed places."""
    noise = normal_noise(
        PARITY_SEED, torch.arange(SAMPLES), (CHANNELS, PATCHES * config.patch_samples)
    )
    eeg = noise.cumsum(-1)
    eeg = (eeg - eeg.mean(-1, keepdim=True)) / eeg.std(-1, keepdim=True)
    return [DrawMasks(config, PARITY_SEED)(Batch.of(eeg, grid_positions(CHANNELS)))]


@torch.no_grad()
def parity_loss(model, device: torch.device) -> float:
    """The reconstruction error on the fixed batch, latents at their means. `model` is a MaskedVAE
    or the engine around one; every rank must call it."""
    module: MaskedVAE = getattr(model, "module", model)
    training = module.training
    module.eval()
    batches = [batch.to(device) for batch in parity_batch(module.config)]
    loss = model(batches, 0.0, PARITY_SEED).terms["error"].item()
    module.train(training)
    return loss
