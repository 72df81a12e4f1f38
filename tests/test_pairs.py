"""Pairs of EEG and MEG: the shards, the treatment of real recordings against MNE's own, errors."""

from __future__ import annotations

import hashlib
import json
import os
import pickle
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import mne
import numpy as np
import pytest
import webdataset as wds
from matplotlib import image
from scipy.signal import get_window
from tiny import tiny_shards

import data.signals.windows
from data.batches.local import WindowDataset
from data.batches.pairs import PairedWindows
from data.errors import InputError
from data.inspect_shards import main as inspect
from data.inspection.survey_meg import remarks_meg, survey_meg
from data.pack import main as pack
from data.packing.items import run_jobs
from data.packing.jobs import make_jobs, read_record
from data.packing.listing import list_items
from data.shards.manifest import read_manifest
from data.shards.summary import summarise
from data.shards.tars import ShardReader, verify_shard, write_shard
from data.signals.eeg_meg import make_windows, sensors_of
from data.signals.profiles import get_profile
from data.signals.recording import MegOptions, Recording
from data.sources.spec import parse_spec

EEG2MEG = get_profile("eeg2meg")
HALF = 2**-11  # half a unit in the last place of float16, relative


@pytest.fixture(scope="module")
def pairs(tmp_path_factory):
    return read_manifest(tiny_shards(tmp_path_factory.mktemp("pairs") / "shards", meg=6))


def loaded(spec: str, profile=EEG2MEG):
    (item,) = list_items(parse_spec(spec), profile)
    (recording,) = pickle.loads(pickle.dumps(item)).load()
    return recording, data.signals.windows.make_windows(recording, profile)


def recording_of(signal, names, types, sfreq_hz=1100.0, **fields) -> Recording:
    """A recording of any signals, electrodes and sensors on a sphere of 12 cm."""
    info = mne.create_info(list(names), sfreq_hz, list(types))
    rng = np.random.default_rng(3)
    for channel, kind in zip(info["chs"], types, strict=True):
        outward = rng.standard_normal(3)
        outward[2] = abs(outward[2])
        outward /= np.linalg.norm(outward)
        if kind == "eeg":
            channel["loc"][:3] = 0.09 * outward + [0, 0, 0.04]
        elif kind in ("mag", "grad"):
            frame = np.linalg.qr(np.stack([outward, rng.standard_normal(3), [1, 0, 0]]).T)[0]
            channel["loc"] = np.concatenate([0.12 * outward, frame[:, [1, 2, 0]].T.ravel()])
    trans = mne.transforms.rotation(0.1, -0.2, 0.3)
    trans[:3, 3] = [0.004, -0.002, 0.05]
    with info._unlock():
        info["dev_head_t"] = mne.transforms.Transform("meg", "head", trans)
        info["line_freq"] = 50.0
    raw = mne.io.RawArray(signal, info, verbose="error")
    return Recording("made", "01", "1", "1", raw=raw, **fields)


# ---- the shards ----


def test_a_sample_has_three_members(pairs):
    assert pairs.paired
    for shard in pairs.shards:
        verify_shard(pairs, shard)
        reader = ShardReader(pairs, shard)
        samples = list(wds.WebDataset(str(pairs.path(shard)), shardshuffle=False).decode())
        assert len(samples) == shard.samples
        for index, sample in enumerate(samples):
            assert sample["json"] == reader.meta(index)
            np.testing.assert_array_equal(sample["eeg.npy"], reader.signals[index])
            np.testing.assert_array_equal(sample["meg.npy"], reader.megs[index])


