"""What may change between a run and its continuation, what is told, what is refused."""

from __future__ import annotations

import json

import pytest

from data.errors import InputError
from trainer.engine.deepspeed_json import read_deepspeed_config
from trainer.engine.resume import check_resume, compare
from trainer.masked.config import MaskedConfig


def resolved(deepspeed: dict | None = None, **changes) -> dict:
    """config.json as a run writes it."""
    config = MaskedConfig(**{"preset": "tiny", "steps": 1000, **changes})
    return {
        "run": json.loads(json.dumps(config.as_dict())),
        "deepspeed": {**read_deepspeed_config("ds_configs/zero2.json"), **(deepspeed or {})},
        "model": {"preset": "tiny", "width": 192, "beta": 1e-3},
        "profile": {"name": "default", "sfreq_hz": 200.0},
        "manifest_sha256": "0" * 64,
        "seed": config.seed,
        "micro_batch": config.micro_batch or 4,
        "accumulation": 1,
        "global_batch": config.global_batch or 8,
        "run_length": config.run_length or 4,
        "temperature": config.temperature,
        "versions": {"torch": "2.13.0"},
        "git": {"commit": "abc"},
    }


SAME = resolved()


@pytest.mark.parametrize(
    ("new", "says", "words"),
    [
        (resolved(seed=1), "another seed: 0, now 1", "--seed 0"),
        (
            resolved(global_batch=16),
            "2 rank(s) x micro-batch 4 x accumulation 1 = 8 windows a step; now",
            "--global_batch 8",
        ),
        (
            resolved(run_length=8),
            "another run_length: 4, now 8",
            "--run_length 4",
        ),
        (
            {**SAME, "run_length": 2, "micro_batch": 2},
            "another run_length: 4, now 2 (by default the micro-batch, which is now 2)",
            "--run_length 4",
        ),
        (resolved(temperature=0.5), "another temperature: 1.0, now 0.5", "--temperature 1.0"),
        (
            {**SAME, "manifest_sha256": "1" * 64},
            "those in shards/pretrain have been packed anew since",
            "the shards that it was trained on",
        ),
        (
            {**resolved(shards="b"), "manifest_sha256": "1" * 64},
            "other shards: shards/pretrain, now b",
            "--shards shards/pretrain",
        ),
        (
            {**SAME, "model": {**SAME["model"], "width": 96}},
            "another model: width 192, now 96",
            "--model width=192",
        ),
        (
            {**SAME, "model": {"preset": "small", "width": 384, "beta": 1e-3}},
            "another model: preset tiny, now small",
            "--preset tiny",
        ),
        (
            {**SAME, "model": {**SAME["model"], "colour": 1}},
            "another version of the model: the run has no field colour",
            "git.commit in its config.json",
        ),
        (
            {**SAME, "profile": {"name": "default", "sfreq_hz": 250.0}, "manifest_sha256": "1"},
            "shards of another profile: sfreq_hz 200.0, now 250.0",
            "--shards shards/pretrain",
        ),
        (
            resolved({"zero_optimization": {"stage": 3}}),
            "another zero_optimization.stage in the DeepSpeed JSON: 2, now 3",
            "a DeepSpeed JSON that says so, as ds_configs/zero2.json did",
        ),
        (
            resolved({"bf16": {"enabled": False}}),
            "another bf16.enabled in the DeepSpeed JSON: True, now False",
            "a DeepSpeed JSON that says so",
        ),
        (
            resolved(layer_decay=0.9),
            "another layer_decay: 1, now 0.9 (1 or not is another number",
            "--layer_decay 1",
        ),
        (
            resolved(weight_decay=0.0),
            "another weight_decay: 0.05, now 0 (0 or not is another number",
            "--weight_decay 0.05",
        ),
    ],
)
def test_what_is_refused_and_the_way_back(new, says, words):
    refused, _ = compare(SAME, new, 500, (2, 2))
    assert len(refused) == 1
    assert says in refused[0][0]
    assert words in refused[0][1]


def on_ranks(count: int, **changes) -> dict:
    """What a run of `count` ranks resolves, micro-batch 4, where no batch is asked for."""
    found = resolved(**changes)
    return {**found, "global_batch": 4 * count}


def test_other_ranks_are_blamed_themselves(tmp_path):
    """Not the batch or its order, which follow from the ranks and which nobody typed."""
    marker = {"world": 4, "state": {"step": 7, "applied": 6}}
    with pytest.raises(InputError) as caught:
        check_resume(tmp_path, on_ranks(4), on_ranks(8), "step_00000007", marker, 8)
    told = str(caught.value)
    assert "its checkpoint was written by 4, this run has 8" in told
    assert "4 rank(s) x micro-batch 4 x accumulation 1 = 16 windows a step" in told
    assert "now 8 rank(s) x micro-batch 4 x accumulation 1 = 32 windows a step" in told
    assert "--elastic to convert it for 8 (it keeps 16 windows a step), or 4 ranks" in told
    for word in ("--global_batch", "--run_length", "run_length"):
        assert word not in told
    # What was changed beside it is told in the same message.
    with pytest.raises(InputError) as caught:
        check_resume(tmp_path, on_ranks(4), on_ranks(8, seed=1), "step_00000007", marker, 8)
    assert "another seed: 0, now 1" in str(caught.value)
    assert "--elastic" in str(caught.value)
    assert "--seed 0" in str(caught.value)


