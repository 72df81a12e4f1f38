"""EEG to MEG by the real commands: training on one and two ranks, resuming, scoring, mistakes."""

from __future__ import annotations

import json
import shutil
import tarfile
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
from commands import deepspeed, metrics, python
from tiny import TINY_TRANSLATION, tiny_pairs

from data.pack import main as pack
from data.shards.manifest import read_manifest
from data.subjects.holdout import make_split
from model.brainformer import BrainformerForEEG2MEG
from trainer.translation.fit import open_pieces

pytestmark = pytest.mark.slow

TINY = [
    *TINY_TRANSLATION, "--figure_every", 0, "--log_every", 1, "--eval_windows", 8, "--eval_every",
    4,
]  # fmt: skip
CENSUS = "tests/eeg2meg_census.py"


@pytest.fixture(scope="module")
def pairs(tmp_path_factory) -> Path:
    return tiny_pairs(tmp_path_factory.mktemp("pairs") / "linear")


@pytest.fixture(scope="module")
def one_rank(pairs, tmp_path_factory) -> Path:
    """8 steps of 4 windows on one rank: a little more than one pass over the training subject."""
    run = tmp_path_factory.mktemp("runs") / "one"
    flags = ["--shards", pairs, "--run", run, "--steps", 8, "--global_batch", 4, "--save_every", 4]
    output = python(CENSUS, *TINY, *flags, "--figure_every", 8)
    assert "linear map from ridge" in output
    assert "split    loso:003: left out subject 003; validation: subject 002" in output
    assert f"done: {run}" in output
    return run


def curve(run: Path, group: str) -> list[tuple]:
    keys = ("loss", "error", "grad_norm", "lr")
    if group == "val":
        keys = ("loss", "error", "r_mag", "r_grad")
    return [(line["step"], *(line[key] for key in keys)) for line in metrics(run, group)]


def seen(run: Path) -> list[list[str]]:
    """What each rank was trained on, in order."""
    return [path.read_text().splitlines() for path in sorted(run.glob("census-*"))]


def test_a_run_holds_what_it_resolved(one_rank):
    config = json.loads((one_rank / "config.json").read_text())
    assert config["task"]["name"] == "translation"
    assert config["model"]["d_model"] == 16
    assert config["deepspeed"]["zero_optimization"]["stage"] == 2
    assert config["deepspeed"]["train_micro_batch_size_per_gpu"] == 4
    assert config["deepspeed"]["bf16"]["enabled"] is False, "a CPU computes in fp32 by default"
    assert [part["group"] for part in config["split"]["test"]] == ["003"]
    assert config["trained_on"]["subjects"] == {"simulated-pairs-linear": ["001"]}
    assert config["start"]["ridge"]["types"]["mag"]["penalty"] > 0
    assert config["versions"]["transformers"]
    assert len(curve(one_rank, "train")) == 8
    assert [line[0] for line in curve(one_rank, "val")] == [0, 4, 8]
    assert (one_rank / "ENDED").read_text() == "finished\n"
    events = list((one_rank / "tensorboard").glob("events*"))
    assert sum(path.stat().st_size for path in events) > 50_000  # figures are in them


def test_best_weights_are_not_worse_than_the_ridge_start(one_rank):
    told = json.loads((one_rank / "best" / "eeg2meg.json").read_text())
    errors = {line[0]: line[2] for line in curve(one_rank, "val")}
    assert told["validation"]["error"] == min(errors.values())
    assert errors[told["validation"]["step"]] == told["validation"]["error"]
    assert told["trained_on"] == [f"simulated-pairs-linear_sub-00{n}_ses-1_run-01" for n in (1, 2)]
    model = BrainformerForEEG2MEG.from_pretrained(one_rank / "best")
    assert next(model.parameters()).dtype == torch.float32


