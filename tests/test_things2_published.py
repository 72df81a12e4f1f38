"""The published pre-processed arrays of THINGS-EEG2: read, packed, trained on."""

from __future__ import annotations

import json
import pickle
import shutil

import numpy as np
import pytest
from commands import TINY, python
from tiny import tiny_shards

from data.errors import InputError
from data.pack import main as pack
from data.shards.manifest import read_manifest
from data.shards.readers import Readers
from data.signals.profiles import get_profile
from data.sources.things.from_things2_published import read_published
from trainer.images.embeddings import ImageEmbeddings, write_embeddings

PROFILE = get_profile("things2_published")
CHANNELS = [
    "P7", "P5", "P3", "P1", "Pz", "P2", "P4", "P6", "P8", "PO7", "PO3", "POz", "PO4", "PO8", "O1",
    "Oz", "O2",
]  # fmt: skip
SHAPES = {"training": (12, 3, 17, 250), "test": (6, 4, 17, 250)}


def content_of(part, person, **changes):
    rng = np.random.default_rng([person, len(part)])
    return {
        "preprocessed_eeg_data": rng.standard_normal(SHAPES[part]), "ch_names": CHANNELS,
        "times": np.round(np.linspace(-0.2, 0.996, 300), 3), **changes,
    }  # fmt: skip


@pytest.fixture(scope="module")
def published(tmp_path_factory):
    """Two people: one file as np.save writes it, the others by pickle.dump, as released."""
    root = tmp_path_factory.mktemp("published")
    for person in (1, 2):
        folder = root / f"sub-{person:02d}"
        folder.mkdir()
        for part in SHAPES:
            path = folder / f"preprocessed_eeg_{part}.npy"
            if (person, part) == (1, "training"):
                np.save(path, content_of(part, person))
            else:
                path.write_bytes(pickle.dumps(content_of(part, person), protocol=4))
    metadata = {}
    for part, name in (("training", "train"), ("test", "test")):
        count = SHAPES[part][0]
        first = 0 if part == "training" else 50
        per = 2 if part == "training" else 1
        concepts = [f"{first + row // per:05d}_thing{first + row // per}" for row in range(count)]
        metadata[f"{name}_img_concepts"] = concepts
        metadata[f"{name}_img_files"] = [
            f"thing{first + row // per}_{row % per + 1:02d}b.jpg" for row in range(count)
        ]
    np.save(root / "image_metadata.npy", metadata)
    return root


def pack_part(root, out, part, *words):
    split = "train" if part == "training" else "test"
    pack(["--source", f"things2-published:{root},part={part},split={split}", "--out", str(out),
          "--workers", "1", *words])  # fmt: skip
    return read_manifest(out)


@pytest.fixture(scope="module")
def shards(published, tmp_path_factory):
    folder = tmp_path_factory.mktemp("shards")
    for part in SHAPES:
        pack_part(published, folder / part, part)
    return folder


def test_both_ways_of_writing_give_the_same(published):
    for person, part in ((1, "training"), (2, "training"), (2, "test")):
        path = published / f"sub-{person:02d}/preprocessed_eeg_{part}.npy"
        trials, channels, sfreq_hz = read_published(path, PROFILE)
        np.testing.assert_array_equal(trials, content_of(part, person)["preprocessed_eeg_data"])
        assert (channels, sfreq_hz) == (CHANNELS, 250.0)


def test_large_arrays_are_mapped(tmp_path):
    data = np.zeros((2, 2, 17, 8192))
    times = np.arange(8192) / 250
    path = tmp_path / "large.npy"
    path.write_bytes(
        pickle.dumps(content_of("test", 1, preprocessed_eeg_data=data, times=times), protocol=4)
    )
    assert isinstance(read_published(path, PROFILE)[0], np.memmap)


