"""How much of simulated MEG can be predicted from EEG, and how much ridge regression gets.

    python data/pack.py --source simulated-pairs:linear,subjects=2,minutes=2 --out shards/simulated
    python benchmarks/pairs.py shards/simulated

For each person's last run: median Pearson r over magnetometers and gradiometers of the oracle, of
ridge learned on the same person's other runs, and of ridge learned on other people.
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path[0] = str(Path(__file__).resolve().parents[1])  # repo root, not this directory

import argparse

import numpy as np

from data.batches.pairs import PairedWindows
from data.errors import InputError, run_command
from data.shards.manifest import read_manifest
from data.simulate.oracle import oracle_of

RIDGE = 1e-3
"""Of the mean power of an electrode; 1e-4 and 1e-2 change r by less than .01."""


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python benchmarks/pairs.py", description=__doc__)
    parser.add_argument("shards", type=Path, help="folder of simulated pairs")
    manifest = read_manifest(parser.parse_args(argv).shards)
    every = PairedWindows(manifest)
    if len({manifest.montages[entry["montage"]].channels for entry in every.recordings()}) > 1:
        raise InputError(
            f"{manifest.folder}: recordings with different electrodes",
            "ridge needs the same ones: pack with one number for eeg=",
        )
    print(f"{'':10s}{'':24s}{'mag':>8s}{'grad':>8s}")
    for subject in every.subjects():
        own = sorted(r["id"] for r in every.recordings() if r["subject"] == subject)
        others = [r["id"] for r in every.recordings() if r["subject"] != subject]
        windows = PairedWindows(manifest, own[-1:])
        eeg, meg = signals(windows)
        oracle = oracle_of(windows.recordings()[0], windows.montage(0))
        whole = [oracle.predict(w.eeg.astype(np.float64), windows.sfreq_hz) for w in windows]
        rows = {"best linear map": oracle.linear @ eeg, "best": np.concatenate(whole, axis=1)}
        for name, ids in (("ridge, own runs", own[:-1]), ("ridge, other people", others)):
            if ids:
                rows[name] = ridge(*signals(PairedWindows(manifest, ids))) @ eeg
        rows["best, EEG shifted"] = oracle.linear @ np.roll(eeg, eeg.shape[1] // 3, axis=1)
        types = np.array(windows.montage(0).meg_types)
        for name, found in rows.items():
            r = correlations(found, meg)
            both = "".join(f"{np.median(r[types == kind]):8.3f}" for kind in ("mag", "grad"))
            print(f"{subject:10s}{name:24s}{both}")
    return 0


def signals(windows: PairedWindows) -> tuple[np.ndarray, np.ndarray]:
    """float64 `[Cs, N]` volts and `[Ct, N]`, all windows end to end."""
    several = list(windows)
    return tuple(
        np.concatenate([getattr(window, half) for window in several], axis=1).astype(np.float64)
        for half in ("eeg", "meg")
    )


def ridge(eeg: np.ndarray, meg: np.ndarray) -> np.ndarray:
    """The map `[Ct, Cs]` of ridge regression."""
    covariance = eeg @ eeg.T
    covariance += RIDGE * np.trace(covariance) / len(covariance) * np.eye(len(covariance))
    return np.linalg.solve(covariance, eeg @ meg.T).T


def correlations(found: np.ndarray, true: np.ndarray) -> np.ndarray:
    """Pearson r of each row of two `[C, N]` arrays."""
    found, true = (x - x.mean(axis=1, keepdims=True) for x in (found, true))
    return (found * true).sum(1) / np.sqrt((found**2).sum(1) * (true**2).sum(1))


if __name__ == "__main__":
    run_command(main)
