"""BIDS roots and THINGS-EEG2: channels, places, events and breaks; and files that ask to be run."""

from __future__ import annotations

import json
import shutil
from collections import Counter
from pathlib import Path

import mne
import numpy as np
import pytest
from files import write_brainvision, write_edf
from loading import items_of, loaded

from data.errors import InputError
from data.signals.profiles import get_profile
from data.signals.spans import spans_of
from data.sources.formats.numpy_files import read_dictionary
from data.sources.from_bids import read_bids

BRAIN2IMAGE = get_profile("brain2image")
NAMES = ["Fp1", "Fp2", "C3", "C4", "O1", "O2", "VEOG", "T8"]


# ---- EEG recorded along with MEG ----


def test_the_eeg_of_a_meg_recording(shared_data):
    root = shared_data / "ds000117_like"
    [(recording, windows)] = loaded(f"bids:{root},events=Famous+Unfamiliar", BRAIN2IMAGE)
    assert (recording.dataset, recording.subject) == ("ds000117_like", "01")
    assert recording.id == "ds000117_like_sub-01_ses-meg_run-facerecognition-01"
    # channels.tsv tells that EEG061-EEG064 are eyes, heart and nothing.
    own = mne.io.read_raw_fif(next(root.rglob("*_meg.fif")), allow_maxshield=True, verbose="error")
    typed = [n for n, k in zip(own.ch_names, own.get_channel_types(), strict=True) if k == "eeg"]
    assert len(typed) == 74
    assert windows.channels == [n for n in typed if n not in {f"EEG06{i}" for i in range(1, 5)}]
    assert Counter(recording.raw.get_channel_types())["eog"] == 2
    assert {"grad", "mag", "stim", "ecg"} <= set(recording.raw.get_channel_types())
    for name, place in zip(windows.channels, windows.positions_m, strict=True):
        channel = own.info["chs"][own.ch_names.index(name)]
        np.testing.assert_allclose(place, channel["loc"][:3], atol=1e-7)
    assert windows.info["positions_from"] == "the recording"
    assert windows.info["mains_hz"] == 50.0
    table = (root / "sub-01/ses-meg/meg").glob("*_events.tsv")
    rows = [line.split("\t") for line in next(table).read_text().splitlines()[1:]]
    faces = [(float(row[0]), row[3]) for row in rows if row[3] in ("Famous", "Unfamiliar")]
    assert len(windows.meta) == len(faces) > 0
    for meta, (onset, label) in zip(windows.meta, faces, strict=True):
        assert meta["label"] == label
        assert meta["onset_s"] == pytest.approx(onset - 0.128, abs=1e-3)
    names = {Path(name).name for name in windows.info["source_sha256"]}
    assert "sub-01_ses-meg_task-facerecognition_channels.tsv" in names


def test_the_triggers_of_a_meg_recording_agree_with_its_table(shared_data):
    """events.tsv against the trigger channel, read by MNE directly."""
    [(recording, _)] = loaded(f"bids:{shared_data}/ds000117_like,events=1")
    raw = recording.raw
    steps = mne.find_events(raw, "STI101", shortest_event=1, verbose="error")
    onsets = (steps[:, 0] - raw.first_samp) / raw.info["sfreq"]
    for event in recording.events:
        # The table says when the trigger was sent; the real one differs by under a sample.
        assert np.abs(onsets - event.onset_s).min() < 1.5 / raw.info["sfreq"]


def test_things_eeg_as_plain_bids(shared_data):
    root = shared_data / "things_eeg"
    [(recording, windows)] = loaded(f"bids:{root},dataset=THINGS-EEG")
    [(_, same)] = loaded(f"things:{root},events=0")
    assert recording.dataset == "THINGS-EEG"
    assert np.array_equal(windows.data, same.data)
    with pytest.raises(InputError, match="no events at all") as caught:
        loaded(f"bids:{root},events=1")
    assert "not in seconds" in caught.value.remedy


# ---- a dataset written here ----


