"""One fixed batch, made from nothing: its loss is written into each checkpoint and must come out of
the converted weights again. It needs no shards, so a conversion can be proved anywhere."""

from __future__ import annotations

import torch

from data.batches.batch import Batch
from model.autoencoder import MaskedVAE, normal_noise
from model.config import ModelConfig
from model.tokens import grid_positions
from trainer.masked.draw import DrawMasks

SEED = 12_345
CHANNELS, PATCHES, SAMPLES = 8, 8, 4


def parity_batch(config: ModelConfig) -> list[Batch]:
    """A batch of 4 windows with 8 channels and 8 patches: cumulated noise at fixed places."""
    noise = normal_noise(SEED, torch.arange(SAMPLES), (CHANNELS, PATCHES * config.patch_samples))
    eeg = noise.cumsum(-1)
    eeg = (eeg - eeg.mean(-1, keepdim=True)) / eeg.std(-1, keepdim=True)
    return [DrawMasks(config, SEED)(Batch.of(eeg, grid_positions(CHANNELS)))]


@torch.no_grad()
def parity_loss(model, device: torch.device) -> float:
    """The reconstruction error on the fixed batch, latents at their means. `model` is a MaskedVAE
    or the engine around one; every rank must call it."""
    module: MaskedVAE = getattr(model, "module", model)
    training = module.training
    module.eval()
    batches = [batch.to(device) for batch in parity_batch(module.config)]
    loss = model(batches, 0.0, SEED).terms["error"].item()
    module.train(training)
    return loss
