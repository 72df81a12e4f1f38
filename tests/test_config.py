"""Settings: where they come from, what is refused, and the schedules."""

from __future__ import annotations

import argparse
import json

import pytest

from data.errors import InputError, did_you_mean
from model.autoencoder import MaskedVAE
from model.config import preset
from trainer.eeg2meg import parse as parse_translation
from trainer.engine.config import add_flags, resolve
from trainer.engine.deepspeed_json import read_deepspeed_config, with_precision
from trainer.engine.optim import layered_groups, lr_factor
from trainer.masked.config import MaskedConfig, kl_weight
from trainer.ranks.ranks import hostfile_argument


def parse(*flags: str) -> MaskedConfig:
    parser = argparse.ArgumentParser()
    add_flags(parser, kind=MaskedConfig)
    return resolve(parser.parse_args(flags), kind=MaskedConfig)


def test_flag_wins_over_environment_wins_over_default(monkeypatch):
    assert parse().preset == "base"
    monkeypatch.setenv("EEG_PRESET", "small")
    monkeypatch.setenv("EEG_STEPS", "12")
    monkeypatch.setenv("EEG_COMPILE", "1")
    config = parse("--preset", "tiny", "--betas", "0.9", "0.99")
    assert (config.preset, config.steps, config.compile) == ("tiny", 12, True)
    assert config.betas == (0.9, 0.99)
    monkeypatch.setenv("EEG_STEPS", "many")
    with pytest.raises(InputError, match="EEG_STEPS=many"):
        parse()


def test_a_misspelt_variable_is_told(monkeypatch, capsys):
    monkeypatch.setenv("EEG_PRESETS", "small")
    monkeypatch.setenv("EEG_ELSEWHERE", "1")
    assert parse().preset == "base"
    told = capsys.readouterr().out
    assert told == "the variable EEG_PRESETS sets nothing here: did you mean EEG_PRESET?\n"
    monkeypatch.setenv("RANK", "1")
    parse()
    assert capsys.readouterr().out == ""


def test_translation_has_the_same_environment_and_only_flags_that_it_reads(monkeypatch):
    monkeypatch.setenv("EEG_STEPS", "12")
    monkeypatch.setenv("EEG_SEQUENCE_LENGTH", "64")
    monkeypatch.setenv("EEG_INIT", "of another command")
    config = parse_translation([])
    assert (config.steps, config.sequence_length, config.init) == (12, 64, None)
    with pytest.raises(SystemExit):
        parse_translation(["--init", "runs/pretrain"])
    with pytest.raises(SystemExit):
        parse_translation(["--shard_url", "{file}"])


@pytest.mark.parametrize(
    ("precision", "json_says", "gpu", "bf16"),
    [
        ("json", True, False, True),
        ("json", False, True, False),
        ("auto", True, True, True),
        ("auto", True, False, False),
        ("auto", False, True, False),
        ("bf16", False, False, True),
        ("fp32", True, True, False),
    ],
)
def test_precision_over_the_json(precision, json_says, gpu, bf16):
    settings = {"bf16": {"enabled": json_says, "check_grad_overflow": True}, "steps_per_print": 1}
    found = with_precision(settings, precision, gpu)
    assert found["bf16"] == {"enabled": bf16, "check_grad_overflow": True}
    assert found["steps_per_print"] == 1
    assert with_precision({}, "fp32", gpu) == {}


def test_model_changes():
    config = parse("--preset", "tiny", "--model", "mask_ratio=0.7", "--model", "tokens=joint")
    model = config.model_config()
    assert (model.mask_ratio, model.tokens) == (0.7, "joint")
    for bad in ("mask_ratio", "mask_ratio=2", "colour=1", "mask_ratio=high"):
        with pytest.raises(InputError):
            parse("--preset", "tiny", "--model", bad).model_config()


@pytest.mark.parametrize(
    ("flags", "says"),
    [
        (["--preset", "tinny"], "tiny"),
        (["--steps", "0"], "--steps 0"),
        (["--schedule", "linear"], "cosine or trapezoid"),
        (["--warmup", "2"], "between 0 and 1"),
        (["--lr", "-1"], "--lr"),
        (["--shard_url", "pipe:cat {file}"], "--workers 0"),
    ],
)
def test_bad_settings_are_named(flags, says):
    with pytest.raises(InputError, match=says):
        parse(*flags)


