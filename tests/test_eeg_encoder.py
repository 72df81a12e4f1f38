"""The encoder as transformers has it: montages in one batch, channels that were not recorded, and
what it refuses."""

from __future__ import annotations

import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny import electrode_places
from transformers import AutoModel

from model.config import preset
from model.eeg_encoder import EegEncoderConfig, EegEncoderModel

SMALL = {"width": 32, "heads": 2, "depth": 2, "latent_dim": 8}


@pytest.fixture(scope="module")
def places():
    return torch.from_numpy(electrode_places("biosemi32", 16)[1]).float()


def encoder(**changes) -> EegEncoderModel:
    return EegEncoderModel(EegEncoderConfig(preset("tiny", **SMALL, **changes).as_dict())).eval()


def eeg(windows=3, channels=16, samples=200) -> torch.Tensor:
    return torch.randn(windows, channels, samples, generator=torch.Generator().manual_seed(0))


def test_it_always_starts_alike():
    first, second = encoder().state_dict(), encoder().state_dict()
    assert all(torch.equal(value, second[name]) for name, value in first.items())
    assert first["encoder.to_mean.weight"].std() > 0


def test_a_channel_masked_out_is_as_if_left_out(places):
    model, windows = encoder(), eeg()
    mask = torch.ones(3, 16, dtype=torch.bool)
    mask[:, [2, 7, 15]] = False
    windows[:, 2] = torch.nan  # whatever lies there
    masked = model(windows, places, mask)
    left = model(windows[:, mask[0]], places[mask[0]])
    tokens = mask.repeat_interleave(10, 1)
    torch.testing.assert_close(
        masked.last_hidden_state[tokens], left.last_hidden_state.flatten(0, 1), atol=1e-6, rtol=1e-5
    )
    torch.testing.assert_close(masked.pooler_output, left.pooler_output, atol=1e-6, rtol=1e-5)


def test_a_mask_of_all_changes_no_bit(places):
    model, windows = encoder(), eeg()
    plain = model(windows, places)
    for positions_m in (places, places.expand(3, -1, -1)):
        found = model(windows, positions_m, torch.ones(3, 16, dtype=torch.bool))
        assert torch.equal(found.last_hidden_state, plain.last_hidden_state)


def test_montages_may_mix(places):
    model, windows = encoder(), eeg()
    order = torch.stack([torch.randperm(16, generator=torch.Generator().manual_seed(i))
                         for i in range(3)])  # fmt: skip
    mixed = model(windows, places[order])
    for number in range(3):
        alone = model(windows[number : number + 1], places[order[number]])
        torch.testing.assert_close(
            mixed.pooler_output[number], alone.pooler_output[0], atol=1e-6, rtol=1e-5
        )


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda x, p: (x, p * 1000), "give metres"),
        (lambda x, p: (x, p * 0), "give metres"),
        (lambda x, p: (x * float("nan"), p), "not finite"),
        (lambda x, p: (x[..., :19], p), "a patch has 20"),
        (lambda x, p: (x, p, torch.zeros(3, 16, dtype=torch.bool)), "no channel was recorded"),
        (lambda x, p: (x, p, torch.eye(3, 16, dtype=torch.bool) & False), "no channel"),
    ],
)
def test_wrong_input_is_one_message(change, says, places):
    with pytest.raises(ValueError, match=says):
        encoder()(*change(eeg(), places))


def test_joint_tokens_take_one_montage(places):
    model = encoder(tokens="joint")
    assert model(eeg(), places).pooler_output.shape == (3, 32)
    with pytest.raises(ValueError, match="one montage"):
        model(eeg(), places.expand(3, -1, -1))


@pytest.mark.parametrize("change", ["missing", "renamed", "shape"])
def test_a_folder_without_a_tensor_is_refused(change, tmp_path):
    encoder().save_pretrained(tmp_path)
    path = tmp_path / "model.safetensors"
    state = load_file(path)
    name = "encoder.stack.blocks.1.qkv.weight"
    tensor = state.pop(name)
    if change == "renamed":
        state[name.replace("blocks", "layers")] = tensor
    elif change == "shape":
        state[name] = tensor[:-1].contiguous()
    save_file(state, path, metadata={"format": "pt"})
    with pytest.raises(ValueError, match=r"blocks\.1\.qkv\.weight"):
        AutoModel.from_pretrained(tmp_path)
