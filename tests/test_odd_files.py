"""Recordings that are read wrongly with ease: several rates, one signal, several folders."""

from __future__ import annotations

import errno

import edfio
import mne
import numpy as np
import pytest

from data.errors import InputError
from data.packing.items import process_item
from data.packing.jobs import make_jobs, read_record
from data.packing.listing import list_all
from data.signals.eeg import make_windows, prepare
from data.signals.profiles import get_profile
from data.signals.recording import Recording
from data.sources.formats.opening import read_raw
from data.sources.spec import list_items, parse_spec
from data.subjects.split import Wish, assign_splits

NAMES = ["Fp1", "Fp2", "F3", "F4", "C3", "C4", "P3", "P4", "O1", "O2"]
PROFILE = get_profile("default")


def recording(raw, **more) -> Recording:
    return Recording("d", "1", "1", "1", raw=raw, mains_hz=50.0, **more)


def write_edf(path, seconds: int, eeg_hz: int, ecg_hz: int) -> np.ndarray:
    """EEG beside a faster ECG; returns the EEG in volts."""
    rng = np.random.default_rng(0)
    eeg_uv = 20 * rng.standard_normal((len(NAMES), seconds * eeg_hz))
    signals = [
        edfio.EdfSignal(row, eeg_hz, label=f"EEG {name}", physical_dimension="uV")
        for name, row in zip(NAMES, eeg_uv, strict=True)
    ]
    ecg = rng.standard_normal(seconds * ecg_hz)
    signals.append(edfio.EdfSignal(ecg, ecg_hz, label="ECG ECG", physical_dimension="uV"))
    edfio.Edf(signals).write(path)
    return eeg_uv * 1e-6


def test_eeg_beside_a_faster_channel_is_what_was_recorded(tmp_path):
    """MNE alone resamples every range by itself, 40 microvolts off."""
    path = tmp_path / "sleep.edf"
    eeg_v = write_edf(path, 300, 256, 512)
    raw = read_raw(path)
    plain = mne.io.RawArray(eeg_v, mne.create_info(NAMES, 256.0, "eeg"), verbose="error")
    found, wanted = (prepare(recording(one), PROFILE) for one in (raw, plain))
    assert found.names == wanted.names
    middle = slice(20 * 200, 280 * 200)  # the ends differ by how they are continued
    error = found.parts[0][:, middle] - wanted.parts[0][:, middle]
    assert np.abs(error).max() < 0.5e-6
    assert wanted.parts[0].std() > 5e-6
    assert not raw.preload


def test_dropped_channels_do_not_shift_the_rates(tmp_path):
    path = tmp_path / "sleep.edf"
    write_edf(path, 20, 256, 1)
    raw = read_raw(path)
    raw.reorder_channels([raw.ch_names[-1], *raw.ch_names[:-1]])
    found = prepare(recording(raw), PROFILE)
    assert not any(reader.raw.preload for reader in found.readers)
    raw.drop_channels(raw.ch_names[0])
    found = prepare(recording(raw), PROFILE)
    assert not any(reader.raw.preload for reader in found.readers)


@pytest.mark.parametrize("ecg_hz", [256, 1])
def test_eeg_that_is_fastest_stays_on_the_disk(tmp_path, ecg_hz):
    path = tmp_path / "plain.edf"
    write_edf(path, 20, 256, ecg_hz)
    found = prepare(recording(read_raw(path)), PROFILE)
    assert not any(reader.raw.preload for reader in found.readers)


def test_one_signal_on_all_channels_is_refused():
    """Nothing but rounding is left of it once the average is taken out."""
    noise = 1e-5 * np.random.default_rng(0).standard_normal(6000)
    for count in (4, 10):
        info = mne.create_info(NAMES[:count], 200.0, "eeg")
        raw = mne.io.RawArray(np.tile(noise, (count, 1)), info, verbose="error")
        with pytest.raises(InputError, match="one and the same signal"):
            make_windows(recording(raw), PROFILE)


def test_all_channels_marked_bad_is_not_called_a_damaged_file():
    raw = mne.io.RawArray(
        np.ones((10, 4000)), mne.create_info(NAMES, 200.0, "eeg"), verbose="error"
    )
    raw.info["bads"] = list(NAMES)
    with pytest.raises(InputError, match="0 of 10 EEG channels are good") as caught:
        make_windows(Recording("d", "1", "1", "1", raw=raw), PROFILE)
    assert "damaged" not in str(caught.value)


