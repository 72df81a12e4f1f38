"""Which files a recording is made of, by what they say and by what MNE opens."""

from __future__ import annotations

import shutil
from pathlib import Path

import mne
import numpy as np
import pytest
import scipy.io
from files import write_brainvision
from loading import items_of, loaded

from data.errors import InputError
from data.sources.formats.recording_files import (
    check_own_signal,
    files_of,
    is_part_of_another,
    signals_of,
    with_opened,
)

NAMES = ["Fp1", "Fp2", "F3", "F4", "C3", "C4", "P3", "P4", "O1", "O2"]


def noise(seconds: float, seed: int = 0) -> mne.io.RawArray:
    data = 1e-5 * np.random.default_rng(seed).standard_normal((len(NAMES), round(200 * seconds)))
    return mne.io.RawArray(data, mne.create_info(NAMES, 200.0, "eeg"), verbose="error")


def brainvision(path: Path, seed: int = 0) -> Path:
    write_brainvision(path, NAMES, 0.1, 200, np.random.default_rng(seed))
    return path.with_suffix(".vhdr")


def eeglab(path: Path, signal_name: str, seed: int = 0) -> Path:
    """A .set with its signal in an .fdt of another name inside."""
    signal = np.random.default_rng(seed).standard_normal((len(NAMES), 800)).astype("<f4")
    path.with_suffix(".fdt").write_bytes(signal.T.tobytes())
    places = np.array([(name,) for name in NAMES], dtype=[("labels", object)])
    content = {
        "data": signal_name, "nbchan": len(NAMES), "pnts": 800, "srate": 200.0, "trials": 1,
        "xmin": 0.0, "chanlocs": places, "event": np.zeros(0), "epoch": np.zeros(0),
    }  # fmt: skip
    scipy.io.savemat(path, {"EEG": content})
    return path


@pytest.mark.parametrize(
    ("name", "naming"), [("sub-1_raw.fif", "neuromag"), ("sub-1_split-01_eeg.fif", "bids")]
)
def test_a_split_fif_is_one_recording_by_what_it_says(tmp_path, name, naming):
    """... and files that are only called like parts are recordings of their own."""
    first = tmp_path / ("sub-1_eeg.fif" if naming == "bids" else name)
    noise(400).save(
        first, split_size="2MB", split_naming=naming, buffer_size_sec=1, verbose="error"
    )
    parts = sorted(tmp_path.glob("*.fif"))
    assert len(parts) > 1
    first = tmp_path / name
    noise(8).save(tmp_path / "rest.fif", verbose="error")
    noise(8, 1).save(tmp_path / "rest-2.fif", verbose="error")
    assert set(files_of(first)) == set(parts)
    assert [is_part_of_another(part) for part in parts] == [part != first for part in parts]
    assert files_of(tmp_path / "rest.fif") == [tmp_path / "rest.fif"]
    assert not is_part_of_another(tmp_path / "rest-2.fif")
    items = items_of(f"raw:{tmp_path}/*.fif,subject=one")
    assert {item.path for item in items} == {first, tmp_path / "rest.fif", tmp_path / "rest-2.fif"}
    raw = mne.io.read_raw_fif(first, verbose="error")
    assert {Path(file) for file in raw.filenames} == set(parts)


def test_split_in_an_edf_name_is_no_part(tmp_path):
    for part in (1, 2):
        (tmp_path / f"sub-1_split-{part}_eeg.edf").touch()
    assert len(items_of(f"raw:{tmp_path}/*.edf")) == 2


def test_brainvision_by_its_header(tmp_path):
    header = brainvision(tmp_path / "x.vhdr")
    assert {file.name for file in files_of(header)} == {"x.vhdr", "x.eeg", "x.vmrk"}
    renamed = header.rename(tmp_path / "y.vhdr")
    assert {file.name for file in files_of(renamed)} == {"y.vhdr", "x.eeg", "x.vmrk"}
    assert is_part_of_another(tmp_path / "x.eeg")
    check_own_signal(renamed)  # nobody else claims the signal
    [(recording, windows)] = loaded(f"raw:{tmp_path}/*")
    assert set(windows.info["source_sha256"]) == {"y.vhdr", "x.eeg", "x.vmrk"}
    assert recording.subject == "y"


@pytest.mark.parametrize("own_beside", [True, False])
def test_a_header_of_another_recordings_signal_is_refused(tmp_path, own_beside):
    first, second = brainvision(tmp_path / "one.vhdr"), brainvision(tmp_path / "two.vhdr", 1)
    second.write_text(first.read_text())
    if not own_beside:
        (tmp_path / "two.eeg").unlink()
    with pytest.raises(InputError, match=r"two\.vhdr: names another.*DataFile=one\.eeg") as caught:
        items_of(f"raw:{tmp_path}/*.vhdr,subject=file")
    assert "two.eeg" in caught.value.remedy
    items_of(f"raw:{first}")