def test_every_trial_keeps_its_picture(shards):
    manifest = read_manifest(shards / "training")
    assert manifest.profile["sfreq_hz"] == 250
    entry = manifest.recordings[0]
    assert (entry["unit"], entry["reference"], entry["run"]) == (
        "whitened", "none: as published", "training"
    )  # fmt: skip
    assert entry["scale_uv"] is None
    source = {n: content_of("training", n)["preprocessed_eeg_data"] for n in (1, 2)}
    person = {one["id"]: int(one["subject"]) for one in manifest.recordings}
    (reader,) = Readers(manifest, manifest.shards)
    seen = 0
    for row in range(reader.shard.samples):
        meta = reader.meta(row)
        image = int(meta["label"].rpartition("thing")[2]) * 2 + int(meta["image"][-7:-5]) - 1
        expected = source[person[meta["recording"]]][image, int(meta["onset_s"])]
        got = np.asarray(reader.signals[row], np.float64)
        scale = np.vdot(got, expected) / np.vdot(got, got)
        np.testing.assert_allclose(scale * got, expected, atol=0.01)
        seen += 1
    assert seen == 2 * 12 * 3


def embeddings_at(path):
    rng = np.random.default_rng(0)
    names = [(f"thing{c}_{p:02d}b.jpg", f"thing{c}") for c in range(6) for p in (1, 2)]
    names += [(f"thing{c}_01b.jpg", f"thing{c}") for c in range(50, 56)]
    write_embeddings(
        path,
        ImageEmbeddings(
            tuple(image for image, _ in names), tuple(concept for _, concept in names),
            tuple(image for image, _ in names),
            {"projected": rng.standard_normal((len(names), 16))}, {},
        ),
    )  # fmt: skip
    return path


def test_a_part_is_one_recording_on_one_scale(shards):
    for part, (images, repeats, channels, samples) in SHAPES.items():
        manifest = read_manifest(shards / part)
        assert len(manifest.recordings) == 2  # people
        for entry in manifest.recordings:
            assert (entry["windows"], entry["dropped"]) == (images * repeats, {})
            assert (entry["session"], entry["dataset"]) == ("published", "THINGS-EEG2")
            assert list(entry["source_sha256"]) == [f"preprocessed_eeg_{part}.npy"]
            assert entry["scale"] == pytest.approx(1, rel=0.05)  # of Gaussian numbers
        assert {shard.window_samples for shard in manifest.shards} == {samples}
        assert {shard.channels for shard in manifest.shards} == {channels}
        named = manifest.raw["source"]["pictures"]
        assert sum(map(len, named.values())) == images


def test_loud_channels_and_trials_are_kept(published, tmp_path):
    """Whitening mixed the channels: none is judged by size. A trial that is not finite goes."""
    shutil.copytree(published, tmp_path / "raw")
    content = content_of("test", 1)
    content["preprocessed_eeg_data"][:, :, 5] *= 100
    content["preprocessed_eeg_data"][2, 3] *= 1e4
    content["preprocessed_eeg_data"][4, 1, 0, 0] = np.nan
    path = tmp_path / "raw/sub-01/preprocessed_eeg_test.npy"
    path.write_bytes(pickle.dumps(content, protocol=4))
    manifest = pack_part(tmp_path / "raw", tmp_path / "out", "test")
    entry = manifest.recordings[0]
    assert (entry["windows"], entry["dropped"]) == (23, {"non-finite samples": 1})
    assert entry["bad_channels"] == {}


@pytest.mark.parametrize("before", [0, 50, 75])
def test_trials_are_cut_by_their_own_times(tmp_path, before):
    """Whatever a file keeps before onset: windows begin at onset."""
    times = (np.arange(250 + before) - before) / 250
    data = np.broadcast_to(times, (2, 2, 17, len(times)))
    path = tmp_path / "preprocessed_eeg_test.npy"
    np.save(path, content_of("test", 1, preprocessed_eeg_data=data, times=times))
    trials, _, _ = read_published(path, PROFILE)
    np.testing.assert_allclose(trials[1, 1, 3], np.arange(250) / 250)


