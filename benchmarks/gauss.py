"""The Gaussian beside the spline within one person: fitted on all runs but the last, scored on it.

    python data/pack.py --source moabb:PhysionetMI,subjects=1,split=train --window_s 1 --out SHARDS
    python benchmarks/gauss.py --shards SHARDS

A best case for a linear method (the same head, the same cap, minutes apart); across people see
trainer/evaluate.py. r of hidden samples by kind of mask, every fill made to keep the average
reference where there is one.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

sys.path[0] = str(Path(__file__).resolve().parents[1])

import numpy as np
import torch

from data.errors import InputError, run_command
from data.shards.manifest import read_manifest
from data.shards.readers import Readers
from model.config import MASK_KINDS, preset
from model.gauss import GaussFill
from model.interpolation import sums_to_zero
from trainer.scoring.baselines import spline
from trainer.scoring.calibration import referenced_fill
from trainer.scoring.gauss_fit import LARGEST_LAG_S, LagMoments, fit_kernel
from trainer.scoring.held_out import WindowBatch, draw_masks
from trainer.scoring.scores import window_scores

BATCH = 32


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--shards", required=True, help="folder of data/pack.py, one person's")
    parser.add_argument("--seed", type=int, default=0, help="of the masks [0]")
    arguments = parser.parse_args(argv)
    manifest = read_manifest(arguments.shards)
    config = preset("tiny", sfreq_hz=manifest.profile["sfreq_hz"])
    runs = sorted(record["id"] for record in manifest.recordings if record["windows"])
    people = {(r["dataset"], r["subject"]) for r in manifest.recordings}
    if len(people) != 1 or len(manifest.montages) != 1 or len(runs) < 2:
        raise InputError(
            f"{arguments.shards}: not several runs of one person with one cap",
            "pack one person: moabb:PhysionetMI,subjects=1,split=train",
        )
    (montage,) = manifest.montages.values()
    places = torch.from_numpy(montage.positions_m)
    known, last = [], []
    for reader in Readers(manifest, list(manifest.shards)):
        for index in range(reader.shard.samples):
            at = last if reader.meta(index)["recording"] == runs[-1] else known
            at.append((reader.key(index), np.asarray(reader.signals[index], np.float32)))
    started = time.monotonic()
    samples = known[0][1].shape[1]
    moments = LagMoments.of(places, min(samples, round(LARGEST_LAG_S * config.sfreq_hz)))
    eeg = torch.from_numpy(np.stack([window for _, window in known]))
    for part in eeg.split(BATCH):
        moments.add(part)
    kernel = fit_kernel([moments], config.sfreq_hz, sums_to_zero(eeg))
    seconds = time.monotonic() - started
    print(f"fitted on {len(known)} windows of {len(runs) - 1} runs in {seconds:.1f} s; scored on "
          f"{len(last)} of {runs[-1]}")  # fmt: skip
    for name, fill in (("gauss", GaussFill(kernel)), ("spline", spline)):
        found = {kind: [] for kind in MASK_KINDS}
        for first in range(0, len(last), BATCH):
            keys, windows = zip(*last[first : first + BATCH], strict=True)
            batch = WindowBatch(
                runs[-1], montage.channels, places, torch.from_numpy(np.stack(windows)),
                list(keys), ["1"] * len(keys), [None] * len(keys),
            )  # fmt: skip
            for kind in MASK_KINDS:
                hidden = draw_masks(kind, batch, config, config.mask_ratio, arguments.seed)
                filled = referenced_fill(fill, batch, hidden)
                found[kind] += window_scores(batch.eeg, filled, hidden)["r"].tolist()
        scores = "  ".join(f"{kind} {np.nanmean(r):.3f}" for kind, r in found.items())
        print(f"{name:6}  {scores}", flush=True)
    return 0


if __name__ == "__main__":
    run_command(main)
