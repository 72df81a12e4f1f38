"""The reconstruction figure of a training run: one held-out window, as TensorBoard shows it."""

from __future__ import annotations

import numpy as np
import torch

from data.batches.batch import Request
from data.batches.local import WindowDataset
from data.shards.manifest import Manifest
from model.autoencoder import MaskedVAE
from model.config import ModelConfig
from trainer.masked.draw import hidden_mask
from trainer.masked.validation import with_masks


def reconstruction_picture(
    model: MaskedVAE, config: ModelConfig, manifest: Manifest, device: torch.device
):
    """Ground truth, masked input and reconstruction of the middle validation window. Every rank
    must call it (ZeRO-3 gathers weights); the same window at every step."""
    # Here, since matplotlib costs every rank half a second where no figure is asked for.
    from trainer.reports.figures import reconstruction_figure

    dataset = WindowDataset(manifest, manifest.of_split("val"))
    number = np.array([len(dataset) // 2])
    [batch] = dataset[Request(number, number)]
    batch = with_masks(batch, dataset, config).to(device)
    hidden = hidden_mask(batch, config)
    whole = hidden.shape[2] * config.patch_samples
    training = model.training
    model.eval()
    prediction = model.reconstruct(batch.eeg, batch.positions_m, hidden)[0].cpu().numpy()
    model.train(training)
    truth = batch.eeg[0, :, :whole].cpu().numpy()
    hidden = hidden[0].cpu().numpy()
    shown = np.repeat(hidden, config.patch_samples, axis=1)
    meta = dataset.meta(int(number[0]))
    recording = next(r for r in manifest.recordings if r["id"] == meta["recording"])
    scale_uv = recording.get("scale_uv")
    unit, factor = ("µV", scale_uv) if scale_uv else ("robust units", 1.0)
    return reconstruction_figure(
        truth * factor,
        np.where(shown, np.nan, truth) * factor,
        prediction * factor,
        hidden,
        list(manifest.montages[recording["montage"]].channels),
        config.sfreq_hz,
        unit,
        f"{recording['id']}, held-out subject",
    )
