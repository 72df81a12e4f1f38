"""Fine-tuning to classify windows, whole and through LoRA: the real command on planted labels."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from commands import TINY, metrics, ranks
from labelled import labelled_shards
from safetensors.torch import load_file
from tiny import tiny_shards

from data.shards.manifest import read_manifest
from trainer.checkpoints.lora import add_lora, merged
from trainer.decoding.config import FinetuneConfig
from trainer.decoding.finetune import FinetuneTask, logits_of
from trainer.decoding.windows import read_windows
from trainer.engine.plan import make_plan

SHORT = [
    "--steps", 6, "--global_batch", 16, "--micro_batch", 8, "--workers", 1, "--log_every", 1,
    "--eval_every", 3, "--save_every", 3, "--precision", "fp32",
]  # fmt: skip


@pytest.fixture(scope="module")
def shards(tmp_path_factory):
    return labelled_shards(tmp_path_factory.mktemp("data") / "shards", dataset="L")


@pytest.fixture(scope="module")
def encoder(tmp_path_factory):
    """Trained on other people."""
    folder = tiny_shards(tmp_path_factory.mktemp("others") / "shards")
    run = tmp_path_factory.mktemp("encoder") / "run"
    ranks(1, "trainer/pretrain.py", *TINY, "--shards", folder, "--run", run, "--steps", 2,
          "--global_batch", 8)  # fmt: skip
    return run


def finetune(count, encoder, shards, run, *words, fails=False):
    always = ["--init", encoder, "--shards", shards, "--run", run]
    return ranks(count, "trainer/finetune.py", *always, *SHORT, *words, fails=fails)


def a_task(encoder, shards, **changes) -> FinetuneTask:
    task = FinetuneTask(FinetuneConfig(shards=str(shards), init=str(encoder), **changes))
    task.check(read_manifest(shards), str(shards))
    return task


def losses(run) -> list[tuple]:
    return [(line["step"], line["loss"], line["accuracy"]) for line in metrics(run)]


@pytest.fixture(scope="module")
def tuned(shards, encoder, tmp_path_factory):
    run = tmp_path_factory.mktemp("tuned") / "run"
    words = ["--steps", 60, "--eval_every", 20, "--lr", "3e-3", "--layer_decay", "1.0"]
    return run, finetune(1, encoder, shards, run, *words)


def test_what_is_planted_is_learnt(tuned):
    run, output = tuned
    result = json.loads((run / "scores.json").read_text())
    means = {name: np.mean(each) for name, each in result["balanced_accuracy"].items()}
    assert result["trained"] == "fine-tuned"
    assert result["people"] == ["L test0", "L test1", "L test2"]
    assert means["fine-tuned"] > 0.9, output
    assert {"untrained encoder", "this encoder", "labels shuffled"} <= set(means)
    assert "fine-tuned - log band power, mean of channels" in output


def test_the_best_weights_are_what_was_scored(tuned, encoder, shards):
    run, _ = tuned
    task = a_task(encoder, shards)
    model = task.empty(0)
    model.load_state_dict(load_file(run / "best" / "classifier.safetensors"))
    about = json.loads((run / "best" / "classifier.json").read_text())
    assert about["labels"] == ["rest", "task"]
    assert about["signal"]["sfreq_hz"] == 200
    windows = task.labelled.spread("test", 1000)
    known = task.labelled.read_known(read_manifest(shards), "test", windows)
    logits = logits_of(model.eval(), known.batches, torch.device("cpu"))
    assert (logits.argmax(1).numpy() == known.truth).mean() > 0.9


@pytest.mark.parametrize("words", [[], ["--lora_rank", 2]])
def test_three_steps_and_three_more_are_six(words, shards, encoder, tmp_path):
    if words:
        pytest.importorskip("peft")
    finetune(1, encoder, shards, tmp_path / "whole", *words)
    finetune(1, encoder, shards, tmp_path / "halves", *words, "--stop_at", 3)
    finetune(1, encoder, shards, tmp_path / "halves", *words)
    assert losses(tmp_path / "halves") == losses(tmp_path / "whole")


@pytest.mark.slow
def test_two_ranks_train_as_one(shards, encoder, tmp_path):
    finetune(1, encoder, shards, tmp_path / "one")
    finetune(2, encoder, shards, tmp_path / "two")
    one, two = losses(tmp_path / "one"), losses(tmp_path / "two")
    np.testing.assert_allclose([x[1] for x in one], [x[1] for x in two], rtol=2e-3)


def test_lora_starts_as_the_encoder_and_merges(encoder, shards):
    pytest.importorskip("peft")
    task = a_task(encoder, shards, lora_rank=2)
    plan = make_plan(task.config, task, 1)
    plain, adapted = task.empty(0), task.build_model(plan)
    plain.encoder.load_state_dict(task.encoder.encoder.state_dict())
    trained = {name for name, one in adapted.named_parameters() if one.requires_grad}
    assert all("lora" in name or name.startswith(("norm", "linear")) for name in trained)
    (batch, *_) = read_windows(read_manifest(shards), "test", np.arange(4))
    for model in (plain, adapted):  # a head that says something
        torch.nn.init.normal_(model.linear.weight, generator=torch.Generator().manual_seed(0))
    cpu = torch.device("cpu")
    wanted = logits_of(plain.eval(), [batch], cpu)
    torch.testing.assert_close(logits_of(adapted.eval(), [batch], cpu), wanted)
    for name, one in adapted.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(one, std=0.3, generator=torch.Generator().manual_seed(1))
    moved = logits_of(adapted, [batch], cpu)
    assert (moved - wanted).abs().max() > 1e-2
    plain.load_state_dict(merged(adapted.state_dict(), 2))
    torch.testing.assert_close(logits_of(plain, [batch], cpu), moved, atol=1e-4, rtol=1e-4)


def test_lora_follows_from_the_seed(encoder, shards):
    pytest.importorskip("peft")
    task, states = a_task(encoder, shards, lora_rank=2), []
    for seed in (0, 0, 1):
        model = task.empty(0)
        torch.rand(3)  # whatever was drawn before
        add_lora(model.encoder, 2, seed)
        states.append(model.state_dict()["encoder.stack.blocks.0.qkv.lora_A.default.weight"])
    assert torch.equal(states[0], states[1])
    assert not torch.equal(states[0], states[2])


def test_from_scratch_knows_nothing_of_the_encoder(encoder, shards):
    task = a_task(encoder, shards, from_scratch=True)
    plan = make_plan(task.config, task, 1)
    name = "stack.blocks.0.qkv.weight"
    found = task.build_model(plan).encoder.state_dict()[name]
    assert not torch.equal(found, task.encoder.encoder.state_dict()[name])
    assert task.fixed()["encoder_sha256"] == "new"


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--pool", "channel_std"], "needs one montage"),
        (["--pool", "middle"], "--pool middle"),
        (["--lora_rank", "2", "--from_scratch"], "nothing to adapt"),
        (["--layer_decay", "2"], "--layer_decay 2.0"),
    ],
)
def test_wrong_settings_say_what_to_type(words, says, shards, encoder, tmp_path):
    output = finetune(1, encoder, shards, tmp_path / "run", *words, fails=True)
    assert says in output
    assert "Traceback" not in output


def test_a_run_of_another_start_does_not_go_on(shards, encoder, tmp_path):
    finetune(1, encoder, shards, tmp_path / "run", "--stop_at", 3)
    output = finetune(1, encoder, shards, tmp_path / "run", "--from_scratch", fails=True)
    assert "encoder_sha256" in output