def test_arrays_at_100_hz_have_a_profile(published, tmp_path):
    """The first authors' release: 100 Hz from 200 ms before onset."""
    shutil.copytree(published, tmp_path / "raw")
    times = (np.arange(100) - 20) / 100
    for person in (1, 2):
        rng = np.random.default_rng(person)
        content = content_of("test", 1, preprocessed_eeg_data=rng.standard_normal((6, 4, 17, 100)))
        path = tmp_path / f"raw/sub-{person:02d}/preprocessed_eeg_test.npy"
        np.save(path, {**content, "times": times})
    with pytest.raises(InputError, match=r"100 Hz from -0\.2 to 0\.79 s") as caught:
        pack_part(tmp_path / "raw", tmp_path / "out", "test")
    assert caught.value.remedy == "add --profile things2_published_100"
    manifest = pack_part(
        tmp_path / "raw", tmp_path / "hundred", "test", "--profile", "things2_published_100"
    )
    assert manifest.profile["event_tmin_s"] == -0.2
    assert {shard.window_samples for shard in manifest.shards} == {100}


def test_one_person_has_not_seen_the_test(published, tmp_path):
    """The names of the pictures are one file, in both parts: no recording that was trained on."""
    embeddings_at(tmp_path / "embeddings")
    for part in SHAPES:
        split = "train" if part == "training" else "test"
        source = f"things2-published:{published},part={part},split={split},subjects=1"
        pack(["--source", source, "--out", str(tmp_path / part), "--workers", "1"])
    python(
        "trainer/eeg2image.py", "--shards", tmp_path / "training", "--images",
        tmp_path / "embeddings", "--run", tmp_path / "run", "--trunk", "flat", "--steps", 2,
        "--global_batch", 8, "--eval_every", 2, "--hidden", 8, "--projected", 8, "--val_concepts",
        2, "--workers", 1,
    )  # fmt: skip
    output = python("trainer/eval_eeg2image.py", tmp_path / "run", "--out", tmp_path / "report")
    assert "SAW THE TEST" not in output
    assert "The trials were published whitened" in output
    assert "what comes before onset: these trials hold nothing of it" in output
    assert "by people's names alone" not in output


def test_an_encoder_for_volts_is_refused(shards, tmp_path):
    """With the command that packs what it can read; also where the rates are the same."""
    embeddings_at(tmp_path / "embeddings")
    for rate_hz in (200.0, 250.0):
        data = tiny_shards(tmp_path / f"{rate_hz:g}", train=(8,), held_out=4, sfreq_hz=rate_hz)
        run = tmp_path / f"encoder{rate_hz:g}"
        python("trainer/pretrain.py", "--shards", data, "--run", run, *TINY, "--steps", 1,
               "--model", f"sfreq_hz={rate_hz:g}", "--global_batch", 4, "--micro_batch", 4,
               "--precision", "fp32")  # fmt: skip
        output = python(
            "trainer/eeg2image.py", "--shards", shards / "training", "--images",
            tmp_path / "embeddings", "--run", tmp_path / "run", "--trunk", "encoder", "--init", run,
            "--val_concepts", 2, fails=True,
        )  # fmt: skip
        assert "published whitened, at 250 Hz and without a unit" in output
        assert f"reads volts, at {rate_hz:g} Hz" in output
        assert "data/pack.py --source things2:FOLDER,parts=training --profile default" in output


def test_retrieval_reads_them(shards, tmp_path):
    embeddings_at(tmp_path / "embeddings")
    words = (
        "trainer/eeg2image.py", "--shards", shards / "training", "--images",
        tmp_path / "embeddings", "--steps", 2, "--global_batch", 8, "--eval_every", 2, "--hidden",
        8, "--projected", 8, "--val_concepts", 2, "--val_repeats", 2, "--workers", 1,
    )  # fmt: skip
    python(*words, "--run", tmp_path / "run")
    python("trainer/eval_eeg2image.py", tmp_path / "run", "--test_shards", shards / "test", "--out",
           tmp_path / "report")  # fmt: skip
    report = json.loads((tmp_path / "report/report.json").read_text())
    assert (report["candidates"], report["repeats"]) == (6, 4)
    output = python(*words, "--run", tmp_path / "before", "--before_onset", fails=True)
    assert "--before_onset: trials of" in output
    assert "raw recordings" in output
    python("trainer/pretrain.py", "--shards", shards / "training", "--run", tmp_path / "encoder",
           "--preset", "tiny", "--model", "sfreq_hz=200", "--steps", 1, fails=True)  # fmt: skip