@pytest.fixture
def bids(tmp_path) -> Path:
    """Two people, three recordings; an eye channel typed EEG, a bad one, a gap, places."""
    root = tmp_path / "study"
    rng = np.random.default_rng(0)
    counts = rng.integers(-300, 300, (len(NAMES), 40 * 200))
    (root / "derivatives/clean/sub-01/eeg").mkdir(parents=True)
    for name, onsets in (
        ("sub-01/ses-a/eeg/sub-01_ses-a_task-rest_run-1", range(40)),
        ("sub-01/ses-b/eeg/sub-01_ses-b_task-oddball_run-1", [*range(20), *range(50, 70)]),
        ("sub-02/ses-a/eeg/sub-02_ses-a_task-rest_run-1", range(40)),
    ):
        stem = root / name
        stem.parent.mkdir(parents=True, exist_ok=True)
        kind = "EDF+C" if len(set(np.diff(onsets))) == 1 else "EDF+D"
        write_edf(Path(f"{stem}_eeg.edf"), onsets, NAMES, counts, 200, {3.0: "file's own"}, kind)
        rows = [
            f"{n}\t{'EOG' if n == 'VEOG' else 'EEG'}\tuV\t{'bad' if n == 'T8' else 'good'}"
            for n in NAMES
        ]
        Path(f"{stem}_channels.tsv").write_text(
            "\n".join(["name\ttype\tunits\tstatus", *rows]) + "\n"
        )
        Path(f"{stem}_events.tsv").write_text(
            "onset\tduration\ttrial_type\n5.0\t0\ttarget\n6.5\t0\tother\n25.0\t0\ttarget\n55.0\t0\tafter\n"
        )
        Path(f"{stem}_eeg.json").write_text('{"PowerLineFrequency": 60, "TaskName": "x"}')
    (root / "dataset_description.json").write_text('{"Name": "Study", "BIDSVersion": "1.8.0"}')
    return root


def test_what_is_listed(bids, tmp_path):
    everything = items_of(f"bids:{bids}")
    assert [(i.subject, i.session, i.run) for i in everything] == [
        ("01", "a", "rest-1"), ("01", "b", "oddball-1"), ("02", "a", "rest-1"),
    ]  # fmt: skip
    assert len({item.key for item in everything}) == 3
    assert {i.subject for i in items_of(f"bids:{bids},subjects=2")} == {"02"}
    assert len(items_of(f"bids:{bids},tasks=rest")) == 2
    assert len(items_of(f"bids:{bids},tasks=rest+oddball,sessions=b")) == 1
    for wrong, words in (
        (f"bids:{bids},tasks=sleep", "no task sleep"),
        (f"bids:{bids},subjects=3", "no subject 3"),
        (f"bids:{bids},runs=7", "no run 7"),
        (f"bids:{tmp_path}/none", "no such folder"),
        (f"bids:{bids}/derivatives", r"no folder sub-\*"),
    ):
        with pytest.raises(InputError, match=words):
            items_of(wrong)


def test_sidecars_are_applied_and_decide_the_signature(bids):
    [(_, windows)] = loaded(f"bids:{bids},subjects=1,sessions=a")
    assert windows.channels == ["Fp1", "Fp2", "C3", "C4", "O1", "O2"]
    assert windows.info["bad_channels"] == {"T8": "marked bad in the file"}
    assert windows.info["mains_hz"] == 60.0
    [(recording, windows)] = loaded(f"bids:{bids},subjects=1,sessions=a,events=target")
    assert [(e.onset_s, e.label) for e in recording.events] == [(5.0, "target"), (25.0, "target")]
    assert [meta["onset_s"] for meta in windows.meta] == [4.8, 24.8]
    [before] = items_of(f"bids:{bids},subjects=1,sessions=a")
    old = before.signature
    sidecar = next((bids / "sub-01/ses-a").rglob("*_channels.tsv"))
    sidecar.write_text(sidecar.read_text().replace("bad", "good "))
    assert before.signature != old


def test_a_files_own_breaks_outlive_the_events_table(bids):
    """mne-bids replaces a file's annotations by events.tsv, and with them the gap."""
    path = next(bids.rglob("*oddball*_eeg.edf"))
    raw = read_bids(path, bids)
    assert spans_of(raw) == [(0, 4000), (4000, 8000)]
    at = dict(zip(raw.annotations.description, raw.annotations.onset, strict=True))
    assert at["after"] == 25.0  # 55 s on the clock, 30 of them in the gap
    assert at["target"] == 20.0  # the last one was during the gap
    assert list(raw.annotations.description).count("target") == 2
    assert "file's own" not in raw.annotations.description
    [(_, windows)] = loaded(f"bids:{bids},tasks=oddball")
    assert [meta["onset_s"] for meta in windows.meta] == [0, 4, 8, 12, 16, 20, 24, 28, 32, 36]


