"""What the decoder knows of a window has passed the latents, and what is said about the latents is
so."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from tiny import electrode_places

from data.batches.batch import Batch
from model.autoencoder import MaskedVAE
from model.config import from_dict, preset
from model.interpolation import fill_latents
from model.losses import pearson
from model.tokens import take
from trainer.checkpoints.weights import load_model, read_run_config
from trainer.engine.resume import compare
from trainer.masked.config import MaskedConfig
from trainer.masked.draw import DrawMasks
from trainer.masked.latent_spread import spread, spread_sums

SMALL = {"width": 32, "depth": 2, "heads": 2, "decoder_width": 16, "decoder_depth": 1,
         "decoder_heads": 2, "latent_dim": 8}  # fmt: skip
PLACES = torch.from_numpy(electrode_places("biosemi32", 16)[1])


def awake(**changes) -> MaskedVAE:
    """A model whose output layer does not start at zero, so that its output shows its input."""
    model = MaskedVAE(preset("tiny", **{**SMALL, **changes})).eval()
    torch.nn.init.normal_(model.decoder.to_patch.weight, std=0.1)
    return model


def batch_of(config, windows: int = 3, seed: int = 0) -> Batch:
    eeg = torch.randn(windows, 16, 100, generator=torch.Generator().manual_seed(seed))
    return DrawMasks(config, 0)(Batch.of(eeg, PLACES))


def output_gradient(model: MaskedVAE, batch: Batch) -> torch.Tensor:
    """Of a random sum of all outputs by the window's samples, `[B, C, T]`."""
    eeg = batch.eeg.clone().requires_grad_()
    terms = model._terms(replace(batch, eeg=eeg), 0, False)
    outputs = [terms[name] for name in ("predicted", "visible") if name in terms]
    generator = torch.Generator().manual_seed(9)
    total = sum((out * torch.randn(out.shape, generator=generator)).sum() for out in outputs)
    (found,) = torch.autograd.grad(total, eeg, allow_unused=True)
    return torch.zeros_like(eeg) if found is None else found


def fill_gradient(model: MaskedVAE, batch: Batch) -> torch.Tensor:
    """Likewise of the fill alone."""
    eeg = batch.eeg.clone().requires_grad_()
    filled = model._filled(*model.tokens.prepare(eeg, batch.positions_m), batch.hide)
    hidden = take(filled, batch.hide)
    weights = torch.randn(hidden.shape, generator=torch.Generator().manual_seed(9))
    return torch.autograd.grad((hidden * weights).sum(), eeg)[0]


def detach_latents(model: MaskedVAE) -> None:
    model.encoder.register_forward_hook(
        lambda module, inputs, found: tuple(x if x is None else x.detach() for x in found)
    )


@pytest.mark.parametrize("tokens", ["channel", "joint"])
@pytest.mark.parametrize("decoder_input", ["latent_fill", "latent"])
@pytest.mark.parametrize("more", [{}, {"visible_weight": 0.5, "spectral_weight": 0.5}], ids=str)
def test_nothing_passes_by_the_latents(tokens, decoder_input, more):
    model = awake(tokens=tokens, decoder_input=decoder_input, baseline="none", **more)
    batch = batch_of(model.config)
    assert output_gradient(model, batch).abs().max() > 1e-3
    detach_latents(model)
    assert output_gradient(model, batch).abs().max() == 0


@pytest.mark.parametrize(
    ("tokens", "baseline"), [("channel", "spline"), ("channel", "linear"), ("joint", "spline")]
)
def test_nothing_but_the_fill_passes_by_the_latents(tokens, baseline):
    model = awake(tokens=tokens, baseline=baseline)
    batch = batch_of(model.config)
    with_latents, fill = output_gradient(model, batch), fill_gradient(model, batch)
    assert (with_latents - fill).abs().max() > 1e-3
    detach_latents(model)
    torch.testing.assert_close(output_gradient(model, batch), fill, rtol=1e-4, atol=1e-5)


def test_the_check_sees_a_decoder_that_is_given_the_samples():
    model = awake(decoder_input="signal_fill")
    batch = batch_of(model.config)
    detach_latents(model)
    assert (output_gradient(model, batch) - fill_gradient(model, batch)).abs().max() > 1e-3


def test_other_latents_are_those_of_another_window_under_the_same_mask():
    model = awake(baseline="none")
    batch = batch_of(model.config, 2)
    batch.keep[1], batch.hide[1] = batch.keep[0], batch.hide[0]
    swapped = replace(batch, eeg=batch.eeg.flip(0))
    with torch.no_grad():
        found = model._terms(batch, 0, True)["predicted"]
        wanted = model._terms(swapped, 0, False)["predicted"]
        losses = model([batch], 0.0, 0, other_latents=True)
        own = model([batch], 0.0, 0)
    torch.testing.assert_close(found, wanted)
    torch.testing.assert_close(losses.per_window["r"], pearson(wanted, take(
        model.tokens.cut(batch.eeg), batch.hide
    )))  # fmt: skip
    assert not torch.allclose(losses.per_window["r"], own.per_window["r"])


