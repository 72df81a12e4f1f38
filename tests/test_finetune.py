"""VC fine-tuning and the report, with the real commands, from a run and from converted weights."""

from __future__ import annotations

import json

import pytest
from commands import TINY, deepspeed, metrics, python, ranks
from tiny import tiny_shards

pytestmark = pytest.mark.slow
FINETUNE = "trainer/finetune_vc.py"
QUIET = ["--log_every", "1", "--workers", "0", "--figure_every", "0", "--windows_per_subject", "8"]


@pytest.fixture(scope="module")
def pretrained(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs")
    shards = tiny_shards(folder / "shards")
    ranks(
        2, "trainer/pretrain.py", *TINY, "--shards", shards, "--run", folder / "pretrain",
        "--steps", 3, "--global_batch", 8, "--eval_every", 0,
    )  # fmt: skip
    return folder


@pytest.fixture(scope="module")
def vc(tmp_path_factory):
    """Short windows of one dataset, as VC's: 4 patches."""
    folder = tmp_path_factory.mktemp("vc") / "shards"
    return tiny_shards(folder, samples=80, datasets={"VC": ("biosemi32", 16)}, seed=1)


def test_finetuning_from_a_run(pretrained, vc, tmp_path):
    run = tmp_path / "vc"
    output = deepspeed(
        2, FINETUNE, "--shards", vc, "--init", pretrained / "pretrain", "--run", run,
        "--epochs", 1, "--global_batch", 8, *QUIET,
    )  # fmt: skip
    assert "before" in output
    assert len(metrics(run)) == 57 // 8
    config = json.loads((run / "config.json").read_text())
    assert config["model"]["width"] == 32
    assert config["run"]["layer_decay"] == 0.75
    # Whom the pretraining saw counts as seen.
    assert set(config["trained_on"]["subjects"]) == {"A", "B", "VC"}
    names = {path.name for path in (run / "adaptation").iterdir()}
    assert {"adaptation.json", "adaptation.md", "adaptation.png"} <= names

    # The same command again: nothing to train, the report once more.
    again = ranks(
        2, FINETUNE, "--shards", vc, "--init", pretrained / "pretrain", "--run", run,
        "--epochs", 1, "--global_batch", 8, *QUIET,
    )  # fmt: skip
    assert "going on from" in again


def test_finetuning_from_converted_weights(pretrained, vc, tmp_path):
    weights = tmp_path / "encoder.safetensors"
    python("trainer/convert.py", pretrained / "pretrain", "--out", weights)
    output = ranks(
        1, FINETUNE, "--shards", vc, "--init", weights, "--run", tmp_path / "vc",
        "--steps", 2, "--global_batch", 8, *QUIET,
    )  # fmt: skip
    assert "holds no decoder" in output


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (["--init", "runs/none"], "no such file"),
        (["--preset", "base"], "leave --preset out"),
        (["--epochs", "0"], "--epochs 0"),
    ],
)
def test_wrong_settings(pretrained, vc, tmp_path, change, says):
    output = ranks(
        1, FINETUNE, "--shards", vc, "--init", pretrained / "pretrain",
        "--run", tmp_path / "vc", *QUIET, *change, fails=True,
    )  # fmt: skip
    assert output.count("error: ") == 1
    assert says in output
    assert "Traceback" not in output


def test_the_report_of_a_run(pretrained, tmp_path):
    out = tmp_path / "report"
    output = python(
        "trainer/evaluate.py", pretrained / "pretrain", "--shards", pretrained / "shards",
        "--out", out, "--windows_per_subject", 6,
    )  # fmt: skip
    assert "spline" in output
    report = json.loads((out / "report.json").read_text())
    assert report
    assert {"report.md", "report.json"} <= {path.name for path in out.iterdir()}
    seen = python(
        "trainer/evaluate.py", pretrained / "pretrain", "--shards", pretrained / "shards",
        "--out", tmp_path / "seen", "--split", "train", "--windows_per_subject", 2,
    )  # fmt: skip
    assert "TRAINED ON" in seen


def test_a_report_on_people_that_were_trained_on_says_so(pretrained, tmp_path):
    """One person in the training and in the test split, as with the published split by image."""
    shards = tiny_shards(tmp_path / "shards", samples=80, datasets={"VC": ("biosemi32", 16)})
    path = shards / "manifest.json"
    manifest = json.loads(path.read_text())
    for recording in manifest["recordings"]:
        recording["subject"] = "1"
    path.write_text(json.dumps(manifest))
    output = ranks(
        1, FINETUNE, "--shards", shards, "--init", pretrained / "pretrain",
        "--run", tmp_path / "vc", "--steps", 1, "--global_batch", 8, *QUIET,
    )  # fmt: skip
    assert "TRAINED ON" in output
    assert "not trained on" not in output
