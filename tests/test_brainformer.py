"""Brainformer: what its output may depend on, what it can be saved as, and what it refuses."""

from __future__ import annotations

import inspect
import subprocess
import sys
import warnings

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file
from transformers import AutoConfig, AutoModel, AutoProcessor

from model.brainformer import (
    BrainformerConfig,
    BrainformerForEEG2MEG,
    BrainformerModel,
    BrainformerProcessor,
    MuLawQuantizer,
)
from model.config import preset

TINY = {"d_model": 16, "n_heads": 2, "d_ff": 32, "n_routers": 3, "skip_rank": 4, "skip_anchors": 24}
VARIANTS = {
    "router": {},
    "full": {"channel_mixer": "full", "n_layers": 2},
    "tokens": {"head": "tokens", "quantizer_levels": 31},
    "both": {"head": "both", "quantizer_levels": 31},
    "lags": {"skip_lags": 2, "segment_samples": 5},
    "one map": {"skip_states": 0},
    "sample": {"segment_samples": 1, "skip": "none"},
    "tables": {"sensor_embedding": "both", "skip": "montage", "n_eeg": 70, "n_meg": 12},
}


def awake(**changes) -> BrainformerForEEG2MEG:
    """A model whose weights that start at zero do not, so that its output shows its input."""
    torch.manual_seed(0)
    model = BrainformerForEEG2MEG(BrainformerConfig(**{**TINY, **changes})).eval()
    for parameter in model.parameters():
        if not parameter.any():
            torch.nn.init.normal_(parameter, std=0.2)
    return model


def on_sphere(count: int, radius_m: float, seed: int) -> np.ndarray:
    found = np.random.default_rng(seed).standard_normal((count, 3))
    return radius_m * found / np.linalg.norm(found, axis=1, keepdims=True)


def recording(n_eeg: int = 9, n_meg: int = 6, length: int = 44, seed: int = 0) -> dict:
    """Arguments of the processor for one recording, in physical units."""
    rng = np.random.default_rng(seed)
    types = ["mag" if number % 3 == 0 else "grad" for number in range(n_meg)]
    size = np.array([1e-13 if name == "mag" else 3e-12 for name in types])[:, None]
    return {
        "eeg": rng.standard_normal((n_eeg, length)) * 1e-5,
        "meg": rng.standard_normal((n_meg, length)) * size,
        "eeg_positions_m": on_sphere(n_eeg, 0.09, seed + 1),
        "meg_positions_m": on_sphere(n_meg, 0.11, seed + 2),
        "meg_orientations": rng.standard_normal((n_meg, 6)),
        "meg_types": types,
    }


def batch_of(*recordings: dict) -> dict[str, torch.Tensor]:
    fields = {name: [one[name] for one in recordings] for name in recordings[0]}
    return dict(BrainformerProcessor()(**fields))


def predict(model, batch, **more) -> torch.Tensor:
    with torch.no_grad():
        return model(**{**batch, **more}).prediction


