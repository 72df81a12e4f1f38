"""EEG to MEG by the real commands: training on one and two ranks, resuming, scoring, mistakes."""

from __future__ import annotations

import json
import shutil
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
from commands import deepspeed, metrics, python
from tiny import TINY_TRANSLATION, tiny_pairs

from data.pack import main as pack
from data.shards.manifest import read_manifest
from model.brainformer import BrainformerForEEG2MEG
from trainer.translation.splits import make_split
from trainer.translation.start import open_pieces

pytestmark = pytest.mark.slow

TINY = [
    *TINY_TRANSLATION, "--figure_every", 0, "--log_every", 1, "--eval_pieces", 8, "--eval_every", 4,
]  # fmt: skip
CENSUS = "tests/eeg2meg_census.py"


@pytest.fixture(scope="module")
def pairs(tmp_path_factory) -> Path:
    return tiny_pairs(tmp_path_factory.mktemp("pairs") / "linear")


@pytest.fixture(scope="module")
def one_rank(pairs, tmp_path_factory) -> Path:
    """8 steps of 4 pieces on one rank: a little more than one pass over the training subject."""
    run = tmp_path_factory.mktemp("runs") / "one"
    flags = ["--data", pairs, "--run", run, "--steps", 8, "--global_batch", 4, "--save_every", 4]
    output = python(CENSUS, *TINY, *flags, "--figure_every", 8)
    assert "linear map from ridge" in output
    assert "split    loso:003: left out subject 003; validation: subject 002" in output
    return run


def curve(run: Path, group: str) -> list[tuple]:
    keys = ("step", "loss") if group == "train" else ("step", "loss", "error", "r_mag", "r_grad")
    return [tuple(line[key] for key in keys) for line in metrics(run, group)]


def seen(run: Path) -> list[Counter]:
    """What each rank was trained on."""
    return [Counter(path.read_text().splitlines()) for path in sorted(run.glob("census-*"))]


def test_a_run_holds_what_it_resolved(one_rank):
    config = json.loads((one_rank / "config.json").read_text())
    assert config["run"]["d_model"] == 16
    assert config["machine"]["deepspeed"]["zero_optimization"]["stage"] == 2
    assert config["machine"]["deepspeed"]["train_micro_batch_size_per_gpu"] == 4
    assert config["machine"]["bf16"] is False
    assert [part["group"] for part in config["split"]["test"]] == ["003"]
    assert config["start"]["ridge"]["types"]["mag"]["penalty"] > 0
    assert config["versions"]["transformers"]
    assert len(curve(one_rank, "train")) == 8
    assert [line[0] for line in curve(one_rank, "validation")] == [0, 4, 8]
    events = list((one_rank / "tensorboard").glob("events*"))
    assert sum(path.stat().st_size for path in events) > 50_000  # figures are in them


def test_best_weights_are_not_worse_than_the_ridge_start(one_rank):
    told = json.loads((one_rank / "best" / "eeg2meg.json").read_text())
    errors = [line[2] for line in curve(one_rank, "validation")]
    assert told["validation"]["eval_error"] == pytest.approx(min(errors))
    model = BrainformerForEEG2MEG.from_pretrained(one_rank / "best")
    assert next(model.parameters()).dtype == torch.float32


def test_two_ranks_take_the_same_steps_and_see_every_sample(pairs, one_rank, tmp_path):
    """Trainer would scale the loss by the ranks, and hand an already divided stream out again."""
    run = tmp_path / "two"
    flags = ["--data", pairs, "--run", run, "--steps", 8, "--global_batch", 4, "--save_every", 4]
    deepspeed(2, CENSUS, *TINY, *flags)
    for group in ("train", "validation"):
        for one, two in zip(curve(one_rank, group), curve(run, group), strict=True):
            assert two == pytest.approx(one, rel=2e-4)
    (alone,), shares = seen(one_rank), seen(run)
    assert [sum(share.values()) for share in shares] == [16, 16]
    assert sum(shares, Counter()) == alone
    pieces = json.loads((run / "config.json").read_text())["pieces"]["training"]
    assert 16 < pieces <= 32
    assert set(alone) == set(map(str, alone))
    assert len(alone) == pieces
    assert set(alone.values()) <= {1, 2}

    output = python("trainer/eeg2meg.py", *TINY, *flags, fails=True)
    assert "written by 2 ranks, this run has 1" in output


def test_resumed_run_repeats_the_straight_one(pairs, one_rank, tmp_path):
    run = tmp_path / "again"
    flags = ["--data", pairs, "--run", run, "--steps", 8, "--global_batch", 4, "--save_every", 4]
    python("trainer/eeg2meg.py", *TINY, *flags, "--stop_at", 5)
    assert curve(run, "train")[-1][0] == 5
    # A save that was killed must be passed over: back to step 4, whose lines are repeated.
    (run / "checkpoints" / "checkpoint-5" / "COMPLETE.json").unlink()
    output = python("trainer/eeg2meg.py", *TINY, *flags)
    assert "checkpoint-5 is passed over" in output
    assert "going on from" in output
    for group in ("train", "validation"):
        wanted = {line[0]: line for line in curve(one_rank, group)}
        found = {line[0]: line for line in curve(run, group)}
        for step, line in wanted.items():
            assert found[step] == pytest.approx(line, rel=1e-6), group
    assert "finished already" in python("trainer/eeg2meg.py", *TINY, *flags)
    output = python("trainer/eeg2meg.py", *TINY, *flags, "--lr", 0.1, fails=True)
    assert "was trained with --lr 0.001, not 0.1" in output


