"""What a model's latents carry: masked r with its own latents, and with those of another window.

    python benchmarks/latents.py RUN --shards SHARDS [--split test] [--windows 160]

For each kind of mask: r, the spline's r on the same masks, and r where the decoder gets the latents
of another window of the same montage under this window's mask.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

sys.path[0] = str(Path(__file__).resolve().parents[1])

import torch

from data.batches.batch import Batch
from data.batches.local import WindowDataset, evenly_spaced
from data.errors import run_command
from data.shards.manifest import read_manifest
from model.interpolation import spline_fill
from model.losses import pearson
from trainer.checkpoints.weights import load_model
from trainer.masked.draw import DrawMasks, hidden_mask

BATCH = 16
MASK_SEED = 20_000


def spline_r(batch: Batch, config) -> torch.Tensor:
    """The spline's correlation over each window's hidden samples, `[B]`."""
    hidden = hidden_mask(batch, config)
    eeg = batch.eeg[..., : hidden.shape[2] * config.patch_samples]
    covered = hidden.repeat_interleave(config.patch_samples, dim=2)
    filled = spline_fill(eeg, batch.positions_m, hidden)
    return pearson(*(x[covered].view(len(eeg), -1) for x in (filled, eeg)))


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("run", help="run folder or converted whole weights")
    parser.add_argument("--shards", required=True)
    parser.add_argument("--split", default="test")
    parser.add_argument("--windows", type=int, default=160)
    arguments = parser.parse_args(argv)
    model, _ = load_model(arguments.run)
    manifest = read_manifest(arguments.shards)
    for kind in model.config.mask_mixture:
        draw = DrawMasks(model.config, MASK_SEED, {kind: 1.0})
        dataset = WindowDataset(manifest, manifest.of_split(arguments.split), draw)
        found = []
        for request in evenly_spaced(dataset, arguments.windows, BATCH):
            batches = [batch.to("cpu") for batch in dataset[request]]
            with torch.no_grad():
                own, other = (
                    model(batches, 0.0, 0, other_latents=swap).per_window["r"]
                    for swap in (False, True)
                )
                spline = torch.cat([spline_r(batch, model.config) for batch in batches])
            found.append(torch.stack([own, other, spline]))
        own, other, spline = torch.cat(found, dim=1).mean(1).tolist()
        print(f"{kind:8} r {own:.3f}  spline {spline:.3f}  with another's latents {other:.3f}")
    return 0


if __name__ == "__main__":
    run_command(main)