def test_latents_are_interpolated_as_samples_are():
    """Four equal samples a patch are four dimensions; without electrodes, a line along time."""
    config = preset("tiny", **SMALL, patch_samples=4)
    batch = DrawMasks(config, 0, {"random": 1.0})(Batch.of(torch.randn(2, 16, 20), PLACES))
    model = MaskedVAE(config)
    samples = model.tokens.cut(batch.eeg)
    found = fill_latents(take(samples, batch.keep), batch.keep, 80, 5, PLACES)
    torch.testing.assert_close(found, model._filled(batch.eeg, PLACES, batch.hide))
    keep = torch.tensor([[0, 3]])
    latent = torch.tensor([[[0.0, 9.0], [3.0, 6.0]]])
    line = fill_latents(latent, keep, 5, 5, None)
    wanted = [[0.0, 9.0], [1.0, 8.0], [2.0, 7.0], [3.0, 6.0], [3.0, 6.0]]
    torch.testing.assert_close(line[0], torch.tensor(wanted))


def gradients(model: MaskedVAE, batch: Batch, size: int) -> list[torch.Tensor]:
    """Of the loss over `batch`, mean over micro-batches of `size` windows."""
    model.zero_grad()
    rows = [slice(start, start + size) for start in range(0, len(batch.eeg), size)]
    for row in rows:
        of_row = {n: getattr(batch, n)[row] for n in ("eeg", "order_index", "keep", "hide")}
        piece = replace(batch, **of_row)
        (model([piece], 1.0, 0).total / len(rows)).backward()
    return [p.grad.clone() for p in model.parameters()]


@pytest.mark.parametrize("size", [2, 1])
def test_free_bits_give_one_gradient_for_every_micro_batch(size):
    model = awake(free_bits=1.0).train().double()
    batch = batch_of(model.config, 8)
    batch.eeg.mul_(torch.logspace(-2, 1, 8)[:, None, None])
    with torch.no_grad():
        _, mean, logvar = model.encoder(take(model.tokens.cut(batch.eeg), batch.keep),
                                        PLACES, 5, batch.keep)  # fmt: skip
        kl = 0.5 * (mean.square() + logvar.exp() - 1 - logvar).mean(1)
    assert 0.1 < (kl < 1.0).double().mean() < 0.9  # they bind for some windows and dimensions
    whole = gradients(model, batch, 8)
    for one, other in zip(whole, gradients(model, batch, size), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-6)


def test_latents_that_know_their_place_only_have_no_spread_over_windows():
    rng = np.random.default_rng(0)
    keep = torch.from_numpy(np.stack([rng.permutation(40)[:18] for _ in range(200)]))
    place, window = (torch.from_numpy(rng.standard_normal((n, 3))) for n in (40, 200))
    by_place, by_window = place[keep], window[:, None].expand(-1, 18, -1)
    found = spread(spread_sums(by_place, keep, 40))
    assert found["latent/window_share"] == pytest.approx(0, abs=1e-9)
    assert found["latent/active_share"] == 0
    found = spread(spread_sums(by_window, keep, 40))
    assert found["latent/window_share"] == pytest.approx(1, abs=0.02)
    assert found["latent/active_share"] == 1
    mixed = by_place + torch.tensor([2.0, 0.05, 0.0]) * by_window
    sums = sum(spread_sums(mixed[rows], keep[rows], 40) for rows in torch.arange(200).split(8))
    variance = window.var(0)
    wanted = (variance * torch.tensor([4.0, 0.0025, 0.0])).mean().item()
    found = spread(sums)
    assert found["latent/window_variance"] == pytest.approx(wanted, rel=0.1)
    assert found["latent/active_share"] == pytest.approx(1 / 3)
    assert spread(spread_sums(by_place[:1], keep[:1], 40)) == {}


@pytest.mark.parametrize(
    ("changes", "was"),
    [({"decoder_input": "signal_fill"}, "signal_fill"),
     ({"decoder_input": "latent", "baseline": "none"}, "latent")],
)  # fmt: skip
def test_weights_of_older_versions_load_as_what_they_are(changes, was, tmp_path):
    """They say nothing of `decoder_input`."""
    model = awake(**changes)
    described = model.config.as_dict()
    del described["decoder_input"]
    meta = {"format": "eeg-masked-vae", "format_version": 1, "part": "whole", "model": described,
            "signal": {}, "trained_on": {"subjects": {}}}  # fmt: skip
    save_file(model.state_dict(), tmp_path / "w.safetensors")
    (tmp_path / "w.json").write_text(json.dumps(meta))
    found, _ = load_model(tmp_path / "w.safetensors")
    assert found.config.decoder_input == from_dict(described).decoder_input == was
    batch = batch_of(model.config)
    assert found([batch], 0.0, 0).terms["error"] == model([batch], 0.0, 0).terms["error"]


def test_an_older_run_can_go_on_as_what_it_is(tmp_path):
    """Its record lacks the field: it is the same model, and the message names another."""
    config = preset("tiny", **SMALL, decoder_input="signal_fill")
    rest = {"run": MaskedConfig().as_dict(), "profile": {}, "trained_on": {}}
    record = {**rest, "model": config.as_dict()}
    older = {**rest, "model": {**record["model"]}}
    del older["model"]["decoder_input"]
    (tmp_path / "config.json").write_text(json.dumps(older))
    assert compare(read_run_config(tmp_path), record, 0) == ([], [])
    new = {**rest, "model": preset("tiny", **SMALL).as_dict()}
    refused, _ = compare(read_run_config(tmp_path), new, 0)
    assert refused == [
        (
            "another model: decoder_input signal_fill, now latent_fill",
            "--model decoder_input=signal_fill",
        )
    ]