@pytest.mark.parametrize(
    "value",
    [
        {"optimizer": {"type": "AdamW"}, "zero_optimization": {"stage": 2}},
        {"train_batch_size": 8, "zero_optimization": {"stage": 2}},
        {"fp16": {"enabled": True}, "zero_optimization": {"stage": 2}},
        {"zero_optimization": {"stage": 0}},
        {"zero_optimization": {"stage": 1}, "data_types": {"grad_accum_dtype": "fp32"}},
        [],
    ],
)
def test_deepspeed_settings_that_would_do_harm(tmp_path, value):
    path = tmp_path / "ds.json"
    path.write_text(json.dumps(value))
    with pytest.raises(InputError, match=r"ds\.json"):
        read_deepspeed_config(str(path))


@pytest.mark.parametrize("name", ["zero1", "zero2", "zero3"])
def test_shipped_deepspeed_settings(root, name):
    value = read_deepspeed_config(str(root / "ds_configs" / f"{name}.json"))
    assert value["zero_optimization"]["stage"] == int(name[-1])
    assert value["zero_optimization"]["overlap_comm"] is False
    assert value["bf16"] == {"enabled": True, "check_grad_overflow": True}


def test_schedules():
    cosine = MaskedConfig(preset="tiny", steps=1000, warmup=0.1)
    assert lr_factor(0, cosine) == pytest.approx(0.01)
    assert lr_factor(99, cosine) == pytest.approx(1.0)
    assert lr_factor(550, cosine) == pytest.approx(0.525)
    assert lr_factor(1000, cosine) == pytest.approx(0.05)
    flat = MaskedConfig(preset="tiny", steps=1000, warmup=0.1, schedule="trapezoid", decay=0.2)
    assert [lr_factor(s, flat) for s in (99, 500, 800, 900, 1000)] == [1.0, 1.0, 1.0, 0.5, 0.0]
    config = MaskedConfig(steps=100)
    assert [kl_weight(s, 2.0, config) for s in (0, 4, 9, 50)] == [0.2, 1.0, 2.0, 2.0]


def test_parameter_groups_hold_every_parameter_once():
    model = MaskedVAE(preset("tiny"))
    config = MaskedConfig(preset="tiny", layer_decay=0.5)
    groups = layered_groups(model, config, depth=6)
    ids = [id(parameter) for group in groups for parameter in group["params"]]
    assert sorted(ids) == sorted(id(parameter) for parameter in model.parameters())
    scale = {id(p): group["lr_scale"] for group in groups for p in group["params"]}
    decay = {id(p): group["weight_decay"] for group in groups for p in group["params"]}
    blocks = model.encoder.stack.blocks
    assert scale[id(model.encoder.embed.weight)] == 0.5**7
    assert scale[id(blocks[0].qkv.weight)] == 0.5**6
    assert scale[id(blocks[5].qkv.weight)] == 0.5
    assert scale[id(model.decoder.to_patch.weight)] == 1.0
    assert all(decay[id(p)] == (0.05 if p.ndim >= 2 else 0.0) for p in model.parameters())


@pytest.mark.parametrize(
    ("command", "found"),
    [
        ("python3 /x/bin/deepspeed --hostfile hosts/a trainer/pretrain.py", "hosts/a"),
        ("/x/bin/deepspeed -H b trainer/pretrain.py", "b"),
        ("python /x/bin/deepspeed --hostfile=c t.py", "c"),
        ("python /x/bin/deepspeed t.py", None),
        ("bash run.sh --hostfile d", None),
    ],
)
def test_hostfile_of_a_command(command, found):
    assert hostfile_argument(command.split()) == found


def test_did_you_mean():
    assert "PhysionetMI" in did_you_mean("physionet", ["PhysionetMI", "Cho2017"])
    assert did_you_mean("zzz", ["PhysionetMI"]) == ""
