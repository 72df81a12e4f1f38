"""Decoding with frozen features: the real command on shards whose labels can be told from the
signal, and the arithmetic of its folds and statistics."""

from __future__ import annotations

import json
import shutil
from itertools import product

import numpy as np
import pytest
import torch
from commands import TINY, python, ranks
from labelled import labelled_shards
from tiny import tiny_shards

from data.errors import InputError
from data.shards.manifest import read_manifest
from model.pooling import POOLS, ByChannel, covariances, leading
from trainer.decoding.encoders import encoder_methods
from trainer.decoding.estimators import by_person_standardised, predict
from trainer.decoding.labelled import halves, read_labelled
from trainer.decoding.protocols import Fold, Rows, inner_groups, make_folds
from trainer.decoding.statistics import compare, person_scores, sign_flip

PEOPLE = [("A", f"{number:02d}") for number in range(7)]


def rows(windows=6, people=7) -> Rows:
    person = np.repeat(np.arange(people), windows)
    split = np.where(person < 4, "train", np.where(person < 5, "val", "test"))
    onset_s = np.tile(np.arange(windows)[::-1].astype(float), people)
    truth = np.tile(np.arange(windows) % 2, people)
    return Rows(person, person.copy(), truth, onset_s, split, PEOPLE)


@pytest.fixture(scope="module")
def shards(tmp_path_factory):
    return labelled_shards(tmp_path_factory.mktemp("decode") / "shards", sizes=(12,), dataset="L")


@pytest.fixture(scope="module")
def encoder(tmp_path_factory):
    """Trained on other people."""
    folder = tiny_shards(tmp_path_factory.mktemp("others") / "shards")
    run = tmp_path_factory.mktemp("encoder") / "run"
    words = ["--shards", folder, "--run", run, "--steps", 2, "--global_batch", 8]
    ranks(1, "trainer/pretrain.py", *TINY, *words)
    return run


def decode(shards, out, *words, fails=False):
    always = ("--shards", shards, "--out", out, "--protocol", "folds:3", "--seeds", "1")
    return python("trainer/decode.py", *always, *words, fails=fails)


# ---- folds -------------------------------------------------------------------------------------


@pytest.mark.parametrize(("rule", "count"), [("folds:3", 3), ("loso", 7), ("split", 1)])
def test_nobody_is_fitted_on_and_scored(rule, count):
    there = rows()
    folds = make_folds(rule, there)
    assert len(folds) == count
    tested = []
    for fold in folds:
        assert not {*there.person[fold.train]} & {*there.person[fold.test]}
        tested += there.person[fold.test].tolist()
    if rule != "split":
        assert sorted(tested) == there.person.tolist()
        assert all(len(fold.train) + len(fold.test) == 42 for fold in folds)


def test_folds_depend_on_names_alone():
    there = rows()
    order = np.random.default_rng(0).permutation(len(there.person))
    mixed = Rows(*(getattr(there, name)[order] for name in
                   ("person", "recording", "truth", "onset_s", "split")), PEOPLE)  # fmt: skip
    for one, other in zip(make_folds("folds:3", there), make_folds("folds:3", mixed), strict=True):
        assert {*there.person[one.test]} == {*mixed.person[other.test]}


def test_within_a_person_a_stretch_of_time_is_scored():
    there = rows()
    folds = make_folds("within:3", there)
    assert len(folds) == 21
    for fold in folds:
        assert len({*there.person[np.r_[fold.train, fold.test]]}) == 1
        found = sorted(there.onset_s[fold.test])
        assert found[1] - found[0] == 1.0  # neighbours in time, though windows come backwards
    assert {*inner_groups("within:3", there)} == {0, 1, 2}
    assert inner_groups("loso", there) is there.person


def test_the_first_windows_of_each_class_are_fitted_on():
    there = rows(windows=8)
    folds = make_folds("first:2", there)
    assert len(folds) == 7
    for fold in folds:
        assert len(fold.train) == 4
        assert len(fold.test) == 4
        for label in (0, 1):
            mine = there.onset_s[fold.train][there.truth[fold.train] == label]
            rest = there.onset_s[fold.test][there.truth[fold.test] == label]
            assert len(mine) == 2
            assert mine.max() < rest.min()


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ({"one": {"train": ["00", "A 01"], "test": ["02"]}}, None),
        ({"one": {"train": ["00", "02"], "test": ["02"]}}, "in train and in test: A 02"),
        ({"one": {"train": ["00"], "test": ["99"]}}, "'99' is nobody with labelled windows"),
        ({"one": {"train": ["00"], "test": []}}, "an empty side"),
        ({"one": ["00"]}, "not folds"),
        ("{", "not JSON"),
    ],
)
def test_folds_of_a_file(content, says, tmp_path):
    path = tmp_path / "folds.json"
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    if says is None:
        (fold,) = make_folds(str(path), rows())
        assert {*rows().person[fold.train]} == {0, 1}
        assert {*rows().person[fold.test]} == {2}
        return
    with pytest.raises(InputError, match=says):
        make_folds(str(path), rows())


