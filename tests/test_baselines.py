"""Baselines against numpy, scipy and MNE."""

from __future__ import annotations

import mne
import numpy as np
import pytest
import torch
from scipy.interpolate import CubicSpline

from model.interpolation import sphere_centre
from trainer.scoring.baselines import BASELINES, cubic, linear, spline, zero
from trainer.scoring.scores import samples_of

P = 10


@pytest.fixture
def case():
    """Smooth signals `[3, C, 80]` on a 32-channel cap, random masks, places."""
    montage = mne.channels.make_standard_montage("biosemi32")
    positions_m = torch.tensor(np.array(list(montage.get_positions()["ch_pos"].values())))
    rng = np.random.default_rng(0)
    eeg = rng.standard_normal((3, len(positions_m), 80)).cumsum(-1).astype(np.float32)
    hidden = rng.random((3, len(positions_m), 8)) < 0.5
    hidden[:, 0] = True  # a channel that is never visible
    hidden[0, :, 3] = True  # a moment without any visible channel
    hidden[:, 1], hidden[:, 1, 4] = True, False  # one visible patch
    return torch.from_numpy(eeg), positions_m.float(), torch.from_numpy(hidden)


@pytest.mark.parametrize("name", BASELINES)
def test_no_baseline_touches_visible_samples_or_looks_at_hidden_ones(name, case):
    eeg, positions_m, hidden = case
    hidden_T = samples_of(hidden, eeg.shape[-1])
    filled = BASELINES[name](eeg, positions_m, hidden)
    assert filled.dtype == torch.float64
    assert torch.equal(filled[~hidden_T], eeg.double()[~hidden_T])
    assert filled.isfinite().all()
    other = torch.where(hidden_T, 1e6, eeg)
    assert torch.equal(BASELINES[name](other, positions_m, hidden), filled)


def test_zero(case):
    eeg, positions_m, hidden = case
    assert (zero(eeg, positions_m, hidden)[samples_of(hidden, eeg.shape[-1])] == 0).all()


def test_linear_is_numpys_interp(case):
    eeg, positions_m, hidden = case
    filled = linear(eeg, positions_m, hidden)
    seen, time = ~samples_of(hidden, eeg.shape[-1]).numpy(), np.arange(eeg.shape[-1])
    for b in range(len(eeg)):
        for c in range(eeg.shape[1]):
            at = seen[b, c]
            expected = np.interp(time, time[at], eeg[b, c].numpy()[at]) if at.any() else 0.0
            np.testing.assert_allclose(
                filled[b, c], np.broadcast_to(expected, time.shape), atol=2e-6
            )


def test_cubic_is_scipys_spline_inside_and_held_outside(case):
    eeg, positions_m, hidden = case
    filled = cubic(eeg, positions_m, hidden)
    seen, time = ~samples_of(hidden, eeg.shape[-1]).numpy(), np.arange(eeg.shape[-1])
    for b in range(len(eeg)):
        for c in range(eeg.shape[1]):
            at = time[seen[b, c]]
            if not len(at):
                assert (filled[b, c] == 0).all()
                continue
            known = eeg[b, c].double().numpy()[at]
            expected = CubicSpline(at, known)(time)
            expected[: at[0]], expected[at[-1] + 1 :] = known[0], known[-1]
            np.testing.assert_allclose(filled[b, c], expected, rtol=1e-8, atol=1e-8)


def test_cubic_recovers_a_cubic():
    time = torch.linspace(-1, 1, 60, dtype=torch.float64)
    eeg = (time**3 - 0.5 * time).expand(1, 2, -1)
    hidden = torch.tensor([[[False, True, False], [False, False, False]]])
    assert torch.allclose(cubic(eeg, torch.eye(3)[:2], hidden), eeg, atol=1e-12)


def test_one_visible_sample_is_held():
    eeg = torch.tensor([[[5.0, 7.0, 3.0]]])
    hidden = torch.tensor([[[True, False, True]]])
    assert (cubic(eeg, torch.eye(3)[:1], hidden) == 7.0).all()


def test_spline_is_mnes_interpolate_bads(case):
    eeg, positions_m, _ = case
    names = [f"E{i}" for i in range(len(positions_m))]
    bad = [2, 7, 20, 21]
    hidden = torch.zeros(*eeg.shape[:2], 8, dtype=torch.bool)
    hidden[:, bad] = True
    filled = spline(eeg, positions_m, hidden)
    info = mne.create_info(names, 200.0, "eeg")
    places = dict(zip(names, positions_m.double().numpy(), strict=True))
    info.set_montage(mne.channels.make_dig_montage(places, coord_frame="head"))
    for b in range(len(eeg)):
        raw = mne.io.RawArray(eeg[b].double().numpy(), info.copy(), verbose="error")
        raw.info["bads"] = [names[c] for c in bad]
        raw.interpolate_bads(
            origin=tuple(sphere_centre(positions_m.double()).tolist()), verbose="error"
        )
        scale = float(eeg[b].abs().max())
        np.testing.assert_allclose(filled[b] / scale, raw.get_data() / scale, atol=1e-6)


def test_spline_follows_a_mask_that_changes_in_time(case):
    eeg, positions_m, hidden = case
    whole = spline(eeg, positions_m, hidden)
    for patch in (0, 5):
        piece = slice(patch * P, (patch + 1) * P)
        alone = spline(eeg[:, :, piece].contiguous(), positions_m, hidden[:, :, patch : patch + 1])
        torch.testing.assert_close(whole[:, :, piece], alone)


def test_spline_where_nothing_is_visible_is_linear(case):
    eeg, positions_m, hidden = case
    piece = slice(3 * P, 4 * P)
    torch.testing.assert_close(
        spline(eeg, positions_m, hidden)[0, :, piece], linear(eeg, positions_m, hidden)[0, :, piece]
    )