def test_pauses_of_brainvision_outlive_it_too(tmp_path):
    folder = tmp_path / "study/sub-1/eeg"
    folder.mkdir(parents=True)
    path = folder / "sub-1_task-rest_eeg.vhdr"
    write_brainvision(path, NAMES, 0.5, 200, np.random.default_rng(0), segments=(1, 3001))
    (folder / "sub-1_task-rest_events.tsv").write_text("onset\tduration\ttrial_type\n3.0\t0\tx\n")
    raw = read_bids(path, tmp_path / "study")
    assert spans_of(raw) == [(0, 3000), (3000, 6000)]


def test_wrong_bids_content_is_named(bids):
    path = next((bids / "sub-02").rglob("*_eeg.edf"))
    sidecar = next((bids / "sub-02").rglob("*_channels.tsv"))
    sidecar.write_text(sidecar.read_text().replace("Fp1", "Fpz"))
    with pytest.raises(InputError, match="mne-bids cannot read it") as caught:
        loaded(f"bids:{bids},subjects=2")
    assert path.name in caught.value.what
    path.write_bytes(path.read_bytes()[:30_000])
    with pytest.raises(InputError, match="truncated"):
        loaded(f"bids:{bids},subjects=2")
    for file in bids.rglob("*.edf"):
        file.rename(file.with_suffix(".nwb"))
    with pytest.raises(InputError, match="no recording in it"):
        items_of(f"bids:{bids}")


def test_meg_without_eeg_is_told(shared_data, tmp_path):
    root = tmp_path / "meg"
    shutil.copytree(shared_data / "ds000117_like", root, copy_function=shutil.copy)
    sidecar = next(root.rglob("*_meg.json"))
    sidecar.chmod(0o644)
    sidecar.write_text(json.dumps(json.loads(sidecar.read_text()) | {"EEGChannelCount": 0}))
    with pytest.raises(InputError, match="only MEG without EEG"):
        items_of(f"bids:{root}")


# ---- THINGS-EEG2 ----

CAP = ["Fp1", "Fp2", "C3", "C4", "O1", "O2", "stim"]


def things2_file(path: Path, seed: int, join: bool) -> np.ndarray:
    """A file as the authors' script writes it: 50 s, an image each 200 ms in two blocks."""
    rng = np.random.default_rng(seed)
    signal = 2e-6 * rng.standard_normal((7, 50_000)).cumsum(axis=1) / 10
    if join:
        signal[:, 25_000:] += 3e-4 * rng.standard_normal((7, 1))
    signal[6] = 0
    onsets = np.r_[np.arange(4_000, 20_000, 200), np.arange(30_000, 46_000, 200)]
    signal[6, onsets] = rng.integers(1, 51, len(onsets))
    signal[6, onsets[3]] = 99_999
    path.parent.mkdir(parents=True, exist_ok=True)
    content = {"raw_eeg_data": signal, "ch_names": CAP, "ch_types": ["eeg"] * 6 + ["stim"],
               "sfreq": 1000, "highpass": 0.01, "lowpass": 100}  # fmt: skip
    np.save(path, content)
    return signal


@pytest.fixture
def things2(tmp_path) -> Path:
    root = tmp_path / "eeg_dataset/raw_data"
    for subject in ("01", "02"):
        for part in ("training", "test"):
            path = root / f"sub-{subject}/ses-01/raw_eeg_{part}.npy"
            things2_file(path, int(subject), part == "training")
    images = {}
    for part in ("train", "test"):
        images[f"{part}_img_concepts"] = [f"{i:05d}_thing{i}" for i in range(50)]
        images[f"{part}_img_concepts_THINGS"] = [f"{i + 7:05d}_thing{i}" for i in range(50)]
        images[f"{part}_img_files"] = np.array([f"thing{i}_01b.jpg" for i in range(50)])
    (tmp_path / "image_set").mkdir()
    np.save(tmp_path / "image_set/image_metadata.npy", images)
    return root