@pytest.mark.parametrize(
    "layout", ["day{day}/P{person:02}.fif", "sub-P{person:02}/ses-{day}/r.fif"]
)
def test_a_person_in_several_folders_is_in_one_split(tmp_path, layout, capsys):
    for person in range(12):
        for day in (1, 2):
            path = tmp_path / "study" / layout.format(person=person, day=day)
            path.parent.mkdir(parents=True, exist_ok=True)
            path.touch()
    spec = parse_spec(f"raw:{tmp_path}/study/**/*.fif,subject=(P\\d+)")
    items = list_items(spec, PROFILE)
    assert {item.dataset for item in items} == {"study"}
    assert "all folders are one dataset, 'study'" in capsys.readouterr().out
    splits = assign_splits([Wish(0, i.dataset, i.subject, i.split) for i in items], 0)
    assert set(splits) == {"train", "val", "test"}
    of_person = {(item.subject, split) for item, split in zip(items, splits, strict=True)}
    assert len(of_person) == 12
    names = {(i.subject, i.session, i.run) for i in items}
    assert len(names) == len(items)


def test_names_do_not_depend_on_where_the_files_lie(tmp_path, monkeypatch):
    """Also of two files that only their folders or letters beyond ASCII tell apart."""
    found = []
    for place in ("here", "there/deeper"):
        for name in ("a/x.fif", "b/x.fif", "Иванов.fif", "Петров.fif"):
            path = tmp_path / place / "study" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.touch()
        spec = f"raw:{tmp_path / place}/study/**/*.fif,subject=([^/]+)\\.fif"
        items = list_items(parse_spec(spec), PROFILE)
        ids = [Recording(i.dataset, i.subject, i.session, i.run).id for i in items]
        assert len(set(ids)) == 4
        found.append(ids)
    assert found[0] == found[1]
    monkeypatch.setenv("HOME", str(tmp_path / "here"))
    assert len(list_items(parse_spec("raw:~/study/*.fif,subject=file"), PROFILE)) == 2


def test_two_recordings_of_one_name_are_told_before_hours_of_work(tmp_path):
    for site in ("A", "B"):
        (tmp_path / site / "eeg").mkdir(parents=True)
        (tmp_path / site / "eeg/x.fif").touch()
    specs = [parse_spec(f"raw:{tmp_path}/{site}/eeg/*.fif") for site in ("A", "B")]
    with pytest.raises(InputError, match="two recordings are called eeg_sub-x_ses-1_run-x"):
        list_all(specs, PROFILE, default=False)
    named = [parse_spec(f"{spec},dataset={site}") for spec, site in zip(specs, "AB", strict=True)]
    assert len(list_all(named, PROFILE, default=False)[0]) == 2


def test_events_are_found_beside_annotations_of_breaks(tmp_path):
    """Annotations of bad stretches are no events: the stimulus channel is read all the same."""
    info = mne.create_info([*NAMES, "STI 014"], 200.0, ["eeg"] * 10 + ["stim"])
    data = 1e-5 * np.random.default_rng(0).standard_normal((11, 6000))
    data[10] = 0
    data[10, 1000:1010] = 5
    raw = mne.io.RawArray(data, info, verbose="error")
    raw.set_annotations(mne.Annotations([1.0], [0.5], ["BAD_blink"]))
    raw.save(tmp_path / "x_raw.fif", verbose="error")
    [item] = list_items(parse_spec(f"raw:{tmp_path}/x_raw.fif,events=5"), PROFILE)
    [one] = item.load()
    assert [(event.onset_s, event.label) for event in one.events] == [(5.0, "5")]
    [item] = list_items(parse_spec(f"raw:{tmp_path}/x_raw.fif,events=BAD_blink"), PROFILE)
    [one] = item.load()  # asked for by its name it is one
    assert [(event.onset_s, event.label) for event in one.events] == [(1.0, "BAD_blink")]


@pytest.mark.parametrize(
    "table", [b"name\ttype\tstatus\nFp1\tEEG\nshort\n", "name\tunits\nFp1\tµV\n".encode("latin-1")]
)
def test_a_careless_channels_table_is_read(tmp_path, table):
    info = mne.create_info(NAMES, 200.0, "eeg")
    raw = mne.io.RawArray(np.ones((10, 400)), info, verbose="error")
    raw.save(tmp_path / "sub-1_task-a_eeg.fif", verbose="error")
    (tmp_path / "sub-1_task-a_channels.tsv").write_bytes(table)
    assert read_raw(tmp_path / "sub-1_task-a_eeg.fif").get_channel_types() == ["eeg"] * 10


