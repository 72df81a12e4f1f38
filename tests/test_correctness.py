"""Numbers of the finished windows against MNE and SciPy, on real files and on planted signals."""

from __future__ import annotations

import re
import subprocess
import sys
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import mne
import numpy as np
import pytest
from files import write_brainvision, write_edf
from scipy.signal import firwin, freqz, resample_poly

import data.signals.filtering
import data.signals.reading
from data.scratch import scratch_array
from data.signals.eeg import make_windows
from data.signals.filtering import BandPass
from data.signals.profiles import get_profile
from data.signals.reading import SpanReader
from data.signals.recording import Event, Recording
from data.signals.spans import spans_of
from data.sources.formats.opening import read_raw
from data.sources.spec import list_items, parse_spec

DEFAULT = get_profile("default")
BRAIN2IMAGE = get_profile("brain2image")
NAMES = "Fp1 Fp2 F3 F4 C3 C4 P3 P4 O1 O2 F7 F8 T7 T8 P7 P8 Fz Cz Pz".split()  # noqa: SIM905


def recording(raw, **fields) -> Recording:
    return Recording(dataset="Test", subject="1", session="1", run="1", raw=raw, **fields)


def load(spec: str, profile=DEFAULT):
    """The only recording of a source, and its windows."""
    [item] = list_items(parse_spec(spec), profile)
    [found] = item.load()
    return found, make_windows(found, profile)


def volts(windows) -> np.ndarray:
    return windows.data.astype(np.float64) * windows.info["scale_uv"] * 1e-6


def by_mne(raw, names: list[str], windows, profile) -> np.ndarray:
    """`[C, N]` volts: the whole recording by MNE's own filters one after the other, the average,
    and SciPy's polyphase resampler in the time domain."""
    sfreq = raw.info["sfreq"]
    low, high = windows.info["filter"]["band_hz"]
    signal = raw.get_data(names).astype(np.float64)
    signal = mne.filter.filter_data(signal, sfreq, low, high, verbose="error")
    notches = windows.info["filter"]["notch_hz"]
    if notches:
        signal = mne.filter.notch_filter(signal, sfreq, notches, verbose="error")
    signal -= signal.mean(axis=0)
    ratio = Fraction(profile.sfreq_hz / sfreq).limit_denominator(10_000)
    longest = max(ratio.numerator, ratio.denominator)
    if longest == 1:
        return signal
    kernel = firwin(2 * 64 * longest + 1, 1 / longest, window=("kaiser", 12.0))
    return resample_poly(signal, ratio.numerator, ratio.denominator, axis=1, window=kernel)


# ---- the whole way, on real files ----

EEGBCI = "mne_data/MNE-eegbci-data/files/eegmmidb/1.0.0/S001/S001R06.edf"


@pytest.mark.parametrize(
    ("path", "profile"),
    [
        (EEGBCI, DEFAULT),
        ("eeglab/eeglab_data.set", DEFAULT),
        ("mne_data/MNE-ssvepexo-data/zenodo/2392979/subject01_run1_raw.fif", DEFAULT),
        ("things_eeg/sub-02/eeg/sub-02_task-rsvp_eeg.vhdr", BRAIN2IMAGE),
        ("brainvision/mne_test/test.vhdr", BRAIN2IMAGE),
        ("eeg_meg/sample_audvis_5s_raw.fif", get_profile("brain2image", 0.4)),
    ],
)
def test_volts_names_order_and_reference_of_real_files(shared_data, path, profile):
    _, windows = load(f"raw:{shared_data / path}", profile)
    raw = mne.io.read_raw(shared_data / path, preload=True, verbose="error")
    originals = {name.strip(".").lower(): name for name in raw.ch_names}
    names = [originals[name.lower()] for name in windows.channels]
    assert names == [name for name in raw.ch_names if name in set(names)]  # the file's order
    expected = by_mne(raw, names, windows, profile)
    got = volts(windows)
    # Where nothing is clipped, and not at the two ends, which SciPy takes for silence.
    half_second = round(0.5 * profile.sfreq_hz)
    errors, sizes = [], []
    for window, values, meta in zip(windows.data, got, windows.meta, strict=True):
        start = round(meta["onset_s"] * profile.sfreq_hz)
        if start < half_second or start + window.shape[1] > expected.shape[1] - half_second:
            continue
        truth = expected[:, start : start + window.shape[1]]
        inside = (np.abs(window) < profile.clip).all(axis=0)
        errors.append(np.abs(values - truth)[:, inside].ravel())
        sizes.append(np.abs(truth)[:, inside].ravel())
        assert np.abs(values[:, inside].mean(axis=0)).max() < 2**-10 * np.abs(values).max()
    error, size = np.concatenate(errors), np.concatenate(sizes)
    # float16 keeps 11 bits of each value; of float32 a ten-thousandth of the scale is left over.
    assert np.all(error < 2**-11 * size + 1e-4 * windows.info["scale_uv"] * 1e-6)


