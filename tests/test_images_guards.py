"""What must not be on both sides of a retrieval, and what cannot be scored at all."""

from __future__ import annotations

import numpy as np
import pytest
from commands import python

from data.errors import InputError
from data.pack import main as pack
from trainer.images.embeddings import write_embeddings
from trainer.images.guards import (
    concept_name,
    concepts_in,
    names_of,
    refuse_block_designs,
    refuse_shared,
)
from trainer.images.simulated import simulated_embeddings


@pytest.mark.parametrize(
    ("label", "image", "expected"),
    [
        ("00001_aardvark", "aardvark_01b.jpg", "aardvark"),
        ("12", "aardvark_01b.jpg", "aardvark"),
        ("00200_baseball_bat", "baseball_bat_13s.jpg", "baseball_bat"),
        ("00007_bat1", "mine.png", "bat1"),
        ("concept0003", "concept0003_00.png", "concept0003"),
    ],
)
def test_concepts_have_names(label, image, expected):
    assert concept_name(label, image) == expected


def test_names_of_trials():
    concept, image = np.array(["1", "2", "1"]), np.array([4, 0, 4])
    images = ("cat_01b.jpg", "", "", "", "dog_02s.jpg")
    assert names_of(concept, image, images).tolist() == ["dog", "cat", "dog"]


def test_lists_of_concepts(tmp_path):
    (tmp_path / "list.txt").write_text("cat\n\n dog \n")
    assert concepts_in(str(tmp_path / "list.txt")) == {"cat", "dog"}
    for name in ("00001_cat", "00002_cow"):
        (tmp_path / "test_images" / name).mkdir(parents=True)
    assert concepts_in(str(tmp_path / "test_images")) == {"cat", "cow"}
    (tmp_path / "empty").mkdir()
    for name, message in (("none", "no such file"), ("empty", "no concepts")):
        with pytest.raises(InputError, match=message):
            concepts_in(str(tmp_path / name))


def test_what_is_shared_is_refused():
    hashes = {"a.jpg": "0", "b.jpg": "1", "copy.jpg": "0"}
    refuse_shared(["a"], ["b"], ["a.jpg"], ["b.jpg"], hashes, "run")
    for concepts, pictures, message in (
        ((["a", "c"], ["c"]), (["a.jpg"], ["b.jpg"]), "1 concepts that are tested: c"),
        ((["a"], ["b"]), (["a.jpg"], ["a.jpg"]), r"1 pictures that are tested: a\.jpg"),
        ((["a"], ["b"]), (["a.jpg"], ["copy.jpg"]), r"1 pictures that are tested: copy\.jpg"),
    ):
        with pytest.raises(InputError, match=message):
            refuse_shared(*concepts, *pictures, hashes, "run")


def test_block_designs_are_refused():
    refuse_block_designs(["THINGS-EEG2"], "here")
    with pytest.raises(InputError, match=r"shown in one block \(VC\)"):
        refuse_block_designs(["VC", "THINGS-EEG2"], "here")


def test_test_concepts_are_left_out(tmp_path):
    """Two worlds whose concepts are numbered alike: 24 to 29 are in both parts."""
    for part, concepts in (("training", 30), ("test", 24)):
        split = "train" if part == "training" else "test"
        source = (
            f"simulated-images,subjects=2,concepts={concepts},pictures=2,repeats=1,"
            f"test_concepts=20,test_repeats=1,part={part},split={split}"
        )
        pack(["--source", source, "--out", str(tmp_path / part), "--workers", "1"])
    write_embeddings(tmp_path / "embeddings", simulated_embeddings(tmp_path / "training"))
    words = (
        "trainer/eeg2image.py", "--shards", tmp_path / "training", "--images",
        tmp_path / "embeddings", "--steps", 2, "--global_batch", 16, "--eval_every", 2,
        "--hidden", 16, "--val_concepts", 4, "--workers", 1,
    )  # fmt: skip
    score = ("trainer/eval_eeg2image.py", "--test_shards", tmp_path / "test", "--out")
    python(*words, "--run", tmp_path / "run")
    output = python(*score, tmp_path / "report", tmp_path / "run", fails=True)
    assert "trained on 6 pictures that are tested: concept0024_00.png" in output
    assert "--drop_test_concepts" in output
    assert not (tmp_path / "report").exists()
    (tmp_path / "tested.txt").write_text("".join(f"concept{n:04d}\n" for n in range(24, 44)))
    output = python(*words, "--run", tmp_path / "dropped", "--drop_test_concepts",
                    tmp_path / "tested.txt")  # fmt: skip
    assert "24 trials of test concepts left out" in output
    python(*score, tmp_path / "report", tmp_path / "dropped")
