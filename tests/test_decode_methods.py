"""Fine-tuning on the folds of a decoding, and people in place of the shards' splits."""

from __future__ import annotations

import json

import numpy as np
import pytest
from commands import TINY, python, ranks
from labelled import labelled_shards
from tiny import tiny_shards

from data.errors import InputError
from data.shards.manifest import read_manifest
from trainer.decoding.people import read_people, with_splits
from trainer.decoding.trained import divided


@pytest.fixture(scope="module")
def shards(tmp_path_factory):
    return labelled_shards(tmp_path_factory.mktemp("methods") / "shards", sizes=(12,), dataset="L")


@pytest.fixture(scope="module")
def encoder(tmp_path_factory):
    """Pretrained on other people."""
    folder = tiny_shards(tmp_path_factory.mktemp("others") / "shards")
    run = tmp_path_factory.mktemp("encoder") / "run"
    words = ["--shards", folder, "--run", run, "--steps", 2, "--global_batch", 8]
    ranks(1, "trainer/pretrain.py", *TINY, *words)
    return run


def people_file(path, **lists):
    path.write_text(json.dumps(lists))
    return str(path)


def test_people_stand_in_for_splits(shards, tmp_path):
    manifest = read_manifest(shards)
    names = sorted({str(entry["subject"]) for entry in manifest.recordings})
    path = people_file(tmp_path / "p.json", train=names[:4], val=names[4:6], test=[f"L {names[6]}"])
    found = read_people(path, manifest)
    assert [len(found[split]) for split in ("train", "val", "test")] == [4, 2, 1]
    split_of = {entry["subject"]: entry["split"] for entry in with_splits(manifest, found)}
    assert [split_of[name] for name in names[:8]] == ["train"] * 4 + ["val"] * 2 + ["test", "none"]


@pytest.mark.parametrize(
    ("lists", "says"),
    [
        ({"train": ["a"]}, "not the three lists"),
        ({"train": ["nobody-here"], "val": [], "test": []}, "'nobody-here' is nobody"),
    ],
)
def test_people_who_are_not_there(lists, says, shards, tmp_path):
    with pytest.raises(InputError, match=says):
        read_people(people_file(tmp_path / "p.json", **lists), read_manifest(shards))


def test_somebody_in_two_lists(shards, tmp_path):
    manifest = read_manifest(shards)
    one = str(manifest.recordings[0]["subject"])
    path = people_file(tmp_path / "p.json", train=[one], val=[], test=[one])
    with pytest.raises(InputError, match="in train and in test"):
        read_people(path, manifest)
    (tmp_path / "p.json").write_text("{")
    with pytest.raises(InputError, match="not JSON"):
        read_people(path, manifest)


def test_some_training_people_choose_the_step():
    people = [("L", f"{number:02d}") for number in range(12)]
    train, val = divided(people, list(range(10)))
    assert len(val) == 2
    assert sorted([*train, *val]) == list(range(10))
    # Who it is follows from names, not from who else takes part or in which order.
    assert divided(people, list(range(9, -1, -1))) == (train, val)
    assert len(divided(people, [3, 7])[1]) == 1
    with pytest.raises(InputError, match="one training person"):
        divided(people, [3])


@pytest.mark.slow
def test_fine_tuning_on_folds(shards, encoder, tmp_path):
    words = (
        "trainer/decode.py", "--encoder", encoder, "--shards", shards, "--out", tmp_path / "out",
        "--protocol", "folds:2", "--pool", "mean_std", "--seeds", 1, "--method", "finetune", "--",
        "--steps", 40, "--eval_every", 20, "--global_batch", 16, "--micro_batch", 16, "--lr",
        "3e-3", "--precision", "fp32", "--workers", 1,
    )  # fmt: skip
    output = python(*words)
    report = json.loads((tmp_path / "out/decoding.json").read_text())
    scores = report["scores"]
    for name in ("fine-tuned", "from scratch"):
        assert len(scores[name]["balanced_accuracy"]) == len(report["people"])
        assert np.mean(scores[name]["balanced_accuracy"]) > 0.6  # what is planted
    pairs = {(one["method"], one["rival"]) for one in report["comparisons"]}
    assert ("fine-tuned", "from scratch") in pairs
    runs = sorted(path.name for path in (tmp_path / "out/runs").iterdir() if path.is_dir())
    assert runs == [
        "fold-0-seed-0-fine-tuned", "fold-0-seed-0-from-scratch", "fold-1-seed-0-fine-tuned",
        "fold-1-seed-0-from-scratch",
    ]  # fmt: skip
    lists = json.loads((tmp_path / "out/runs/fold-0.json").read_text())
    assert set(lists["test"]) == set(report["folds"]["0"])
    assert not {*lists["train"], *lists["val"]} & set(lists["test"])
    # What has ended is not trained again.
    assert "from scratch, fold" in output
    assert "from scratch, fold" not in python(*words)
    again = json.loads((tmp_path / "out/decoding.json").read_text())
    assert again["scores"] == scores


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("--method", "finetuned"), "--method finetuned"),
        (("--method", "finetune"), "without --encoder"),
        (("--method", "lora", "--encoder", "ENCODER", "--protocol", "within:2"),
         "it trains on some people"),
    ],
)  # fmt: skip
def test_methods_that_mean_nothing(words, says, shards, encoder, tmp_path):
    words = [encoder if word == "ENCODER" else word for word in words]
    output = python("trainer/decode.py", "--shards", shards, "--out", tmp_path / "out", "--pool",
                    "mean_std", *words, fails=True)  # fmt: skip
    assert says in output
    assert "Traceback" not in output
