"""The autoencoder: shapes, properties over montages and lengths, and what it must never see."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny import electrode_places

from data.batches.batch import Batch
from model.autoencoder import MaskedVAE
from model.config import PRESETS, from_dict, preset
from model.masks import Sheet, draw_mask

SMALL = {"width": 32, "depth": 2, "heads": 2, "decoder_width": 16, "decoder_depth": 1,
         "decoder_heads": 2, "latent_dim": 8}  # fmt: skip


def places(channels: int) -> torch.Tensor:
    return torch.from_numpy(electrode_places("biosemi64", channels)[1])


def awake(config) -> MaskedVAE:
    """A model whose output layer does not start at zero, so that its output shows its input."""
    torch.manual_seed(0)
    model = MaskedVAE(config).eval()
    torch.nn.init.normal_(model.decoder.to_patch.weight, std=0.1)
    return model


def hidden_of(config, batch: int, channels: int, patches: int, seed: int = 0) -> torch.Tensor:
    rng = np.random.default_rng(seed)
    masks = []
    for _ in range(batch):
        if config.tokens == "joint":
            count = config.hidden_count(patches)
            sheet = Sheet(np.zeros((1, 3)), patches, 10.0)
            mask = draw_mask("random", sheet, count, rng).repeat(channels, 0)
        else:
            count = config.hidden_count(channels * patches)
            sheet = Sheet(places(channels).numpy(), patches, 10.0)
            mask = draw_mask("random", sheet, count, rng)
        masks.append(mask)
    return torch.from_numpy(np.stack(masks))


def batch_of(config, eeg: torch.Tensor, hidden: torch.Tensor) -> Batch:
    rows = hidden[:, :1] if config.tokens == "joint" else hidden
    flat = [mask.numpy().ravel() for mask in rows]
    pairs = [(np.flatnonzero(~mask), np.flatnonzero(mask)) for mask in flat]
    keep, hide = (torch.from_numpy(np.stack(side)) for side in zip(*pairs, strict=True))
    return Batch.of(eeg, places(eeg.shape[1]), keep=keep, hide=hide)


KINDS = [
    {},
    {"baseline": "none", "spectral_weight": 0.3, "visible_weight": 0.1},
    {"beta": 0.0, "loss": "l2"},
    {"tokens": "joint"},
]


@settings(max_examples=25, deadline=None)
@given(
    st.integers(0, len(KINDS) - 1), st.integers(4, 40), st.integers(2, 7), st.integers(0, 19)
)  # fmt: skip
def test_any_montage_and_any_length(kind, channels, patches, extra):
    config = preset("tiny", **SMALL, **KINDS[kind])
    model = awake(config)
    eeg = torch.randn(2, channels, patches * 20 + extra)
    hidden = hidden_of(config, 2, channels, patches)
    out = model.reconstruct(eeg, places(channels), hidden)
    assert out.shape == (2, channels, patches * 20)
    assert out.isfinite().all()
    seen = ~hidden.repeat_interleave(20, dim=2)
    assert torch.equal(out[seen], eeg[..., : patches * 20][seen])
    with torch.inference_mode():
        encoded = model.encode(eeg, places(channels))
    assert encoded.tokens.shape == (2, config.token_count(channels, patches * 20), 8)
    assert encoded.pooled.shape == (2, 32)


@pytest.mark.parametrize("kind", KINDS, ids=str)
def test_hidden_samples_are_never_seen(kind):
    config = preset("tiny", **SMALL, **kind)
    model = awake(config)
    eeg = torch.randn(3, 16, 100)
    hidden = hidden_of(config, 3, 16, 5)
    changed = torch.where(hidden.repeat_interleave(20, dim=2), torch.randn_like(eeg) * 7, eeg)
    for fill in (model.reconstruct, model.baseline_fill):
        one, two = (fill(x, places(16), hidden) for x in (eeg, changed))
        covered = hidden.repeat_interleave(20, dim=2)
        torch.testing.assert_close(one[covered], two[covered], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("kind", KINDS, ids=str)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_gradients_reach_every_parameter(kind, dtype):
    config = preset("tiny", **SMALL, **kind)
    model = awake(config).train().to(dtype)
    batches = [
        batch_of(config, torch.randn(3, 16, 100), hidden_of(config, 3, 16, 5)),
        batch_of(config, torch.randn(2, 9, 60), hidden_of(config, 2, 9, 3)),
    ]
    losses = model(batches, 1e-3, 0)
    losses.total.backward()
    assert losses.total.dtype == torch.float32
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.abs().sum() > 0, name


def test_a_mixed_batch_weighs_every_sample_the_same():
    config = preset("tiny", **SMALL)
    model = awake(config)  # evaluation: no latent noise
    one = batch_of(config, torch.randn(3, 16, 100), hidden_of(config, 3, 16, 5))
    two = batch_of(config, torch.randn(1, 9, 60), hidden_of(config, 1, 9, 3))
    apart = [model([batch], 0.0, 0).terms["error"] for batch in (one, two)]
    together = model([one, two], 0.0, 0).terms["error"]
    torch.testing.assert_close(together, (3 * apart[0] + apart[1]) / 4)


def test_permuting_channels_permutes_the_output():
    config = preset("tiny", **SMALL)
    model = awake(config)
    eeg, hidden = torch.randn(2, 16, 100), hidden_of(config, 2, 16, 5)
    order = torch.randperm(16, generator=torch.Generator().manual_seed(1))
    straight = model.reconstruct(eeg, places(16), hidden)[:, order]
    permuted = model.reconstruct(eeg[:, order], places(16)[order], hidden[:, order])
    torch.testing.assert_close(straight, permuted, rtol=1e-3, atol=1e-3)


def test_residual_model_starts_at_the_baseline():
    model = MaskedVAE(preset("tiny", **SMALL)).eval()
    eeg, hidden = torch.randn(2, 16, 100), hidden_of(model.config, 2, 16, 5)
    start = model.baseline_fill(eeg, places(16), hidden)
    assert torch.equal(model.reconstruct(eeg, places(16), hidden), start)


def test_noise_in_training_only_and_keyed_by_place():
    config = preset("tiny", **SMALL)
    model = awake(config)
    batch = batch_of(config, torch.randn(3, 16, 100), hidden_of(config, 3, 16, 5))
    assert model([batch], 0.0, 0).terms["error"] == model([batch], 0.0, 1).terms["error"]
    model.train()
    assert model([batch], 0.0, 0).terms["error"] == model([batch], 0.0, 0).terms["error"]
    assert model([batch], 0.0, 0).terms["error"] != model([batch], 0.0, 1).terms["error"]


def test_brain2image_has_the_originals_shapes():
    config = PRESETS["brain2image"]
    with torch.device("meta"):
        model = MaskedVAE(config)
    blocks = sum(p.numel() for p in model.encoder.stack.blocks.parameters())
    assert 150e6 < blocks < 152e6
    assert config.token_count(128, 512) == 128
    assert config.token_count(128, 512) - config.hidden_count(128) == 32
    assert (model.decoder.stack.blocks[0].heads, len(model.decoder.stack.blocks)) == (16, 8)


@pytest.mark.parametrize("name", PRESETS)
def test_config_round_trip(name):
    assert from_dict(PRESETS[name].as_dict()) == PRESETS[name]


@pytest.mark.parametrize(
    "changes",
    [
        {"tokens": "pixel"}, {"width": 190}, {"mask_ratio": 1.0}, {"beta": -1.0},
        {"mask_mixture": {"stripe": 1.0}}, {"mask_mixture": {}}, {"colour": 1}, {"depth": 0},
        {"visible_weight": 0.1, "decoder_input": "signal_fill"},
        {"decoder_input": "signal_fill", "baseline": "none"}, {"decoder_input": "all"},
        {"loss": "l3"},
        {"tokens": "joint", "mask_mixture": {"block": 1.0}},
    ],
    ids=str,
)  # fmt: skip
def test_bad_configurations_are_named(changes):
    with pytest.raises(ValueError, match="model field"):
        preset("tiny", **changes)


@pytest.mark.parametrize("tokens", ["channel", "joint"])
def test_a_head_on_the_embedding_trains_the_encoder(tokens):
    model = MaskedVAE(preset("tiny", **SMALL, tokens=tokens))
    pooled = model.encode(torch.randn(3, 16, 100), places(16)).pooled
    pooled[:, 0].sum().backward()
    reached = {name for name, p in model.encoder.named_parameters() if p.grad is not None}
    assert {"embed.weight", "stack.blocks.0.qkv.weight", "stack.norm.weight"} <= reached
    assert all(p.grad is None for p in model.decoder.parameters())
