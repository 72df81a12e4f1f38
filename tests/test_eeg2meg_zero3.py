"""EEG to MEG with ZeRO-3, where no rank holds the weights: what is handed on, resuming, figures."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from commands import ROOT, metrics, python, ranks
from tiny import TINY_TRANSLATION, tiny_pairs

from model.autoencoder import MaskedVAE
from model.brainformer import BrainformerForEEG2MEG
from model.config import preset
from trainer.masked.export import write_encoder_folder

pytestmark = pytest.mark.slow

TINY = [
    *TINY_TRANSLATION, "--log_every", 1, "--eval_windows", 8, "--eval_every", 2, "--steps", 4,
    "--global_batch", 4,
]  # fmt: skip


@pytest.fixture(scope="module")
def pairs(tmp_path_factory) -> Path:
    return tiny_pairs(tmp_path_factory.mktemp("pairs") / "linear")


@pytest.fixture(scope="module")
def zero_3(tmp_path_factory) -> Path:
    """The project's JSON, but dividing parameters as small as this model's too."""
    settings = json.loads((ROOT / "ds_configs/zero3.json").read_text())
    settings["zero_optimization"]["stage3_param_persistence_threshold"] = 0
    path = tmp_path_factory.mktemp("json") / "zero3.json"
    path.write_text(json.dumps(settings))
    return path


def train(pairs: Path, run: Path, settings: Path, *words) -> str:
    flags = ["--shards", pairs, "--run", run, "--deepspeed_config", settings]
    return ranks(2, "trainer/eeg2meg.py", *TINY, *flags, *words)


def curve(run: Path, group: str) -> list[tuple]:
    return [(line["step"], line["loss"]) for line in metrics(run, group)]


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_zero_3_hands_on_what_zero_2_does(pairs, zero_3, tmp_path, precision):
    plain, divided = tmp_path / "plain", tmp_path / "divided"
    common = ["--precision", precision]
    train(pairs, plain, ROOT / "ds_configs/zero2.json", *common, "--figure_every", 0)
    words = [*common, "--figure_every", 4, "--save_every", 2, "--keep_last", 1]
    train(pairs, divided, zero_3, *words, "--stop_at", 2)
    assert "going on from" in train(pairs, divided, zero_3, *words)
    kept = (divided / "checkpoints").glob("step_*")
    assert [path.name for path in kept] == ["step_00000004"]
    near = 2e-4 if precision == "fp32" else 2e-2
    for group in ("train", "val"):
        for one, other in zip(curve(plain, group), curve(divided, group), strict=True):
            assert other == pytest.approx(one, rel=near), group
    events = list((divided / "tensorboard").glob("events*"))
    assert sum(path.stat().st_size for path in events) > 50_000  # figures are in them
    wanted, found = (
        BrainformerForEEG2MEG.from_pretrained(run / "best").state_dict() for run in (plain, divided)
    )
    for name, value in wanted.items():
        torch.testing.assert_close(found[name], value, rtol=5 * near, atol=5 * near)
    out = tmp_path / "shared"
    python("trainer/convert.py", divided, "--out", out, "--checkpoint", "last")
    shared = BrainformerForEEG2MEG.from_pretrained(out).state_dict()
    assert {name: value.shape for name, value in shared.items()} == {
        name: value.shape for name, value in wanted.items()
    }


def test_a_frozen_encoder_is_handed_on_whole(pairs, zero_3, tmp_path):
    """No optimizer holds its weights."""
    config = preset(
        "tiny", sfreq_hz=250.0, width=32, depth=2, heads=2, decoder_width=16, decoder_heads=2,
        decoder_depth=1, latent_dim=8,
    )  # fmt: skip
    wanted = MaskedVAE(config).encoder.state_dict(prefix="encoder.")
    meta = {
        "model": config.as_dict(), "steps": 7,
        "signal": {"sfreq_hz": 250.0, "l_freq_hz": 1.0, "h_freq_hz": 40.0},
        "trained_on": {"manifest_sha256": "0" * 64, "subjects": {"A": ["1"]}},
    }  # fmt: skip
    write_encoder_folder(wanted, meta, tmp_path / "encoder")
    frozen = ["--encoder", tmp_path / "encoder", "--freeze_encoder", "--model", "d_model=32"]
    train(pairs, tmp_path / "run", zero_3, *frozen, "--figure_every", 0, "--stop_at", 2)
    model = BrainformerForEEG2MEG.from_pretrained(tmp_path / "run/best")
    assert model.config.eeg_encoder["trained_on"] == {"A": ["1"]}
    found = model.brainformer.pretrained.encoder.state_dict()
    for name, value in wanted.items():
        assert torch.equal(found[name], value), name