def test_windows_are_in_si_units(pairs):
    windows = PairedWindows(pairs)
    assert windows.sfreq_hz == 200.0
    assert len(windows) == sum(shard.samples for shard in pairs.shards)
    seen = 0
    for shard in pairs.shards:
        reader = ShardReader(pairs, shard)
        for row in range(shard.samples):
            window, montage = windows[seen], windows.montage(seen)
            np.testing.assert_allclose(
                window.eeg, reader.signals[row].astype(float) * 1e-5, rtol=1e-6
            )
            stored = reader.megs[row].astype(np.float64)
            np.testing.assert_allclose(window.meg[0::2], stored[0::2] * 1e-13, rtol=1e-6)
            np.testing.assert_allclose(window.meg[1::2], stored[1::2] * 3e-12, rtol=1e-6)
            assert window.eeg.dtype == window.meg.dtype == np.float32
            assert (window.recording, window.onset_s) == (reader.meta(row)["recording"], row / 2)
            assert montage.meg_types == ("mag", "grad") * 3
            np.testing.assert_allclose(montage.meg_positions_m, pairs.montages[shard.montage]
                                       .meg.positions_m)  # fmt: skip
            seen += 1


def test_recordings_are_chosen_before_windows(pairs):
    entries = {entry["id"]: entry for entry in pairs.recordings}
    chosen = [name for name in entries if "val" in name]
    windows = PairedWindows(pairs, chosen)
    assert {window.recording for window in windows} == set(chosen)
    assert windows.subjects() == ["val0"]
    assert [entry["id"] for entry in windows.recordings()] == sorted(chosen)
    assert len(PairedWindows(pairs, split="val")) == len(windows) == 24
    windows[0]
    again = pickle.loads(pickle.dumps(windows))
    np.testing.assert_array_equal(again[3].meg, windows[3].meg)
    with pytest.raises(InputError, match="no recording is called nobody"):
        PairedWindows(pairs, ["nobody"])
    with pytest.raises(InputError, match="no window of 2 recordings in the split train"):
        PairedWindows(pairs, chosen, split="train")


def test_the_eeg_half_serves_pretraining(pairs):
    """The masked autoencoder's loader gives the EEG of paired shards, and the electrodes alone."""
    shards = pairs.of_split("train")
    dataset = WindowDataset(pairs, shards)
    (request, *_) = dataset.requests(range(4), lambda channels, samples: 4)
    (batch,) = dataset[request]
    every = [signal for shard in shards for signal in ShardReader(pairs, shard).signals]
    for number, eeg in zip(batch.window.tolist(), batch.eeg.numpy(), strict=True):
        np.testing.assert_array_equal(eeg, every[number])
    assert batch.positions_m.shape == (batch.eeg.shape[1], 3)


def test_a_folder_without_meg_is_refused(tmp_path):
    manifest = read_manifest(tiny_shards(tmp_path / "eeg", train=(3,), held_out=0))
    with pytest.raises(InputError, match="EEG without MEG") as caught:
        PairedWindows(manifest)
    assert "--source simulated-pairs" in str(caught.value)


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (lambda meg: meg["types"].__setitem__(0, "opm"), "MEG sensors of type opm"),
        (lambda meg: meg["names"].pop(), "damaged"),
        (lambda meg: meg["orientations"].pop(), "damaged"),
    ],
    ids=["unknown type", "fewer names", "fewer orientations"],
)
def test_sensors_that_make_no_sense(tmp_path, edit, message):
    folder = tiny_shards(tmp_path / "shards", train=(3,), held_out=0, meg=4)
    value = json.loads((folder / "manifest.json").read_text())
    edit(next(iter(value["montages"].values()))["meg"])
    (folder / "manifest.json").write_text(json.dumps(value))
    with pytest.raises(InputError, match=message) as caught:
        read_manifest(folder)
    assert "manifest.json" in str(caught.value)


def test_unequal_lengths_are_refused(tmp_path):
    names = {"dataset": "A", "split": "train", "montage": "m"}
    eeg, meg = np.zeros((2, 8), np.float16), np.zeros((3, 7), np.float16)
    with pytest.raises(ValueError, match="MEG"):
        write_shard(tmp_path / "a.tar", ["a"], [eeg], [{}], megs=[meg], **names)
    assert not (tmp_path / "a.tar").exists()


# ---- packing ----

SOURCE = "simulated-pairs,subjects=3,runs=1,minutes=0.1,sources=20,eeg=32"


def content(folder: Path) -> dict[str, str]:
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


