"""Preprocessing: units, channels, bad channels, alignment, against planted truths and plain MNE."""

from __future__ import annotations

import json
from dataclasses import replace

import mne
import numpy as np
import pytest

from data.electrodes.channels import choose_channels
from data.electrodes.montages import TEMPLATE
from data.errors import InputError
from data.signals.bad_channels import find_bad_channels
from data.signals.eeg import make_windows
from data.signals.filtering import BandPass, measure_mains
from data.signals.profiles import get_profile
from data.signals.recording import Event, Recording
from data.signals.spans import spans_of

NAMES = "Fp1 Fp2 F3 F4 C3 C4 P3 P4 O1 O2 F7 F8 T7 T8 P7 P8 Fz Cz Pz".split()  # noqa: SIM905
DEFAULT = get_profile("default")


def noise_raw(seconds=20.0, sfreq=250.0, names=NAMES, seed=0, uv=20.0) -> mne.io.RawArray:
    """Correlated noise between 1 and 40 Hz, `uv` microvolts, over a white floor of 0.4 uV."""
    rng = np.random.default_rng(seed)
    own = rng.standard_normal((len(names), round(seconds * sfreq)))
    signal = own + 0.5 * rng.standard_normal(own.shape[1])
    signal = mne.filter.filter_data(signal, sfreq, 1.0, 40.0, verbose="error")
    signal *= 1e-6 * uv / signal.std()
    signal += 4e-7 * rng.standard_normal(signal.shape)
    return mne.io.RawArray(signal, mne.create_info(list(names), sfreq, "eeg"), verbose="error")


def recording(raw, **fields) -> Recording:
    return Recording(dataset="Test", subject="1", session="1", run="1", raw=raw, **fields)


def test_volts_come_back_and_equal_plain_mne():
    raw = noise_raw()
    windows = make_windows(recording(raw, mains_hz=50.0), DEFAULT)
    volts = windows.data.astype(np.float64) * windows.info["scale_uv"] * 1e-6
    plain = raw.copy().filter(0.5, 75.0, verbose="error").notch_filter(50.0, verbose="error")
    plain.set_eeg_reference("average", verbose="error")
    plain.resample(200.0, method="polyphase", verbose="error")
    expected = plain.get_data()[:, : 5 * 800].reshape(len(NAMES), 5, 800).transpose(1, 0, 2)
    assert windows.data.shape == (5, len(NAMES), 800)
    assert windows.data.dtype == np.float16
    assert windows.channels == NAMES
    # float16 keeps 11 bits; at the recording's two ends the resamplers pad differently.
    error = np.abs(volts - expected)
    error[0, :, :100] = error[-1, :, -100:] = 0.0
    assert error.max() < 1e-3 * np.abs(expected).max()
    assert np.abs(volts.mean(axis=1)).max() < 1e-3 * np.abs(volts).max()
    assert 10 < windows.info["scale_uv"] < 30
    assert windows.info["hours"] == pytest.approx(5 * 4 / 3600)
    json.dumps(windows.info, allow_nan=False)


@pytest.mark.parametrize("unit_factor", [1.0, 400.0])
def test_large_dc_offsets_and_millivolts_are_no_fault(unit_factor):
    raw = noise_raw()
    raw._data *= unit_factor
    raw._data += 8e-3 * np.arange(1, len(NAMES) + 1)[:, None]
    info = make_windows(recording(raw), DEFAULT).info
    assert info["bad_channels"] == {}
    assert info["dropped"] == {}
    assert info["scale_uv"] == pytest.approx(
        unit_factor * make_windows(recording(noise_raw()), DEFAULT).info["scale_uv"], rel=0.05
    )