@pytest.mark.parametrize(
    ("rule", "says"),
    [
        ("folds:9", "of 7 people"), ("folds:1", "2 or more"), ("folds", "folds:5"),
        ("within:9", "too few windows"), ("first:4", "of a class"),
        ("first:0", "1 or more"), ("lodo", "no such file or rule"),
    ],
)  # fmt: skip
def test_folds_that_cannot_be_made_are_refused(rule, says):
    with pytest.raises(InputError, match=says):
        make_folds(rule, rows())


# ---- statistics --------------------------------------------------------------------------------


def test_scores_of_people():
    truth, person = np.array([0, 0, 1, 1, 0, 0]), np.array([4, 4, 4, 4, 6, 6])
    probability = np.array([[0.9, 0.1], [0.4, 0.6], [0.3, 0.7], [0.2, 0.8], [0.9, 0.1], [0.1, 0.9]])
    found = person_scores(truth, probability, person)
    assert found["balanced_accuracy"].tolist() == [0.75, 0.5]
    assert found["auroc"][0] == 1.0
    assert np.isnan(found["auroc"][1])
    assert found["kappa"][0] == 0.5
    assert np.isnan(found["kappa"][1])


def test_signs_are_flipped_in_every_way():
    difference = np.array([0.3, 0.1, -0.05, 0.2, 0.15])
    signs = np.array(list(product((-1, 1), repeat=5)))
    wanted = (np.abs(signs @ difference) >= difference.sum() - 1e-12).mean()
    assert sign_flip(difference) == pytest.approx(wanted)
    assert sign_flip(np.array([0.3, np.nan])) == 1.0
    assert 0 < sign_flip(np.full(30, 0.1)) < 1e-3
    assert sign_flip(np.random.default_rng(1).normal(size=30)) > 0.05


@pytest.mark.parametrize(
    ("gain", "verdict"),
    [(0.10, "better"), (-0.10, "worse"), (0.03, "no difference shown")],
)
def test_small_differences_are_not_claimed(gain, verdict):
    theirs = np.linspace(0.5, 0.8, 20)
    assert compare(theirs + gain, theirs)["verdict"] == verdict
    assert compare(theirs, theirs)["difference"] == 0


# ---- features ----------------------------------------------------------------------------------


def test_adaptation_uses_a_persons_own_windows_alone():
    columns = np.random.default_rng(0).normal(size=(20, 3)) * 5 + 2
    person = np.repeat([1, 2], 10)
    found = by_person_standardised(columns, person)
    np.testing.assert_allclose(found[:10].mean(0), 0, atol=1e-9)
    np.testing.assert_allclose(found[:10].std(0), 1, atol=1e-6)
    columns[10:] += 100
    np.testing.assert_array_equal(found[:10], by_person_standardised(columns, person)[:10])


def test_the_span_of_the_rows_holds_the_answer():
    """Many columns are turned into as many as there are rows, without a difference."""
    rng = np.random.default_rng(0)
    truth, person = np.tile([0, 1], 20), np.repeat(np.arange(4), 10)
    columns = rng.normal(size=(40, 5)) + truth[:, None]
    fold = Fold("", np.arange(30), np.arange(30, 40))
    few = predict(columns, fold, truth, person, person, strength=0.1)
    # A column and its copies: the penalty per column is scaled by their number.
    many = predict(np.tile(columns, 10), fold, truth, person, person, strength=0.1)
    np.testing.assert_allclose(few, many, atol=1e-3)


def test_rows_of_less_than_full_rank_are_read():
    rng = np.random.default_rng(0)
    truth, person = np.tile([0, 1], 60), np.repeat(np.arange(4), 30)
    columns = (rng.normal(size=(120, 9)) + 2 * truth[:, None]) @ rng.normal(size=(9, 400))
    columns[:, 7] = 1.0  # and one that is the same for all
    fold = Fold("", np.arange(90), np.arange(90, 120))
    found = predict(columns, fold, truth, person, person)
    assert (found.argmax(1) == truth[90:]).mean() > 0.9