def test_two_ranks_take_the_same_steps_and_see_every_sample(pairs, one_rank, tmp_path):
    run = tmp_path / "two"
    flags = ["--shards", pairs, "--run", run, "--steps", 8, "--global_batch", 4, "--save_every", 4]
    deepspeed(2, CENSUS, *TINY, *flags)
    for group in ("train", "val"):
        for one, two in zip(curve(one_rank, group), curve(run, group), strict=True):
            assert two == pytest.approx(one, rel=2e-4)
    (alone,), shares = seen(one_rank), seen(run)
    assert [len(share) for share in shares] == [16, 16]
    assert Counter(shares[0]) + Counter(shares[1]) == Counter(alone)
    windows = json.loads((run / "config.json").read_text())["windows"]["training"]
    assert 16 < windows < 32
    whole = windows // 4 * 4  # an epoch leaves out its last, incomplete step
    assert len(set(alone[:whole])) == whole
    assert len(set(alone[whole:])) == 32 - whole
    output = python("trainer/eeg2meg.py", *TINY, *flags, fails=True)
    assert "its checkpoint was written by 2, this run has 1" in output


def test_a_resumed_run_repeats_the_straight_one(pairs, tmp_path):
    """Bit for bit, with dropout, past a checkpoint whose save was killed."""
    flags = ["--shards", pairs, "--steps", 6, "--global_batch", 4, "--eval_every", 3,
             "--model", "dropout=0.1", "--save_every", 3]  # fmt: skip
    straight, run = tmp_path / "straight", tmp_path / "again"
    python("trainer/eeg2meg.py", *TINY, *flags, "--run", straight)
    python("trainer/eeg2meg.py", *TINY, *flags, "--run", run, "--stop_at", 4)
    assert curve(run, "train")[-1][0] == 4
    (run / "checkpoints" / "step_00000004" / "COMPLETE.json").unlink()
    output = python("trainer/eeg2meg.py", *TINY, *flags, "--run", run)
    assert "step_00000004 is passed over" in output
    assert "going on from step_00000003" in output
    for group in ("train", "val"):
        assert curve(run, group) == curve(straight, group)
    wanted, found = (
        BrainformerForEEG2MEG.from_pretrained(one / "best").state_dict() for one in (straight, run)
    )
    assert all(torch.equal(found[name], value) for name, value in wanted.items())

    assert "finished already" in python("trainer/eeg2meg.py", *TINY, *flags, "--run", run)
    changed = {
        "another holdout: auto, now loso:001": ["--holdout", "loso:001"],
        "another model: dropout 0.1, now 0.2": ["--model", "dropout=0.2"],
        "another linear_start: ridge, now zero": ["--linear_start", "zero"],
    }
    for says, words in changed.items():
        command = ["trainer/eeg2meg.py", *TINY, *flags, "--run", run, *words]
        output = python(*command, fails=True)
        assert says in output
        assert "Traceback" not in output


def test_early_stopping_keeps_the_start(pairs, tmp_path):
    """A learning rate that ruins the model: it ends, and the ridge start is what it leaves."""
    run = tmp_path / "bad"
    flags = ["--shards", pairs, "--run", run, "--steps", 50, "--global_batch", 4, "--lr", 5,
             "--skip_lr", 1, "--warmup", 0, "--patience", 2]  # fmt: skip
    output = python("trainer/eeg2meg.py", *TINY, *flags)
    assert "ended at step 8 by --patience 2" in output
    assert "at step 0" in output
    assert json.loads((run / "best" / "eeg2meg.json").read_text())["validation"]["step"] == 0
    assert (run / "ENDED").read_text() == "finished\n"
    assert "finished already: step 8 of 50" in python("trainer/eeg2meg.py", *TINY, *flags)
    assert curve(run, "train")[-1][0] == 8


def test_a_window_that_is_not_finite_is_named_and_left_out(pairs, tmp_path):
    """In training its step is skipped; among the validation windows it stops the start."""
    for split, group in (("train", "001"), ("validation", "002")):
        broken = tmp_path / split
        shutil.copytree(pairs, broken)
        manifest = json.loads((broken / "manifest.json").read_text())
        people = {r["montage"]: r["subject"] for r in manifest["recordings"]}
        (shard,) = [s for s in manifest["shards"] if people[s["montage"]] == group]
        spoil(broken, shard)
        run = tmp_path / f"run_{split}"
        flags = ["--shards", broken, "--run", run, "--steps", 6, "--global_batch", 4, "--verify",
                 "size", "--eval_windows", 64, "--eval_every", 6]  # fmt: skip
        output = python("trainer/eeg2meg.py", *TINY, *flags, fails=split == "validation")
        assert "Traceback" not in output
        if split == "train":
            events = [line for line in metrics(run, "event") if "skipped" in line]
            assert len(events) == 1
            assert shard["file"] in events[0]["skipped"]
            assert len(curve(run, "val")) == 2
        else:
            assert f"{shard['file']}: " in output
            assert "a value of this validation window is not finite" in output


