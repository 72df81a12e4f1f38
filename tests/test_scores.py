"""Scores against hand-computed cases and scipy; hidden samples alone count."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import pearsonr, sem, t

from trainer.scoring.scores import (
    band_pass,
    band_scores,
    channel_correlation,
    mean_with_interval,
    paired_difference,
    samples_of,
    usable_bands,
    window_scores,
)

SFREQ_HZ = 200.0


def random_case(seed: int, B=3, C=4, N=5, P=8):
    rng = np.random.default_rng(seed)
    truth, prediction = (torch.from_numpy(rng.standard_normal((B, C, N * P))) for _ in range(2))
    hidden = torch.from_numpy(rng.random((B, C, N)) < 0.5)
    hidden[:, 0, 0] = True
    return truth, prediction, hidden


def completed(truth, prediction, hidden):
    return torch.where(samples_of(hidden, truth.shape[-1]), prediction, truth)


def test_scores_by_hand():
    truth = torch.tensor([[[1.0, 2.0, 9.0, 9.0], [9.0, 9.0, 3.0, 4.0]]])
    prediction = torch.tensor([[[2.0, 2.0, 0.0, 0.0], [0.0, 0.0, 3.0, 6.0]]])
    hidden = torch.tensor([[[True, False], [False, True]]])
    scores = window_scores(truth, prediction, hidden)
    # Hidden: truth 1 2 3 4, prediction 2 2 3 6; squared errors 1 0 0 4 over 1 + 4 + 9 + 16.
    assert scores["nmse"].item() == pytest.approx(5 / 30)
    assert scores["r"].item() == pytest.approx(6.5 / math.sqrt(5 * 10.75))


@given(st.integers(0, 10_000))
def test_r_is_scipys_over_the_pooled_hidden_samples(seed):
    truth, prediction, hidden = random_case(seed)
    scores = window_scores(truth, prediction, hidden)
    per_channel = channel_correlation(truth, prediction, hidden)
    hidden_T = samples_of(hidden, truth.shape[-1])
    for b in range(len(truth)):
        expected = pearsonr(truth[b][hidden_T[b]], prediction[b][hidden_T[b]]).statistic
        assert scores["r"][b].item() == pytest.approx(expected, abs=1e-12)
        for c in range(truth.shape[1]):
            chosen = hidden_T[b, c]
            if not chosen.any():
                assert per_channel[b, c].isnan()
                continue
            expected = pearsonr(truth[b, c][chosen], prediction[b, c][chosen]).statistic
            assert per_channel[b, c].item() == pytest.approx(expected, abs=1e-12)


@given(st.integers(0, 10_000))
def test_visible_samples_do_not_count(seed):
    truth, prediction, hidden = random_case(seed)
    noise = torch.randn(2, *truth.shape, dtype=torch.float64) * 100
    visible = ~samples_of(hidden, truth.shape[-1])
    other_truth, other_prediction = truth + visible * noise[0], prediction + visible * noise[1]
    first = window_scores(truth, prediction, hidden)
    second = window_scores(other_truth, other_prediction, hidden)
    for name in first:
        assert torch.equal(first[name], second[name])
    assert torch.equal(
        channel_correlation(truth, prediction, hidden).nan_to_num(-9),
        channel_correlation(other_truth, other_prediction, hidden).nan_to_num(-9),
    )


def test_changing_one_hidden_sample_counts():
    truth, prediction, hidden = random_case(0)
    before = window_scores(truth, prediction, hidden)
    prediction[0, 0, 0] += 1.0
    after = window_scores(truth, prediction, hidden)
    assert before["r"][0] != after["r"][0]
    assert before["nmse"][0] != after["nmse"][0]
    assert before["r"][1] == after["r"][1]


def test_a_perfect_reconstruction():
    truth, _, hidden = random_case(1, N=10, P=20)
    scores = window_scores(truth, truth.clone(), hidden)
    assert scores["r"].numpy() == pytest.approx(1.0)
    assert (scores["nmse"] == 0).all()
    bands, left_out = usable_bands(SFREQ_HZ, truth.shape[-1], 0.5, 75.0)
    assert list(bands) == ["delta", "theta", "alpha", "beta", "gamma"]
    assert not left_out
    signal = band_pass(truth, bands, SFREQ_HZ)
    for values in band_scores(signal, signal, hidden).values():
        assert values["r"].numpy() == pytest.approx(1.0)
        assert (values["log_spectral_error_db"] == 0).all()


def test_constants_have_no_hidden_meaning():
    truth, prediction, hidden = random_case(2)
    zero = window_scores(truth, torch.zeros_like(truth), hidden)
    assert (zero["r"] == 0).all()
    assert zero["nmse"].numpy() == pytest.approx(1.0)
    assert (window_scores(truth, torch.full_like(truth, 0.3), hidden)["r"] == 0).all()
    silent = window_scores(torch.zeros_like(truth), prediction, hidden)
    assert silent["r"].isnan().all()
    assert silent["nmse"].isnan().all()


def test_band_error_is_the_power_ratio():
    time_s = torch.arange(400) / SFREQ_HZ
    sines = {name: torch.sin(2 * math.pi * f * time_s) for name, f in (("alpha", 10), ("beta", 20))}
    truth = (sines["alpha"] + sines["beta"]).expand(1, 2, -1).double()
    prediction = (0.1 * sines["alpha"] - sines["beta"]).expand(1, 2, -1).double()
    hidden = torch.tensor([[[True] * 20, [False] * 20]])
    bands = {"alpha": (8.0, 13.0), "beta": (13.0, 30.0)}
    scores = band_scores(
        band_pass(truth, bands, SFREQ_HZ),
        band_pass(completed(truth, prediction, hidden), bands, SFREQ_HZ),
        hidden,
    )
    assert scores["alpha"]["log_spectral_error_db"].item() == pytest.approx(20.0, abs=1e-4)
    assert scores["alpha"]["r"].item() == pytest.approx(1.0)
    assert scores["alpha"]["signed_log_spectral_error_db"].item() == pytest.approx(-20.0, abs=1e-4)
    assert scores["beta"]["log_spectral_error_db"].item() == pytest.approx(0.0, abs=1e-4)
    assert scores["beta"]["r"].item() == pytest.approx(-1.0)


def test_silence_costs_60_db_and_no_more():
    signal = {"alpha": torch.randn(1, 1, 40, dtype=torch.float64)}
    silent = {"alpha": torch.zeros(1, 1, 40)}
    hidden = torch.ones(1, 1, 2, dtype=torch.bool)
    error = band_scores(signal, silent, hidden)["alpha"]["log_spectral_error_db"]
    assert error.item() == pytest.approx(60.0)
    signed = band_scores(signal, silent, hidden)["alpha"]["signed_log_spectral_error_db"]
    assert signed.item() == pytest.approx(-60.0)
    assert band_scores(silent, signal, hidden)["alpha"]["log_spectral_error_db"].isnan().all()


def test_bands_add_up_to_the_signal():
    signal = torch.randn(2, 3, 160)
    bands = {"low": (0.0, 20.0), "high": (20.0, 101.0)}
    parts = band_pass(signal, bands, SFREQ_HZ)
    torch.testing.assert_close(parts["low"] + parts["high"], signal)


@pytest.mark.parametrize(
    ("sfreq_hz", "samples", "low_hz", "high_hz", "gamma", "missing"),
    [
        (200.0, 800, 0.5, 75.0, (30.0, 75.0), []),
        (200.0, 80, 0.5, 75.0, (30.0, 75.0), ["delta"]),
        (1000.0, 512, 5.0, 95.0, (30.0, 75.0), ["delta"]),
        (200.0, 800, 0.5, 57.6, (30.0, 57.6), []),
        (100.0, 800, 0.5, 75.0, (30.0, 45.0), []),
        (60.0, 240, 0.5, 75.0, None, ["gamma"]),
    ],
)
def test_bands_that_a_window_can_resolve(sfreq_hz, samples, low_hz, high_hz, gamma, missing):
    bands, left_out = usable_bands(sfreq_hz, samples, low_hz, high_hz)
    assert bands.get("gamma") == gamma
    assert list(left_out) == missing
    assert all(left_out.values())


def test_intervals_are_students_t_over_subjects():
    values = [0.1, 0.2, 0.3, 0.4, float("nan")]
    summary = mean_with_interval(values)
    assert summary["mean"] == pytest.approx(0.25)
    assert summary["subjects"] == 4
    expected = t.interval(0.95, 3, loc=0.25, scale=sem(values[:4]))
    assert (summary["low"], summary["high"]) == pytest.approx(expected)
    assert mean_with_interval([0.5] * 4)["low"] == pytest.approx(0.5)


@pytest.mark.parametrize("values", [[], [0.5], [0.5, 0.7]])
def test_no_interval_below_three_subjects(values):
    summary = mean_with_interval(values)
    assert summary["low"] is None
    assert summary["high"] is None
    assert summary["mean"] == (pytest.approx(np.mean(values)) if values else None)
    assert ("too few" in summary.get("note", "")) == bool(values)


@pytest.mark.parametrize("people", [3, 6, 10])
@pytest.mark.parametrize("paired", [False, True])
def test_the_interval_of_few_people_covers_the_truth_as_often_as_it_says(people, paired):
    """A percentile bootstrap would in 0.76, 0.86 and 0.90 of the studies."""
    rng, studies, hits = np.random.default_rng(people), 4000, 0
    for _ in range(studies):
        scores = 0.6 + 0.1 * rng.standard_normal(people)
        if paired:
            gains = 0.03 + 0.02 * rng.standard_normal(people)
            first = dict(enumerate(scores + gains))
            summary = paired_difference(first, dict(enumerate(scores)))
            hits += summary["low"] <= 0.03 <= summary["high"]
        else:
            summary = mean_with_interval(scores)
            hits += summary["low"] <= 0.6 <= summary["high"]
    # Three standard errors of a share of 4000.
    assert hits / studies == pytest.approx(0.95, abs=3 * math.sqrt(0.95 * 0.05 / studies))


def test_differences_are_paired():
    first = {"a": 0.5, "b": 0.9, "c": 0.1, "only here": 5.0}
    second = {name: value - 0.2 for name, value in first.items() if name != "only here"}
    summary = paired_difference(first, second)
    assert summary["subjects"] == 3
    assert [summary[k] for k in ("mean", "low", "high")] == pytest.approx([0.2] * 3)