@pytest.fixture(scope="module")
def packed(tmp_path_factory):
    out = tmp_path_factory.mktemp("packed") / "shards"
    assert pack(["--source", SOURCE, "--out", str(out), "--workers", "1"]) == 0
    return out


def test_simulated_pairs_are_packed_with_meg_by_themselves(packed):
    manifest = read_manifest(packed)
    assert manifest.paired
    assert manifest.profile["name"] == "eeg2meg"
    windows = PairedWindows(manifest)
    assert len(windows) == 15
    assert (windows[0].eeg.shape, windows[0].meg.shape) == ((32, 256), (306, 256))
    assert "MEG         102 mag, 204 grad; bad: none" in summarise(manifest)
    # Each person's head lies elsewhere in the helmet.
    places = [manifest.montages[entry["montage"]].meg.positions_m for entry in manifest.recordings]
    assert len(places) == 3
    assert 5e-4 < np.abs(places[0] - places[1]).max() < 0.03


@pytest.mark.slow
def test_a_killed_pack_is_continued_to_the_same_bytes(root, packed, tmp_path):
    """By another number of workers, after SIGKILL with the first recording finished."""
    out = tmp_path / "killed"
    command = [sys.executable, root / "data/pack.py", "--source", SOURCE, "--out", out]
    process = subprocess.Popen(
        [*command, "--workers", "1"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        start_new_session=True,
    )  # fmt: skip
    while not list(out.glob(".packing/simulated-*.json")):
        assert process.poll() is None
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    assert not (out / "manifest.json").exists(), "it ended before it could be killed"
    subprocess.run([*command, "--workers", "2"], check=True, capture_output=True)
    assert content(out) == content(packed)


def test_a_record_counts_only_with_whole_meg(tmp_path):
    spec = parse_spec("simulated-pairs,subjects=1,runs=1,minutes=0.05,sources=8,eeg=8")
    (job,) = make_jobs(list_items(spec, EEG2MEG), EEG2MEG, tmp_path)
    run_jobs([job], 1)
    assert read_record(job) is not None
    (array,) = tmp_path.glob("*.meg.npy")
    array.write_bytes(array.read_bytes()[:-1])
    assert read_record(job) is None


def test_the_page_shows_meg(packed, tmp_path, capsys):
    inspect([str(packed), "--windows", "6", "--examples", "1", "--out", str(tmp_path)])
    assert "102 mag" in capsys.readouterr().out
    assert 'src="meg.png"' in (tmp_path / "index.html").read_text()
    assert image.imread(tmp_path / "meg.png")[..., :3].std() > 0.02


def test_meg_spectra_are_in_femtotesla(pairs):
    """Parseval: the spectrum's area is the variance under Welch's window."""
    found = {entry.kind: entry for entry in survey_meg(pairs, 10_000) if entry.dataset == "A"}
    windows = PairedWindows(pairs, [r["id"] for r in pairs.recordings if r["dataset"] == "A"])
    for kind, rows, factor in (("mag", slice(0, None, 2), 1e15), ("grad", slice(1, None, 2), 1e13)):
        centred = [factor * (w.meg[rows] - w.meg[rows].mean(1, keepdims=True)) for w in windows]
        weights = get_window("hann", 100) ** 2
        variance = np.mean([np.average(x**2, axis=1, weights=weights) for x in centred])
        area = found[kind].power.sum() * (found[kind].freqs_hz[1] - found[kind].freqs_hz[0])
        assert area == pytest.approx(variance, rel=0.05)
        assert len(found[kind].amplitude) == 3
    assert found["mag"].scales == pytest.approx([100.0] * 4)
    assert remarks_meg(pairs) == []
    pairs.recordings[0]["meg_scale"]["mag"] *= 1e15
    assert "mag of 1e+17 fT is implausible" in remarks_meg(pairs)[0]
    pairs.recordings[0]["meg_scale"]["mag"] /= 1e15


# ---- real recordings, against MNE ----


@pytest.fixture(scope="module", params=["eeg_meg", "ds000117_like"])
def real(request, shared_data):
    """(path, recording, windows at the recording's own rate, so that MNE's filter is the same)."""
    (path,) = (shared_data / request.param).rglob("*.fif")
    sfreq_hz = float(mne.io.read_info(path, verbose="error")["sfreq"])
    profile = replace(EEG2MEG, sfreq_hz=sfreq_hz, window_samples=round(sfreq_hz))
    kind = "raw" if request.param == "eeg_meg" else "bids"
    target = path if kind == "raw" else shared_data / request.param
    return path, *loaded(f"{kind}:{target}", profile), profile


def test_back_in_tesla_and_volts_they_are_what_mne_reads(real):
    path, _, windows, profile = real
    raw = mne.io.read_raw_fif(path, preload=True, verbose="error")
    both = [*windows.channels, *windows.sensors.names]
    raw.pick(both).reorder_channels(both)
    raw.filter(profile.l_freq_hz, profile.h_freq_hz, picks="all", verbose="error")
    signal = raw.get_data()
    eeg, meg = np.split(signal, [len(windows.channels)])
    scale = np.array([windows.info["meg_scale"][kind] for kind in windows.sensors.types])
    assert len(windows.meta) == len(raw.times) // profile.window_samples
    for eeg_window, meg_window, meta in zip(windows.data, windows.meg, windows.meta, strict=True):
        first = round(meta["onset_s"] * profile.sfreq_hz)
        span = slice(first, first + profile.window_samples)
        true = eeg[:, span] - eeg[:, span].mean(axis=0)
        unit = 1e-6 * windows.info["scale_uv"]
        found = unit * eeg_window.astype(np.float64)
        kept = np.abs(eeg_window) < profile.clip  # clipped samples are told by the clip alone
        assert kept.mean() > 0.99
        assert (np.abs(found - true) <= HALF * np.abs(true) + 2e-4 * unit)[kept].all()
        found = scale[:, None] * meg_window.astype(np.float64)
        error = np.abs(found - meg[:, span])
        kept = np.abs(meg_window) < profile.clip
        assert kept.mean() > 0.99
        assert (error <= HALF * np.abs(meg[:, span]) + 2e-4 * scale[:, None])[kept].all()


def test_sensors_lie_in_the_head_frame(real):
    path, _, windows, _ = real
    info = mne.io.read_info(path, verbose="error")
    to_head, sensors = info["dev_head_t"]["trans"], windows.sensors
    for row, name in enumerate(sensors.names):
        loc = info["chs"][info["ch_names"].index(name)]["loc"]
        place = mne.transforms.apply_trans(to_head, loc[:3])
        np.testing.assert_allclose(sensors.positions_m[row], place, atol=1e-7)
        normal = mne.transforms.apply_trans(to_head, loc[9:12], move=False)
        along = mne.transforms.apply_trans(to_head, loc[3:6], move=False)
        if sensors.types[row] == "mag":
            along = np.zeros(3)
        np.testing.assert_allclose(
            sensors.orientations[row], np.concatenate([normal, along]), atol=1e-6
        )


def test_which_channels_are_used(real):
    path, recording, windows, _ = real
    if "ds000117" in str(path):
        assert len(windows.channels) == 70
        assert not {f"EEG06{i}" for i in range(1, 5)} & set(windows.channels)
        assert (windows.sensors.types.count("mag"), windows.sensors.types.count("grad")) == (
            102,
            204,
        )
        assert "stim" in recording.raw.get_channel_types()
    else:
        marked = [name for name in recording.raw.info["bads"] if name.startswith("MEG")]
        assert windows.info["bad_meg"].pop("MEG 2443").startswith("noisy")  # known for this person
        assert windows.info["bad_meg"] == dict.fromkeys(marked, "marked bad in the file")
        assert len(windows.sensors.names) == 302
    assert windows.info["meg_options"] == {
        "sss": False, "regress": (), "sss_in_file": False, "sss_rebuilt": []
    }  # fmt: skip
    assert 1e-14 < windows.info["meg_scale"]["mag"] < 1e-11
    assert 1e-13 < windows.info["meg_scale"]["grad"] < 1e-10


def test_an_encoder_of_the_default_profile_fits_the_pairs_of_eeg2meg_200(shared_data):
    """The EEG half is that of `default`, bit for bit."""
    spec = f"bids:{shared_data / 'ds000117_like'}"
    _, pairs = loaded(spec, get_profile("eeg2meg_200"))
    _, alone = loaded(spec, get_profile("default", window_s=1.28))
    np.testing.assert_array_equal(pairs.data, alone.data)
    assert pairs.info["scale_uv"] == alone.info["scale_uv"]


def test_events_keep_their_labels(shared_data, tmp_path):
    root = shared_data / "ds000117_like"
    source = f"bids:{root},events=Famous+Unfamiliar"
    arguments = ["--source", source, "--profile", "eeg2meg", "--out", str(tmp_path / "out")]
    pack([*arguments, "--workers", "1"])
    windows = PairedWindows(read_manifest(tmp_path / "out"))
    rows = [line.split("\t") for line in next(root.rglob("*_events.tsv")).read_text().splitlines()]
    faces = sorted((float(row[0]), row[3]) for row in rows if row[3] in ("Famous", "Unfamiliar"))
    found = sorted((window.onset_s, window.label) for window in windows)
    assert [label for _, label in found] == [label for _, label in faces]
    np.testing.assert_allclose([t for t, _ in found], [t - 0.2 for t, _ in faces], atol=2e-3)


@pytest.mark.slow
def test_signal_space_separation(shared_data):
    """Leaves no more components than its 80 inner ones, and names what it rebuilt."""
    path = shared_data / "eeg_meg" / "sample_audvis_5s_raw.fif"
    _, windows = loaded(f"raw:{path},sss=1")
    assert len(windows.sensors.names) == 306
    assert {"MEG 0143", "MEG 0233", "MEG 0321"} <= set(windows.info["meg_options"]["sss_rebuilt"])
    signal = np.concatenate(list(windows.meg), axis=1).astype(np.float64)
    strength = np.linalg.svd(signal, compute_uv=False)
    assert strength[80:].max() < 0.01 * strength[0]
    _, plain = loaded(f"raw:{path}")
    signal = np.concatenate(list(plain.meg), axis=1).astype(np.float64)
    strength = np.linalg.svd(signal, compute_uv=False)
    assert strength[80:].max() > 0.01 * strength[0]


# ---- treatment ----


def slow_noise(rng, channels, samples):
    """Unit variance, little above 50 Hz (at 1100): so the ends of a recording are nothing odd."""
    kernel = np.hanning(24)
    white = rng.standard_normal((channels, samples + len(kernel) - 1))
    noise = np.array([np.convolve(row, kernel, "valid") for row in white])
    return noise / noise.std(axis=1, keepdims=True)


def mixed(rng, seconds=20, sfreq_hz=1100.0):
    """8 electrodes and 12 sensors that measure the same noise, and their names and types."""
    noise = slow_noise(rng, 4, round(seconds * sfreq_hz))
    eeg = 2e-5 * np.concatenate([noise, -noise])  # its average is zero
    meg = np.concatenate([1e-12 * noise, 3e-11 * noise, 1e-12 * noise[::-1]])
    names = [f"E{i}" for i in range(8)] + [f"M{i}" for i in range(12)]
    types = ["eeg"] * 8 + ["mag"] * 4 + ["grad"] * 4 + ["mag"] * 4
    return np.concatenate([eeg, meg]), names, types


def test_eeg_and_meg_stay_on_the_same_samples():
    """The same waveform in both, resampled from 1100 to 250 Hz, is the same in both afterwards."""
    windows = make_windows(recording_of(*mixed(np.random.default_rng(0))), EEG2MEG)
    assert len(windows.data) == len(windows.meg) == 19
    eeg = windows.data.astype(np.float64) * windows.info["scale_uv"] * 1e-6 / 2e-5
    scale = [windows.info["meg_scale"][kind] for kind in windows.sensors.types]
    meg = windows.meg.astype(np.float64) * np.array(scale)[:, None]
    spread = eeg.std()
    np.testing.assert_allclose(meg[:, :4] / 1e-12, eeg[:, :4], atol=5e-3 * spread)
    np.testing.assert_allclose(meg[:, 4:8] / 3e-11, eeg[:, :4], atol=5e-3 * spread)
    shifted = np.abs(meg[:, :4, 1:] / 1e-12 - eeg[:, :4, :-1]).mean()
    assert shifted > 0.2 * spread
    for kind, unit in (("mag", 1e-12), ("grad", 3e-11)):
        rows = np.array(windows.sensors.types) == kind
        assert 1.4826 * np.median(np.abs(windows.meg[:, rows])) == pytest.approx(1, abs=2e-3)
        assert windows.info["meg_scale"][kind] / unit == pytest.approx(
            windows.info["scale_uv"] / 20, rel=0.01
        )


def test_head_position_coils_are_filtered_out():
    signal, names, types = mixed(np.random.default_rng(0))
    times_s = np.arange(signal.shape[1]) / 1100.0
    loud = signal.copy()
    loud[8:] += 20 * signal[8:].std(axis=1, keepdims=True) * np.sin(2 * np.pi * 293 * times_s)
    plain, coils = (make_windows(recording_of(s, names, types), EEG2MEG) for s in (signal, loud))
    inner = slice(3, -3)  # the ends of so loud a sine are a step
    plain, coils = (w.meg[inner].astype(float) * w.info["meg_scale"]["mag"] for w in (plain, coils))
    np.testing.assert_allclose(coils, plain, atol=0.01 * plain.std())


def test_bad_sensors_are_judged_among_their_type_and_named():
    signal, names, types = mixed(np.random.default_rng(0))
    signal[9], signal[12] = 0.0, signal[12] * 40
    recording = recording_of(signal, names, types)
    recording.raw.info["bads"] = ["M8"]
    windows = make_windows(recording, EEG2MEG)
    bad = windows.info["bad_meg"]
    assert set(bad) == {"M1", "M4", "M8"}
    assert (bad["M1"], bad["M8"]) == ("flat", "marked bad in the file")
    assert bad["M4"].startswith("noisy")
    assert windows.info["bad_channels"] == {}
    assert not set(bad) & set(windows.sensors.names)
    assert windows.meg.shape[1] == len(windows.sensors.names) == 9


def test_a_window_that_one_half_cannot_use_is_dropped_from_both():
    signal, names, types = mixed(np.random.default_rng(0))
    second = slice(5000, 6100)
    signal[8:, second] *= 1000
    recording = recording_of(signal, names, types)
    recording.raw.set_annotations(mne.Annotations(10.0, 1.0, "BAD_movement"), verbose="error")
    windows = make_windows(recording, EEG2MEG)
    assert windows.info["dropped"]["saturated"] >= 1
    assert windows.info["dropped"]["marked bad in the file"] >= 1
    assert len(windows.data) == len(windows.meg) == len(windows.meta) > 10
    ends = [(meta["onset_s"], meta["onset_s"] + 1.024) for meta in windows.meta]
    assert not any(begin < 11 and end > 10 for begin, end in ends)
    assert not any(begin < 5.5 and end > 4.6 for begin, end in ends)


def test_eyes_are_regressed_out_of_both():
    rng = np.random.default_rng(0)
    signal, names, types = mixed(rng)
    eye = 1e-4 * slow_noise(rng, 1, signal.shape[1])
    signal += (
        np.linspace(0.2, 1, len(signal))[:, None]
        * signal.std(axis=1, keepdims=True)
        * (eye / eye.std())
    )
    made = [np.concatenate([signal, eye]), [*names, "EOG"], [*types, "eog"]]
    found = {}
    for regress in ((), ("eog",)):
        recording = recording_of(*made, meg=MegOptions(regress=regress))
        windows = make_windows(recording, EEG2MEG)
        assert windows.info["meg_options"]["regress"] == regress
        filtered = recording.raw.copy().filter(1, 40, picks="all", verbose="error")
        filtered = filtered.resample(250, verbose="error").get_data("EOG")[0]
        starts = [round(meta["onset_s"] * 250) for meta in windows.meta]
        eog = np.concatenate([filtered[start : start + 256] for start in starts])
        both = np.concatenate([windows.data, windows.meg], axis=1).astype(np.float64)
        rows = both.transpose(1, 0, 2).reshape(both.shape[1], -1)
        found[regress] = np.abs([np.corrcoef(row, eog)[0, 1] for row in rows])
    assert found[()][8:].min() > 0.3
    assert found[("eog",)].max() < 0.02


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda raw: raw.pick("eeg"), "no MEG channels .the types are eeg."),
        (lambda raw: raw.pick("meg"), "no channel is typed EEG"),
        (lambda raw: _without_transform(raw), "place of the head in the helmet"),
    ],
    ids=["no MEG", "no EEG", "no head position"],
)
def test_recordings_that_are_no_pairs(change, message):
    recording = recording_of(*mixed(np.random.default_rng(0), seconds=8))
    change(recording.raw)
    with pytest.raises(InputError, match=message):
        make_windows(recording, EEG2MEG)


