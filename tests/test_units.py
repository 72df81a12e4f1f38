"""Volts, or a clear word on why not: what the file, channels.tsv and unit= say about the unit."""

from __future__ import annotations

import warnings

import mne
import numpy as np
import pytest
from files import write_brainvision

from data.electrodes.units import odd_units, two_groups, volts_of
from data.errors import InputError
from data.shards.remarks import kept_warnings
from data.signals.eeg import make_windows
from data.signals.profiles import get_profile
from data.signals.recording import Recording
from data.sources.formats.opening import read_raw
from data.sources.spec import list_items, parse_spec

NAMES = ["Fp1", "Fp2", "F3", "F4", "C3", "C4", "P3", "P4", "O1", "O2", "F7", "F8"]
PROFILE = get_profile("default")
PLAUSIBLE_UV = (0.2, 2000.0)


def write_edf(path, units, ranges=400.0, seconds=12, sfreq=200, digital=32767):
    """White noise of 15 in the unit; `units`, `ranges`, `digital` of each channel or of all."""

    def text(value, width: int) -> bytes:
        return (value if isinstance(value, bytes) else str(value).encode("latin-1")).ljust(width)

    count = len(NAMES)
    units = [units] * count if isinstance(units, (str, bytes)) else units
    ranges = [ranges] * count if isinstance(ranges, float) else ranges
    digital = [digital] * count if isinstance(digital, int) else digital
    header = [text("0", 8), text("X", 80), text("X", 80), b"01.01.20", b"00.00.00"]
    header += [text(256 * (count + 1), 8), text("", 44), text(seconds, 8), text(1, 8)]
    header += [text(count, 4), *(text(f"EEG {name}", 16) for name in NAMES), text("", 80 * count)]
    header += [text(unit, 8) for unit in units]
    header += [text(f"{-x:g}", 8) for x in ranges] + [text(f"{x:g}", 8) for x in ranges]
    header += [text(-x, 8) for x in digital] + [text(x, 8) for x in digital]
    header += [text("", 80 * count), text(sfreq, 8) * count, text("", 32 * count)]
    noise = 15 * np.random.default_rng(0).standard_normal((seconds, count, sfreq))
    path.write_bytes(b"".join(header) + (noise * 32767 / 400).astype("<i2").tobytes())


def median_uv(raw) -> float:
    return float(1e6 * np.median(raw.get_data("eeg").std(axis=1)))


def said(path, **options) -> tuple[mne.io.BaseRaw, str]:
    kept: list[str] = []
    with kept_warnings(kept):
        raw = read_raw(path, **options)
    return raw, " | ".join(kept)


def windows_of(raw, path):
    kept: list[str] = []
    with kept_warnings(kept):
        one = Recording("d", "1", "1", "1", raw=raw, mains_hz=50.0, source_files=[path])
        windows = make_windows(one, PROFILE)
    return windows, kept


@pytest.mark.parametrize(
    ("text", "volts"),
    [
        ("uV", 1e-6), ("µV", 1e-6), ("μV", 1e-6), ("\x83\xcaV", 1e-6), ("\xc2\xb5V", 1e-6),
        ("UV", 1e-6), ("[uV]", 1e-6), ("microvolts", 1e-6), ("micro V", 1e-6), ("mV", 1e-3),
        ("nV", 1e-9), ("V", 1.0), ("Volt", 1.0), ("", None), (".V", None), ("?V", None),
        ("MV", None), ("%", None), ("uV/Hz", None), ("mmHg", None), ("n/a", None),
    ],
)  # fmt: skip
def test_what_a_unit_says(text, volts):
    assert volts_of(text) == volts


@pytest.mark.parametrize(
    ("unit", "true_uv"),
    [("uV", 15), (b"\xb5V", 15), ("UV", 15), (b"\x83\xcaV", 15), ("mV", 15e3), ("nV", 15e-3)],
)
def test_an_edf_unit_in_any_spelling_is_what_it_says(tmp_path, unit, true_uv):
    """MNE takes UV and nV for volts."""
    write_edf(tmp_path / "x.edf", unit)
    raw, remarks = said(tmp_path / "x.edf")
    assert median_uv(raw) == pytest.approx(true_uv, rel=0.03)
    assert remarks == ""


@pytest.mark.parametrize("unit", ["", ".V", "counts"])
def test_an_unknown_unit_is_refused_until_it_is_told(tmp_path, unit):
    path = tmp_path / "x.edf"
    write_edf(path, unit)
    with pytest.raises(InputError, match="unit of 12 of 12 EEG channels is blank") as caught:
        windows_of(read_raw(path), path)
    assert "unit=uV" in caught.value.remedy
    [item] = list_items(parse_spec(f"raw:{path},unit=µV"), PROFILE)
    [one] = item.load()
    assert median_uv(one.raw) == pytest.approx(15, rel=0.03)
    windows, _ = windows_of(one.raw, path)
    assert 5 < windows.info["scale_uv"] < 30
    assert windows.info["bad_channels"] == {}
    [other] = list_items(parse_spec(f"raw:{path},unit=mV"), PROFILE)
    assert other.signature != item.signature


