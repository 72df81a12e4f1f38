"""The reconstruction figure of a training run: one held-out window, as TensorBoard shows it."""

from __future__ import annotations

import numpy as np
import torch

from data.batches.batch import Request
from data.batches.local import WindowDataset
from model.autoencoder import MaskedVAE
from trainer.engine.plan import Plan
from trainer.masked.draw import DrawMasks, hidden_mask
from trainer.masked.validation import MASK_SEED


def reconstruction_picture(model: MaskedVAE, plan: Plan, device: torch.device):
    """Ground truth, masked input and reconstruction of the middle validation window. Every rank
    must call it (ZeRO-3 gathers weights); the same window at every step."""
    # Here, since matplotlib costs every rank half a second where no figure is asked for.
    from trainer.reports.figures import reconstruction_figure

    dataset = WindowDataset(
        plan.manifest, plan.manifest.of_split("val"), DrawMasks(plan.model, MASK_SEED)
    )
    number = np.array([len(dataset) // 2])
    batch = dataset[Request(number, number)][0].to(device)
    hidden = hidden_mask(batch, plan.model)
    whole = hidden.shape[2] * plan.model.patch_samples
    training = model.training
    model.eval()
    prediction = model.reconstruct(batch.eeg, batch.positions_m, hidden)[0].cpu().numpy()
    model.train(training)
    truth = batch.eeg[0, :, :whole].cpu().numpy()
    hidden = hidden[0].cpu().numpy()
    shown = np.repeat(hidden, plan.model.patch_samples, axis=1)
    meta = dataset.meta(int(number[0]))
    recording = next(r for r in plan.manifest.recordings if r["id"] == meta["recording"])
    scale_uv = recording.get("scale_uv")
    unit, factor = ("µV", scale_uv) if scale_uv else ("robust units", 1.0)
    return reconstruction_figure(
        truth * factor,
        np.where(shown, np.nan, truth) * factor,
        prediction * factor,
        hidden,
        list(plan.manifest.montages[recording["montage"]].channels),
        plan.model.sfreq_hz,
        unit,
        f"{recording['id']}, held-out subject",
    )
