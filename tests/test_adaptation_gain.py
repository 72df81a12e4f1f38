"""Spread and spectrum before and after fine-tuning are also given after one gain each."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from known_signals import PATCH, SFREQ_HZ, write_known_shards

from data.shards.manifest import read_manifest
from model.autoencoder import MaskedVAE
from model.config import preset
from trainer.masked.adaptation import adaptation_report
from trainer.scoring.distributions import SIGNAL, Distributions
from trainer.scoring.held_out import WindowBatch

BANDS = {"d": {"low": [1.0, 10.0], "high": [10.0, 40.0]}}


def batch_of(eeg: torch.Tensor, subject: str) -> WindowBatch:
    count, channels = eeg.shape[:2]
    return WindowBatch(
        "d", tuple(map(str, range(channels))), torch.zeros(channels, 3), eeg,
        ["k"] * count, [subject] * count, [None] * count,
    )  # fmt: skip


def distributions_of(seed: int) -> Distributions:
    """Three people; `weak` is half the signal, `tilted` has half of its upper half alone."""
    rng = torch.Generator().manual_seed(seed)
    found = Distributions(SFREQ_HZ, 80)
    for subject in "abc":
        eeg = torch.randn(6, 4, 400, generator=rng)
        spectrum = torch.fft.rfft(eeg)
        upper = torch.from_numpy(np.fft.rfftfreq(400, 1 / SFREQ_HZ) >= 10.0)
        tilted = torch.fft.irfft(torch.where(upper, 0.5 * spectrum, spectrum), n=400)
        for name, signal in ((SIGNAL, eeg), ("weak", 0.5 * eeg), ("tilted", tilted)):
            found.add(batch_of(eeg, subject), name, signal)
    return found


def test_one_gain_mends_what_is_weak_and_not_what_is_wrong():
    gains = distributions_of(1).gains()
    assert gains["weak"] == pytest.approx(2.0, rel=1e-6)
    test = distributions_of(2)
    before, after = test.distances(BANDS), test.distances(BANDS, gains)
    assert before["weak"]["std_ratio"]["mean"] == pytest.approx(0.5)
    assert before["weak"]["spectrum_db"]["mean"] == pytest.approx(20 * np.log10(2), abs=1e-6)
    assert after["weak"]["std_ratio"]["mean"] == pytest.approx(1.0, rel=1e-6)
    assert after["weak"]["spectrum_db"]["mean"] == pytest.approx(0.0, abs=1e-6)
    assert after["weak"]["wasserstein_1"]["mean"] == pytest.approx(0.0, abs=1e-6)
    # One factor makes its spread right; the lower half is then too strong, the upper too weak.
    assert after["tilted"]["std_ratio"]["mean"] == pytest.approx(1.0, abs=0.02)
    assert after["tilted"]["band_db"]["low"]["mean"] > 2
    assert after["tilted"]["band_db"]["high"]["mean"] < -0.5


@pytest.mark.slow
def test_the_adaptation_report_gives_both(tmp_path):
    people = {
        "1": ("train", 1, 12), "2": ("val", 1, 12), "3": ("test", 1, 12), "4": ("test", 2, 10)
    }  # fmt: skip
    manifest = read_manifest(write_known_shards(tmp_path / "shards", people, windows=16))
    torch.manual_seed(0)
    small = {"width": 24, "depth": 1, "decoder_width": 16, "decoder_depth": 1}
    before, after = (
        MaskedVAE(preset("tiny", sfreq_hz=SFREQ_HZ, patch_samples=PATCH, **small)) for _ in range(2)
    )
    torch.nn.init.normal_(after.decoder.to_patch.weight, std=0.02)
    out = tmp_path / "out"
    report = adaptation_report(
        before, after, manifest, "test", out, windows_per_subject=8, progress=False
    )
    gained = report["reconstruction_after_gain"]
    assert set(report["reconstruction_gains"]) == {"before", "after", "gauss", "spline"}
    for name, entry in report["reconstruction"].items():
        weak, mended = (found[name]["std_ratio"]["mean"] for found in (
            report["reconstruction"], gained))  # fmt: skip
        assert mended == pytest.approx(weak * report["reconstruction_gains"][name]), entry
        assert abs(mended - 1) < max(0.1, abs(weak - 1)), name
    assert (
        "after one gain each, which validation people chose" in (out / "adaptation.md").read_text()
    )
    assert "amplitude, std ratio to the signal after gain: " in report["summary"]
    assert "after minus the best baseline (gauss)" in report["summary"]
