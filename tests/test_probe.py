"""The linear probe: a second objective on the same loop, by its real command, on shards whose
labels can be told from the signal."""

from __future__ import annotations

import json
import re
import shutil

import numpy as np
import pytest
import torch
from commands import ROOT, TINY, deepspeed, metrics, ranks, start_ranks
from labelled import labelled_shards
from safetensors.torch import load_file

from data.errors import InputError
from data.shards.manifest import read_manifest
from trainer.decoding.config import ProbeConfig
from trainer.decoding.statistics import balanced_accuracy, by_person, shuffled, with_interval
from trainer.decoding.task import ProbeTask, head_classes
from trainer.decoding.windows import Labelled, features, read_windows, weights_hash
from trainer.engine.plan import make_plan

PROBE = [
    "--steps", 6, "--global_batch", 16, "--micro_batch", 8, "--workers", 1, "--log_every", 1,
    "--eval_every", 3, "--save_every", 3,
]  # fmt: skip


@pytest.fixture(scope="module")
def shards(tmp_path_factory):
    return labelled_shards(tmp_path_factory.mktemp("data") / "shards")


@pytest.fixture(scope="module")
def encoder(shards, tmp_path_factory):
    """A masked run on the same training people."""
    run = tmp_path_factory.mktemp("encoder") / "run"
    words = ["--shards", shards, "--run", run, "--steps", 2, "--global_batch", 8]
    ranks(1, "trainer/pretrain.py", *TINY, *words)
    return run


def probe(count, encoder, shards, run, *words, fails=False):
    always = ["--init", encoder, "--shards", shards, "--run", run]
    return ranks(count, "trainer/probe.py", *always, *PROBE, *words, fails=fails)


def curve(run) -> list[tuple]:
    keys = ("step", "loss", "accuracy", "lr", "grad_norm", "samples")
    held = [(m["step"], m["nll"], m["error"]) for m in metrics(run, "val")]
    return [tuple(line[key] for key in keys) for line in metrics(run)] + held


@pytest.fixture(scope="module")
def probed(shards, encoder, tmp_path_factory):
    run = tmp_path_factory.mktemp("probe") / "run"
    return run, probe(1, encoder, shards, run, "--steps", 60, "--eval_every", 20, "--lr", "0.1")


# ---- arithmetic --------------------------------------------------------------------------------


def test_balanced_accuracy_of_people():
    truth, predicted = np.array([0, 0, 0, 1, 1, 1]), np.array([0, 0, 1, 1, 1, 1])
    assert balanced_accuracy(truth, predicted) == pytest.approx((2 / 3 + 1) / 2)
    person = np.array([7, 7, 9, 9, 7, 9])
    assert by_person(truth, predicted, person).tolist() == [1.0, 0.5]


@pytest.mark.parametrize(
    ("scores", "text"),
    [([0.5, 0.7, 0.9], "0.700 [0.203, 1.197] (n = 3)"), ([0.5], "0.500 (n = 1: no interval)")],
)
def test_intervals_are_students(scores, text):
    assert with_interval(np.array(scores)) == text


def test_labels_are_shuffled_within_people_or_among_them():
    person = np.repeat([3, 5, 8], 40)
    truth = np.tile([0, 1], 60)
    mixed = shuffled(truth, person, 0)
    assert (mixed != truth).any()
    assert all(mixed[person == one].sum() == 20 for one in (3, 5, 8))
    of_people = np.repeat([0, 1, 1], 40)
    found = {tuple(shuffled(of_people, person, seed)[::40]) for seed in range(20)}
    assert found == {(0, 1, 1), (1, 0, 1), (1, 1, 0)}


# ---- what it gives -----------------------------------------------------------------------------


def test_a_probe_finds_what_is_planted(probed):
    run, output = probed
    assert "labels rest, task" in output
    result = json.loads((run / "scores.json").read_text())
    assert result["split"] == "test"
    assert result["people"] == ["A test0", "A test1", "A test2"]
    means = {name: np.mean(each) for name, each in result["balanced_accuracy"].items()}
    assert means["this probe"] > 0.9
    assert means["log band power, mean of channels"] > 0.9
    assert means["labels shuffled"] < 0.8
    assert {"this encoder", "untrained encoder"} < set(means)
    assert "this probe - " in output
    first, *_, last = metrics(run, "val")
    assert (first["step"], first["balanced_accuracy"]) == (0, 0.5)  # starts at zero
    assert last["balanced_accuracy"] > 0.9


