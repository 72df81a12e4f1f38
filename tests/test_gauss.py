"""The Gaussian baseline: right where the covariance is known, montage-free, kept, and told of."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
import torch
from known_signals import (
    PATCH,
    SAMPLES,
    SFREQ_HZ,
    draw,
    known_kernel,
    places,
    whole_covariance,
    write_known_shards,
)
from safetensors import safe_open

import trainer.scoring.gauss_kernel as gauss_module
from data.errors import InputError
from data.shards.manifest import read_manifest
from trainer.scoring.baselines import spline
from trainer.scoring.gauss import fit_gauss, gauss_for, gauss_path, load_gauss, save_gauss
from trainer.scoring.gauss_fit import LagMoments, fit_kernel
from trainer.scoring.gauss_kernel import GaussFill, harmonics
from trainer.scoring.scores import samples_of, window_scores


def hide(windows: int, channels: int, kind: str) -> torch.Tensor:
    """Half of the patches anywhere, or all channels in the third and fourth patch."""
    hidden = torch.zeros(windows, channels, SAMPLES // PATCH, dtype=torch.bool)
    if kind == "time":
        hidden[:, :, 2:4] = True
        return hidden
    return torch.rand(hidden.shape, generator=torch.Generator().manual_seed(1)) < 0.5


def mean_r(fill, eeg, where, hidden) -> float:
    given = eeg.masked_fill(samples_of(hidden, SAMPLES), 0.0)
    return float(window_scores(eeg, fill(given, where, hidden), hidden)["r"].mean())


def test_harmonics_are_orthonormal_and_add_up_to_legendre():
    z, weights = np.polynomial.legendre.leggauss(16)
    azimuth = 2 * math.pi * np.arange(32) / 32
    Z, A = np.meshgrid(z, azimuth, indexing="ij")
    ring = np.sqrt(1 - Z**2)
    unit = torch.from_numpy(np.stack([ring * np.cos(A), ring * np.sin(A), Z], -1).reshape(-1, 3))
    area = torch.from_numpy(np.repeat(weights * 2 * math.pi / 32, 32))
    Y = harmonics(unit, 10)
    torch.testing.assert_close(Y.T * area @ Y, torch.eye(121, dtype=torch.float64))
    cosine = (unit @ unit[5]).numpy()
    for n in (0, 3, 10):
        part = Y[:, n * n : (n + 1) ** 2]
        expected = (2 * n + 1) / (4 * math.pi) * np.polynomial.Legendre.basis(n)(cosine)
        np.testing.assert_allclose(part @ part[5], expected, atol=1e-12)


@pytest.mark.parametrize("kind", ["random", "time"])
def test_the_fill_is_the_conditional_mean(kind, monkeypatch):
    """Against the textbook formula on the whole covariance, no component left out."""
    monkeypatch.setattr(gauss_module, "VARIANCE_KEPT", 1.0)
    kernel, where = known_kernel(), places(9, 0)
    eeg, hidden = draw(kernel, where, 3, 0), hide(3, 9, kind)
    filled = GaussFill(kernel, 10_000)(eeg, where, hidden)
    S = whole_covariance(kernel, where)
    for b in range(3):
        gone = samples_of(hidden[b], SAMPLES).reshape(-1)
        x = eeg[b].reshape(-1)
        known = torch.linalg.solve(S[~gone][:, ~gone], x[~gone])
        exact = S[gone][:, ~gone] @ known
        ours = filled[b].reshape(-1)
        assert torch.equal(ours[~gone], x[~gone])
        assert float((ours[gone] - exact).square().mean() / x.square().mean()) < 1e-6


@pytest.mark.parametrize("average_reference", [False, True])
def test_a_known_covariance_is_found_and_carries_over_to_another_montage(average_reference):
    kernel = known_kernel(average_reference)
    caps = [places(18, seed) for seed in (1, 2)]
    moments = []
    for seed, where in enumerate(caps):
        moment = LagMoments.of(where, SAMPLES)
        moment.add(draw(kernel, where, 300, seed))
        moments.append(moment)
    found = fit_kernel(moments, SFREQ_HZ, average_reference)
    other = places(14, 3)
    # Of no window's power: compare covariances after one factor. What is left is no sampling error
    # (five times the windows leave it): places that no cap had, and every window's equal weight.
    at_once = [k.between(other).sum(0) for k in (kernel, found)]
    at_once = [K / K.trace() for K in at_once]
    assert float((at_once[0] - at_once[1]).norm() / at_once[0].norm()) < 0.15
    # The power at each lag, over all channels.
    over_time = [
        (k.between(other).diagonal(dim1=1, dim2=2).sum(1)[:, None] * k.lags).sum(0)[:20]
        for k in (kernel, found)
    ]
    over_time = [lagged / lagged[0] for lagged in over_time]
    assert float((over_time[0] - over_time[1]).abs().max()) < 0.03
    if average_reference:
        assert float(found.between(other).sum(1).abs().max()) < 1e-9
    eeg = draw(kernel, other, 60, 9)
    for kind in ("random", "time"):
        hidden = hide(60, 14, kind)
        best = mean_r(GaussFill(kernel, 10_000), eeg, other, hidden)
        ours = mean_r(GaussFill(found), eeg, other, hidden)
        assert best - 0.015 < ours <= best + 0.003, kind
        assert ours > mean_r(spline, eeg, other, hidden) + 0.02, kind


def test_the_fill_never_looks_at_what_is_hidden_nor_at_other_windows():
    kernel, where = known_kernel(), places(9, 0)
    eeg, hidden = draw(kernel, where, 4, 0), hide(4, 9, "random")
    fill = GaussFill(kernel)
    spoilt = torch.where(samples_of(hidden, SAMPLES), torch.nan, eeg)
    expected = fill(eeg, where, hidden)
    torch.testing.assert_close(fill(spoilt, where, hidden), torch.where(
        samples_of(hidden, SAMPLES), expected, eeg))  # fmt: skip
    alone = fill(eeg[2:3], where, hidden[2:3])
    torch.testing.assert_close(alone, expected[2:3], atol=2e-2, rtol=2e-2)


def test_nothing_visible_gives_the_mean():
    kernel, where = known_kernel(), places(5, 0)
    hidden = torch.ones(1, 5, SAMPLES // PATCH, dtype=torch.bool)
    assert not GaussFill(kernel)(torch.randn(1, 5, SAMPLES), where, hidden).any()


@pytest.mark.parametrize(
    ("weights", "path"),
    [
        ("runs/a", "runs/a/gauss.safetensors"),
        ("enc.safetensors", "enc.gauss.safetensors"),
        ("enc.pt", "enc.gauss.safetensors"),
    ],
)
def test_it_lies_beside_the_weights(weights, path):
    assert str(gauss_path(weights)) == path


PEOPLE = {
    "1": ("train", 1, 12), "2": ("train", 1, 12), "3": ("train", 2, 10), "4": ("val", 1, 12),
    "5": ("test", 3, 11), "6": ("test", 3, 11), "7": ("test", 3, 11),
}  # fmt: skip


@pytest.fixture(scope="module")
def manifest(tmp_path_factory):
    return read_manifest(write_known_shards(tmp_path_factory.mktemp("known"), PEOPLE))


def test_it_is_fitted_on_the_training_split_only_and_kept_as_safetensors(manifest, tmp_path):
    found = gauss_for(manifest, tmp_path)
    assert found.people == {"known": ["1", "2", "3"]}
    assert found.windows == 180
    assert found.kernel.average_reference
    with safe_open(tmp_path / "gauss.safetensors", "pt") as file:
        assert json.loads(file.metadata()["about"])["people"] == {"known": ["1", "2", "3"]}
    again = gauss_for(manifest, tmp_path)
    assert again.about() == found.about(), "fitted anew, not found beside the weights"
    for name in ("spatial", "noise", "lags"):
        assert torch.equal(getattr(again.kernel, name), getattr(found.kernel, name))


def test_the_fit_is_the_same_every_time(manifest):
    first, second = (fit_gauss(manifest, windows=40).kernel for _ in range(2))
    assert torch.equal(first.spatial, second.spatial)


def test_one_of_another_rate_is_fitted_anew_and_a_damaged_one_refused(manifest, tmp_path):
    path = tmp_path / "gauss.safetensors"
    found = fit_gauss(manifest, windows=40)
    other = type(found.kernel)(
        found.kernel.spatial, found.kernel.noise, found.kernel.lags, 250.0, True
    )
    save_gauss(type(found)(other, found.people, 40, 1.0, "x"), path)
    assert gauss_for(manifest, tmp_path).kernel.sfreq_hz == SFREQ_HZ
    path.write_bytes(b"torn")
    with pytest.raises(InputError, match="cannot be read"):
        load_gauss(path)


def test_without_a_training_split_there_is_none(tmp_path):
    alone = {"5": ("test", 3, 11)}
    assert gauss_for(read_manifest(write_known_shards(tmp_path, alone, windows=4))) is None