def test_pools_of_tokens():
    latents = torch.randn(3, 4, 6, 5, generator=torch.Generator().manual_seed(0))
    out = ByChannel(latents.repeat(1, 1, 1, 2), latents)
    shapes = {name: tuple(pool.columns(out).shape) for name, pool in POOLS.items()}
    assert shapes == {"mean": (3, 10), "mean_std": (3, 20), "channel": (3, 20),
                      "channel_std": (3, 40)}  # fmt: skip
    swapped = ByChannel(out.tokens[:, [1, 0, 2, 3]], out.latents[:, [1, 0, 2, 3]])
    for pool in POOLS.values():
        same = torch.allclose(pool.columns(out), pool.columns(swapped), atol=1e-6)
        assert same != pool.places


def test_covariances_of_groups_of_directions():
    tokens = torch.randn(3, 4, 6, 5, generator=torch.Generator().manual_seed(0))
    tokens[..., 2] *= 9
    mean, directions = leading(tokens, 4)
    assert directions[:, 0].abs().argmax() == 2
    along = (tokens.double() - mean) @ directions
    spread = along.flatten(0, 2).std(0, correction=0)
    torch.testing.assert_close(spread, torch.ones(4, dtype=torch.float64))
    found = covariances(tokens, mean, directions, groups=2)
    second = along[0, ..., 2:].flatten(1)
    torch.testing.assert_close(found[0, 1], second @ second.T / 12)
    whole = covariances(tokens, mean, directions)
    torch.testing.assert_close(whole[:, 0], found.mean(1))


def test_an_encoder_that_collapsed_is_refused():
    same = torch.ones(4, 2, 3, 5)
    with pytest.raises(InputError, match="same for all windows"):
        encoder_methods("encoder", [ByChannel(same, same)], ["mean"], False)


# ---- the command -------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def decoded(shards, encoder, tmp_path_factory):
    out = tmp_path_factory.mktemp("out") / "decoding"
    pools = ["--pool", "channel_std", "--pool", "mean", "--pool", "covariance"]
    return out, decode(shards, out, "--encoder", encoder, *pools)


def test_what_is_planted_is_decoded(decoded):
    out, output = decoded
    report = json.loads((out / "decoding.json").read_text())
    assert report["classes"] == ["rest", "task"]
    assert report["windows"] == 240
    assert report["left_out"] == {"no label": 20}
    means = {name: np.mean(each["balanced_accuracy"]) for name, each in report["scores"].items()}
    assert means["log band power"] > 0.95
    assert means["tangent space, 5 bands"] > 0.95
    assert means["CSP, 5 bands"] > 0.9
    assert means["encoder, channel_std"] > 0.8
    assert {"untrained, mean *", "encoder, covariance *", "total power"} <= set(means)
    assert 0.2 < means["labels shuffled"] < 0.8
    assert 0.3 < means["halves of one class"] < 0.7
    assert len(report["people"]) == 10
    rivals = {(entry["method"], entry["rival"]) for entry in report["comparisons"]}
    assert ("encoder, channel_std", "untrained, channel_std") in rivals
    assert {method for method, _ in rivals} == {"encoder, channel_std", "encoder, channel_std *"}
    assert "no difference shown" in output
    assert (out / "decoding.png").read_bytes().startswith(b"\x89PNG")
    assert "| log band power |" in (out / "decoding.md").read_text()


def test_the_same_command_gives_the_same_numbers(shards, encoder, decoded, tmp_path):
    decode(shards, tmp_path / "again", "--encoder", encoder, "--pool", "channel_std")
    first, second = (
        json.loads((folder / "decoding.json").read_text())["scores"]
        for folder in (decoded[0], tmp_path / "again")
    )
    assert second.items() <= first.items()


def test_mixed_montages_have_pools_without_places(encoder, tmp_path):
    folder = labelled_shards(tmp_path / "mixed", dataset="L")
    output = decode(folder, tmp_path / "out", "--encoder", encoder, "--pool", "mean_std")
    assert "log band power, mean of channels" in output
    assert "tangent" not in output
    output = decode(folder, tmp_path / "no", "--encoder", encoder, fails=True)
    assert "one montage" in output
    assert "mean_std" in output
    assert "Traceback" not in output


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--labels", "rest"], "all labelled windows have one label"),
        (["--labels", "rest,tusk"], "task"),
        (["--pool", "medium"], "--pool medium"),
        (["--protocol", "folds:40"], "of 10 people"),
        (["--encoder", "nowhere"], "nowhere"),
        (["--seeds", "0"], "at least 1"),
    ],
)
def test_wrong_settings_are_one_message(words, says, shards, tmp_path):
    output = decode(shards, tmp_path / "out", *words, fails=True)
    assert says in output
    assert "Traceback" not in output
    assert not list((tmp_path / "out").glob("*"))