def test_the_best_head_is_kept_and_is_what_was_scored(probed, shards):
    run, _ = probed
    lowest = min(metrics(run, "val"), key=lambda line: line["error"])
    state = json.loads((run / "checkpoints/step_00000060/COMPLETE.json").read_text())["state"]
    assert state["best"]["value"] == lowest["error"]
    about = json.loads((run / "best/probe.json").read_text())
    assert about["labels"] == ["rest", "task"]
    task, plan = a_task(about["init"], shards)
    assert about["encoder_sha256"] == weights_hash(task.encoder.encoder)
    labelled = task.labelled
    windows = labelled.spread("test", 1000)
    known = labelled.read_known(plan.manifest, "test", windows)
    found = torch.cat([features(task.encoder, batch) for batch in known.batches])
    people = by_person(known.truth, head_classes(run / "best", found), known.person)
    result = json.loads((run / "scores.json").read_text())
    assert people.tolist() == result["balanced_accuracy"]["this probe"]


def test_the_checkpoint_holds_the_head_alone(probed):
    run, _ = probed
    sizes = [path.stat().st_size for path in (run / "checkpoints").rglob("*") if path.is_file()]
    assert sum(sizes) < 200_000
    names = set(load_file(run / "best/probe.safetensors"))
    assert names == {"linear.weight", "linear.bias", "features.mean", "features.std"}


def test_the_page_says_how_to_use_it(probed, encoder, shards, monkeypatch):
    """The code of docs/probing.md, on windows of the split test."""
    run, _ = probed
    page = (ROOT / "docs/probing.md").read_text()
    code = re.search(r"```python\n(.*?)```", page, re.DOTALL)[1]
    code = code.replace("runs/pretrain", str(encoder)).replace("runs/probe", str(run))
    manifest = read_manifest(shards)
    (batch,) = read_windows(manifest, "test", np.arange(26))  # the first person's
    scope = {"eeg": batch.eeg.float(), "positions_m": batch.positions_m}
    exec(code, scope)
    table = Labelled.read(manifest, str(shards)).tables["test"]
    truth = [table.names.labels[label] for label in table.label[:24]]
    assert np.mean([a == b for a, b in zip(scope["named"], truth, strict=False)]) > 0.9


def a_task(encoder, shards, **changes):
    config = ProbeConfig(init=str(encoder), shards=str(shards), micro_batch=4, **changes)
    task = ProbeTask(config)
    return task, make_plan(config, task, 1)


# ---- the loop's promises hold for it ------------------------------------------------------------


def test_three_steps_and_three_more_are_six(shards, encoder, tmp_path):
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    probe(1, encoder, shards, whole)
    probe(1, encoder, shards, parts, "--stop_at", 3)
    assert "going on from step_00000003" in probe(1, encoder, shards, parts)
    assert curve(parts) == curve(whole)
    for name in ("best/probe.safetensors", "scores.json"):
        assert (parts / name).read_bytes() == (whole / name).read_bytes()


@pytest.mark.slow
def test_two_ranks_by_the_launcher(shards, encoder, tmp_path):
    one, two = tmp_path / "one", tmp_path / "two"
    words = ["--init", encoder, "--shards", shards, *PROBE]
    deepspeed(2, "trainer/probe.py", *words, "--run", two)
    probe(1, encoder, shards, one)
    for a, b in zip(curve(one), curve(two), strict=True):
        assert a == pytest.approx(b, rel=0.02, abs=0.02)
    mean = [load_file(run / "best/probe.safetensors")["features.mean"] for run in (one, two)]
    assert torch.equal(*mean)  # whoever computed which


