"""The model's arithmetic against independent computations: splines, noise, losses, FLOPs."""

from __future__ import annotations

import mne
import numpy as np
import pytest
import torch
from scipy import stats
from tiny import electrode_places
from torch.nn.attention import SDPBackend
from torch.utils.flop_counter import FlopCounterMode

from data.batches.batch import Batch
from model.autoencoder import MaskedVAE, normal_noise
from model.config import preset
from model.flops import forward_flops
from model.interpolation import (
    head_directions,
    linear_fill,
    sphere_centre,
    spline_fill,
    spline_matrix,
)
from model.losses import objective, pearson
from model.transformer import attention
from trainer.masked.draw import DrawMasks


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_spline_equals_mne(dtype):
    names, places = electrode_places("biosemi32", 32)
    info = mne.create_info(list(names), 200.0, "eeg")
    montage = mne.channels.make_dig_montage(
        dict(zip(names, places, strict=True)), coord_frame="head"
    )
    info.set_montage(montage)
    eeg = np.random.default_rng(0).standard_normal((32, 100))
    bad = [3, 10, 20]
    raw = mne.io.RawArray(eeg.copy(), info, verbose="error")
    raw.info["bads"] = [names[i] for i in bad]
    centre = tuple(sphere_centre(torch.tensor(places)).tolist())
    wanted = raw.interpolate_bads(origin=centre, verbose="error").get_data()
    hidden = torch.zeros(1, 32, 5, dtype=torch.bool)
    hidden[:, bad] = True
    found = spline_fill(torch.tensor(eeg[None], dtype=dtype), torch.tensor(places), hidden)
    tolerance = 1e-6 if dtype == torch.float64 else 5e-3
    np.testing.assert_allclose(found[0].numpy(), wanted, atol=tolerance)