@pytest.mark.parametrize("name", VARIANTS)
def test_permuted_channels_permute_the_output(name):
    model, batch = awake(**VARIANTS[name]), batch_of(recording())
    eeg_order, meg_order = torch.randperm(9), torch.randperm(6)
    moved = dict(batch)
    for field in ("eeg", "eeg_positions_m"):
        moved[field] = batch[field][:, eeg_order]
    for field in ("meg_positions_m", "meg_orientations", "meg_types", "labels"):
        moved[field] = batch[field][:, meg_order]
    if name == "tables":
        moved["eeg_index"], moved["meg_index"] = eeg_order, meg_order
    expected = predict(model, batch)[:, meg_order]
    assert expected.std() > 0.01
    torch.testing.assert_close(predict(model, moved), expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("name", ["router", "full", "lags", "sample"])
def test_padding_changes_nothing(name, causal):
    model = awake(**VARIANTS[name])
    small, large = recording(9, 6, 44), recording(14, 8, 67, seed=5)
    alone, both = batch_of(small), batch_of(small, large)
    assert {"eeg_mask", "meg_mask", "time_mask"} <= set(both)
    with torch.no_grad():
        one, two = model(**alone, causal=causal), model(**both, causal=causal)
    torch.testing.assert_close(two.prediction[0, :6, :44], one.prediction[0], atol=1e-5, rtol=0)
    assert not two.prediction[0, 6:].any()
    assert not two.prediction[0, :, 44:].any()

    dirty = {field: value.clone() for field, value in both.items()}
    dirty["eeg"][0, 9:], dirty["eeg"][0, :, 44:] = torch.nan, 1e6
    dirty["labels"][0, 6:], dirty["labels"][0, :, 44:] = torch.nan, 1e6
    dirty["eeg_positions_m"][0, 9:], dirty["meg_positions_m"][0, 6:] = torch.nan, torch.nan
    dirty["meg_orientations"][0, 6:] = torch.nan
    with torch.no_grad():
        three = model(**dirty, causal=causal)
    assert torch.equal(three.prediction, two.prediction)
    assert torch.equal(three.loss, two.loss)


@pytest.mark.parametrize("causal", [False, True])
def test_padding_before_a_recording_gives_numbers(causal):
    batch = batch_of(recording())
    batch["time_mask"] = torch.arange(44)[None] >= 20
    found = predict(awake(), batch, causal=causal)
    assert found.isfinite().all()
    assert not found[..., :20].any()
    assert found[..., 20:].any()


def test_one_checkpoint_takes_any_montage_and_length(tmp_path):
    awake().save_pretrained(tmp_path)
    model = BrainformerForEEG2MEG.from_pretrained(tmp_path)
    for n_eeg, length in [(32, 64), (60, 100), (70, 257)]:
        batch = batch_of(recording(n_eeg, 6, length))
        found = model(**batch)
        assert found.prediction.shape == (1, 6, length)
        assert found.loss.isfinite()


@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize("name", VARIANTS)
def test_gradients_reach_every_parameter(name, checkpointing):
    changes = {"n_eeg": 9, "n_meg": 6} if name == "tables" else {}
    model = awake(**{**VARIANTS[name], "dropout": 0.0, **changes}).train()
    batch = batch_of(recording())
    model(**batch).loss.backward()
    plain = [parameter.grad.clone() for parameter in model.parameters()]
    if checkpointing:
        model.zero_grad()
        with warnings.catch_warnings():  # the newer name is not in every version we take
            warnings.simplefilter("ignore", FutureWarning)
            model.gradient_checkpointing_enable({"use_reentrant": False})
        model(**batch).loss.backward()
        for (where, parameter), before in zip(model.named_parameters(), plain, strict=True):
            torch.testing.assert_close(parameter.grad, before, msg=where)
    for (where, _), gradient in zip(model.named_parameters(), plain, strict=True):
        assert gradient.abs().sum() > 0, where


@pytest.mark.parametrize("name", VARIANTS)
def test_causal_output_ignores_later_eeg(name):
    model, batch = awake(**VARIANTS[name]), batch_of(recording())
    expected = predict(model, batch, causal=True)
    free = predict(model, batch)
    for now in (0, 7, 8, 21, 42):
        later = dict(batch, eeg=batch["eeg"].clone())
        later["eeg"][..., now + 1 :] += 3.0
        found = predict(model, later, causal=True)
        assert torch.equal(found[..., : now + 1], expected[..., : now + 1])
        assert not torch.equal(found[..., now + 1 :], expected[..., now + 1 :])
    if name != "sample":
        assert not torch.equal(predict(model, later)[..., :8], free[..., :8])


def test_streaming_gives_what_the_whole_recording_gives():
    model, batch = awake(causal=True), batch_of(recording())
    whole = predict(model, batch)
    batch.pop("labels")
    for now in (1, 8, 30):
        part = predict(model, dict(batch, eeg=batch["eeg"][..., :now]))
        torch.testing.assert_close(part, whole[..., :now], atol=1e-5, rtol=0)


@pytest.mark.parametrize("name", ["router", "tokens"])
def test_translate_is_forward_in_physical_units(name):
    model = awake(**VARIANTS[name], dropout=0.5).train()
    processor = BrainformerProcessor(scales={"mag": 3e-13, "grad": 7e-12})
    batch = batch_of(recording(9, 6, 44), recording(14, 8, 67, seed=5))
    found = model.translate(processor, **batch)
    assert model.training
    model.eval()
    with torch.no_grad():
        forward = model(**batch)
    scale = torch.where(batch["meg_types"] == 1, 3e-13, 7e-12)[..., None]
    torch.testing.assert_close(found.meg, forward.prediction * scale, rtol=1e-6, atol=0)
    valid = batch["meg_mask"][:, :, None] & batch["time_mask"][:, None]
    std = (0.5 * forward.log_variance).exp() * scale * valid
    torch.testing.assert_close(found.std, std, rtol=1e-5, atol=0)
    assert torch.equal(model.generate(processor, **batch).meg, found.meg)
    decoded = processor.decode(forward.prediction, batch["meg_types"])
    assert torch.equal(decoded, found.meg)


def test_scales_come_back_out_as_they_went_in():
    one = recording()
    processor = BrainformerProcessor().fit([one["eeg"]], [one["meg"]], one["meg_types"])
    assert processor.scales["eeg"] == pytest.approx(1e-5, rel=0.2)
    assert processor.scales["mag"] == pytest.approx(1e-13, rel=0.3)
    batch = processor(**one)
    back = processor.decode(batch["labels"], batch["meg_types"])
    np.testing.assert_allclose(back[0].numpy(), one["meg"], rtol=1e-5)


@settings(max_examples=50, deadline=None)
@given(st.lists(st.floats(-30, 30, width=32), min_size=1, max_size=50))
def test_quantizer_is_off_by_half_a_level_at_most(values):
    quantizer = MuLawQuantizer()
    signal = torch.tensor(sorted(values))
    ids = quantizer.encode(signal)
    assert ids.min() >= 3
    assert ids.max() <= 257
    assert (ids.diff() >= 0).all()
    inside = signal.clamp(-10, 10)
    levels = quantizer.level_values()
    step = torch.maximum(*(levels.diff()[(ids - 3 + at).clamp(0, 253)] for at in (-1, 0)))
    assert ((quantizer.decode(ids) - inside).abs() <= step / 2 * 1.05 + 1e-6).all()


def test_quantizer_round_trip_of_every_level():
    quantizer = MuLawQuantizer()
    ids = torch.arange(3, 258)
    assert quantizer.vocabulary == 258
    assert torch.equal(quantizer.encode(quantizer.decode(ids)), ids)
    assert quantizer.decode(quantizer.encode(torch.zeros(1))) == 0
    assert quantizer.encode(torch.tensor([torch.inf, -torch.inf])).tolist() == [257, 3]
    with pytest.raises(ValueError, match="ids to decode"):
        quantizer.decode(torch.tensor([1]))
    with pytest.raises(ValueError, match="NaN"):
        quantizer.encode(torch.tensor([torch.nan]))


@pytest.mark.parametrize("head", ["regression", "tokens", "both"])
def test_training_lowers_the_loss(head):
    torch.manual_seed(0)
    config = BrainformerConfig(**TINY, head=head, quantizer_levels=31, dropout=0.0)
    model, one = BrainformerForEEG2MEG(config), recording(length=64)
    mixing = np.random.default_rng(1).standard_normal((6, 9)) / 3
    size = np.array([2e-13 if name == "mag" else 5e-12 for name in one["meg_types"]])
    one["meg"] = size[:, None] * (mixing @ one["eeg"] / 1e-5)
    batch = batch_of(one)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    losses = []
    for _ in range(60):
        loss = model(**batch).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    found, truth = predict(model.eval(), batch)[0], batch["labels"][0]
    assert losses[-1] < 0.8 * losses[0]
    assert np.corrcoef(found.flatten(), truth.flatten())[0, 1] > 0.5


@pytest.mark.parametrize("skip", ["geometry", "montage"])
@pytest.mark.parametrize("lags", [0, 2])
def test_a_model_started_from_ridge_predicts_what_ridge_predicts(skip, lags):
    torch.manual_seed(0)
    config = BrainformerConfig(
        **{**TINY, "skip_rank": 30, "skip_anchors": 192},
        skip=skip, skip_lags=lags, n_eeg=9, n_meg=6, head="both", quantizer_levels=31,
    )  # fmt: skip
    model, batch = BrainformerForEEG2MEG(config).eval(), batch_of(recording())
    labels = batch.pop("labels")
    ridge = torch.randn(6, 9, 2 * lags + 1)
    sensors = {name: value[0] for name, value in batch.items() if name != "eeg"}
    assert model.init_skip_from_ridge(ridge, **sensors) < 1e-2
    padded = torch.nn.functional.pad(batch["eeg"], (lags, lags))
    windows = padded.unfold(-1, 44, 1).flip(2)  # window j starts j - lags samples earlier
    expected = torch.einsum("mcj,bcjt->bmt", ridge, windows)
    found = predict(model, batch)
    assert (found - expected).norm() < 0.01 * expected.norm()
    assert labels.shape == found.shape
    with pytest.raises(ValueError, match="ridge solution"):
        model.init_skip_from_ridge(torch.randn(5, 9), **sensors)


@pytest.mark.parametrize("name", VARIANTS)
def test_saved_and_loaded_gives_the_same_numbers(name, tmp_path):
    model, batch = awake(**VARIANTS[name]), batch_of(recording())
    model.save_pretrained(tmp_path)
    assert [path.name for path in tmp_path.glob("*") if path.suffix in (".bin", ".pt")] == []
    assert set(load_file(tmp_path / "model.safetensors")) == set(model.state_dict())
    again = AutoModel.from_pretrained(tmp_path)
    assert type(again) is BrainformerForEEG2MEG
    loaded = AutoConfig.from_pretrained(tmp_path)
    assert type(loaded) is BrainformerConfig
    for field in inspect.signature(BrainformerConfig).parameters.keys() - {"kwargs"}:
        assert getattr(loaded, field) == getattr(model.config, field), field
    assert torch.equal(predict(again, batch), predict(model, batch))
    trunk = BrainformerModel.from_pretrained(tmp_path).eval()
    batch.pop("labels")
    with torch.no_grad():
        assert torch.equal(
            trunk(**batch).last_hidden_state, model.brainformer(**batch).last_hidden_state
        )


def test_processor_survives_its_json(tmp_path):
    processor = BrainformerProcessor(scales={"mag": 3e-13}, quantizer_range=7.0)
    processor.save_pretrained(tmp_path)
    again = BrainformerProcessor.from_pretrained(tmp_path)
    assert again.scales == processor.scales
    assert again.quantizer.value_range == 7.0
    one = recording()
    assert torch.equal(again(**one)["labels"], processor(**one)["labels"])


REMOTE = """
import sys, torch
from transformers import AutoModel, AutoProcessor
folder = sys.argv[1]
model = AutoModel.from_pretrained(folder, trust_remote_code=True).eval()
processor = AutoProcessor.from_pretrained(folder, trust_remote_code=True)
assert not any(name == "model" or name.startswith("model.") for name in sys.modules)
batch = torch.load(folder + "/batch.pt", weights_only=True)
torch.save(model.translate(processor, **batch).meg, folder + "/meg.pt")
"""


@pytest.mark.slow
def test_folder_with_its_code_works_without_this_project(tmp_path):
    model, processor = awake(head="both", quantizer_levels=31), BrainformerProcessor()
    model.save_pretrained(tmp_path)
    processor.save_pretrained(tmp_path)
    local = AutoProcessor.from_pretrained(tmp_path)
    assert type(local) is BrainformerProcessor
    batch = batch_of(recording())
    torch.save(batch, tmp_path / "batch.pt")
    environment = {"HF_HOME": str(tmp_path / "cache"), "HF_HUB_OFFLINE": "1", "PATH": "/usr/bin",
                   "OMP_NUM_THREADS": "1"}  # fmt: skip
    subprocess.run(
        [sys.executable, "-c", REMOTE, str(tmp_path)], check=True, cwd=tmp_path, env=environment
    )
    found = torch.load(tmp_path / "meg.pt", weights_only=True)
    assert torch.equal(found, model.translate(processor, **batch).meg)


def spoiled(field: str, at, value) -> dict:
    one = recording()
    one[field] = one[field].copy()
    one[field][at] = value
    return one


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"meg_types": []}, "no MEG channels"),
        ({"meg_types": ["magn"] * 6}, "unknown sensor type 'magn'.*did you mean 'mag'"),
        ({"meg_types": ["eeg"] * 6}, "MEG channels are 'mag' or 'grad'"),
        ({"meg": recording(length=40)["meg"]}, "equal lengths"),
        ({"meg": recording(n_meg=5)["meg"]}, "6 MEG channels"),
        ({"eeg": spoiled("eeg", (2, 3), np.nan)["eeg"]}, "eeg holds NaN or infinity.*channel 2"),
        ({"meg": spoiled("meg", (1, 3), np.inf)["meg"]}, "meg holds NaN or infinity.*channel 1"),
        ({"eeg_positions_m": recording()["eeg_positions_m"] * 1000}, "not millimetres"),
        ({"eeg_positions_m": np.zeros((8, 3))}, "eeg_positions_m has the shape"),
    ],
)
def test_processor_says_what_is_wrong(change, message):
    with pytest.raises(ValueError, match=message):
        BrainformerProcessor()(**{**recording(), **change})