def _without_transform(raw):
    with raw.info._unlock():
        raw.info["dev_head_t"] = None


@pytest.mark.parametrize(
    ("source", "profile", "message"),
    [
        ("raw:{path},sss=1", "default", "add --profile eeg2meg"),
        ("raw:{path},regress=eog+emg", "eeg2meg", "regress=eog, regress=ecg or regress=eog.ecg"),
        ("raw:{path},sss=yes", "eeg2meg", "write sss=1 or sss=0"),
        ("raw:{path},regress=eog", "eeg2meg", "no channel is typed EOG"),
        ("raw:{path}", "eeg2meg", "no MEG channels"),
        ("simulated-pairs:cubic", "eeg2meg", "linear, nonlinear"),
        ("simulated-pairs,eeg=500", "eeg2meg", "whole number from 8 to 74"),
        ("simulated-pairs,runs=0.5", "eeg2meg", "runs=0.5"),
    ],
)
def test_wrong_settings_are_told(tmp_path, source, profile, message):
    path = tmp_path / "a_raw.fif"
    signal, names, types = mixed(np.random.default_rng(0), seconds=6)
    raw = recording_of(signal, names, types).raw
    (raw.copy().pick("eeg") if "=" not in source else raw).save(path, verbose="error")
    arguments = ["--source", source.format(path=path), "--profile", profile]
    with pytest.raises(InputError, match=message):
        pack([*arguments, "--out", str(tmp_path / "out"), "--workers", "1"])