def test_positions_are_the_files_own_or_the_templates_in_the_head_frame(shared_data):
    path = shared_data / "eeg_meg/sample_audvis_5s_raw.fif"
    _, windows = load(f"raw:{path}", get_profile("brain2image", 0.4))
    info = mne.io.read_info(path, verbose="error")
    for name, place in zip(windows.channels, windows.positions_m, strict=True):
        np.testing.assert_allclose(place, info["chs"][info["ch_names"].index(name)]["loc"][:3])
    _, windows = load(f"raw:{shared_data / EEGBCI}")
    raw = mne.io.read_raw(shared_data / EEGBCI, verbose="error")
    mne.datasets.eegbci.standardize(raw)  # MNE's own names for these files
    raw.set_montage("standard_1005", verbose="error")
    for channel, name, place in zip(
        raw.info["chs"], windows.channels, windows.positions_m, strict=True
    ):
        assert channel["ch_name"].lower() == name.lower()
        np.testing.assert_allclose(place, channel["loc"][:3], atol=1e-6)


def test_events_of_a_real_file_are_mnes_epochs_sample_by_sample(shared_data):
    path = shared_data / "things_eeg/sub-02/eeg/sub-02_task-rsvp_eeg.vhdr"
    _, windows = load(f"raw:{path},events=Event/E 1", BRAIN2IMAGE)
    raw = mne.io.read_raw(path, preload=True, verbose="error")
    events, ids = mne.events_from_annotations(raw, verbose="error")
    filtered = mne.io.RawArray(
        by_mne(raw, windows.channels, windows, BRAIN2IMAGE),
        mne.create_info(windows.channels, 1000.0, "eeg"),
        verbose="error",
    )
    epochs = mne.Epochs(
        filtered, events, ids["Event/E  1"], tmin=-0.128, tmax=0.511, baseline=None, preload=True,
        verbose="error",
    )  # fmt: skip
    assert len(epochs) == len(windows.data)
    got, expected = volts(windows), epochs.get_data()
    inside = np.abs(windows.data) < BRAIN2IMAGE.clip
    assert np.abs(got - expected)[inside].max() < 2**-10 * np.abs(expected).max()
    # One sample off would be seen.
    shifted = np.abs(got[:, :, 1:] - expected[:, :, :-1])[inside[:, :, 1:]]
    assert shifted.max() > 2**-5 * np.abs(expected).max()


def test_the_scale_is_the_robust_deviation_of_the_windows(shared_data):
    _, windows = load(f"raw:{shared_data / EEGBCI}")
    assert "saturated" not in windows.info["dropped"]
    robust_uv = 1.4826 * np.median(np.abs(volts(windows))) * 1e6
    assert windows.info["scale_uv"] == pytest.approx(robust_uv, rel=1e-3)


# ---- the filter, through the whole way ----


def planted(frequencies, sfreq: float, seconds: float, uv=20.0, seed=0):
    """Sinusoids of random phase and channel weights that sum to zero, over 1 uV of noise."""
    rng = np.random.default_rng(seed)
    weights = rng.uniform(0.5, 1.5, (len(frequencies), len(NAMES)))
    weights *= rng.choice([-1, 1], weights.shape)
    weights -= weights.mean(axis=1, keepdims=True)
    times = np.arange(round(seconds * sfreq)) / sfreq
    phases = rng.uniform(0, 2 * np.pi, len(frequencies))
    tones = np.sin(2 * np.pi * np.outer(frequencies, times) + phases[:, None])
    signal = 1e-6 * (uv * weights.T @ tones + rng.standard_normal((len(NAMES), len(times))))
    raw = mne.io.RawArray(signal, mne.create_info(NAMES, sfreq, "eeg"), verbose="error")
    return raw, uv * weights, phases


