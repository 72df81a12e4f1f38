"""Sources: what a spec means, what each real file gives, and what wrong input is told."""

from __future__ import annotations

import os
import shutil
import struct

import mne
import numpy as np
import pytest
import torch
from loading import DEFAULT, items_of, loaded

from data.errors import InputError
from data.signals.profiles import get_profile
from data.sources.formats.opening import read_raw
from data.sources.spec import parse_spec
from data.subjects.people import describe_subjects, select_subjects

BRAIN2IMAGE = get_profile("brain2image")


# ---- specs ----


def test_a_spec_is_parsed_and_printed_back():
    text = "raw:/a,b/*.edf,subject=(P\\d+),mains_hz=60,split=val"
    spec = parse_spec(text)
    assert (spec.kind, spec.target, spec.split, spec.mains()) == ("raw", "/a,b/*.edf", "val", 60.0)
    assert str(spec) == text
    assert parse_spec("simulated").target == ""


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("moab:PhysionetMI", "Did you mean moabb"),
        ("moabb:PhysionetMI,subject=1", "Did you mean subjects"),
        ("moabb:", "nothing after moabb:"),
        ("raw:/x.edf,split=tests", "auto, train, val, test"),
        ("raw:/x.edf,montage=", "empty"),
        ("raw:/x.edf,split=val,split=val", "given twice"),
    ],
)
def test_wrong_specs_are_told(text, message):
    with pytest.raises(InputError) as caught:
        parse_spec(text)
    assert message in str(caught.value)


def test_subject_lists():
    assert select_subjects("1-3+7", list(range(1, 10)), "x") == [1, 2, 3, 7]
    assert select_subjects("2+sub-03", ["01", "02", "03"], "x") == ["02", "03"]
    assert select_subjects(None, [5, 6], "x") == [5, 6]
    assert describe_subjects([1, 2, 3, 7, "x"]) == "1-3+7+x"
    for wrong in ("12", "3-1", "+", "a"):
        with pytest.raises(InputError):
            select_subjects(wrong, [1, 2, 3], "x")


# ---- raw files ----

REAL = [
    ("brainvision/mne_test/test.vhdr", "", 26, 1000.0),
    ("biosemi/test.bdf", "", 64, 2048.0),
    ("biosemi/test_138ch.edf", ",montage=biosemi128", 128, 512.0),
    ("eeg_meg/sample_audvis_5s_raw.fif", "", 59, 300.307),
    ("eeglab/eeglab_data.set", "", 30, 128.0),
    ("ds000117_like/**/*_meg.fif", "", 70, 1100.0),
]


@pytest.mark.parametrize(("path", "options", "channels", "sfreq"), REAL)
def test_real_files(shared_data, path, options, channels, sfreq):
    [(recording, windows)] = loaded(f"raw:{shared_data}/{path}{options}", BRAIN2IMAGE)
    assert windows.data.shape[1:] == (channels, 512)
    assert len(windows.data) > 0
    assert windows.info["source_sfreq_hz"] == pytest.approx(sfreq, abs=1e-3)
    assert windows.positions_m.shape == (channels, 3)
    assert 0.04 < np.median(np.linalg.norm(windows.positions_m, axis=1)) < 0.2
    assert not {"EOG1", "M1", "EXG1", "EEG061", "EEG 053"} & set(windows.channels)
    assert len(windows.info["source_sha256"]) == len(recording.source_files)
    assert 0.2 < windows.info["scale_uv"] < 50


def test_a_real_file_comes_back_in_volts(shared_data):
    path = shared_data / "mne_data/MNE-eegbci-data/files/eegmmidb/1.0.0/S001/S001R04.edf"
    [(_, windows)] = loaded(f"raw:{path},mains_hz=60")
    raw = mne.io.read_raw_edf(path, preload=True, verbose="error")
    assert [name.strip(".").lower() for name in raw.ch_names] == [
        name.lower() for name in windows.channels
    ]
    raw.filter(0.5, 72.0, verbose="error").notch_filter(60.0, verbose="error")
    raw.set_eeg_reference("average", verbose="error")
    expected = raw.resample(200.0, method="fft", verbose="error").get_data()
    for window, meta in zip(windows.data, windows.meta, strict=True):
        start = round(meta["onset_s"] * 200)
        volts = window.astype(np.float64) * windows.info["scale_uv"] * 1e-6
        clipped = np.abs(window) >= DEFAULT.clip
        error = np.abs(volts - expected[:, start : start + 800])
        error[clipped] = 0.0
        # Two different resamplers: compared where neither is at the recording's edge.
        assert np.quantile(error, 0.99) < 0.02 * np.abs(volts).std()


