"""The Gaussian beside the spline on real EEG: fitted on all runs of a person but the last, scored
on the last. A best case for a linear method (the same head, the same cap, minutes apart); across
people see trainer/evaluate.py.

Uses PhysionetMI's person 1 where its files are in ../shared/data/mne_data.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from data.shards.manifest import read_manifest
from data.shards.readers import Readers
from model.config import preset
from model.interpolation import sums_to_zero
from trainer.scoring.baselines import spline
from trainer.scoring.calibration import referenced_fill
from trainer.scoring.gauss_fit import LARGEST_LAG_S, LagMoments, fit_kernel
from trainer.scoring.gauss_kernel import GaussFill
from trainer.scoring.held_out import WindowBatch, draw_masks
from trainer.scoring.scores import window_scores

ROOT = Path(__file__).resolve().parents[1]
FOLDER = ROOT.parent / "shared" / "data" / "mne_data"
FILES = FOLDER / "MNE-eegbci-data/files/eegmmidb/1.0.0/S001"
BATCH = 32


def pack(out: Path) -> None:
    where = str(FOLDER.resolve())
    own = {**os.environ, "MNE_DATA": where, "MNE_DATASETS_EEGBCI_PATH": where}
    words = ["data/pack.py", "--source", "moabb:PhysionetMI,subjects=1,split=train"]
    done = subprocess.run(
        [sys.executable, *words, "--window_s", "1", "--out", str(out)],
        cwd=ROOT, env={**own, "OMP_NUM_THREADS": "1"}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.slow
@pytest.mark.skipif(not FILES.is_dir(), reason=f"no {FILES}")
def test_a_run_of_another_time_is_filled_far_better_than_by_the_spline(tmp_path):
    pack(tmp_path / "shards")
    manifest = read_manifest(tmp_path / "shards")
    config = preset("tiny", sfreq_hz=manifest.profile["sfreq_hz"])
    (montage,) = manifest.montages.values()
    places = torch.from_numpy(montage.positions_m)
    last = max(record["id"] for record in manifest.recordings if record["windows"])
    fitted, scored = [], []
    for reader in Readers(manifest, list(manifest.shards)):
        for index in range(reader.shard.samples):
            of = scored if reader.meta(index)["recording"] == last else fitted
            of.append((reader.key(index), np.asarray(reader.signals[index], np.float32)))
    eeg = torch.from_numpy(np.stack([window for _, window in fitted]))
    lags = min(eeg.shape[2], round(LARGEST_LAG_S * config.sfreq_hz))
    moments = LagMoments.of(places, lags)
    for part in eeg.split(BATCH):
        moments.add(part)
    gauss = GaussFill(fit_kernel([moments], config.sfreq_hz, sums_to_zero(eeg)))
    for kind, least in {
        "random": 0.93, "block": 0.87, "tube": 0.89, "channel": 0.92, "time": 0.35
    }.items():  # fmt: skip
        r = {"gauss": [], "spline": []}
        for first in range(0, len(scored), BATCH):
            keys, windows = zip(*scored[first : first + BATCH], strict=True)
            batch = WindowBatch(
                last, montage.channels, places, torch.from_numpy(np.stack(windows)),
                list(keys), ["1"] * len(keys), [None] * len(keys),
            )  # fmt: skip
            hidden = draw_masks(kind, batch, config, config.mask_ratio, seed=0)
            for name, fill in (("gauss", gauss), ("spline", spline)):
                filled = referenced_fill(fill, batch, hidden)
                r[name] += window_scores(batch.eeg, filled, hidden)["r"].tolist()
        assert np.nanmean(r["gauss"]) > least, kind
        assert np.nanmean(r["gauss"]) > np.nanmean(r["spline"]) + 0.04, kind