def test_people_whose_bad_channels_differ(published, tmp_path):
    """Each person lacks another channel; a run reads all, filled where they lack."""
    shutil.copytree(published, tmp_path / "raw")
    for person, dead in ((1, 3), (2, 8)):
        for part in SHAPES:
            content = content_of(part, person)
            content["preprocessed_eeg_data"][:, :, dead] = 0.0
            path = tmp_path / f"raw/sub-{person:02d}/preprocessed_eeg_{part}.npy"
            path.write_bytes(pickle.dumps(content, protocol=4))
    for part in SHAPES:
        manifest = pack_part(tmp_path / "raw", tmp_path / part, part)
        assert {len(one.channels) for one in manifest.montages.values()} == {16}
    output = python(
        "trainer/eeg2image.py", "--shards", tmp_path / "training", "--images",
        embeddings_at(tmp_path / "embeddings"), "--run", tmp_path / "run", "--steps", 2,
        "--global_batch", 8, "--eval_every", 2, "--hidden", 8, "--projected", 8, "--val_concepts",
        2, "--workers", 1,
    )  # fmt: skip
    assert "filled by a spherical spline: P1 in 1 recordings, P8 in 1 recordings" in output
    about = json.loads((tmp_path / "run/best/retriever.json").read_text())
    assert len(about["model"]["montage"]["channels"]) == 17
    output = python("trainer/eval_eeg2image.py", tmp_path / "run", "--out", tmp_path / "report")
    assert "test channels filled by a spherical spline: P1 in 1 recordings" in output


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"ch_names": CHANNELS[:-1]}, "of \\[images, repeats, channels, samples\\]"),
        ({"times": np.zeros(3)}, "of \\[images"),
        ({"preprocessed_eeg_data": np.zeros((3, 17, 250))}, "of \\[images"),
        ({"preprocessed_eeg_data": np.ones((5, 4, 17, 250))}, "5 images, .* names 6"),
    ],
)
def test_arrays_that_are_something_else(published, tmp_path, changes, message):
    shutil.copytree(published, tmp_path / "copy")
    for person in ("01", "02"):
        path = tmp_path / f"copy/sub-{person}/preprocessed_eeg_test.npy"
        changes = {**changes, "whose": person}  # two people never have the same bytes
        path.write_bytes(pickle.dumps(content_of("test", int(person), **changes), protocol=4))
    with pytest.raises(InputError, match=message):
        pack_part(tmp_path / "copy", tmp_path / "out", "test")


class Calls:
    def __reduce__(self):
        return (print, ("called",))


@pytest.mark.parametrize("kind", ["cut", "hostile", "text", "header"])
def test_damaged_and_hostile_files(tmp_path, kind, capsys):
    path = tmp_path / "preprocessed_eeg_test.npy"
    whole = pickle.dumps(content_of("test", 1), protocol=4)
    path.write_bytes(
        {"cut": whole[: len(whole) // 2], "text": b"no array",
         "header": b"\x93NUMPY\x01\x00\x0c\x00{'descr': ((",
         "hostile": pickle.dumps({"preprocessed_eeg_data": Calls()}, protocol=4)}[kind]
    )  # fmt: skip
    with pytest.raises(InputError, match="not a dictionary of arrays"):
        read_published(path, PROFILE)
    assert "called" not in capsys.readouterr().out


@pytest.mark.parametrize(
    ("options", "profile", "message"),
    [
        ("", "things2_published", "packed into folders of their own"),
        (",part=tests", "things2_published", "did you mean|part= is"),
        (",part=test", "default", "filtered, cut and whitened already"),
        (",part=test,subjects=9", "things2_published", "9"),
        (",part=test", "eeg2meg", "filtered, cut and whitened already"),
    ],
)
def test_wrong_words(published, tmp_path, options, profile, message):
    with pytest.raises(InputError, match=message):
        pack(["--source", f"things2-published:{published}{options}", "--out",
              str(tmp_path / "out"), "--profile", profile, "--workers", "1"])  # fmt: skip


def test_without_the_names_of_pictures(published, tmp_path):
    shutil.copytree(published, tmp_path / "copy")
    (tmp_path / "copy/image_metadata.npy").unlink()
    with pytest.raises(InputError, match=r"no image_metadata\.npy"):
        pack_part(tmp_path / "copy", tmp_path / "out", "test")