def test_an_encoder_that_saw_the_people_is_refused(shards, tmp_path):
    run = tmp_path / "run"
    words = ["--shards", shards, "--run", run, "--steps", 1, "--global_batch", 8]
    ranks(1, "trainer/pretrain.py", *TINY, *words)
    output = decode(shards, tmp_path / "out", "--encoder", run, fails=True)
    assert "was trained on held-out people: L subject train0" in output
    # Of the people of test alone nobody was seen.
    assert "encoder, covariance" in decode(
        shards, tmp_path / "out", "--encoder", run, "--protocol", "split"
    )


def test_an_encoder_for_each_fold(shards, encoder, tmp_path):
    for fold in range(3):
        (tmp_path / f"run-{fold}").symlink_to(encoder)
    words = ["--encoder", tmp_path / "run-{fold}"]
    output = decode(shards, tmp_path / "many", *words)
    one = json.loads(decode(shards, tmp_path / "one", "--encoder", encoder) and
                      (tmp_path / "one" / "decoding.json").read_text())  # fmt: skip
    many = json.loads((tmp_path / "many" / "decoding.json").read_text())
    assert len(many["encoder"]) == 3, output
    assert many["scores"] == one["scores"]


def test_a_run_is_followed_to_its_end(shards, encoder, tmp_path):
    """Its scores stand in its TensorBoard, at its last checkpoint's step."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    run = tmp_path / "run"
    shutil.copytree(encoder, run)
    output = decode(shards, tmp_path / "out", "--encoder", run, "--follow", "--no-adapted")
    assert output.count("written:") == 1
    events = EventAccumulator(str(run / "tensorboard" / "decoding"))
    events.Reload()
    (scalar,) = events.Scalars("balanced_accuracy/encoder, covariance")
    report = json.loads((tmp_path / "out" / "decoding.json").read_text())
    wanted = report["scores"]["encoder, covariance"]["balanced_accuracy"]
    assert (scalar.step, scalar.value) == (2, pytest.approx(np.mean(wanted)))
    output = decode(shards, tmp_path / "out", "--follow", fails=True)
    assert "is no run folder" in output


def test_halves_of_a_recording(shards):
    known = read_labelled(read_manifest(shards), str(shards))
    truth = halves(known)
    assert (truth >= 0).sum() == 120
    for one in np.unique(known.rows.recording):
        own = (known.rows.recording == one) & (truth >= 0)
        assert (
            known.rows.onset_s[own & (truth == 0)].max()
            < known.rows.onset_s[own & (truth == 1)].min()
        )


def test_a_source_is_packed_and_few_windows_are_enough_or_not(tmp_path):
    """Without an encoder: what is planted in simulated states is found from a few windows."""
    words = ("trainer/decode.py", "--data", "simulated:1020-19,subjects=4,minutes=1,states=1",
             "--out", tmp_path / "out", "--protocol", "loso", "--few", "1,3")  # fmt: skip
    output = python(*words)
    report = json.loads((tmp_path / "out/decoding.json").read_text())
    few = report["few_shot"]
    assert (few["counts"], few["people"]) == ([1, 3], 4)
    assert "log band power" in few["methods"]
    assert not [name for name in few["methods"] if name.endswith("*")]
    for by_count in few["methods"].values():
        assert all(0 <= found["mean"] <= 1 for found in by_count.values())
    assert "| windows of each class | 1 | 3 |" in (tmp_path / "out/decoding.md").read_text()
    assert (tmp_path / "out/few_shot.png").read_bytes().startswith(b"\x89PNG")
    assert "packing simulated:1020-19" in output
    # What is packed is not packed again.
    assert "packing" not in python(*words[:-2])
    assert json.loads((tmp_path / "out/decoding.json").read_text())["scores"] == report["scores"]


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("--data", "moabb:BNCI2014_0001"), "--data moabb:BNCI2014_0001: "),
        (("--data", "nowhere:at-all"), "--data nowhere:at-all: "),
        ((), "one of --shards and --data"),
        (("--data", "simulated", "--shards", "here"), "one of --shards and --data"),
        (("--shards", "here", "--few", "5,2"), "--few 5,2"),
        (("--shards", "here", "--few", "a"), "--few a"),
    ],
)
def test_sources_and_counts_that_mean_nothing(words, says, tmp_path):
    output = python("trainer/decode.py", "--out", tmp_path / "out", *words, fails=True)
    assert says in output
    assert "Traceback" not in output
    assert not (tmp_path / "out" / "decoding.json").exists()