def amplitudes(windows, frequencies, phases, profile) -> np.ndarray:
    """Least-squares amplitude (uV, signed) of each frequency in each channel, `[F, C]`."""
    signal = 1e6 * volts(windows).transpose(1, 0, 2).reshape(len(windows.channels), -1)
    times = np.concatenate(
        [m["onset_s"] + np.arange(windows.data.shape[2]) / profile.sfreq_hz for m in windows.meta]
    )
    angle = 2 * np.pi * np.outer(frequencies, times) + np.asarray(phases)[:, None]
    basis = np.concatenate([np.sin(angle), np.cos(angle)]).T
    return np.linalg.lstsq(basis, signal.T, rcond=None)[0][: len(frequencies)]


@pytest.mark.parametrize("mains", [50.0, 60.0])
@pytest.mark.parametrize("sfreq", [1000.0, 512.0])
def test_gain_at_each_frequency_is_the_designed_one(sfreq, mains):
    frequencies = np.array([0.1, 1.0, 10.0, mains, 70.0, 90.0])
    raw, weights, phases = planted(frequencies, sfreq, 200.0)
    windows = make_windows(recording(raw, mains_hz=mains), DEFAULT)
    assert windows.channels == NAMES
    assert len(windows.data) == 50
    found = amplitudes(windows, frequencies, phases, DEFAULT)
    gain = (found * weights).sum(axis=1) / (weights**2).sum(axis=1)
    band = mne.filter.create_filter(None, sfreq, 0.5, 75.0, verbose="error")
    notch = mne.filter.create_filter(
        None, sfreq, mains * 1.0025 + 0.5, mains * 0.9975 - 0.5,
        l_trans_bandwidth=0.5, h_trans_bandwidth=0.5, verbose="error",
    )  # fmt: skip
    designed = np.abs(freqz(band, worN=frequencies, fs=sfreq)[1])
    designed *= np.abs(freqz(notch, worN=frequencies, fs=sfreq)[1])
    np.testing.assert_allclose(gain, designed, atol=2e-3)
    assert gain[0] < 0.12
    np.testing.assert_allclose(gain[[1, 2, 4]], 1.0, atol=0.01)
    assert abs(gain[3]) < 0.01
    assert abs(gain[5]) < 0.1


def test_nothing_is_folded_into_the_band():
    """130 Hz at 1000 Hz would come to 70 Hz; 205 Hz to 5 Hz; 395 Hz, too."""
    loud = np.array([130.0, 205.0, 395.0, 270.0])
    raw, weights, phases = planted(loud, 1000.0, 120.0, uv=200.0)
    quiet = np.array([70.0, 5.0])
    rng = np.random.default_rng(1)
    raw._data += 5e-6 * rng.standard_normal(raw._data.shape)
    windows = make_windows(recording(raw), DEFAULT)
    for phase in (phases[:2], phases[:2] + np.pi / 2):
        found = amplitudes(windows, quiet, phase, DEFAULT)
        # 5 uV of noise in 24,000 samples leaves 0.05 uV; folding would leave 200.
        assert np.abs(found).max() < 1e-3 * np.abs(weights).max()


@pytest.mark.parametrize(
    "sfreq", [160.0, 512.0, 1000.0, pytest.param(300.307, marks=pytest.mark.slow)]
)
def test_blocks_equal_the_whole(monkeypatch, sfreq):
    rng = np.random.default_rng(0)
    signal = rng.standard_normal((2, round(600 * sfreq))).cumsum(axis=1).astype(np.float32) + 4e3
    monkeypatch.setattr(data.signals.filtering, "BLOCK_OF_HALO", 4)
    small = BandPass.of(DEFAULT, sfreq, 50.0)
    monkeypatch.setattr(data.signals.filtering, "BLOCK_OF_HALO", 4000)
    whole = BandPass.of(DEFAULT, sfreq, 50.0)
    assert small._n < signal.shape[1] / 3 < signal.shape[1] < whole._n
    one, other = small.apply(signal), whole.apply(signal)
    # float32 keeps 24 bits of a signal that the high-pass makes much smaller.
    assert np.abs(one - other).max() < 2**-22 * np.abs(signal).max() + 2e-5 * other.std()