def test_unit_is_one_of_four(tmp_path):
    write_edf(tmp_path / "x.edf", "uV")
    with pytest.raises(InputError, match="unit=volts"):
        list_items(parse_spec(f"raw:{tmp_path}/x.edf,unit=volts"), PROFILE)


def test_a_unit_over_what_the_file_says_is_said(tmp_path):
    write_edf(tmp_path / "x.edf", "uV")
    raw, remarks = said(tmp_path / "x.edf", unit="mV")
    assert median_uv(raw) == pytest.approx(15e3, rel=0.03)
    assert "unit=mV is taken in place of uV, which the file says" in remarks


def test_some_channels_without_a_unit_are_not_thrown_away(tmp_path):
    path = tmp_path / "x.edf"
    write_edf(path, ["uV"] * 5 + [""] * 7)
    with pytest.raises(InputError, match="unit of 7 of 12 EEG channels") as caught:
        windows_of(read_raw(path), path)
    assert "EEG C4" in str(caught.value)
    windows, _ = windows_of(read_raw(path, "uV"), path)
    assert windows.info["bad_channels"] == {}


@pytest.mark.parametrize(
    ("file", "table", "true_uv", "words"),
    [
        ("", "uV", 15, "unit uV is taken from channels.tsv: the file says no unit"),
        ("", "mV", 15e3, "unit mV is taken from channels.tsv"),
        ("?V", "µV", 15, "the file says '?V', which is no voltage"),
        ("uV", "mV", 15, "channels.tsv says mV, the file uV: the file's is taken"),
        ("uV", "microV", 15, None),
        ("uV", "n/a", 15, None),
    ],
)
def test_units_of_channels_tsv(tmp_path, file, table, true_uv, words):
    folder = tmp_path / "sub-1" / "eeg"
    folder.mkdir(parents=True)
    path = folder / "sub-1_task-rest_eeg.edf"
    write_edf(path, file)
    rows = "".join(f"EEG {name}\tEEG\t{table}\tgood\n" for name in NAMES)
    (folder / "sub-1_task-rest_channels.tsv").write_text("name\ttype\tunits\tstatus\n" + rows)
    (tmp_path / "dataset_description.json").write_text('{"Name": "x", "BIDSVersion": "1.8.0"}')
    for source in (f"raw:{path}", f"bids:{tmp_path}"):
        [item] = list_items(parse_spec(source), PROFILE)
        kept: list[str] = []
        with kept_warnings(kept):
            [one] = item.load()
        assert median_uv(one.raw) == pytest.approx(true_uv, rel=0.03)
        assert (words in " ".join(kept)) if words else not any("unit" in text for text in kept)
        windows_of(one.raw, path)


def test_bids_refuses_an_unknown_unit_and_takes_unit(tmp_path):
    folder = tmp_path / "sub-1" / "eeg"
    folder.mkdir(parents=True)
    path = folder / "sub-1_task-rest_eeg.edf"
    write_edf(path, "")
    rows = "".join(f"EEG {name}\tEEG\tV\n" for name in NAMES[:1])
    (folder / "sub-1_task-rest_channels.tsv").write_text("name\ttype\tunits\n" + rows)
    [item] = list_items(parse_spec(f"bids:{tmp_path}"), PROFILE)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        [one] = item.load()
    with pytest.raises(InputError, match="unit of 11 of 12"):
        windows_of(one.raw, path)
    [item] = list_items(parse_spec(f"bids:{tmp_path},unit=uV"), PROFILE)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        [one] = item.load()
    assert median_uv(one.raw) == pytest.approx(15, rel=0.03)
    windows_of(one.raw, path)


def test_brainvision_electrodes_in_odd_units_are_eeg(tmp_path):
    """MNE types them misc, and takes their numbers for volts."""
    path = tmp_path / "x.vhdr"
    write_brainvision(path, NAMES, 0.2, 200, np.random.default_rng(0))
    text = path.read_text()
    path.write_text(text.replace("0.1,uV", "0.1,UV"))
    raw, remarks = said(path)
    assert raw.get_channel_types() == ["eeg"] * 12
    assert median_uv(raw) == pytest.approx(30, rel=0.03)
    assert remarks == ""

    path.write_text(text.replace("0.1,uV", "0.1,a.u."))
    with pytest.raises(InputError, match="is no voltage") as caught:
        read_raw(path)
    assert "unit=uV" in caught.value.remedy
    assert median_uv(read_raw(path, "uV")) == pytest.approx(30, rel=0.03)

    path.write_text(text.replace("F8,,0.1,uV", "F8,,0.1,a.u."))
    raw, remarks = said(path)
    assert raw.get_channel_types().count("eeg") == 11
    assert "not taken as EEG for their unit is no voltage: F8" in remarks

    path.write_text(text.replace("0.1,uV", "0.1,"))  # microvolt, as the format says
    raw, remarks = said(path)
    assert median_uv(raw) == pytest.approx(30, rel=0.03)
    assert remarks == ""


