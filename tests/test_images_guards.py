"""What must not be on both sides of a retrieval, and what cannot be scored at all."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest
from commands import TINY, python

from data.errors import InputError
from data.pack import main as pack
from data.shards.manifest import MANIFEST, read_manifest
from data.simulate_vc import main as simulate_vc
from data.sources.things.image_names import concept_name, concept_of, shared_concepts
from trainer.images.config import ImagesConfig
from trainer.images.embeddings import ImageEmbeddings, read_embeddings, write_embeddings
from trainer.images.guards import (
    names_of,
    pictures_like,
    refuse_block_designs,
    refuse_namesakes,
    refuse_shared,
    what_is_tested,
)
from trainer.images.simulated import simulated_embeddings
from trainer.images.task import ImagesTask
from trainer.images.trials import Trials


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


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("00001_aardvark", "aardvark"),
        ("aardvark_01b.jpg", "aardvark"),
        ("00001_aardvark/aardvark_01b.jpg", "aardvark"),
        ("stimuli\\ice_cream\\ice_cream_08s.jpg", "ice_cream"),
        ("baseball_bat", "baseball_bat"),
        ("00012_", "00012_"),
        ("1767", "1767"),
        ("camera_2", "camera_2"),
    ],
)
def test_folders_and_files_name_concepts(name, expected):
    assert concept_of(name) == expected


def test_shared_concepts_are_found_by_name():
    training = ["00001_aardvark", "00002_abacus", "00003_bat1"]
    assert shared_concepts(training, ["00001_abacus", "00002_bat2"]) == ["abacus"]
    assert shared_concepts(training, ["bat1_01b.jpg", "00001_zebra"]) == ["bat1"]


def test_names_of_trials():
    concept, image = np.array(["1", "2", "1"]), np.array([4, 0, 4])
    images = ("cat_01b.jpg", "", "", "", "dog_02s.jpg")
    assert names_of(concept, image, images).tolist() == ["dog", "cat", "dog"]


def test_lists_of_concepts(tmp_path):
    (tmp_path / "list.txt").write_text("cat\n\n dog \n")
    assert what_is_tested(str(tmp_path / "list.txt")).concepts == {"cat", "dog"}
    for name in ("00001_cat", "00002_cow"):
        (tmp_path / "test_images" / name).mkdir(parents=True)
    (tmp_path / "test_images/00001_cat/cat_01b.jpg").touch()
    found = what_is_tested(str(tmp_path / "test_images"))
    assert (found.concepts, found.pictures) == ({"cat", "cow"}, {"cat_01b.jpg"})
    (tmp_path / "empty").mkdir()
    for name, message in (("none", "no such file"), ("empty", "no concepts")):
        with pytest.raises(InputError, match=message):
            what_is_tested(str(tmp_path / name))


def test_pictures_are_known_by_name_and_by_content():
    content = {"a.jpg": "0", "b.jpg": "1", "copy.jpg": "0", "c.jpg": "", "d.jpg": ""}
    assert pictures_like(["a.jpg"], ["b.jpg", "copy.jpg"], content) == ["copy.jpg"]
    assert pictures_like(["a.jpg"], ["a.jpg", "b.jpg"], content) == ["a.jpg"]
    assert pictures_like(["c.jpg"], ["d.jpg"], content) == []  # nothing is known of either


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


def test_people_of_one_name_are_refused():
    refuse_namesakes([("A", "01"), ("A", "02"), ("A", "01"), ("B", "03")], "here")
    with pytest.raises(InputError, match="01 is a person of A and of B"):
        refuse_namesakes([("B", "01"), ("A", "01")], "here")


def test_block_designs_are_refused():
    refuse_block_designs(["THINGS-EEG2"], "here")
    with pytest.raises(InputError, match=r"shown in one block \(VC\)"):
        refuse_block_designs(["VC", "THINGS-EEG2"], "here")


@pytest.fixture(scope="module")
def numbered_alike(tmp_path_factory):
    """Two worlds whose concepts are numbered alike: 24 to 29 are in both parts; what they show is
    different. (folder, words of a training)"""
    folder = tmp_path_factory.mktemp("worlds")
    for part, concepts in (("training", 30), ("test", 24)):
        split = "train" if part == "training" else "test"
        source = (
            f"simulated-images,subjects=2,concepts={concepts},pictures=2,repeats=1,"
            f"test_concepts=20,test_repeats=1,part={part},split={split}"
        )
        pack(["--source", source, "--out", str(folder / part), "--workers", "1"])
    write_embeddings(folder / "embeddings", simulated_embeddings(folder / "training"))
    return folder, (
        "trainer/eeg2image.py", "--shards", folder / "training", "--images",
        folder / "embeddings", "--steps", 2, "--global_batch", 16, "--eval_every", 2,
        "--hidden", 16, "--val_concepts", 4, "--workers", 1,
    )  # fmt: skip


def test_a_manifest_names_the_pictures(numbered_alike):
    folder, _ = numbered_alike
    pictures = read_manifest(folder / "test").raw["source"]["pictures"]
    assert len(pictures) == 20
    assert pictures["concept0024"] == ["concept0024_00.png"]
    found = what_is_tested(str(folder / "test"))
    assert found.concepts == set(pictures)
    assert found.pictures == {f"{concept}_00.png" for concept in pictures}


def test_test_concepts_are_left_out(numbered_alike, tmp_path):
    folder, words = numbered_alike
    score = ("trainer/eval_eeg2image.py", "--test_shards", folder / "test", "--out")
    python(*words, "--run", tmp_path / "run")
    output = python(*score, tmp_path / "report", tmp_path / "run", fails=True)
    assert "trained on 6 pictures that are tested: concept0024_00.png" in output
    assert "6 concepts that are tested: concept0024, concept0025, concept0026" in output
    assert f"--drop_test_concepts {folder / 'test'}" in output
    assert not (tmp_path / "report").exists()
    # Only the manifest of the test trials is there when the run is trained.
    (tmp_path / "manifest_alone").mkdir()
    shutil.copy(folder / "test" / MANIFEST, tmp_path / "manifest_alone")
    output = python(*words, "--run", tmp_path / "dropped", "--drop_test_concepts",
                    tmp_path / "manifest_alone")  # fmt: skip
    assert "24 trials of test concepts left out" in output
    about = json.loads((tmp_path / "dropped/best/retriever.json").read_text())
    tested = {f"concept{number:04d}" for number in range(24, 44)}
    assert set(about["dropped_concepts"]) == tested
    assert not tested & set(about["held_concepts"])
    trials = Trials.trained(about)
    assert not tested & set(trials.concept.tolist())
    assert (len(trials.images), len(trials.window)) == (24 * 2, 2 * 24 * 2)
    output = python(*score, tmp_path / "report", tmp_path / "dropped")
    assert "24 training trials were left out" in output
    # A list of names does the same.
    (tmp_path / "tested.txt").write_text("".join(f"{name}\n" for name in sorted(tested)))
    config = ImagesConfig(
        shards=str(folder / "training"), images=str(folder / "embeddings"), val_concepts=4,
        drop_test_concepts=str(tmp_path / "tested.txt"),
    )  # fmt: skip
    task = ImagesTask(config)
    task.check(read_manifest(folder / "training"), "training")
    np.testing.assert_array_equal(task.trials.window, trials.window)


def test_a_test_picture_under_another_name_is_left_out(numbered_alike, tmp_path):
    """The content of a training picture is that of a tested one."""
    folder, words = numbered_alike
    found = read_embeddings(folder / "embeddings")
    content = list(found.sha256)
    content[found.images.index("concept0003_01.png")] = found.sha256[
        found.images.index("concept0040_00.png")
    ]
    write_embeddings(
        tmp_path / "twin",
        ImageEmbeddings(found.images, found.concepts, tuple(content), found.layers, found.about),
    )
    words = (*words, "--images", tmp_path / "twin", "--run", tmp_path / "run")
    (tmp_path / "manifest").mkdir()
    text = json.loads((folder / "test" / MANIFEST).read_text())
    text["source"]["pictures"] = {"concept0040": ["concept0040_00.png"]}
    (tmp_path / "manifest" / MANIFEST).write_text(json.dumps(text))
    output = python(*words, "--drop_test_concepts", tmp_path / "manifest")
    assert "2 trials of test concepts left out" in output
    about = json.loads((tmp_path / "run/best/retriever.json").read_text())
    assert about["dropped_pictures"] == ["concept0003_01.png"]


def test_a_manifest_without_pictures_is_refused(numbered_alike, tmp_path):
    folder, words = numbered_alike
    text = json.loads((folder / "test" / MANIFEST).read_text())
    del text["source"]["pictures"]
    (tmp_path / MANIFEST).write_text(json.dumps(text))
    output = python(*words, "--run", tmp_path / "run", "--drop_test_concepts", tmp_path, fails=True)
    assert "its manifest names no pictures" in output
    assert "pack these trials again" in output


def test_block_designs_are_not_trained_on_nor_scored(numbered_alike, tmp_path):
    _, words = numbered_alike
    simulate_vc(["--out", str(tmp_path / "vc.pth"), "--subjects", "2", "--images", "8"])
    pack(["--source", f"vc:{tmp_path / 'vc.pth'}", "--out", str(tmp_path / "vc"), "--workers", "1"])
    output = python(*words, "--shards", tmp_path / "vc", "--run", tmp_path / "no", fails=True)
    assert "shown in one block (VC)" in output
    assert "docs/vc.md" in output
    python(*words, "--run", tmp_path / "run")
    output = python("trainer/eval_eeg2image.py", tmp_path / "run", "--test_shards", tmp_path / "vc",
                    "--out", tmp_path / "report", fails=True)  # fmt: skip
    assert "docs/vc.md" in output


# ---- recordings that were seen -------------------------------------------------------------------

CAP = ["Fp1", "Fp2", "C3", "C4", "O1", "O2", "stim"]


@pytest.fixture(scope="module")
def people(tmp_path_factory):
    """Two people of THINGS-EEG2 in raw files, packed with both parts and with one, and embedded."""
    folder = tmp_path_factory.mktemp("people")
    metadata, rows = {}, []
    for name, first in (("train", 0), ("test", 50)):
        concepts = [f"thing{first + number}" for number in range(20)]
        files = [f"{concept}_01b.jpg" for concept in concepts]
        # The numbers of the parts are alike, and say nothing.
        metadata[f"{name}_img_concepts"] = [f"{n:05d}_{c}" for n, c in enumerate(concepts)]
        metadata[f"{name}_img_files"] = files
        rows += list(zip(files, concepts, strict=True))
    (folder / "raw").mkdir()
    np.save(folder / "raw/image_metadata.npy", metadata)
    for person in (1, 2):
        for part in ("training", "test"):
            rng = np.random.default_rng([person, len(part)])
            signal = 2e-6 * rng.standard_normal((7, 20_000)).cumsum(axis=1) / 10
            signal[6] = 0
            signal[6, 2_000:18_000:400] = np.tile(rng.permutation(20) + 1, 2)
            path = folder / f"raw/sub-{person:02d}/ses-01/raw_eeg_{part}.npy"
            path.parent.mkdir(parents=True, exist_ok=True)
            np.save(path, {"raw_eeg_data": signal, "ch_names": CAP, "sfreq": 1000,
                           "ch_types": ["eeg"] * 6 + ["stim"]})  # fmt: skip
    for name, words in (
        ("both", "split=train"), ("own", "split=train,parts=training"),
        ("training", "split=train,parts=training"), ("test", "split=test,parts=test"),
    ):  # fmt: skip
        pack(["--source", f"things2:{folder}/raw,{words}", "--out", str(folder / name),
              "--workers", "1"])  # fmt: skip
    numbers = np.random.default_rng(0).standard_normal((len(rows), 16))
    files, concepts = zip(*rows, strict=True)
    found = ImageEmbeddings(files, concepts, files, {"projected": numbers}, {})
    write_embeddings(folder / "embeddings", found)
    return folder


@pytest.mark.parametrize(("shards", "saw"), [("both", True), ("own", False)])
def test_an_encoder_that_saw_the_test_recordings(people, tmp_path, shards, saw):
    python(
        "trainer/pretrain.py", "--shards", people / shards, "--run", tmp_path / "encoder", *TINY,
        "--steps", 1, "--global_batch", 8, "--micro_batch", 8, "--precision", "fp32",
    )  # fmt: skip
    python(
        "trainer/eeg2image.py", "--shards", people / "training", "--images", people / "embeddings",
        "--run", tmp_path / "run", "--trunk", "encoder", "--init", tmp_path / "encoder",
        "--encoder_mode", "frozen", "--steps", 1, "--eval_every", 1, "--global_batch", 8,
        "--micro_batch", 8, "--hidden", 8, "--projected", 8, "--val_concepts", 4, "--workers", 1,
    )  # fmt: skip
    output = python("trainer/eval_eeg2image.py", tmp_path / "run", "--test_shards", people / "test",
                    "--out", tmp_path / "report")  # fmt: skip
    lines = (tmp_path / "report/report.md").read_text().splitlines()
    marked = "SAW THE TEST RECORDINGS: THINGS-EEG2 subject 01 (raw_eeg_test.npy); THINGS-EEG2 sub"
    assert (marked in lines[2]) == saw
    assert ("encoder, frozen **SAW THE TEST RECORDINGS**" in output) == saw
    assert "the encoder knows 01 (THINGS-EEG2), 02 (THINGS-EEG2)" in output