def test_model_says_what_is_wrong():
    model, batch = awake(), batch_of(recording())

    def expect(message, **changes):
        with pytest.raises(ValueError, match=message):
            model(**{**batch, **changes})

    expect("same samples and length", labels=batch["labels"][..., :40])
    expect("meg_orientations has the shape", meg_orientations=batch["meg_orientations"][..., :3])
    expect("eeg_positions_m is missing", eeg_positions_m=None)
    expect("eeg_mask has the shape", eeg_mask=torch.ones(1, 3))
    none = {"meg_positions_m": torch.zeros(0, 3), "meg_orientations": torch.zeros(0, 6)}
    expect("no MEG channels", **none, meg_types=torch.zeros(0))
    bad_eeg = batch["eeg"].clone()
    bad_eeg[0, 4, 5] = torch.nan
    with pytest.raises(ValueError, match="NaN or infinity, first in recording 0, channel 4"):
        model.translate(BrainformerProcessor(), **{**batch, "eeg": bad_eeg})
    types = torch.zeros_like(batch["meg_types"])
    with pytest.raises(ValueError, match="unknown sensor type"):
        model.translate(BrainformerProcessor(), **{**batch, "meg_types": types})
    tables = awake(sensor_embedding="index", skip="none", n_eeg=4, n_meg=6)
    with pytest.raises(ValueError, match="tables have 4 rows"):
        tables(batch["eeg"])
    with pytest.raises(ValueError, match="skip='none'"):
        tables.init_skip_from_ridge(torch.zeros(6, 4))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"d_model": 20, "n_heads": 4}, "multiple of 2"),
        ({"channel_mixer": "mean"}, "channel_mixer='mean': use one of router, full"),
        ({"quantizer_levels": 256}, "odd"),
        ({"skip": "montage"}, "needs n_eeg and n_meg"),
        ({"n_routers": 0}, "n_routers=0"),
    ],
)
def test_config_says_what_does_not_fit(change, message):
    with pytest.raises(ValueError, match=message):
        BrainformerConfig(**change)