def test_a_header_of_another_recordings_markers_is_refused(tmp_path):
    _, second = brainvision(tmp_path / "one.vhdr"), brainvision(tmp_path / "two.vhdr", 1)
    second.write_text(second.read_text().replace("MarkerFile=two", "MarkerFile=one"))
    with pytest.raises(InputError, match=r"MarkerFile=one\.vmrk"):
        items_of(f"raw:{tmp_path}/*.vhdr,subject=file")


def test_eeglab_by_its_header(tmp_path):
    first = eeglab(tmp_path / "one.set", "one.fdt")
    assert {file.name for file in files_of(first)} == {"one.set", "one.fdt"}
    assert [file.name for file in signals_of(files_of(first))] == ["one.fdt"]
    raw = mne.io.read_raw_eeglab(first, verbose="error")
    assert [Path(name).name for name in raw.filenames] == ["one.fdt"]
    second = eeglab(tmp_path / "two.set", "one.fdt", 1)
    assert {file.name for file in files_of(second)} == {"two.set", "one.fdt"}
    with pytest.raises(InputError, match=r"two\.set: names another.*EEG\.data=one\.fdt"):
        items_of(f"raw:{tmp_path}/*.set,subject=file")


def test_eeglab_of_a_name_that_is_gone_takes_its_own_as_mne_does(tmp_path):
    path = eeglab(tmp_path / "new.set", "old.fdt")
    assert {file.name for file in files_of(path)} == {"new.set", "new.fdt"}
    check_own_signal(path)


@pytest.mark.parametrize(
    ("opened", "others"),
    [
        ("x.dap", ["x.dat", "x.rs3", "x.ceo"]),
        ("x.cdt", ["x.cdt.dpa", "x.cdt.cef"]),
        ("x.EEG", ["x.PNT", "x.LOG", "x.21E"]),
        ("x.data", ["x.head"]),
        ("x.lay", ["other.dat"]),
    ],
)
def test_files_beside_that_mnes_readers_look_for(tmp_path, opened, others):
    for name in [opened, *others]:
        (tmp_path / name).write_text("[FileInfo]\nFile=C:\\rec\\other.dat\n")
    assert {file.name for file in files_of(tmp_path / opened)} == {opened, *others}
    assert all(is_part_of_another(tmp_path / name) for name in others)
    assert not is_part_of_another(tmp_path / opened)


def persyst(path: Path) -> Path:
    signal = np.random.default_rng(0).integers(-300, 300, (2000, len(NAMES))).astype("<i2")
    path.with_name("other.dat").write_bytes(signal.tobytes())
    names = "".join(f"{name}-Ref={index}\n" for index, name in enumerate(NAMES, start=1))
    path.write_text(
        "[FileInfo]\nFile=other.dat\nFileType=Interleaved\nSamplingRate=200\n"
        f"HeaderLength=0\nCalibration=0.1\nWaveformCount={len(NAMES)}\nDataType=0\n"
        f"[ChannelMap]\n{names}"
        "[Patient]\nFirst=x\nLast=x\nSex=Male\nHand=Right\nBirthDate=01/01/1980\nTestDate=01/01/2020\n"
        "TestTime=10:00:00\n"
    )
    return path


def test_persyst_is_packed_hashed_and_checked(tmp_path):
    path = persyst(tmp_path / "x.lay")
    [(_, windows)] = loaded(f"raw:{tmp_path}/*")
    assert set(windows.info["source_sha256"]) == {"x.lay", "other.dat"}
    assert len(windows.data) == 2
    signal = tmp_path / "other.dat"
    signal.write_bytes(signal.read_bytes()[:-7])
    with pytest.raises(InputError, match=r"other\.dat: truncated"):
        next(items_of(f"raw:{path}")[0].load())
    signal.unlink()
    with pytest.raises(InputError, match=r"its signal other\.dat is missing"):
        next(items_of(f"raw:{path}")[0].load())


def test_a_folder_that_is_a_recording_is_all_of_its_files(tmp_path):
    for name in ("info.xml", "signal1.bin", "deep/events.xml"):
        (tmp_path / "x.mff" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "x.mff" / name).write_text(name)
    found = files_of(tmp_path / "x.mff")
    assert {file.name for file in found} == {"info.xml", "signal1.bin", "events.xml"}
    assert [file.name for file in signals_of(found)] == ["signal1.bin"]


def test_what_mne_opened_besides_is_added(tmp_path):
    raw = noise(2)
    raw.save(tmp_path / "x_raw.fif", verbose="error")
    shutil.copy(tmp_path / "x_raw.fif", tmp_path / "y_raw.fif")
    raw = mne.io.read_raw_fif(tmp_path / "y_raw.fif", verbose="error")
    assert with_opened([tmp_path / "x_raw.fif"], raw) == [
        tmp_path / "x_raw.fif",
        tmp_path / "y_raw.fif",
    ]
