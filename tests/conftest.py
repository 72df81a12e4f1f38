"""What every test may use: the small real recordings, where they are at hand."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("DS_ACCELERATOR", "cpu")
ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="session")
def root() -> Path:
    return ROOT


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of small real recordings beside the checkout, or a skip."""
    folder = ROOT.parent / "shared" / "data"
    if not (folder / "mne_data").is_dir():
        pytest.skip("the folder of small real recordings is not beside this checkout")
    return folder


@pytest.fixture
def mne_data(shared_data, monkeypatch) -> Path:
    """MOABB's files on disk, set up so that MOABB looks nowhere else."""
    monkeypatch.setenv("MNE_DATA", str(shared_data / "mne_data"))
    monkeypatch.setenv("MOABB_DOWNLOAD_PROVIDER", "upstream")
    return shared_data / "mne_data"
