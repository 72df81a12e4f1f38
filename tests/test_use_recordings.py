"""Recordings as an encoder reads them: what data/pack.py writes of the same files, few channels,
wrong units."""

from __future__ import annotations

import warnings

import mne
import numpy as np
import pytest
from commands import ROOT
from test_use import recording

from data.pack import main as pack
from data.shards.manifest import read_manifest
from data.shards.tars import ShardReader
from data.signals.profiles import get_profile
from use.signals import prepare_raw, windows_of

SHARED = ROOT.parent / "shared/data"
REAL = {
    "eegmat": (SHARED / "eegmat", "Subject01_1.edf"),
    "physionet": (SHARED / "mne_data/MNE-eegbci-data/files/eegmmidb/1.0.0/S001", "S001R04.edf"),
}


def packed(folder, source) -> tuple[dict[float, np.ndarray], list[str]]:
    """Onset -> window, and the channels, of shards that hold one recording."""
    pack(["--source", source, "--workers", "1", "--out", str(folder)])
    manifest = read_manifest(folder)
    [entry] = manifest.recordings
    found = {}
    for shard in manifest.shards:
        reader = ShardReader(manifest, shard)
        for row in range(len(reader.signals)):
            found[reader.meta(row)["onset_s"]] = np.array(reader.signals[row])
    return found, list(manifest.montages[entry["montage"]].channels)


def assert_same(raw, wanted: dict[float, np.ndarray], names: list[str]) -> None:
    """What `use` makes of a file is what packing wrote: window by window to the last bit, and the
    whole recording to the rounding of float16."""
    profile = get_profile("default")
    found = windows_of(raw, profile)
    assert list(found.names) == names
    assert sorted(found.onset_s) == sorted(wanted)
    for onset_s, window in zip(found.onset_s.tolist(), found.eeg, strict=True):
        assert np.array_equal(window, wanted[onset_s].astype(np.float32))
    whole = prepare_raw(raw, profile).get_data(picks=names) * 1e6
    for onset_s, window in wanted.items():
        first = round(onset_s * profile.sfreq_hz)
        part = whole[:, first : first + profile.window_samples].astype(np.float32)
        assert np.array_equal(part.astype(np.float16), window)


def test_windows_are_those_in_shards(tmp_path):
    recording().save(tmp_path / "sub-1_raw.fif", verbose="error")
    wanted, names = packed(tmp_path / "shards", f"raw:{tmp_path}/*.fif")
    assert len(wanted) == 10
    assert_same(mne.io.read_raw(tmp_path / "sub-1_raw.fif", verbose="error"), wanted, names)


@pytest.mark.slow
@pytest.mark.parametrize("name", REAL)
def test_windows_of_real_recordings_are_those_in_shards(name, tmp_path):
    folder, file = REAL[name]
    if not (folder / file).is_file():
        pytest.skip("no real recordings beside this checkout")
    wanted, names = packed(tmp_path / "shards", f"raw:{folder / file}")
    assert len(wanted) > 10
    assert_same(mne.io.read_raw_edf(folder / file, preload=True, verbose="error"), wanted, names)


def test_a_recording_of_three_channels():
    """As BNCI2014_004 has: no average reference, one warning."""
    names, profile = ["C3", "Cz", "C4"], get_profile("default")
    raw = recording(names=names)
    with pytest.warns(UserWarning, match="3 channels: left at their own reference"):
        found = windows_of(raw, profile)
    with pytest.warns(UserWarning, match="own reference"):
        whole = prepare_raw(raw, profile)
    assert found.names == tuple(whole.ch_names) == tuple(names)
    assert np.abs(found.eeg.sum(1)).mean() > 0.1  # an average reference would leave nothing
    np.testing.assert_allclose(whole.get_data()[:, 800:1600] * 1e6, found.eeg[1], atol=0.005)


def test_a_bad_channel_of_four_leaves_three():
    raw, profile = recording(names=["TP9", "AF7", "AF8", "TP10"], bad=1), get_profile("default")
    with pytest.warns(UserWarning, match="3 channels"):
        found = windows_of(raw, profile)
    assert found.names == ("TP9", "AF8", "TP10")
    assert found.left_out["AF7"] == "flat"


def test_enough_channels_warn_of_nothing():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        windows_of(recording(), get_profile("default"))


def scaled(raw, factor: float) -> mne.io.RawArray:
    return mne.io.RawArray(raw.get_data() * factor, raw.info, verbose="error")


def test_microvolts_in_place_of_volts_are_named():
    profile, raw = get_profile("default"), recording()
    with pytest.warns(UserWarning, match="is the unit right"):
        found = windows_of(scaled(raw, 1e6), profile)
    np.testing.assert_allclose(found.eeg, windows_of(raw, profile).eeg, atol=0.01)
    with pytest.warns(UserWarning, match="is the unit right"):
        prepare_raw(scaled(raw, 1e6), profile)


def test_places_in_millimetres_are_brought_to_metres():
    """As in packing, with a warning: a file says no unit, and MNE takes all for metres."""
    raw = recording()
    wanted = windows_of(raw, get_profile("default"))
    for channel in raw.info["chs"]:
        channel["loc"][:3] *= 1000
    with pytest.warns(UserWarning, match="electrode places of the recording"):
        found = windows_of(raw, get_profile("default"))
    np.testing.assert_allclose(found.positions_m, wanted.positions_m, atol=1e-3)