def test_patience_ends_it(shards, encoder, tmp_path):
    run = tmp_path / "run"
    words = ["--steps", 30, "--eval_every", 1, "--patience", 2, "--lr", "1e-9"]
    output = probe(1, encoder, shards, run, *words)
    assert re.search(r"ended at step 3 by --patience 2: error [\d.]+ at step 1", output)
    assert (run / "ENDED").read_text().strip() == "finished"
    assert (run / "scores.json").exists()
    again = probe(1, encoder, shards, run, *words)
    assert "ended at step 3" in again
    assert metrics(run)[-1]["step"] == 3
    assert "step 4/30" in probe(1, encoder, shards, run, *words[:-4], "--patience", 3)


def test_features_do_not_depend_on_company(shards, encoder):
    """Windows without labels train nothing, and montages may mix."""
    task, plan = a_task(encoder, shards)
    windows = np.arange(20, 60)  # of two people with unlike montages
    batches = list(read_windows(plan.manifest, "train", windows))
    together = torch.cat([features(task.encoder, batch) for batch in batches])
    order = torch.cat([batch.window for batch in batches])
    assert sorted(order.tolist()) == windows.tolist()
    for row in (0, 17, 39):
        (alone,) = read_windows(plan.manifest, "train", order[row : row + 1].numpy())
        torch.testing.assert_close(features(task.encoder, alone)[0], together[row])


# ---- wrong input -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"labels": ()}, "no window of the split train has a label"),
        ({"labels": ("rest",)}, "all training windows have one label, rest"),
        ({"splits": {"train": 2}}, "no window of the split val has a label"),
    ],
)
def test_shards_that_cannot_be_probed_are_refused(encoder, tmp_path, changes, says):
    folder = labelled_shards(tmp_path / "shards", **changes)
    with pytest.raises(InputError) as caught:
        a_task(encoder, folder)
    assert says in caught.value.what


def test_a_person_in_two_splits_is_refused(shards, tmp_path):
    folder = shutil.copytree(shards, tmp_path / "shards")
    manifest = json.loads((folder / "manifest.json").read_text())
    for entry in manifest["recordings"]:
        if entry["subject"] == "val0":
            entry["subject"] = "train0"
    (folder / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(InputError, match="A subject train0 is in train and val"):
        Labelled.read(read_manifest(folder), str(folder))


def test_an_encoder_that_knows_the_held_out_people_is_refused(encoder, shards, tmp_path):
    run = shutil.copytree(encoder, tmp_path / "run")
    config = json.loads((run / "config.json").read_text())
    config["trained_on"]["subjects"]["A"].append("test1")
    (run / "config.json").write_text(json.dumps(config))
    with pytest.raises(InputError, match="was trained on held-out people: A subject test1"):
        a_task(run, shards)


def test_another_rate_is_refused(encoder, shards, tmp_path):
    folder = shutil.copytree(shards, tmp_path / "shards")
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["profile"]["sfreq_hz"] = 250.0
    (folder / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(InputError, match="reads 200 Hz"):
        a_task(encoder, folder)


def test_wrong_flags_say_what_to_type(shards, encoder, tmp_path):
    run = ["--shards", shards, "--run", tmp_path / "run"]
    output = ranks(1, "trainer/probe.py", *run, fails=True)
    assert "--init is missing" in output
    assert "Traceback" not in output
    codes, output = start_ranks(2, "trainer/probe.py", *run, "--init", tmp_path / "none")
    assert all(codes)
    assert "not a run folder" in output or "no run folder" in output
    with pytest.raises(InputError, match="--eval_every 0"):
        ProbeConfig(init="x", eval_every=0)


def test_runs_of_two_tasks_are_not_taken_for_each_other(probed, encoder, shards, tmp_path):
    run, _ = probed
    output = ranks(1, "trainer/pretrain.py", *TINY, "--shards", shards, "--run", run, fails=True)
    assert "another task: probe, now masked" in output
    with pytest.raises(InputError, match="a run of the task probe"):
        a_task(run, shards)


def test_a_probe_of_another_encoder_does_not_go_on(shards, encoder, tmp_path):
    run, other = tmp_path / "run", tmp_path / "other"
    probe(1, encoder, shards, run, "--stop_at", 3)
    words = ["--shards", shards, "--run", other, "--steps", 1, "--global_batch", 8, "--seed", 1]
    ranks(1, "trainer/pretrain.py", *TINY, *words)
    output = probe(1, other, shards, run, fails=True)
    assert "another encoder_sha256" in output
    assert f"--init {encoder}" in output
