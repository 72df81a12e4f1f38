"""The Gaussian on real EEG: another run of the same person, by the commands of docs/scores.md.

Uses PhysionetMI's person 1 where its files are in ../shared/data/mne_data.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
FOLDER = ROOT.parent / "shared" / "data" / "mne_data"
FILES = FOLDER / "MNE-eegbci-data/files/eegmmidb/1.0.0/S001"


def run(*words) -> str:
    where = str(FOLDER.resolve())
    own = {**os.environ, "MNE_DATA": where, "MNE_DATASETS_EEGBCI_PATH": where}
    done = subprocess.run(
        [sys.executable, *map(str, words)],
        cwd=ROOT, env={**own, "OMP_NUM_THREADS": "1"}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.slow
@pytest.mark.skipif(not FILES.is_dir(), reason=f"no {FILES}")
def test_a_run_of_another_time_is_filled_far_better_than_by_the_spline(tmp_path):
    source = "moabb:PhysionetMI,subjects=1,split=train"
    run("data/pack.py", "--source", source, "--window_s", 1, "--out", tmp_path / "shards")
    told = run("benchmarks/gauss.py", "--shards", tmp_path / "shards")
    found = {}
    for line in told.splitlines()[-2:]:
        name, *words = line.split()
        found[name] = dict(zip(words[::2], map(float, words[1::2]), strict=True))
    wanted = {"random": 0.93, "block": 0.87, "tube": 0.89, "channel": 0.92, "time": 0.35}
    for kind, least in wanted.items():
        assert found["gauss"][kind] > least, kind
        assert found["gauss"][kind] > found["spline"][kind] + 0.04, kind