def test_defaults_are_the_originals_vocabulary_and_routers():
    config = BrainformerConfig(head="tokens")
    model = BrainformerForEEG2MEG(config)
    assert model.heads.tokens.out_features == 8 * 258
    assert model.brainformer.encoder[0].channel.router.shape == (10, 64)
    assert (config.hidden_size, config.num_hidden_layers) == (64, 1)


def with_pretrained(**changes) -> BrainformerForEEG2MEG:
    """A model that reads EEG with an (untrained) encoder of the masked autoencoder."""
    vae = preset(
        "tiny", width=32, depth=2, heads=2, patch_samples=10, decoder_width=16, decoder_heads=2,
        decoder_depth=1, latent_dim=8,
    ).as_dict()  # fmt: skip
    return awake(segment_samples=10, eeg_encoder={"vae": vae}, **changes)


def test_pretrained_encoder_is_masked_saved_and_permuted(tmp_path):
    model, small = with_pretrained(skip="none"), recording(9, 6, 44)
    batch, both = batch_of(small), batch_of(small, recording(14, 8, 67, seed=5))
    alone, padded = predict(model, batch), predict(model, both)
    torch.testing.assert_close(padded[0, :6, :40], alone[0, :, :40], atol=1e-5, rtol=0)
    order = torch.randperm(9)
    moved = {**batch, **{name: batch[name][:, order] for name in ("eeg", "eeg_positions_m")}}
    torch.testing.assert_close(predict(model, moved), alone, atol=1e-5, rtol=0)
    changed = {**batch, "eeg": batch["eeg"].roll(3, dims=1)}
    assert (predict(model, changed) - alone).abs().max() > 1e-3
    model.save_pretrained(tmp_path)
    assert torch.equal(predict(AutoModel.from_pretrained(tmp_path), batch), alone)
    model.train()(**batch).loss.backward()
    encoder = model.brainformer.pretrained.encoder.encoder
    assert encoder.embed.weight.grad.abs().sum() > 0
    with pytest.raises(ValueError, match="cannot be causal"):
        model(**batch, causal=True)
    with pytest.raises(ValueError, match="segment_samples=10"):
        BrainformerConfig(eeg_encoder=model.config.eeg_encoder, segment_samples=8)