def test_planted_bad_channels_are_found_and_left_out():
    raw = noise_raw()
    rng = np.random.default_rng(1)
    raw._data[2] = 1e-3  # a constant
    raw._data[5] += 250e-6 * rng.standard_normal(raw.n_times)
    raw._data[7, : raw.n_times // 2] = np.nan
    raw.info["bads"] = ["Cz"]
    windows = make_windows(recording(raw), DEFAULT)
    bad = windows.info["bad_channels"]
    assert set(bad) == {"F3", "C4", "P4", "Cz"}
    assert bad["F3"] == "flat"
    assert bad["C4"].startswith("noisy")
    assert bad["P4"].startswith("non-finite")
    assert bad["Cz"] == "marked bad in the file"
    assert windows.channels == [name for name in NAMES if name not in bad]
    assert windows.positions_m.shape == (len(windows.channels), 3)
    # What a bad channel did must not reach the others through the average reference.
    clean = noise_raw()
    clean.info["bads"] = list(bad)
    assert np.array_equal(windows.data, make_windows(recording(clean), DEFAULT).data)


def test_a_common_part_does_not_hide_a_noisy_channel():
    rng = np.random.default_rng(2)
    filtered = 1e-5 * rng.standard_normal((32, 5000)) + 1e-3 * rng.standard_normal(5000)
    filtered[3] += 1e-4 * rng.standard_normal(5000)
    assert set(find_bad_channels(filtered, np.zeros(32))) == {3}


def test_all_channels_bad_is_one_message():
    raw = noise_raw()
    raw._data[:] = 0.0
    with pytest.raises(InputError, match=r"Test_sub-1.*0 of 19 EEG channels are good \(19 flat\)"):
        make_windows(recording(raw), DEFAULT)
    raw._data[:] = np.nan
    with pytest.raises(InputError, match="non-finite"):
        make_windows(recording(raw), DEFAULT)


def test_windows_with_holes_or_saturation_are_dropped_and_counted():
    raw = noise_raw()
    raw._data[0, 1300:1310] = np.nan  # second 5.2: in window 1
    raw._data[:, 2250:2500] = 0.0  # seconds 9 and 10: 3 of 4 s of window 2 stand still
    raw._data[:, 2500:3000] = 0.0
    rng = np.random.default_rng(3)
    raw._data[:, 3200:3900] += 2e-3 * rng.standard_normal((len(NAMES), 700))  # window 3
    windows = make_windows(recording(raw), DEFAULT)
    assert windows.info["dropped"] == {"flat": 1, "non-finite samples": 1, "saturated": 1}
    assert [meta["onset_s"] for meta in windows.meta] == [0.0, 16.0]
    assert np.isfinite(windows.data).all()
    assert np.abs(windows.data).max() <= DEFAULT.clip


def test_windows_keep_off_bad_stretches_and_joins():
    first, second = noise_raw(10.0), noise_raw(9.0, seed=4)
    raw = mne.concatenate_raws([first, second], verbose="error")
    raw.set_annotations(raw.annotations + mne.Annotations([5.0], [0.5], ["BAD_muscle"]))
    assert spans_of(raw) == [(0, 2500), (2500, 4750)]
    windows = make_windows(recording(raw), DEFAULT)
    # 0-4; the window at 4 touches the BAD half second; 5.5-9.5; the join at 10; 10-14, 14-18.
    assert [meta["onset_s"] for meta in windows.meta] == [0.0, 5.5, 10.0, 14.0]
    assert windows.info["dropped"] == {"marked bad in the file": 1}


def test_bad_annotations_follow_the_first_sample_of_a_cropped_file():
    raw = noise_raw(30.0)
    raw.set_meas_date(1_600_000_000)
    raw.set_annotations(mne.Annotations([12.0], [1.0], ["bad"], orig_time=raw.info["meas_date"]))
    raw.crop(10.0, None)
    onsets = [meta["onset_s"] for meta in make_windows(recording(raw), DEFAULT).meta]
    assert onsets == [3.0, 7.0, 11.0, 15.0]


@pytest.mark.parametrize(("sfreq", "profile"), [(500.0, "default"), (512.0, "brain2image")])
def test_event_windows_are_aligned_to_the_sample(sfreq, profile):
    raw = noise_raw(30.0, sfreq=sfreq)
    onsets = [3.0, 7.25, 20.5]
    for onset in onsets:
        raw._data[0, round(onset * sfreq)] += 5e-3
    events = [Event(onset, label=i, image=f"i{i}.jpg") for i, onset in enumerate(onsets)]
    events.append(Event(29.9))
    settings = replace(get_profile(profile), clip=1e4)
    windows = make_windows(recording(raw, events=events), settings)
    assert windows.data.shape == (3, len(NAMES), settings.event_samples)
    peaks = np.abs(windows.data[:, 0].astype(float)).argmax(axis=1)
    assert np.all(np.abs(peaks - round(-settings.event_tmin_s * settings.sfreq_hz)) <= 1)
    assert windows.meta[1] == {
        "onset_s": pytest.approx(7.25 + settings.event_tmin_s, abs=1 / settings.sfreq_hz),
        "label": 1,
        "image": "i1.jpg",
    }
    assert windows.info["dropped"] == {"event too near an edge": 1}


def test_only_eeg_channels_with_a_place_are_used():
    names = ["Fc5.", "FP1", "cz", "EEG O1-REF", "T3", "HEOG", "A1", "ECG", "Status", "XY17", "Pz"]
    kinds = ["eeg"] * 10 + ["misc"]
    raw = mne.io.RawArray(
        np.random.default_rng(0).standard_normal((11, 2000)) * 1e-5,
        mne.create_info(names, 250.0, kinds),
        verbose="error",
    )
    chosen = choose_channels(raw.info, None, "file")
    assert chosen.names == ["FC5", "Fp1", "Cz", "O1", "T3"]
    assert chosen.left_out == {
        "HEOG": "not EEG by its name",
        "A1": "not EEG by its name",
        "ECG": "not EEG by its name",
        "Status": "not EEG by its name",
        "XY17": "no position",
    }
    standard = mne.channels.make_standard_montage(TEMPLATE)
    info = mne.create_info(["O1", "Cz"], 1.0, "eeg").set_montage(standard)
    for name, channel in zip(("O1", "Cz"), info["chs"], strict=True):
        place = chosen.positions_m[chosen.names.index(name)]
        np.testing.assert_allclose(place, channel["loc"][:3], atol=1e-3)


def test_own_positions_win_unless_they_are_no_positions():
    info = noise_raw().info
    template = mne.channels.make_standard_montage("fsaverage_1005")  # a head, not an ideal sphere
    info.set_montage(template, on_missing="ignore")
    assert choose_channels(info, None, "file").positions_from == "the recording"
    named = choose_channels(info, "biosemi64", "file")
    assert named.positions_from == "biosemi64 by name"
    for channel in info["chs"]:
        channel["loc"][:3] = 0.1  # one place for all
    assert choose_channels(info, None, "file").positions_from.endswith("by name")


def test_biosemi_letters_are_never_taken_for_10_20_names():
    names = [f"{letter}{n}" for letter in "ABCD" for n in range(1, 33)]
    info = mne.create_info(names, 256.0, "eeg")
    chosen = choose_channels(info, None, "file")
    assert chosen.names == names
    assert chosen.positions_from == "biosemi128 by name"
    of_16 = [f"{letter}{n}" for letter in "ABCDEFGH" for n in range(1, 17)]
    with pytest.raises(InputError, match=r"(?s)0 of 126.*montage=biosemi128|0 of 128"):
        choose_channels(mne.create_info(of_16, 256.0, "eeg"), None, "file")
    told = choose_channels(mne.create_info(of_16, 256.0, "eeg"), "biosemi128", "file")
    np.testing.assert_array_equal(told.positions_m, chosen.positions_m)


def test_no_positions_at_all_names_channels_and_remedy():
    info = mne.create_info([f"E{n}" for n in range(1, 65)], 250.0, "eeg")
    with pytest.raises(InputError, match=r"(?s)f\.edf: 0 of 64.*E1, E2.*montage=") as caught:
        choose_channels(info, None, "f.edf")
    assert "GSN-HydroCel-128" in caught.value.remedy
    assert choose_channels(info, "GSN-HydroCel-128", "f.edf").names[0] == "E1"
    with pytest.raises(InputError, match="Did you mean biosemi"):
        choose_channels(info, "biosemi12", "f.edf")


@pytest.mark.parametrize("mains", [50.0, 60.0])
def test_mains_is_measured_and_removed(mains):
    raw = noise_raw()
    assert measure_mains(raw.get_data(), 250.0) is None
    raw._data += 30e-6 * np.sin(2 * np.pi * mains * raw.times)
    assert measure_mains(raw.get_data(), 250.0) == mains
    windows = make_windows(recording(raw), DEFAULT)
    assert windows.info["mains_hz"] == mains
    assert windows.info["filter"]["notch_hz"] == [mains]
    power = np.abs(np.fft.rfft(windows.data[1:4].astype(float), axis=-1)) ** 2
    at = round(mains * 4)  # bins of 0.25 Hz
    assert power[..., at].mean() < power[..., 80:120].mean()


@pytest.mark.parametrize(("sfreq", "h_freq"), [(160.0, 72.0), (128.0, 57.6), (2048.0, 75.0)])
def test_the_band_fits_the_sources_rate_without_alias_or_image(sfreq, h_freq):
    band = BandPass.of(DEFAULT, sfreq, None)
    assert band.h_freq_hz == pytest.approx(h_freq)
    times = np.arange(round(20 * sfreq)) / sfreq
    keep = np.sin(2 * np.pi * 20.0 * times)
    high = np.sin(2 * np.pi * (130.0 if sfreq > 260 else 0.42 * sfreq) * times)
    out = band.apply(np.stack([keep, high]).astype(np.float32))[:, 800:-800]
    expected = np.sin(2 * np.pi * 20.0 * (np.arange(out.shape[1]) + 800) / 200.0)
    assert np.abs(out[0] - expected).max() < 0.01
    # 130 Hz would fold to 70; 0.42 of a lower rate would be mirrored to 0.58 of it.
    power = np.abs(np.fft.rfft(out[1] * np.hanning(out.shape[1]))) ** 2
    freqs = np.fft.rfftfreq(out.shape[1], 1 / 200.0)
    wrong = (freqs > sfreq / 2) if sfreq < 200 else (freqs > 60)
    right = np.abs(np.fft.rfft(out[0] * np.hanning(out.shape[1]))) ** 2
    assert power[wrong].max() < 1e-5 * right.max()
    assert ("upsampled" in band.describe(10**9)) == (sfreq < 200)


def test_too_short_a_recording_gives_no_windows_and_says_so():
    windows = make_windows(recording(noise_raw(2.0)), DEFAULT)
    assert windows.data.shape == (0, len(NAMES), 800)
    assert windows.info["dropped"] == {"recording shorter than a window": 1}
    assert windows.info["scale_uv"] is None
    assert windows.info["filter"]["longer_than_recording"]
    json.dumps(windows.info, allow_nan=False)


def test_segments_are_cut_stretched_referenced_and_scaled():
    rng = np.random.default_rng(0)
    tone = np.sin(2 * np.pi * 10.0 * np.arange(500) / 1000.0)
    segments = [
        (rng.standard_normal((6, 1)) * tone + 0.01 * rng.standard_normal((6, 500))).astype("f4")
        for _ in range(3)
    ]
    segments.append(segments[0][:, :400])
    source = Recording(
        "VC", "4", "1", "1",
        segments=segments,
        segment_meta=[{"label": i} for i in range(4)],
        segment_sfreq_hz=1000.0,
        channel_names=[f"c{i}" for i in range(6)],
        positions_m=rng.standard_normal((6, 3)),
        unit="standardised",
    )  # fmt: skip
    plain = make_windows(source, DEFAULT)
    assert plain.data.shape == (3, 6, 80)
    assert plain.info["dropped"] == {"segment shorter than 420 samples": 1}
    assert plain.info["scale_uv"] is None
    assert plain.info["unit"] == "standardised"
    expected = segments[1] - segments[1].mean(axis=0)
    got = plain.data[1].astype(float) * plain.info["scale"]
    # Every fifth sample from the 20th on, where the ends of the cut do not reach.
    assert np.abs(got - expected[:, 20:420:5])[:, 10:-10].max() < 0.06
    stretched = make_windows(source, get_profile("brain2image"))
    assert stretched.data.shape == (3, 6, 512)
    spectrum = np.abs(np.fft.rfft(stretched.data[0, 0].astype(float)))
    assert spectrum[1:].argmax() + 1 == round(10.0 * 460 / 1000)  # the time axis is stretched