def test_events_are_found_by_description_and_listed_when_absent(shared_data):
    path = shared_data / "brainvision/mne_test/test.vhdr"
    [(recording, windows)] = loaded(f"raw:{path},events=Stimulus/S253+Stimulus/S255")
    raw = mne.io.read_raw(path, verbose="error")
    wanted = [d in ("Stimulus/S253", "Stimulus/S255") for d in raw.annotations.description]
    assert [event.onset_s for event in recording.events] == list(raw.annotations.onset[wanted])
    assert {meta["label"] for meta in windows.meta} <= {"Stimulus/S253", "Stimulus/S255"}
    with pytest.raises(InputError, match=r"no event is called 'S1'; present: .*'Stimulus/S253'"):
        loaded(f"raw:{path},events=S1")


def test_subjects_sessions_and_runs_of_raw_files(tmp_path):
    for name in ("sub-01/ses-2/a_run-3_eeg.fif", "P7/x_eeg.fif"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    pattern = "subject=(?:sub-)?(P?\\d+)/"
    found = items_of(f"raw:{tmp_path}/**/*.fif,{pattern}")
    got = {(item.subject, item.session, item.run) for item in found}
    assert got == {("01", "2", "3"), ("P7", "1", "x_eeg")}
    assert len({item.key for item in found}) == 2
    [item] = items_of(f"raw:{tmp_path}/P7/*.fif,subject=(P\\d),dataset=Mine")
    assert (item.subject, item.dataset) == ("P7", "Mine")
    with pytest.raises(InputError, match="not a regular expression"):
        items_of(f"raw:{tmp_path}/P7/*.fif,subject=(P")
    with pytest.raises(InputError, match="no file matches"):
        items_of(f"raw:{tmp_path}/*.edf")
    with pytest.raises(InputError, match="no such file"):
        items_of(f"raw:{tmp_path}/none.edf")


TRUNCATED = [
    ("eeg_meg/sample_audvis_5s_raw.fif", None),
    ("biosemi/test.bdf", None),
    ("biosemi/test_138ch.edf", None),
    ("eeglab/eeglab_data.fdt", "eeglab_data.set"),
    ("brainvision/mne_test/test.eeg", "test.vhdr"),
    ("brainvision/mne_test/test.vhdr", "test.vhdr"),
]


@pytest.mark.parametrize("kept", [0.9, 0.3, 0.001])
@pytest.mark.parametrize(("path", "opened"), TRUNCATED)
def test_truncated_files_are_refused_by_name(shared_data, tmp_path, path, opened, kept):
    source = shared_data / path
    for companion in source.parent.glob(f"{source.stem}.*"):
        shutil.copy(companion, tmp_path)
    cut = tmp_path / source.name
    content = source.read_bytes()
    cut.chmod(0o644)
    cut.write_bytes(content[: int(len(content) * kept)])
    with pytest.raises(InputError) as caught:
        read_raw(tmp_path / (opened or source.name))
    assert str(tmp_path) in caught.value.what
    assert "again" in caught.value.remedy


def test_a_fif_cut_between_two_buffers_is_refused(tmp_path):
    info = mne.create_info(4, 200.0, "eeg")
    raw = mne.io.RawArray(1e-5 * np.ones((4, 2000)), info, verbose="error")
    path = tmp_path / "x_raw.fif"
    raw.save(path, buffer_size_sec=1.0, verbose="error")
    assert read_raw(path).n_times == 2000
    content = path.read_bytes()
    tag = struct.pack(">iii", 300, 4, 4 * 4 * 200)  # FIFF_DATA_BUFFER, float, one second
    path.write_bytes(content[: content.rindex(tag)])
    with pytest.raises(InputError, match="truncated"):
        read_raw(path)


def test_nothing_readable(tmp_path):
    path = tmp_path / "noise.edf"
    path.write_bytes(os.urandom(3000))
    with pytest.raises(InputError, match=r"noise\.edf: not the header"):
        next(items_of(f"raw:{path}")[0].load())


# ---- THINGS-EEG ----


def test_things_events_and_images(shared_data):
    [(recording, windows)] = loaded(f"things:{shared_data}/things_eeg", BRAIN2IMAGE)
    assert windows.data.shape == (512, 63, 640)
    assert windows.info["mains_hz"] == 50.0
    assert 50.0 in windows.info["filter"]["notch_hz"]
    first = windows.meta[0]
    assert first["image"] == "volleyball_08s.jpg"
    assert first["label"] == "volleyball"
    raw = mne.io.read_raw(recording.source_files[0], verbose="error")
    onset = raw.annotations.onset[raw.annotations.description == "Event/E  1"][0]
    assert first["onset_s"] == pytest.approx(onset - 0.128, abs=1e-3)
    [(_, continuous)] = loaded(f"things:{shared_data}/things_eeg,events=0")
    assert continuous.data.shape == (15, 63, 800)


def test_things_without_events_or_folder(shared_data, tmp_path):
    shutil.copytree(shared_data / "things_eeg", tmp_path / "bids", copy_function=shutil.copy)
    marker = next((tmp_path / "bids").rglob("*.vmrk"))
    marker.chmod(0o644)
    marker.write_text(marker.read_text().replace("E  1", "E  9"))
    with pytest.raises(InputError, match=r"no event is called 'Event/E 1'; present: .*E 9"):
        loaded(f"things:{tmp_path}/bids")
    with pytest.raises(InputError, match="no such folder"):
        items_of(f"things:{tmp_path}/none")
    with pytest.raises(InputError, match=r"no subject 5"):
        items_of(f"things:{tmp_path}/bids,subjects=5")


# ---- VC ----


def test_vc_subjects_labels_and_places(shared_data):
    pairs = loaded(f"vc:{shared_data}/vc/eeg_5_95_std.pth")
    content = torch.load(shared_data / "vc/eeg_5_95_std.pth", weights_only=True)
    assert [recording.subject for recording, _ in pairs] == ["1", "2", "4"]
    for recording, windows in pairs:
        rows = [
            row
            for row in content["dataset"]
            if str(row["subject"]) == recording.subject and 450 <= row["eeg"].shape[1] <= 600
        ]
        assert windows.data.shape == (len(rows), 128, 80)
        assert [m["image"] for m in windows.meta] == [content["images"][r["image"]] for r in rows]
        assert [m["label"] for m in windows.meta] == [content["labels"][r["label"]] for r in rows]
        assert windows.channels[:3] == ["Fp1", "Fp2", "F7"]
        assert len({tuple(place) for place in windows.positions_m}) == 128
        assert windows.info["scale_uv"] is None


def test_vc_file_with_its_own_mean_and_deviation(shared_data):
    path = shared_data / "vc/eeg_signals_128_with_mean_std.pth"
    content = torch.load(path, weights_only=True)
    recording, _ = loaded(f"vc:{path}")[0]
    row = next(r for r in content["dataset"] if str(r["subject"]) == recording.subject)
    expected = (row["eeg"] - content["means"]) / content["stddevs"]
    np.testing.assert_allclose(recording.segments[0], expected, rtol=1e-5, atol=1e-5)


def test_vc_published_splits(shared_data):
    vc, splits = shared_data / "vc/eeg_5_95_std.pth", shared_data / "vc"
    content = torch.load(vc, weights_only=True)["dataset"]
    table = torch.load(splits / "block_splits_by_image_all.pth", weights_only=True)["splits"][0]
    found = items_of(f"vc:{vc},splits={splits}/block_splits_by_image_all.pth,by=image")
    counts = dict.fromkeys(("train", "val", "test"), 0)
    for item in found:
        [recording] = item.load()
        counts[item.split] += len(recording.segments)
        assert {meta["published_split"] for meta in recording.segment_meta} <= {item.split}
    for name, indices in table.items():
        assert counts[name] == sum(450 <= content[i]["eeg"].shape[1] <= 600 for i in indices)
    single = f"vc:{vc},splits={splits}/block_splits_by_image_single.pth"
    [item] = items_of(f"{single},subject=4")
    [recording] = item.load()
    of_4 = [row for row in content if row["subject"] == 4]
    table = torch.load(splits / "block_splits_by_image_single.pth", weights_only=True)["splits"][0]
    expected = {
        torch.load(vc, weights_only=True)["images"][of_4[i]["image"]]: name
        for name, indices in table.items()
        for i in indices
        if 450 <= of_4[i]["eeg"].shape[1] <= 600
    }
    got = {meta["image"]: meta["published_split"] for meta in recording.segment_meta}
    assert got == expected
    with pytest.raises(InputError, match="name it with subject="):
        items_of(single)


def test_wrong_vc_files(shared_data, tmp_path):
    source = shared_data / "vc/eeg_5_95_std.pth"
    cut = tmp_path / "cut.pth"
    cut.write_bytes(source.read_bytes()[:100_000])
    for path, message in (
        (cut, "cannot be read"),
        (tmp_path / "none.pth", "no such file"),
        (shared_data / "vc/block_splits_by_image_all.pth", "not a file of the visual-category"),
    ):
        with pytest.raises(InputError, match=message) as caught:
            items_of(f"vc:{path}")
        assert str(path) in str(caught.value)
    with pytest.raises(InputError, match="no such file"):
        items_of(f"vc:{source},splits={tmp_path}/none.pth")
    with pytest.raises(InputError, match="together with splits"):
        items_of(f"vc:{source},by=image")
    with pytest.raises(InputError, match="128 channels"):
        loaded(f"vc:{source},montage=biosemi64")


# ---- MOABB ----


@pytest.mark.slow
def test_physionet_from_disk_with_the_imagery_runs_only(mne_data):
    pairs = loaded("moabb:PhysionetMotorImagery,subjects=1")
    assert len(pairs) == 6
    for recording, windows in pairs:
        assert windows.data.shape == (31, 64, 800)
        assert len(recording.source_files) == 6
        assert 15 < windows.info["scale_uv"] < 35
        assert windows.info["bad_channels"] == {}


@pytest.mark.slow
def test_moabb_trials_are_aligned_and_labelled(mne_data):
    recording, windows = loaded("moabb:PhysionetMI,subjects=1,events=1")[0]
    raw = mne.io.read_raw_edf(recording.source_files[0], verbose="error")
    # MOABB goes through a stimulus channel, where an event at the first sample cannot be seen.
    assert raw.annotations.onset[0] == 0.0
    assert [event.onset_s for event in recording.events] == pytest.approx(
        list(raw.annotations.onset[1:]), abs=1e-6
    )
    names = {"T0": "rest", "T1": "left_hand", "T2": "right_hand"}
    assert [event.label for event in recording.events] == [
        names[name] for name in raw.annotations.description[1:]
    ]
    assert windows.meta[0]["label"] == "right_hand"


@pytest.mark.slow
def test_other_moabb_sets_from_disk(mne_data):
    kalunga = loaded("moabb:kalunga2016,subjects=available")
    assert len(kalunga) == 4
    assert all(windows.data.shape[1] == 8 for _, windows in kalunga)
    assert all("implausible" in windows.info["notes"]["amplitude"] for _, windows in kalunga)
    bnci = loaded("moabb:BNCI2014001,subjects=1")
    assert {windows.data.shape[1] for _, windows in bnci} == {22}
    assert all(5 < windows.info["scale_uv"] < 50 for _, windows in bnci)


@pytest.mark.slow
def test_absent_moabb_data_is_one_message(mne_data, monkeypatch, tmp_path):
    # Whether there is a network must not decide a test: an unreachable one is taken for none.
    monkeypatch.setattr("data.sources.from_moabb.network_available", bool)
    with pytest.raises(InputError) as caught:
        items_of("moabb:PhysionetMI")
    assert "108 of 109 subjects (2-109)" in caught.value.what
    assert "subjects=available (1)" in caught.value.remedy
    assert "from moabb.datasets import PhysionetMI" in caught.value.remedy
    monkeypatch.setenv("MNE_DATA", str(tmp_path / "none"))
    with pytest.raises(InputError, match=r"MNE_DATA=.*no such folder"):
        items_of("moabb:PhysionetMI")


@pytest.mark.slow
def test_unknown_moabb_names_suggest_near_ones():
    with pytest.raises(InputError, match="Did you mean PhysionetMI"):
        items_of("moabb:PhysionetM")


@pytest.mark.slow
def test_a_truncated_moabb_file_is_named(mne_data, monkeypatch, tmp_path):
    shutil.copytree(mne_data, tmp_path / "data", copy_function=shutil.copy)
    cut = next((tmp_path / "data").rglob("subject01_run2_raw.fif"))
    cut.chmod(0o644)
    cut.write_bytes(cut.read_bytes()[:50_000])
    monkeypatch.setenv("MNE_DATA", str(tmp_path / "data"))
    with pytest.raises(InputError, match="truncated"):
        loaded("moabb:Kalunga2016,subjects=1")
