"""Whether those who are scored were trained on, and what a report of a translator says of it."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
from tiny import tiny_shards

from data.shards.manifest import read_manifest
from data.subjects.holdout import make_split
from data.subjects.people import People
from data.subjects.trained_on import subjects_of
from trainer.scoring.held_out import known_subjects
from trainer.translation.assess import warn


@pytest.mark.parametrize(
    ("trained", "asked", "known"),
    [
        ({"A": ["1"]}, ("A", "1"), True),
        ({"A": ["1"]}, ("A", "2"), False),
        ({"A": ["1"]}, ("B", "1"), False),
        ({"BNCI2014_001": ["1"]}, ("BNCI2014-001", "sub-01"), True),
        ({"Lee2019_MI": ["3"]}, ("Lee2019_ERP", "3"), True),
        ({"Lee2019_MI": ["3"]}, ("Lee2019_ERP", "4"), False),
        ({"Weibo2014": ["1"]}, ("Beetl2021_B", "8"), True),
        ({"Weibo2014": ["1"]}, ("Weibo2014", "8"), False),
        ({"Weibo2014": ["1"]}, ("Weibo2014", "1"), True),
        ({"Weibo2014": []}, ("Beetl2021_B", "8"), False),
        ({"rest": ["x"]}, ("task", "x"), True),
        ({"rest": ["x"]}, ("task", "y"), False),
    ],
)
def test_persons_are_known_under_other_names(trained, asked, known):
    people = People.known([["rest", "task"]])
    dataset, subject = asked
    found = known_subjects({dataset: {subject: 5}}, {"subjects": trained}, people)
    assert found == ({dataset: [subject]} if known else {})


def test_a_model_that_does_not_say_is_not_known_to_be_new():
    assert known_subjects({"A": {"1": 5}}, None, People.known()) is None
    assert known_subjects({"A": {"1": 5}}, {}, People.known()) is None


@pytest.fixture(scope="module")
def manifest(tmp_path_factory):
    """Two datasets, in which the same four subjects are taken for the same persons or not."""
    return read_manifest(tiny_shards(tmp_path_factory.mktemp("data") / "shards"))


def warnings(manifest, told: dict, pretrained: dict | None = None) -> str:
    split = make_split("loso:train0", manifest.recordings)
    tested = sorted({part.recording for part in split.test})
    encoder = None if pretrained is None else {"trained_on": pretrained}
    return "\n".join(warn(told, manifest, split, tested, SimpleNamespace(eeg_encoder=encoder)))


def told_of(manifest, sha256: str, recordings=("A_sub-train0_ses-0_run-0",)) -> dict:
    return {"data": {"sha256": sha256}, "trained_on": list(recordings)}


def test_recordings_of_the_training_are_told_from_any_folder(manifest):
    same = warnings(manifest, told_of(manifest, manifest.sha256))
    assert same == "TRAINED ON 1 of the test recordings: no score below is honest."
    again = warnings(manifest, told_of(manifest, "0" * 64))
    assert "1 of the test recordings have the names" in again
    assert "TRAINED ON" in again
    assert "no score below is honest" in again
    assert "other data than this folder" in again
    other = warnings(manifest, told_of(manifest, "0" * 64, ["elsewhere"]))
    assert other == "The model was trained on other data than this folder."


@pytest.mark.parametrize(
    "pretrained",
    [
        {"A": ["train0"]},
        {"manifest_sha256": "0" * 64, "subjects": {"A": ["train0"]}},
    ],
)
def test_subjects_of_the_encoder_are_told(manifest, pretrained):
    told = told_of(manifest, manifest.sha256, [])
    says = "The EEG encoder was pretrained on EEG of test subjects."
    assert warnings(manifest, told, pretrained) == says
    assert warnings(manifest, told, {"A": ["train1"]}) == ""
    assert warnings(manifest, told, {"Other": ["train0"]}) == ""


def test_subjects_by_dataset_from_both_forms():
    plain = {"A": ["1"]}
    assert subjects_of(plain) == plain
    assert subjects_of({"manifest_sha256": "", "subjects": plain}) == plain
    assert subjects_of(None) == {}