def test_a_fine_tuning_from_other_weights_names_them():
    old = resolved(init="runs/a")
    new = {**resolved(init="runs/b"), "model": {**SAME["model"], "width": 96}}
    refused, _ = compare(old, new, 500)
    assert [words for _, words in refused] == ["--model width=192", "--init runs/a"]


RATE = "the learning rate at this step was to be"


@pytest.mark.parametrize(
    ("new", "says"),
    [
        (resolved(lr=1e-4), ["--lr was None, is now 0.0001", RATE]),
        (resolved(steps=2000), ["--steps was 1000, is now 2000", RATE]),
        (resolved(warmup=0.1), ["--warmup was 0.05, is now 0.1", RATE]),
        (resolved(schedule="trapezoid"), ["--schedule was cosine, is now trapezoid", RATE]),
        (resolved(betas=(0.9, 0.99)), ["--betas was [0.9, 0.95], is now [0.9, 0.99]"]),
        (resolved(weight_decay=0.1), ["--weight_decay was 0.05, is now 0.1"]),
        (resolved(beta_warmup=0.2), ["--beta_warmup was 0.1, is now 0.2"]),
        (resolved(init="other.pt"), ["--init was None, is now other.pt (not read:"]),
        (resolved(workers=3), ["--workers was 2, is now 3"]),
        (resolved(save_every=5), ["--save_every was 1000, is now 5"]),
        (resolved(micro_batch=2), ["micro_batch was 4, is now 2"]),
        (
            resolved({"gradient_clipping": 2.0}),
            ["deepspeed.gradient_clipping was 1.0, is now 2.0"],
        ),
        (
            resolved({"communication_data_type": "bf16"}),
            ["deepspeed.communication_data_type was fp32, is now bf16"],
        ),
        ({**SAME, "versions": {"torch": "2.14.0"}}, ["versions.torch was 2.13.0, is now 2.14.0"]),
        ({**SAME, "git": {"commit": "def"}}, ["git.commit was abc, is now def"]),
        (SAME, []),
    ],
)
def test_what_is_told(new, says):
    refused, told = compare(SAME, new, 500)
    assert refused == []
    assert len(told) == len(says)
    for line, words in zip(told, says, strict=True):
        assert words in line


def test_a_resume_does_not_forget_whom_the_first_weights_were_trained_on(tmp_path):
    """`--init` named them at the start; the resume does without it."""
    before = {"manifest_sha256": "0" * 64, "subjects": {"A": ["1", "3"], "Pretrained": ["7"]}}
    now = {"manifest_sha256": "1" * 64, "subjects": {"A": ["1", "2"]}}
    old = {**resolved(init="pretrained.pt"), "trained_on": before}
    new = {**resolved(), "trained_on": now}
    marker = {"world": 2, "state": {"step": 7, "applied": 6}}
    check_resume(tmp_path, old, new, "step_00000007", marker, 2)
    subjects = {"A": ["1", "2", "3"], "Pretrained": ["7"]}
    wanted = {"manifest_sha256": "1" * 64, "subjects": subjects}
    assert json.loads((tmp_path / "config.json").read_text())["trained_on"] == wanted
    entry = json.loads((tmp_path / "history.jsonl").read_text())
    assert entry["resolved"]["trained_on"] == wanted
    assert now["subjects"] == {"A": ["1", "2"]}


def test_layers_may_learn_at_another_rate():
    refused, told = compare(resolved(layer_decay=0.9), resolved(layer_decay=0.8), 500)
    assert refused == []
    assert told == ["--layer_decay was 0.9, is now 0.8"]


def test_the_record_of_a_continuation(tmp_path, capsys):
    marker = {"world": 2, "state": {"step": 7, "applied": 6}}
    new = resolved(lr=1e-4)
    check_resume(tmp_path, SAME, new, "step_00000007", marker, 2)
    assert "resume: --lr was None, is now 0.0001" in capsys.readouterr().out
    entry = json.loads((tmp_path / "history.jsonl").read_text())
    assert entry["step"] == 7
    assert entry["resolved"]["run"]["lr"] == 1e-4
    assert json.loads((tmp_path / "config.json").read_text()) == json.loads(json.dumps(new))
    with pytest.raises(InputError, match="was written by 2, this run has 4"):
        check_resume(tmp_path, SAME, new, "step_00000007", marker, 4)
    check_resume(tmp_path, SAME, resolved(elastic=True), "step_00000007", marker, 4)
    assert "ranks were 2, are now 4" in capsys.readouterr().out
    with pytest.raises(InputError, match=r"(?s)another seed: 0, now 1.*= 16 windows a step"):
        check_resume(tmp_path, SAME, resolved(seed=1, global_batch=16), "x", marker, 2)