@pytest.mark.parametrize("number", [errno.EIO, errno.ESTALE, errno.EMFILE, errno.ENOMEM])
def test_skip_bad_gives_nothing_up_for_a_failing_machine(tmp_path, monkeypatch, number):
    """... and nobody is told to delete a file for it."""
    info = mne.create_info(NAMES, 200.0, "eeg")
    raw = mne.io.RawArray(1e-5 * np.ones((10, 400)), info, verbose="error")
    raw.save(tmp_path / "x_raw.fif", verbose="error")
    items = list_items(parse_spec(f"raw:{tmp_path}/x_raw.fif"), PROFILE)
    [job] = make_jobs(items, PROFILE, tmp_path, skip_bad=True)

    def fails(*_, **__):
        raise OSError(number, "as if")

    monkeypatch.setattr(mne.io, "read_raw", fails)
    with pytest.raises(InputError, match="the machine failed, not the recording") as caught:
        process_item(job)
    assert "damaged" not in str(caught.value)
    assert read_record(job) is None


def test_trouble_while_listing_is_one_message(monkeypatch):
    def fails(*_):
        raise OSError(errno.ESTALE, "Stale file handle")

    monkeypatch.setattr("data.packing.listing.list_items", fails)
    with pytest.raises(InputError, match=r"the machine failed, not the recordings: .*Stale"):
        list_all([parse_spec("simulated")], PROFILE, default=False)


def test_skip_bad_gives_nothing_up_for_a_full_tmpdir(tmp_path, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    info = mne.create_info(NAMES, 200.0, "eeg")
    raw = mne.io.RawArray(1e-5 * np.ones((10, 4000)), info, verbose="error")
    raw.save(tmp_path / "x_raw.fif", verbose="error")
    items = list_items(parse_spec(f"raw:{tmp_path}/x_raw.fif"), PROFILE)
    [job] = make_jobs(items, PROFILE, tmp_path, skip_bad=True)
    monkeypatch.setattr("data.scratch.IN_MEMORY_BYTES", 0)
    monkeypatch.setattr("os.posix_fallocate", full)
    with pytest.raises(InputError, match="set TMPDIR"):
        process_item(job)
    assert read_record(job) is None


def test_many_trials_of_one_length_are_judged_by_more_than_their_edges():
    """Filtered, a trial is nearly 0 at its edges: evenly strided samples would see little else."""
    trials, length = 560, 1600
    data = 1e-5 * np.random.default_rng(0).standard_normal((10, trials * length))
    raw = mne.io.RawArray(data, mne.create_info(NAMES, 200.0, "eeg"), verbose="error")
    joins = np.arange(1, trials) * length / 200.0
    raw.set_annotations(mne.Annotations(joins, 0.0, "EDGE boundary"))
    windows = make_windows(recording(raw), PROFILE)
    assert windows.info["bad_channels"] == {}
    assert len(windows.data) == 2 * trials
    values = windows.data.astype(np.float32)
    assert 1.4826 * np.median(np.abs(values)) == pytest.approx(1, abs=0.01)


@pytest.mark.parametrize(("sfreq", "length"), [(1000.0, 3996), (2048.0, 8184), (200.0, 800)])
def test_trials_in_which_a_window_just_fits_give_one(sfreq, length):
    """Also by the few samples by which a window's last one at 200 Hz comes before its end."""
    data = 1e-5 * np.random.default_rng(0).standard_normal((10, 3 * length))
    raw = mne.io.RawArray(data, mne.create_info(NAMES, sfreq, "eeg"), verbose="error")
    raw.set_annotations(mne.Annotations(np.arange(1, 3) * length / sfreq, 0.0, "EDGE boundary"))
    windows = make_windows(recording(raw), PROFILE)
    assert len(windows.data) == 3
    assert "stretches_too_short" not in windows.info


def test_trials_shorter_than_a_window_are_counted_and_not_filtered():
    raw = mne.io.RawArray(
        1e-5 * np.random.default_rng(0).standard_normal((10, 4000)),
        mne.create_info(NAMES, 200.0, "eeg"),
        verbose="error",
    )
    joins = [1.0, 2.0, 3.0, 12.0]
    raw.set_annotations(mne.Annotations(joins, 0.0, "EDGE boundary"))
    windows = make_windows(recording(raw), PROFILE)
    assert windows.info["stretches_too_short"] == 3
    assert [meta["onset_s"] for meta in windows.meta] == [3.0, 7.0, 12.0, 16.0]
    raw.set_annotations(mne.Annotations(np.arange(1.0, 20.0), 0.0, "EDGE boundary"))
    windows = make_windows(recording(raw), PROFILE)
    assert len(windows.data) == 0
    assert windows.info["dropped"] == {"recording shorter than a window": 1}