def test_a_fif_file_of_microvolts_is_mended_by_unit(tmp_path):
    data = 15 * np.random.default_rng(0).standard_normal((12, 2400))
    raw = mne.io.RawArray(data, mne.create_info(NAMES, 200.0, "eeg"), verbose="error")
    path = tmp_path / "x_raw.fif"
    raw.save(path, verbose="error")
    assert "implausible" in windows_of(read_raw(path), path)[0].info["notes"]["amplitude"]
    assert median_uv(read_raw(path, "uV")) == pytest.approx(15, rel=0.03)
    assert "amplitude" not in windows_of(read_raw(path, "uV"), path)[0].info["notes"]


def test_a_range_of_nothing_leaves_its_channel_out_by_name(tmp_path):
    path = tmp_path / "x.edf"
    for ranges, digital in (([400.0] * 11 + [0.0], 32767), (400.0, [32767] * 11 + [0])):
        write_edf(path, "uV", ranges, digital=digital)
        raw, remarks = said(path)
        assert "without a physical range in the header are left out (EEG F8)" in remarks
        windows, _ = windows_of(raw, path)
        assert windows.info["bad_channels"] == {"F8": "no range"}
        assert len(windows.channels) == 11
        assert 5 < windows.info["scale_uv"] < 30


@pytest.mark.parametrize(("ranges", "digital"), [(0.0, 32767), (400.0, 0)])
def test_a_file_without_any_range_is_refused(tmp_path, ranges, digital):
    write_edf(tmp_path / "x.edf", "uV", ranges, digital=digital)
    with pytest.raises(InputError, match=r"x\.edf: the header gives no physical or digital range"):
        read_raw(tmp_path / "x.edf")


@pytest.mark.parametrize(
    ("amplitude", "loud"),
    [([10, 20, 5], None), ([10, 10, 1e4], [0, 0, 1]), ([10, 1e-2, 9], [1, 0, 1]), ([10], None)],
)
def test_two_groups(amplitude, loud):
    found = two_groups(np.array(amplitude, float))
    assert (found is None) == (loud is None)
    if found:
        assert found[0].tolist() == [bool(entry) for entry in loud]


@pytest.mark.parametrize(
    ("right", "wrong", "words"),
    [
        (11 * [15.0], [15e6], "noisy (1000000 times the others: another unit?)"),
        (11 * [15.0], [15e-3], "flat (1/1000 of the others: another unit?)"),
        (11 * [15.0], [1e-5], None),
        (6 * [15.0], 6 * [30.0], None),
    ],
)
def test_one_channel_in_another_unit_is_left_out_with_that_reason(right, wrong, words):
    amplitude = np.array([*right, *wrong])
    found = odd_units(amplitude, NAMES, PLAUSIBLE_UV, "x")
    assert found == ({} if words is None else {11: words})


@pytest.mark.parametrize(
    "amplitude",
    [
        [15.0] + 11 * [15e6],  # the right one
        [15.0] + 11 * [15e-3],
        6 * [15.0] + 6 * [15e3],
        5 * [15.0] + 7 * [15e-3],
        9 * [15.0] + 3 * [15e3],  # too many to be broken
    ],
)
def test_channels_in_two_units_are_refused_where_the_right_one_might_go(amplitude):
    with pytest.raises(InputError, match="probably they are in two units") as caught:
        odd_units(np.array(amplitude), NAMES, PLAUSIBLE_UV, "x.edf")
    assert "Fp1" in str(caught.value)


def test_two_units_in_a_file_are_told_before_any_channel_goes(tmp_path):
    path = tmp_path / "x.edf"
    write_edf(path, ["uV"] + ["V"] * 11)
    with pytest.raises(InputError, match=r"11 channels .* times louder than the other 1 .Fp1"):
        windows_of(read_raw(path), path)
    write_edf(path, ["V"] + ["uV"] * 11)
    windows, remarks = windows_of(read_raw(path), path)
    assert list(windows.info["bad_channels"]) == ["Fp1"]
    assert "another unit?" in windows.info["bad_channels"]["Fp1"]
    assert any("Fp1 is left out: noisy" in text for text in remarks)
