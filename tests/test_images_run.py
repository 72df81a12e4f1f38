"""Retrieval from end to end on a small simulated world: the real commands."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest
import torch
from commands import TINY, metrics, python, ranks

from data.pack import main as pack
from data.shards.manifest import read_manifest
from trainer.images.config import ImagesConfig
from trainer.images.embeddings import ImageEmbeddings, read_embeddings, write_embeddings
from trainer.images.simulated import simulated_embeddings
from trainer.images.task import ImagesTask

WORLD = (
    "simulated-images,subjects=2,concepts=24,pictures=2,repeats=2,test_concepts=20,test_repeats=3"
)
SMALL = ("--steps", 4, "--global_batch", 16, "--eval_every", 2, "--save_every", 2,
         "--log_every", 1, "--hidden", 16, "--val_concepts", 4, "--workers", 1)  # fmt: skip


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    folder = tmp_path_factory.mktemp("world")
    for part, split in (("training", "train"), ("test", "test")):
        source = f"{WORLD},part={part},split={split}"
        pack(["--source", source, "--out", str(folder / part), "--workers", "1"])
    write_embeddings(folder / "embeddings", simulated_embeddings(folder / "training"))
    return folder


def train(world, run, *words, ranks_count=1, fails=False):
    return ranks(
        ranks_count, "trainer/eeg2image.py", "--shards", world / "training", "--images",
        world / "embeddings", "--run", run, *SMALL, *words, fails=fails,
    )  # fmt: skip


def evaluate(world, out, *runs, fails=False):
    return python("trainer/eval_eeg2image.py", *runs, "--test_shards", world / "test", "--out", out,
                  fails=fails)  # fmt: skip


@pytest.fixture(scope="module")
def run(world, tmp_path_factory):
    """A run that was trained while there were no test trials."""
    folder = tmp_path_factory.mktemp("run") / "image"
    shutil.move(world / "test", world / "hidden")
    train(world, folder)
    shutil.move(world / "hidden", world / "test")
    return folder


def nll(run_folder):
    return [line["loss"] for line in metrics(run_folder)]


def test_two_ranks_give_the_losses_of_one(world, run, tmp_path):
    train(world, tmp_path / "two", ranks_count=2)
    assert nll(tmp_path / "two") == pytest.approx(nll(run), rel=2e-4)
    best = [json.loads((one / "best/retriever.json").read_text())["reached"]
            for one in (run, tmp_path / "two")]  # fmt: skip
    assert best[0]["step"] == best[1]["step"]
    # Micro-batches are added up.
    train(world, tmp_path / "micro", "--micro_batch", 4)
    assert nll(tmp_path / "micro") == pytest.approx(nll(run), rel=2e-4)


def test_a_run_that_was_stopped_goes_on(world, run, tmp_path):
    folder = tmp_path / "again"
    train(world, folder, "--stop_at", 2)
    output = train(world, folder)
    assert "resum" in output
    assert losses_of(folder) == losses_of(run)


def losses_of(folder):
    return [(line["step"], line["loss"], line["top1"], line["lr"]) for line in metrics(folder)]


def test_the_report(world, run, tmp_path):
    output = evaluate(world, tmp_path / "report", run)
    report = json.loads((tmp_path / "report/report.json").read_text())
    rows = {row["name"]: row for row in report["rows"]}
    assert list(rows) == [
        "image: aligned",
        "EEG of another picture",
        "untrained",
        "ridge",
        "the best there is",
    ]
    assert report["candidates"] == 20
    assert report["repeats"] == 3
    best = rows["the best there is"]
    for row in report["rows"]:
        assert row["single"][0] <= best["single"][0]
        assert set(row["summed"]) == {"1", "2", "3"}
    assert best["summed"]["3"][0] > 0.95
    assert rows["untrained"]["p"] > 0.001
    assert "the best there is" in output
    assert "Not beside it: a flat network" in output
    assert rows["image: aligned"]["among"]["pictures"] == 48 + 20
    assert (tmp_path / "report/report.png").stat().st_size > 10_000
    # The same command gives the same report.
    evaluate(world, tmp_path / "again", run)
    assert (tmp_path / "again/report.json").read_bytes() == (
        tmp_path / "report/report.json"
    ).read_bytes()


def test_controls_are_marked(world, run, tmp_path):
    train(world, tmp_path / "permuted", "--permute")
    train(world, tmp_path / "before", "--before_onset", "--trunk", "flat")
    output = evaluate(world, tmp_path / "report", run, tmp_path / "permuted", tmp_path / "before")
    rows = json.loads((tmp_path / "report/report.json").read_text())["rows"]
    control = {row["name"] for row in rows if row["control"]}
    assert control == {
        "permuted: pictures permuted", "before: before onset", "untrained",
        "EEG of another picture",
    }  # fmt: skip
    assert "LEAK" not in output
    about = json.loads((tmp_path / "permuted/best/retriever.json").read_text())
    assert about["reached"]["step"] == 4  # a control that kept its first weights would test nothing


def test_permuted_pictures_are_other_pictures(world):
    """One picture for all trials of one, and hardly ever its own."""
    rows = {}
    for permute in (False, True):
        config = ImagesConfig(
            shards=str(world / "training"), images=str(world / "embeddings"), val_concepts=4,
            permute=permute,
        )  # fmt: skip
        task, manifest = ImagesTask(config), read_manifest(world / "training")
        task.check(manifest, "training")
        rows[permute] = task.dataset(None).all.prepare.image
    plain, permuted = rows[False], rows[True]
    assert ((plain >= 0) == (permuted >= 0)).all()
    stands_for = {a: b for a, b in zip(plain.tolist(), permuted.tolist(), strict=True) if a >= 0}
    assert all(stands_for[a] == b for a, b in zip(plain, permuted, strict=True) if a >= 0)
    assert sorted(stands_for.values()) == sorted(stands_for)
    assert sum(a == b for a, b in stands_for.items()) <= 3


def test_a_person_left_out(world, tmp_path):
    train(world, tmp_path / "loso", "--protocol", "loso:01")
    about = json.loads((tmp_path / "loso/best/retriever.json").read_text())
    assert about["model"]["people"] == []
    assert about["split"]["tested"] == ["01"]
    assert about["trained_on"]["subjects"] == {"simulated-images": ["02"]}
    output = evaluate(world, tmp_path / "report", tmp_path / "loso")
    assert "1 person, 20 pictures" in output


@pytest.fixture(scope="module")
def encoder(world, tmp_path_factory):
    folder = tmp_path_factory.mktemp("encoder") / "run"
    python(
        "trainer/pretrain.py", "--shards", world / "training", "--run", folder, *TINY, "--steps", 2,
        "--global_batch", 8, "--micro_batch", 8, "--precision", "fp32",
    )  # fmt: skip
    return folder


@pytest.mark.parametrize("mode", ["frozen", "lora", "full"])
def test_an_encoders_tokens(world, encoder, tmp_path, mode):
    if mode == "lora":
        pytest.importorskip("peft", reason="peft is optional (requirements-use.txt)")
    folder = tmp_path / mode
    train(world, folder, "--trunk", "encoder", "--init", encoder, "--encoder_mode", mode,
          "--steps", 2, "--micro_batch", 16)  # fmt: skip
    from safetensors.numpy import load_file

    from trainer.checkpoints.weights import load_model

    weights = load_file(folder / "best/retriever.safetensors")
    first = load_model(encoder, need="encoder")[0].encoder.state_dict()
    own = {n.removeprefix("trunk.encoder."): v for n, v in weights.items() if "encoder." in n}
    assert set(own) == set(first)
    same = all(np.array_equal(own[name], first[name].float().numpy()) for name in own)
    assert same == (mode == "frozen")
    evaluate(world, tmp_path / "report", folder)


def test_an_encoders_twin(world, encoder, tmp_path):
    from safetensors.numpy import load_file

    words = ("--trunk", "encoder", "--init", encoder, "--encoder_mode", "frozen", "--steps", 2)
    train(world, tmp_path / "twin", *words, "--from_scratch")
    train(world, tmp_path / "own", *words)
    weights = [
        load_file(tmp_path / name / "best/retriever.safetensors") for name in ("twin", "own")
    ]
    name = "trunk.encoder.stack.blocks.0.qkv.weight"
    assert weights[0].keys() == weights[1].keys()
    assert not np.array_equal(weights[0][name], weights[1][name])
    output = evaluate(world, tmp_path / "report", tmp_path / "own", tmp_path / "twin")
    assert "twin: encoder, frozen, from scratch" in output
    output = train(world, tmp_path / "no", "--from_scratch", fails=True)
    assert "it is of --trunk encoder" in output


def test_a_refit_trains_on_all_concepts(world, run, tmp_path):
    output = train(world, tmp_path / "refit", "--refit", run)
    assert "nothing is held out" in output
    about, before = (
        json.loads((one / "best/retriever.json").read_text()) for one in (tmp_path / "refit", run)
    )
    assert about["split"]["training_pictures"] == 48
    assert before["split"]["training_pictures"] == 40
    assert about["reached"]["step"] == max(1, before["reached"]["step"])
    output = evaluate(world, tmp_path / "report", tmp_path / "refit", run)
    assert "refit: aligned, refitted" in output
    output = train(world, tmp_path / "no", "--refit", run, "--trunk", "flat", fails=True)
    assert "its trunk is aligned, here flat" in output
    output = python("trainer/reconstruct.py", tmp_path / "refit", "--test_shards", world / "test",
                    "--out", tmp_path / "drawn", fails=True)  # fmt: skip
    assert "the run was refitted" in output


def test_rows_of_embeddings_may_be_in_any_order(world, run, tmp_path):
    found = read_embeddings(world / "embeddings")
    order = np.random.default_rng(0).permutation(len(found.images))
    shuffled = ImageEmbeddings(
        *(tuple(column[row] for row in order)
          for column in (found.images, found.concepts, found.sha256)),
        {name: values[order] for name, values in found.layers.items()}, found.about,
    )  # fmt: skip
    write_embeddings(tmp_path / "shuffled", shuffled)
    train(world, tmp_path / "run", "--images", tmp_path / "shuffled")
    assert losses_of(tmp_path / "run") == losses_of(run)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--protocol", "within:9"), "nobody is called 9"),
        (("--protocol", "loso:all"), "leaves one person out"),
        (("--window_ms", "0-900"), "trials of"),
        (("--val_concepts", "23"), "--val_concepts 23"),
        (("--layer", "layer_03"), "no layer layer_03"),
        (("--images", "nowhere/at-all"), "no such file"),
        (("--trunk", "encoder"), "needs --init"),
    ],
)
def test_wrong_words_stop_a_run(world, tmp_path, words, message):
    output = train(world, tmp_path / "run", *words, fails=True)
    assert message in output
    assert "Traceback" not in output
    assert not (tmp_path / "run" / "best").exists()


def test_training_on_test_trials_is_refused(world, run, tmp_path):
    words = ("--shards", world / "test", "--images", world / "embeddings", "--run", tmp_path / "r")
    output = python("trainer/eeg2image.py", *words, fails=True)
    assert "training trials are asked for" in output
    output = python("trainer/eval_eeg2image.py", run, "--test_shards", world / "training", "--out",
                    tmp_path / "report", fails=True)  # fmt: skip
    assert "test trials are asked for" in output
    assert not (tmp_path / "report").exists()


def test_an_unfinished_run_is_not_scored(world, tmp_path):
    output = evaluate(world, tmp_path / "report", tmp_path / "none", fails=True)
    assert "no whole retriever" in output
    assert not (tmp_path / "report").exists()


def test_the_benchmark_of_trunks(world, encoder):
    from benchmarks.images import World, forms, train
    from trainer.images.simulated import Folders

    own = World(Folders(world), torch.device("cpu"))
    found = {name: train(model, own, 2, 16, 1e-3, 1) for name, model in forms(own, encoder, 0)}
    assert list(found) == [
        "flat", "conv", "aligned", "encoder, frozen, pretrained", "encoder, frozen, twin",
        "encoder, full, pretrained", "encoder, full, twin",
    ]  # fmt: skip
    for row in found.values():
        assert 0 <= row["single"][0] <= row["single"][1] <= 1
    frozen, full = found["encoder, frozen, twin"], found["encoder, full, twin"]
    assert frozen["weights"] < full["weights"]