def test_early_stopping_keeps_the_start(pairs, tmp_path):
    """A learning rate that ruins the model: it stops, and the ridge start is what it hands on."""
    run = tmp_path / "bad"
    flags = ["--data", pairs, "--run", run, "--steps", 50, "--global_batch", 4, "--lr", 5,
             "--skip_lr", 1, "--warmup", 0, "--patience", 2]  # fmt: skip
    output = python("trainer/eeg2meg.py", *TINY, *flags)
    assert "stopped early at step 8" in output
    assert "at step 0" in output
    assert json.loads((run / "best" / "eeg2meg.json").read_text())["validation"]["step"] == 0


@pytest.fixture(scope="module")
def report(pairs, one_rank, tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("report")
    words = ["--model", one_rank, "--data", pairs, "--out", out, "--lags", 2, "--leak_test"]
    output = python("trainer/eval_eeg2meg.py", *words)
    assert "oracle linear" in output
    return out


def test_report_holds_every_baseline(report):
    found = json.loads((report / "report.json").read_text())
    assert found["warnings"] == []
    assert found["subjects"] == ["003"]
    wanted = {"oracle linear", "model", "no linear map", "no attention", "minimum norm", "mean",
              "ridge", "ridge lags", "reduced rank", "shifted EEG"}  # fmt: skip
    for kind in ("mag", "grad"):
        rows = found["types"][kind]
        assert set(rows) == wanted
        r = {name: one["r"]["mean"] for name, one in rows.items()}
        assert r["oracle linear"] > r["ridge"] > 0.3
        assert r["model"] > 0.9 * r["ridge"]
        assert abs(r["shifted EEG"]) < 0.2
        assert r["mean"] == 0
        assert rows["mean"]["r2"]["mean"] < 0.01
        assert rows["ridge"]["error"]["mean"] < 1
        assert abs(rows["model"]["bands"]["beta"]["mean"]) <= 1
    assert found["leak_test"]["unit"] == "subject"
    assert {"proper", "random"} <= set(found["leak_test"])
    text = (report / "report.md").read_text()
    assert "## Magnetometers" in text
    assert "No evoked responses" in text
    for kind, entry in found["headline"].items():
        rows = found["types"][kind]
        fitted = ("ridge", "ridge lags", "reduced rank", "minimum norm", "mean")
        assert entry["baseline"] == max(fitted, key=lambda name: rows[name]["r"]["mean"])
        assert entry["difference"] == rows[entry["baseline"]]["model_minus_this"]
        assert entry["verdict"] == "not told apart", "one person has no interval"
        assert f"model minus the best baseline ({entry['baseline']})" in text
    for name in ("traces", "topographies", "r_by_sensor", "r_by_band"):
        assert (report / f"{name}.png").stat().st_size > 10_000
        assert f"]({name}.png)" in text


def test_scores_on_training_subjects_are_branded(pairs, one_rank, tmp_path):
    words = ["--model", one_rank, "--data", pairs, "--out", tmp_path, "--split", "loso:001"]
    python("trainer/eval_eeg2meg.py", *words, "--limit", 2)
    assert "TRAINED ON 1 of the test recordings" in (tmp_path / "report.md").read_text()


def test_parts_of_one_recording_share_no_sample(pairs):
    """A split in time: every piece lies in one part, and both training parts can be had at once."""
    manifest = read_manifest(pairs)
    split = make_split("time:0.7", manifest.recordings)
    length = 16

    def times(*parts) -> set:
        pieces = open_pieces(manifest, parts, length, "some")
        assert len(pieces) == len(set(pieces.index))
        return {(piece.recording, round(piece.onset_s * 250)) for piece in map(pieces.__getitem__,
                range(len(pieces)))}  # fmt: skip

    train, held, test = (times(*one) for one in (split.train, split.validation, split.test))
    assert times(*split.train, *split.validation) == train | held
    assert not train & held | train & test | held & test
    for earlier, later in ((train, held), (held, test)):
        for recording in {name for name, _ in test}:
            last = max(at for name, at in earlier if name == recording)
            assert last + length <= min(at for name, at in later if name == recording)


def test_mistakes_are_told_plainly(pairs, one_rank, tmp_path):
    run = ["trainer/eeg2meg.py", *TINY, "--data", pairs, "--run", tmp_path / "no"]
    scores = ["trainer/eval_eeg2meg.py", "--data", pairs, "--out", tmp_path / "r", "--model"]
    broken = tmp_path / "broken"
    shutil.copytree(one_rank / "best", broken)
    (broken / "model.safetensors").write_bytes(b"12345678")
    mistakes = {
        "no subject '9'": [*run, "--split", "loso:9"],
        "one run only": [*run, "--split", "loro:01"],
        "--sequence_length 500: the windows hold 64": [*run, "--sequence_length", 500],
        "no such file": [*run, "--deepspeed", "none.json"],
        "no model.safetensors": [*scores, tmp_path],
        f"--model {broken}": [*scores, broken],
        "--forward": [*scores, one_rank, "--forward", "003=nothing.fif"],
    }
    with ThreadPoolExecutor(2) as pool:
        outputs = list(pool.map(lambda words: python(*words, fails=True), mistakes.values()))
    for says, output in zip(mistakes, outputs, strict=True):
        assert says in output
        assert "Traceback" not in output


def test_eeg_without_meg_is_refused(tmp_path):
    folder = tmp_path / "eeg"
    pack(["--source", "simulated:biosemi32,subjects=3,minutes=0.5", "--out", str(folder)])
    words = ["--data", folder, "--run", tmp_path / "no"]
    output = python("trainer/eeg2meg.py", *TINY, *words, fails=True)
    assert "EEG without MEG" in output
    assert "Traceback" not in output