def test_active_shielding_spoils_the_meg_alone(tmp_path):
    path = tmp_path / "shielded_raw.fif"
    raw = recording_of(*mixed(np.random.default_rng(0))).raw
    with raw.info._unlock():
        raw.info["maxshield"] = True
    raw.save(path, verbose="error")
    with pytest.raises(InputError, match="active shielding") as caught:
        loaded(f"raw:{path}")
    assert "sss=1" in str(caught.value)
    _, windows = loaded(f"raw:{path}", get_profile("default"))
    assert len(windows.data) == 5


@pytest.mark.parametrize("key", ["meg_scale", "scale_uv", "subject", "montage"])
def test_a_damaged_record_is_told(tmp_path, key):
    folder = tiny_shards(tmp_path / "shards", train=(3,), held_out=0, meg=4)
    value = json.loads((folder / "manifest.json").read_text())
    del value["recordings"][0][key]
    (folder / "manifest.json").write_text(json.dumps(value))
    with pytest.raises(InputError, match="record of A_sub-train0_ses-0_run-0 is damaged"):
        PairedWindows(read_manifest(folder))


def test_a_sensor_without_a_place_is_told():
    raw = recording_of(*mixed(np.random.default_rng(0), seconds=1)).raw
    raw.info["chs"][9]["loc"][:] = np.nan
    with pytest.raises(InputError, match="some MEG sensors have no place"):
        sensors_of(raw.info, [8, 9], "here")