def spoil(folder: Path, shard: dict) -> None:
    """Write NaN into the MEG of a shard's third window, in place."""
    with tarfile.open(folder / shard["file"]) as tar:
        member = [one for one in tar if one.name.endswith("meg.npy")][2]
    with open(folder / shard["file"], "r+b") as file:
        file.seek(member.offset_data + member.size - 2)
        file.write(np.float16(np.nan).tobytes())


def test_former_spellings_are_accepted_and_say_the_present(pairs, tmp_path, monkeypatch):
    monkeypatch.setenv("EEG2MEG_EVAL_PIECES", "4")
    run = tmp_path / "former"
    words = [
        "--data",
        pairs,
        "--d_model",
        16,
        "--n_heads",
        2,
        "--skip_rank=16",
        "--lags",
        1,
        "--init",
        "zero",
        "--split",
        "loso:003",
        "--deepspeed",
        "ds_configs/zero2.json",
    ]
    more = ["--model", "d_ff=32", "--model", "skip_anchors=48", "--sequence_length", 64,
            "--steps", 2, "--global_batch", 4, "--figure_every", 0]  # fmt: skip
    output = python("trainer/eeg2meg.py", *words, *more, "--run", run)
    for line in (
        f"--data {pairs} is written --shards {pairs} now",
        "--d_model 16 is written --model d_model=16 now",
        "--init zero is written --linear_start zero now",
        "EEG2MEG_EVAL_PIECES is called EEG_EVAL_WINDOWS now",
    ):
        assert output.count(line) == 1, line
    config = json.loads((run / "config.json").read_text())
    assert (config["model"]["skip_lags"], config["run"]["eval_windows"]) == (1, 4)
    assert config["run"]["linear_start"] == "zero"
    assert "ridge" not in config["start"]


def test_a_run_of_the_version_before_is_refused_and_its_best_is_scored(pairs, one_rank, tmp_path):
    run = tmp_path / "run"
    shutil.copytree(one_rank / "best", run / "best")
    (run / "config.json").write_text(json.dumps({"format": "eeg2meg-run", "run": {}}))
    (run / "checkpoints" / "checkpoint-8").mkdir(parents=True)
    words = ["--shards", pairs, "--run", run]
    output = python("trainer/eeg2meg.py", *TINY, *words, fails=True)
    assert output.count("error: ") == 1
    assert "by an earlier version, which cannot go on" in output
    assert f"{run}/best can still be scored" in output
    out = tmp_path / "report"
    words = [run, "--shards", pairs, "--out", out, "--windows_per_recording", 1, "--lags", 0]
    assert "ridge" in python("trainer/eval_eeg2meg.py", *words)
    python("trainer/share.py", run, "--out", tmp_path / "shared")
    assert (tmp_path / "shared" / "model.safetensors").exists()


@pytest.fixture(scope="module")
def report(pairs, one_rank, tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("report")
    words = [one_rank, "--shards", pairs, "--out", out, "--lags", 2, "--leak_test"]
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
    output = python("trainer/eval_eeg2meg.py", *words, "--limit", 2)  # as it was written before
    assert f"--model {one_rank} is written {one_rank} now" in output
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
    run = ["trainer/eeg2meg.py", *TINY, "--shards", pairs, "--run", tmp_path / "no"]
    scores = ["trainer/eval_eeg2meg.py", "--shards", pairs, "--out", tmp_path / "r"]
    broken = tmp_path / "broken"
    shutil.copytree(one_rank / "best", broken)
    (broken / "model.safetensors").write_bytes(b"12345678")
    mistakes = {
        "no subject '9'": [*run, "--holdout", "loso:9"],
        "one run only": [*run, "--holdout", "loro:01"],
        "--sequence_length 500: the windows hold 64": [*run, "--sequence_length", 500],
        "no such file": [*run, "--deepspeed_config", "none.json"],
        "no model.safetensors": [*scores, tmp_path],
        f"error: {broken}: ": [*scores, broken],
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
    words = ["--shards", folder, "--run", tmp_path / "no"]
    output = python("trainer/eeg2meg.py", *TINY, *words, fails=True)
    assert "EEG without MEG" in output
    assert "Traceback" not in output