def test_spline_matrix_equals_spline_fill():
    _, places = electrode_places("biosemi32", 32)
    places = torch.tensor(places)
    eeg = torch.randn(1, 32, 20, dtype=torch.float64)
    hidden = torch.zeros(1, 32, 1, dtype=torch.bool)
    hidden[:, 28:] = True
    filled = spline_fill(eeg, places.double(), hidden)[0, 28:]
    directions = head_directions(places)
    matrix = spline_matrix(directions[28:], directions[:28]).double()
    torch.testing.assert_close(matrix @ eeg[0, :28], filled, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", ["biosemi64", "easycap-M1", "GSN-HydroCel-128"])
def test_sphere_is_the_one_mne_fits(name):
    names, places = electrode_places(name, 60)
    montage = mne.channels.make_dig_montage(
        dict(zip(names, places, strict=True)), coord_frame="head"
    )
    info = mne.create_info(list(names), 200.0, "eeg")
    info.set_montage(montage)
    _, wanted, _ = mne.bem.fit_sphere_to_headshape(
        info, dig_kinds="eeg", units="m", verbose="error"
    )
    found = sphere_centre(torch.tensor(places)).numpy()
    np.testing.assert_allclose(found, wanted, atol=0.005)


def test_a_few_electrodes_do_not_throw_the_sphere_off():
    _, places = electrode_places("biosemi64", 64)
    occipital = places[np.argsort(places[:, 1])[:8]]
    centre = sphere_centre(torch.tensor(occipital))
    assert (centre - torch.tensor([0.0, 0.0, 0.04])).norm() < 0.06


def test_spline_falls_back_to_time_where_nothing_is_visible():
    eeg = torch.randn(2, 8, 60)
    hidden = torch.zeros(2, 8, 3, dtype=torch.bool)
    hidden[:, :, 1] = True
    places = torch.tensor(electrode_places("biosemi16", 8)[1])
    torch.testing.assert_close(spline_fill(eeg, places, hidden), linear_fill(eeg, places, hidden))


def test_noise_is_normal_and_independent():
    noise = normal_noise(7, torch.arange(400), (25, 8)).flatten(1)
    assert stats.kstest(noise.flatten().numpy(), "norm").pvalue > 0.001
    correlation = np.corrcoef(noise.numpy())[np.triu_indices(400, 1)]
    assert abs(correlation.mean()) < 0.002
    assert abs(correlation.std() - 200**-0.5) < 0.01
    assert torch.equal(normal_noise(7, torch.tensor([3, 399]), (25, 8)).flatten(1), noise[[3, 399]])
    other = normal_noise(8, torch.arange(400), (25, 8)).flatten(1)
    assert abs(np.corrcoef(noise.flatten(), other.flatten())[0, 1]) < 0.02


def test_kl_and_free_bits():
    config = preset("tiny", latent_dim=2, free_bits=0.1)
    mean = torch.tensor([[[1.0, 0.0], [1.0, 0.0]]])
    logvar = torch.zeros(1, 2, 2)
    target = torch.randn(1, 3, 4)
    terms = {"predicted": target + 2, "target": target, "mean": mean, "logvar": logvar}
    losses = objective([terms], config, beta=10.0)
    normal = torch.distributions.Normal
    wanted = torch.distributions.kl_divergence(normal(1.0, 1.0), normal(0.0, 1.0)).item()
    torch.testing.assert_close(losses.vectors["kl_per_dim"], torch.tensor([wanted, 0.0]))
    assert losses.terms["error"].item() == pytest.approx(2.0)
    assert losses.total.item() == pytest.approx(2.0 + 10 * (wanted + 0.1) / 2)
    assert losses.per_window["r"].item() == pytest.approx(1.0, abs=1e-5)


def test_pearson_equals_numpy():
    a, b = torch.randn(3, 5, 7), torch.randn(3, 5, 7)
    wanted = [np.corrcoef(x.flatten(), y.flatten())[0, 1] for x, y in zip(a, b, strict=True)]
    np.testing.assert_allclose(pearson(a, b).numpy(), wanted, rtol=1e-4)


@pytest.mark.parametrize(
    "changes", [{}, {"tokens": "joint"}, {"baseline": "none", "beta": 0.0}], ids=str
)
def test_flops_equal_torchs_count(changes, monkeypatch):
    # torch's counter does not know the fused CPU kernel; it knows the plain products.
    monkeypatch.setattr("model.transformer._TORCH_KERNELS", [SDPBackend.MATH])
    config = preset("tiny", **changes)
    model = MaskedVAE(config)
    places = torch.tensor(electrode_places("biosemi32", 32)[1])
    batch = Batch.of(torch.randn(2, 32, 200), places)
    with FlopCounterMode(display=False) as counter:
        model([DrawMasks(config, 0)(batch)], 0.0, 0)
    # torch counts the spline's solves and the position map as well: under 5 % at this size.
    assert counter.get_total_flops() / 2 == pytest.approx(forward_flops(config, 32, 200), rel=0.05)


def test_attention_equals_its_definition():
    q, k, v = (torch.randn(2, 11, 3, 8) for _ in range(3))
    weights = (torch.einsum("blhd,bmhd->bhlm", q, k) / 8**0.5).softmax(-1)
    torch.testing.assert_close(attention(q, k, v), torch.einsum("bhlm,bmhd->blhd", weights, v))


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_attention_gradients_on_the_gpu():
    q, k, v = (torch.randn(2, 192, 3, 64, device="cuda") for _ in range(3))
    wanted, found = [], []
    for dtype, out in ((torch.float32, wanted), (torch.bfloat16, found)):
        inputs = [x.to(dtype).detach().requires_grad_() for x in (q, k, v)]
        attention(*inputs).float().square().sum().backward()
        out.extend(x.grad.float() for x in inputs)
    for a, b in zip(wanted, found, strict=True):
        assert b.isfinite().all()
        assert (a - b).norm() / a.norm() < 0.02