@pytest.mark.parametrize("seconds", [0.02, 1.0, 7.0, 13.3, 20.0])
def test_ends_equal_mnes(seconds):
    """At the target's rate, where nothing is resampled, from the first sample to the last."""
    rng = np.random.default_rng(0)
    signal = rng.standard_normal((2, round(seconds * 200))) + np.array([[50.0], [-3.0]])
    band = BandPass(0.5, 75.0, [], 200.0, 200.0)
    out = band.apply(signal.astype(np.float32))
    assert out.shape == signal.shape
    if seconds >= 7:  # where MNE's reflection does not run out of signal
        expected = mne.filter.filter_data(signal, 200.0, 0.5, 75.0, verbose="error")
        np.testing.assert_allclose(out, expected, atol=2e-5)


# ---- holes, gaps and joins ----


def test_holes_are_mended_alike_wherever_blocks_end(monkeypatch):
    rng = np.random.default_rng(0)
    signal = rng.standard_normal((4, 2000)).cumsum(axis=1)
    truth = signal.copy()
    for row, start, stop in (
        (0, 95, 430),
        (0, 1990, 2000),
        (1, 0, 350),
        (2, 700, 701),
        (3, 0, 2000),
    ):
        signal[row, start:stop] = np.nan
        outside = np.flatnonzero(np.isfinite(signal[row]))
        hole = np.flatnonzero(~np.isfinite(signal[row]))
        truth[row, hole] = np.interp(hole, outside, signal[row, outside]) if len(outside) else 0.0
    raw = mne.io.RawArray(signal, mne.create_info(4, 100.0, "eeg"), verbose="error")
    for block_s in (1.0, 0.37, 100.0):
        monkeypatch.setattr(data.signals.reading, "BLOCK_S", block_s)
        reader = SpanReader(raw, [0, 1, 2, 3], 0, 2000, "file")
        found = np.concatenate([reader.read(0, 700), reader.read(700, 2000)], axis=1)
        np.testing.assert_allclose(found, truth, rtol=1e-6, atol=1e-5)
        np.testing.assert_allclose(reader.hole_fraction(), [345 / 2000, 0.175, 0.0005, 1.0])


def test_an_edf_with_a_gap_is_cut_at_it_and_its_events_stay_in_place(tmp_path):
    """MNE joins the records of EDF+D files and leaves later events ten seconds late."""
    rng = np.random.default_rng(0)
    onsets = [*range(21), *range(31, 52)]
    counts = rng.integers(-200, 200, (len(NAMES), 200 * len(onsets)))
    pulses = {5.5: 1100, 35.25: 5050, 45.0: 7000}  # clock seconds -> sample of the joined signal
    for sample in pulses.values():
        counts[:10, sample] += 20_000
    path = tmp_path / "gap.edf"
    notes = dict.fromkeys(pulses, "pulse") | {27.0: "in the gap"}
    write_edf(path, onsets, NAMES, counts, 200, notes)
    raw = read_raw(path)
    assert spans_of(raw) == [(0, 4200), (4200, 8400)]
    _, windows = load(f"raw:{path}")
    assert [meta["onset_s"] for meta in windows.meta] == [0, 4, 8, 12, 16, 21, 25, 29, 33, 37]
    loud = replace(DEFAULT, clip=1e4)
    _, windows = load(f"raw:{path},events=pulse", loud)
    peaks = np.abs(windows.data[:, 0].astype(float)).argmax(axis=1)
    assert list(peaks) == [40, 40, 40]  # 0.2 s after the window's start
    continuous = tmp_path / "whole.edf"
    write_edf(continuous, range(42), NAMES, counts, 200, {5.5: "pulse"}, kind="EDF+C")
    assert spans_of(read_raw(continuous)) == [(0, 8400)]


def test_a_paused_brainvision_recording_is_cut_at_the_pause(tmp_path):
    path = tmp_path / "pause.vhdr"
    write_brainvision(path, NAMES, 0.5, 200, np.random.default_rng(0), segments=(1, 2001))
    assert spans_of(read_raw(path)) == [(0, 2000), (2000, 6000)]
    _, windows = load(f"raw:{path}")
    assert [meta["onset_s"] for meta in windows.meta] == [0, 4, 10, 14, 18, 22, 26]


def test_skipped_stretches_are_no_signal(tmp_path):
    raw = planted([10.0], 200.0, 30.0)[0]
    raw._data[:, 1900:2500] = 0.0
    raw.set_annotations(mne.Annotations([9.5], [3.0], ["BAD_ACQ_SKIP"]))
    assert spans_of(raw) == [(0, 1900), (2500, 6000)]
    windows = make_windows(recording(raw), DEFAULT)
    assert [meta["onset_s"] for meta in windows.meta] == [0, 4, 12.5, 16.5, 20.5, 24.5]


