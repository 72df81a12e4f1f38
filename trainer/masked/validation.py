"""Masked correlation on held-out subjects during training, beside what interpolation gives and what
stays with the latents of another window: what the latents carry is the difference.

The windows are spread evenly over each subject's recordings, and a mask is a function of the
window's key. Both are the same at every validation, for every run on the same shards and for any
number of ranks: they do not depend on the run's seed. They are read once, at the
start, and kept (17 MB of host memory for 256 windows of 64 x 512, shared out over the ranks): a
damaged or non-finite one stops all ranks then, and not in the middle of a run.

`reconstruction_picture` draws one of them for TensorBoard.
"""

from __future__ import annotations

import numpy as np
import torch

from data.batches.batch import Batch, Request
from data.batches.local import WindowDataset
from data.batches.window_table import WindowTable
from data.shards.manifest import Manifest
from model.autoencoder import MaskedVAE
from model.config import ModelConfig
from model.interpolation import linear_fill, spline_fill
from model.losses import pearson
from model.tokens import take
from trainer.masked.draw import DrawMasks, hidden_mask
from trainer.masked.latent_spread import spread, spread_sums
from trainer.ranks.ranks import Ranks, mean_over_ranks, together

MASK_SEED = 20_000


def with_masks(batch: Batch, dataset: WindowDataset, config: ModelConfig) -> Batch:
    """Held-out windows with the masks that every validation gives them."""
    keys = [dataset.key(window) for window in batch.window.tolist()]
    return DrawMasks(config, MASK_SEED).draw(batch, keys)


class Validation:
    """A fixed set of held-out windows, shared out over the ranks. InputError on all ranks where one
    of them cannot be read or is not finite."""

    def __init__(
        self, manifest: Manifest, config: ModelConfig, windows: int, batch: int, ranks: Ranks
    ):
        self.config, self.ranks = config, ranks
        self.dataset = WindowDataset(manifest, manifest.of_split("val"))
        self.names = self.dataset.dataset_names
        with together(ranks):
            chosen = WindowTable.read(manifest, "val").spread(total=windows)
        # Two windows at least: one is given the other's latents.
        requests = self.dataset.requests(chosen, lambda channels, samples: max(2, batch))
        # Every rank runs as many forward passes (ZeRO-3 gathers weights in each): the last ones of
        # some ranks are repeats that count nothing.
        rounds = -(-len(requests) // ranks.world)
        mine = [index * ranks.world + ranks.rank for index in range(rounds)]
        self.counts = [index < len(requests) for index in mine]
        with together(ranks):
            self.batches = [self._read(requests[index % len(requests)]) for index in mine]
        self.baselines: dict[str, float] | None = None

    def _read(self, request: Request) -> list[Batch]:
        remedy = "pack this dataset again, or train without validation: --eval_every 0"
        return [with_masks(b, self.dataset, self.config)
                for b in self.dataset.checked(request, remedy)]  # fmt: skip

    def run(self, model: MaskedVAE, seed: int) -> dict[str, float]:
        """Error and r, r by dataset, r with the latents of another window, and how the latents vary
        over windows (trainer/masked/latent_spread.py); the first call adds r of the baselines on
        the same masks."""
        training = model.training
        model.eval()
        device = self.ranks.device
        totals = torch.zeros(6, len(self.names), dtype=torch.float64, device=device)
        error = torch.zeros(2, dtype=torch.float64, device=device)
        latent = torch.zeros(5, self.config.latent_dim, dtype=torch.float64, device=device)
        with torch.no_grad():
            for read, counts in zip(self.batches, self.counts, strict=True):
                batches = [batch.to(device) for batch in read]
                losses = model(batches, 0.0, seed)
                r = losses.per_window["r"]
                other_r = model(batches, 0.0, seed, other_latents=True).per_window["r"]
                datasets = torch.cat([batch.dataset for batch in batches])
                # A window that is alone in its batch has no other.
                paired = torch.cat(
                    [batch.window.new_full((len(batch),), len(batch) > 1) for batch in batches]
                )
                rows = [r, torch.ones_like(r), other_r * paired, paired]
                if self.baselines is None:
                    rows += [self._baseline_r(batches, fill) for fill in (spline_fill, linear_fill)]
                if counts:
                    for total, row in zip(totals, rows, strict=False):
                        total.index_add_(0, datasets, row.double())
                    error += torch.stack([losses.terms["error"] * len(r), r.new_tensor(len(r))])
                    for batch, means in zip(batches, losses.latent_means, strict=True):
                        tokens = batch.keep.shape[1] + batch.hide.shape[1]
                        latent += spread_sums(means, batch.keep, tokens)
        model.train(training)
        totals = mean_over_ranks(totals, self.ranks).cpu()
        error = mean_over_ranks(error, self.ranks).cpu()
        latent = mean_over_ranks(latent, self.ranks).cpu()
        if self.baselines is None:
            self.baselines = {
                f"r_{name}": (totals[row].sum() / totals[1].sum()).item()
                for row, name in ((4, "spline"), (5, "linear"))
            }
        values = {
            "error": (error[0] / error[1]).item(),
            "r": (totals[0].sum() / totals[1].sum()).item(),
        }
        for index, name in enumerate(self.names):
            values[f"r/{name}"] = (totals[0, index] / totals[1, index].clamp_min(1e-9)).item()
        if totals[3].sum() > 0:
            values["r_other_latents"] = (totals[2].sum() / totals[3].sum()).item()
        return {**values, **spread(latent), **self.baselines}

    def _baseline_r(self, batches: list[Batch], fill) -> torch.Tensor:
        found = []
        for batch in batches:
            hidden = hidden_mask(batch, self.config)
            whole = hidden.shape[2] * self.config.patch_samples
            eeg = batch.eeg[..., :whole]
            filled = fill(eeg, batch.positions_m, hidden)
            # A sample's mask hides as many patches as any other's, so the values form a table.
            index = hidden.flatten(1).nonzero()[:, 1].view(len(eeg), -1)
            cut = [
                x.unflatten(-1, (-1, self.config.patch_samples)).flatten(1, 2)
                for x in (filled, eeg)
            ]
            found.append(pearson(take(cut[0], index), take(cut[1], index)))
        return torch.cat(found)


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