def test_things2_events_images_joins_and_volts(things2, tmp_path):
    pairs = loaded(f"things2:{things2},subjects=1", BRAIN2IMAGE)
    assert [(r.session, r.run) for r, _ in pairs] == [("01", "test"), ("01", "training")]
    recording, windows = pairs[1]
    signal = things2_file(tmp_path / "again.npy", 1, True)
    assert not recording.raw._data.flags.writeable  # mapped, not read into memory
    np.testing.assert_array_equal(recording.raw.get_data(picks="eeg"), signal[:6])
    onsets = np.flatnonzero(signal[6])
    shown = onsets[signal[6, onsets] != 99_999]
    assert [event.onset_s for event in recording.events] == list(shown / 1000)
    codes = signal[6, shown].astype(int)
    assert [event.image for event in recording.events] == [f"thing{c - 1}_01b.jpg" for c in codes]
    assert [event.label for event in recording.events] == [f"thing{c - 1}" for c in codes]
    assert spans_of(recording.raw) == [(0, 25_000), (25_000, 50_000)]
    assert windows.info["notes"]["joins"] == "1 found, 4 expected"
    assert pairs[0][1].info["notes"]["joins"] == "0 found, 0 expected"
    assert windows.info["mains_hz"] == 50.0
    volts = windows.data[0].astype(float) * windows.info["scale_uv"] * 1e-6
    expected = mne.filter.filter_data(signal[:6, :25_000], 1000, 5, 95, verbose="error")
    expected = mne.filter.notch_filter(expected, 1000, [50, 100], verbose="error")
    expected = (expected - expected.mean(axis=0))[:, shown[0] - 128 : shown[0] + 512]
    assert np.abs(volts - expected).max() < 2**-10 * np.abs(expected).max()


def test_things2_choices(things2, tmp_path):
    spec = f"things2:{things2}"
    assert [item.subject for item in items_of(spec)] == ["01", "02"]
    assert len(items_of(f"{spec},parts=test")[0].files) == 1
    [(recording, windows)] = loaded(f"{spec},subjects=2,parts=test,events=0")
    assert recording.events is None
    assert windows.data.shape == (12, 6, 800)
    shutil.rmtree(tmp_path / "image_set")
    [(recording, _)] = loaded(f"{spec},subjects=2,parts=test")
    assert isinstance(recording.events[0].label, int)
    for wrong in ("parts=train", "sessions=09", "subjects=3"):
        with pytest.raises(InputError, match=wrong.split("=")[0]):
            items_of(f"{spec},{wrong}")
    with pytest.raises(InputError, match="no such folder"):
        items_of(f"things2:{tmp_path}/none")


def test_nothing_in_a_file_is_ever_called(tmp_path):
    """A pickle that would write a file when it is loaded, inside a well-formed .npy."""
    proof = tmp_path / "proof"

    class Evil:
        def __reduce__(self):
            return (open, (str(proof), "w"))

    path = tmp_path / "raw_eeg_test.npy"
    for content in (Evil(), {"raw_eeg_data": Evil()}, {"ch_names": [1, (2, Evil())]}):
        np.save(path, content)
        with pytest.raises(InputError, match=r"asks to call (_?io\.open|builtins)"):
            read_dictionary(path)
        assert not proof.exists()
    np.load(path, allow_pickle=True)  # what it would have done
    assert proof.exists()


def test_damaged_dictionaries_are_named(things2, tmp_path):
    source = things2 / "sub-01/ses-01/raw_eeg_test.npy"
    content = source.read_bytes()
    path = tmp_path / "cut.npy"
    for kept in (0, 5, 100, 300, 5_000, len(content) - 200):
        path.write_bytes(content[:kept])
        with pytest.raises(InputError, match=r"cut\.npy: not a dictionary"):
            read_dictionary(path)
    np.save(path, np.arange(5))
    with pytest.raises(InputError, match="it holds an array"):
        read_dictionary(path)
    np.save(path, {"other": 1})
    shutil.copy(path, source)
    with pytest.raises(InputError, match="no raw_eeg_data"):
        next(items_of(f"things2:{things2},subjects=1,parts=test")[0].load())