def test_planted_faults_are_named_in_the_record():
    raw = planted([10.0], 250.0, 40.0)[0]
    rng = np.random.default_rng(5)
    raw._data[0] = 3e-3
    raw._data[1] += 4e-4 * rng.standard_normal(raw.n_times)
    raw._data[2, 2000:] = np.inf
    raw._data[3, 5000:5005] = np.nan  # second 20: window 5
    raw._data[:, 7600:8400] += 5e-3 * rng.standard_normal((len(NAMES), 800))  # seconds 30.4-33.6
    info = make_windows(recording(raw), DEFAULT).info
    assert info["bad_channels"]["Fp1"] == "flat"
    assert info["bad_channels"]["Fp2"].startswith("noisy")
    assert info["bad_channels"]["F3"] == "non-finite (80 % of samples)"
    assert set(info["bad_channels"]) == {"Fp1", "Fp2", "F3"}
    assert info["dropped"] == {"non-finite samples": 1, "saturated": 2}


# ---- memory ----

PEAK = """
import re, sys, threading
import data.scratch, data.preprocess
from data.signals.profiles import get_profile
from data.sources.spec import list_items, parse_spec
data.scratch.IN_MEMORY_BYTES = 4_000_000
profile = get_profile("default")
[item] = list_items(parse_spec("raw:" + sys.argv[1]), profile)
[recording] = item.load()
peak, done = [0], threading.Event()
def watch():
    while not done.wait(0.002):
        status = open("/proc/self/status").read()
        peak[0] = max(peak[0], int(re.search(r"RssAnon:\\s+(\\d+)", status)[1]))
thread = threading.Thread(target=watch)
thread.start()
windows = data.preprocess.make_windows(recording, profile)
done.set(); thread.join()
print(len(windows.data), peak[0] / 1024)
"""


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="memory is read from /proc")
def test_memory_does_not_grow_with_the_recording(root, tmp_path):
    names = mne.channels.make_standard_montage("biosemi64").ch_names
    peaks = []
    for minutes in (6, 24):
        path = tmp_path / f"{minutes}.vhdr"
        write_brainvision(path, names, minutes, 500, np.random.default_rng(0))
        done = subprocess.run(
            [sys.executable, "-c", PEAK, str(path)], cwd=root, capture_output=True, text=True
        )
        assert done.returncode == 0, done.stderr
        count, peak = re.fullmatch(r"(\d+) ([\d.]+)\n", done.stdout).groups()
        assert int(count) == minutes * 15
        peaks.append(float(peak))
    # As float32 at the source's rate, the longer one is 138 MB larger.
    assert peaks[1] - peaks[0] < 40


def test_a_large_array_is_a_file_that_vanishes(monkeypatch, tmp_path):
    monkeypatch.setattr("data.scratch.IN_MEMORY_BYTES", 1000)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    array = scratch_array((10, 100), np.float32)
    array[:] = 3.0
    assert isinstance(array, np.memmap)
    assert list(tmp_path.iterdir()) == []
    assert array.sum() == 3000.0
    assert not isinstance(scratch_array((2, 3), np.float32), np.memmap)


# ---- mains ----


def test_mains_is_what_the_caller_says_then_the_file_then_the_spectrum():
    raw = planted([10.0, 60.0], 500.0, 30.0)[0]
    assert make_windows(recording(raw), DEFAULT).info["mains_hz"] == 60.0
    raw.info["line_freq"] = 50.0
    assert make_windows(recording(raw), DEFAULT).info["mains_hz"] == 50.0
    info = make_windows(recording(raw, mains_hz=60.0), DEFAULT).info
    assert (info["mains_hz"], info["filter"]["notch_hz"]) == (60.0, [60.0])


def test_event_windows_do_not_reach_over_a_join():
    raw = mne.concatenate_raws(
        [planted([10.0], 200.0, 10.0, seed=s)[0] for s in (0, 1)], verbose="error"
    )
    events = [Event(5.0), Event(9.5), Event(10.1), Event(15.0)]
    windows = make_windows(recording(raw, events=events), DEFAULT)
    assert [meta["onset_s"] for meta in windows.meta] == [4.8, 14.8]
    assert windows.info["dropped"] == {"event too near an edge": 2}
