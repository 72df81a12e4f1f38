"""First weights: a switch of the configuration changes what it is about and nothing else."""

from __future__ import annotations

import pytest
import torch

from model.autoencoder import MaskedVAE
from model.brainformer.configuration_brainformer import BrainformerConfig
from model.brainformer.modeling_brainformer import BrainformerForEEG2MEG
from model.config import preset

SMALL = {"width": 32, "depth": 2, "heads": 2, "decoder_width": 16, "decoder_depth": 1,
         "decoder_heads": 2, "latent_dim": 8}  # fmt: skip
SWITCHES = [
    {"beta": 0.0},
    {"baseline": "none"},
    {"baseline": "none", "decoder_input": "latent"},
    {"decoder_input": "signal_fill"},
    {"visible_weight": 0.5, "spectral_weight": 0.5},
    {"latent_dim": 12},
    {"tokens": "joint"},
    {"heads": 4, "loss": "l2"},
]


def shared(one: torch.nn.Module, other: torch.nn.Module) -> list[str]:
    """Parameters that both have with the same shape; fails where their values differ."""
    mine, theirs = dict(one.named_parameters()), dict(other.named_parameters())
    names = [n for n, p in mine.items() if n in theirs and p.shape == theirs[n].shape]
    for name in names:
        assert torch.equal(mine[name], theirs[name]), name
    return names


@pytest.mark.parametrize("switch", SWITCHES, ids=str)
def test_twins_start_from_the_same_weights(switch):
    one, other = (MaskedVAE(preset("tiny", **{**SMALL, **more}), seed=3) for more in ({}, switch))
    assert len(shared(one, other)) > 0.8 * len(dict(one.named_parameters())) - 8


def test_a_twin_without_variance_lacks_nothing_else():
    one, other = (MaskedVAE(preset("tiny", **SMALL, beta=beta)) for beta in (1e-3, 0.0))
    lacking = {name for name, _ in one.named_parameters()} - set(shared(one, other))
    assert lacking == {"encoder.to_logvar.weight", "encoder.to_logvar.bias"}


def test_a_start_is_the_seeds_and_no_one_elses():
    config = preset("tiny", **SMALL)
    torch.manual_seed(1)
    one = MaskedVAE(config, seed=5)
    torch.manual_seed(2)
    assert len(shared(one, MaskedVAE(config, seed=5))) == len(dict(one.named_parameters()))
    other = MaskedVAE(config, seed=6)
    assert not torch.equal(one.encoder.embed.weight, other.encoder.embed.weight)
    first, second = (block.qkv.weight for block in one.encoder.stack.blocks)
    assert not torch.equal(first, second)


def test_weights_keep_a_tokens_variance():
    encoder = MaskedVAE(preset("tiny")).encoder
    block = encoder.stack.blocks[3]
    assert block.qkv.weight.std().item() == pytest.approx(192**-0.5, rel=0.02)
    assert block.mlp_out.weight.std().item() == pytest.approx((768 * 12) ** -0.5, rel=0.02)
    assert encoder.to_logvar.weight.std().item() == pytest.approx(0.1 * 192**-0.5, rel=0.05)
    assert (encoder.to_logvar.bias == -2).all()


BRAINFORMER = {"d_model": 16, "n_heads": 2, "n_layers": 1, "d_ff": 32, "skip_anchors": 24,
               "skip_rank": 4, "n_eeg": 12, "n_meg": 9}  # fmt: skip


@pytest.mark.parametrize(
    "switch",
    [
        {"skip": "none"}, {"skip": "montage"}, {"skip_states": 0}, {"head": "both"},
        {"sensor_embedding": "both"}, {"channel_mixer": "full"}, {"n_layers": 2},
    ],
    ids=str,
)  # fmt: skip
def test_brainformers_that_share_a_module_share_its_start(switch):
    models = []
    for more in ({}, switch):
        torch.manual_seed(4)
        models.append(BrainformerForEEG2MEG(BrainformerConfig(**{**BRAINFORMER, **more})))
    if "n_layers" in switch:  # what writes into the residual stream is scaled by the depth
        same = [n for n, _ in models[0].named_parameters() if "brainformer.eeg_sensors" in n]
        own = [dict(model.named_parameters()) for model in models]
        assert all(torch.equal(own[0][name], own[1][name]) for name in same)
        assert same
    else:
        assert len(shared(*models)) > 10
    torch.manual_seed(5)
    other = BrainformerForEEG2MEG(BrainformerConfig(**BRAINFORMER))
    assert not torch.equal(
        other.brainformer.segment_in.weight, models[0].brainformer.segment_in.weight
    )
