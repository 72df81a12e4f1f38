"""Files that are no whole recording: altered in transfer, of another length, of epochs."""

from __future__ import annotations

import os
import warnings

import mne
import numpy as np
import pytest
from files import write_brainvision, write_edf
from scipy.io import savemat

from data.errors import InputError
from data.packing.listing import list_all
from data.signals.profiles import get_profile
from data.signals.spans import spans_of
from data.sources.bids.channels_table import read_rows
from data.sources.events.moments import EventChoice, find_events
from data.sources.formats.opening import read_raw
from data.sources.spec import parse_spec

NAMES = ["Fp1", "Fp2", "C3", "C4", "O1", "O2"]


def counts(seconds=40, seed=0) -> np.ndarray:
    return np.random.default_rng(seed).integers(-300, 300, (len(NAMES), seconds * 200))


def edf(path, seconds=40, notes=None):
    write_edf(path, range(seconds), NAMES, counts(seconds), 200, notes, kind="EDF+C")
    return path


def write_set(path, *, events=(), fdt=False, trials=1, seconds=20) -> np.ndarray:
    """EEGLAB's format as its own program writes it; `events`: (type, latency from 1)."""
    samples = seconds * 200
    data = 20 * np.random.default_rng(0).standard_normal((len(NAMES), samples), np.float32)
    if fdt:
        data.T.tofile(path.with_suffix(".fdt"))
    locs = np.zeros(len(NAMES), [("labels", object)])
    locs["labels"] = NAMES
    table = np.zeros(len(events), [("type", object), ("latency", object), ("duration", object)])
    for row, (name, latency) in zip(table, events, strict=True):
        row["type"], row["latency"], row["duration"] = name, latency, 0.0
    empty = np.zeros((0, 0))
    shaped = data.reshape(len(NAMES), trials, -1).transpose(0, 2, 1) if trials > 1 else data
    savemat(path, {"EEG": {
        "setname": "x", "nbchan": float(len(NAMES)), "trials": float(trials),
        "pnts": float(samples // trials), "srate": 200.0, "xmin": 0.0, "xmax": samples / 200,
        "data": f"{path.stem}.fdt" if fdt else shaped, "chanlocs": locs, "ref": "common",
        "chaninfo": {"nosedir": "+X"}, "event": table if events else empty, "epoch": empty,
        "urevent": empty, "icaweights": empty, "icasphere": empty, "icawinv": empty,
        "icachansind": empty,
    }})  # fmt: skip
    return data


def in_text_mode(path) -> None:
    path.write_bytes(path.read_bytes().replace(b"\n", b"\r\n"))


@pytest.mark.parametrize("kind", ["edf", "bdf-like", "eeg", "fdt", "fif"])
def test_a_transfer_in_text_mode_is_refused(tmp_path, kind):
    if kind in ("edf", "bdf-like"):
        path = altered = edf(tmp_path / "x.edf")
        if kind == "bdf-like":  # the recorder did not close the file: any length is promised
            data = path.read_bytes()
            path.write_bytes(data[:236] + b"-1      " + data[244:])
    elif kind == "eeg":
        path, altered = tmp_path / "x.vhdr", tmp_path / "x.eeg"
        write_brainvision(path, NAMES, 0.5, 200, np.random.default_rng(0))
    elif kind == "fdt":
        path, altered = tmp_path / "x.set", tmp_path / "x.fdt"
        write_set(path, fdt=True)
    else:
        path = altered = tmp_path / "x_raw.fif"
        info = mne.create_info(NAMES, 200.0, "eeg")
        mne.io.RawArray(counts() * 1e-7, info, verbose="error").save(path, verbose="error")
    read_raw(path)
    in_text_mode(altered)
    with pytest.raises(InputError, match=altered.name) as caught:
        read_raw(path)
    if kind != "fif":  # whose chain of parts is found torn before
        assert "text mode" in caught.value.what + caught.value.remedy


def test_an_edf_with_bytes_inserted_is_refused_and_one_with_more_records_told(tmp_path):
    path = edf(tmp_path / "x.edf")
    whole = path.read_bytes()
    record = (len(whole) - 256 * (len(NAMES) + 2)) // 40
    path.write_bytes(whole[:20_000] + b"\0" + whole[20_000:])
    with pytest.raises(InputError, match="no whole data records"):
        read_raw(path)
    path.write_bytes(whole + whole[-record:])
    with pytest.warns(RuntimeWarning, match="Number of records"):
        assert read_raw(path).n_times == 41 * 200


@pytest.mark.parametrize("change", [-4, 4, 4 * len(NAMES)])
def test_an_fdt_of_another_length_is_refused(tmp_path, change):
    path, signal = tmp_path / "x.set", tmp_path / "x.fdt"
    write_set(path, fdt=True)
    content = signal.read_bytes()
    signal.write_bytes(content[:change] if change < 0 else content + bytes(change))
    with pytest.raises(InputError, match=r"truncated|promises"):
        read_raw(path)


def test_a_brainvision_signal_longer_than_promised_or_without_markers_is_refused(tmp_path):
    path = tmp_path / "x.vhdr"
    write_brainvision(path, NAMES, 0.5, 200, np.random.default_rng(0))
    text = path.read_text()
    path.write_text(text.replace("[Binary", "DataPoints=5000\n[Binary"))
    with pytest.raises(InputError, match=r"6000 samples, x\.vhdr promises 5000"):
        read_raw(path)
    path.write_text(text)
    (tmp_path / "x.vmrk").unlink()
    with pytest.raises(InputError, match=r"its markers x\.vmrk are missing"):
        read_raw(path)


def test_files_of_epochs_and_other_files_are_called_what_they_are(tmp_path):
    info = mne.create_info(NAMES, 200.0, "eeg")
    data = counts().reshape(len(NAMES), 20, -1).transpose(1, 0, 2) * 1e-7
    epochs = mne.EpochsArray(data, info, verbose="error")
    epochs.save(tmp_path / "x-epo.fif", verbose="error")
    epochs.average().save(tmp_path / "x-ave.fif", verbose="error")
    write_set(tmp_path / "x.set", trials=10)
    for name, words in (
        ("x-epo.fif", "a file of epochs"),
        ("x-ave.fif", "a file of averages of epochs"),
        ("x.set", r"a file of epochs \(10 trials\)"),
    ):
        with pytest.raises(InputError, match=words) as caught:
            read_raw(tmp_path / name)
        assert "continuous recording" in caught.value.remedy
        assert "damaged" not in str(caught.value)
    ica = mne.preprocessing.ICA(2, max_iter=5, random_state=0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        ica.fit(mne.io.RawArray(counts() * 1e-7, info, verbose="error"), verbose="error")
    ica.save(tmp_path / "x-ica.fif", verbose="error")
    with pytest.raises(InputError, match="an ICA decomposition, no recording"):
        read_raw(tmp_path / "x-ica.fif")


def test_annotations_in_latin_1_are_read(tmp_path):
    path = edf(tmp_path / "x.edf", notes={5.0: "geschlXssen"})
    path.write_bytes(path.read_bytes().replace(b"geschlXssen", b"geschl\xf6ssen"))
    with pytest.warns(UserWarning, match="Latin-1"):
        raw = read_raw(path)
    found = find_events(raw, EventChoice(("geschlössen",)), "x")
    assert [event.onset_s for event in found] == [5.0]


@pytest.mark.parametrize(
    ("joins", "word"),
    [((-99.0, 1.0), "-99"), (("-99", "x"), "-99"), (("boundary", "x"), "boundary")],
)
def test_no_window_spans_a_join_of_eeglab(tmp_path, joins, word):
    join, event = joins
    write_set(tmp_path / "x.set", events=[(event, 301.0), (join, 2000.5), (event, 3001.0)])
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        raw = read_raw(tmp_path / "x.set")
    assert spans_of(raw)[0][1] == pytest.approx(2000, abs=1)
    assert len(spans_of(raw)) == 2
    told = [str(entry.message) for entry in caught if "taken for joins" in str(entry.message)]
    assert bool(told) == (word == "-99")


def test_a_code_of_minus_99_beside_named_joins_is_an_event(tmp_path):
    write_set(tmp_path / "x.set", events=[("-99", 301.0), ("boundary", 2000.5)])
    raw = read_raw(tmp_path / "x.set")
    assert "-99" in raw.annotations.description
    assert len(spans_of(raw)) == 2


def test_a_brainvision_header_in_latin_1_names_its_files(tmp_path):
    """MNE cannot read the markers so, and the message says what to do."""
    path = tmp_path / "Jörg.vhdr"
    write_brainvision(path, NAMES, 0.5, 200, np.random.default_rng(0))
    path.write_bytes((path.read_text() + "[Comment]\nMüller\n").encode("latin-1"))
    assert read_raw(path).n_times == 6000
    markers = path.with_suffix(".vmrk")
    markers.write_bytes(markers.read_text().encode("latin-1"))
    with pytest.raises(
        InputError, match=r"Jörg\.vhdr: its header or markers are no UTF-8"
    ) as caught:
        read_raw(path)
    assert "iconv" in caught.value.remedy


def test_a_file_name_that_is_no_utf_8_is_refused_with_its_name(tmp_path):
    edf(tmp_path / os.fsdecode(b"M\xfcller.edf"))
    spec = parse_spec(f"raw:{tmp_path}/*.edf")
    with pytest.raises(InputError, match="Müller") as caught:
        list_all([spec], get_profile("default"), False)
    assert "convmv" in str(caught.value)
    str(caught.value).encode("utf-8")


def test_a_channels_table_in_latin_1_keeps_its_units(tmp_path):
    path = tmp_path / "x_channels.tsv"
    path.write_bytes("name\ttype\tunits\nFp1\tEEG\tµV\n".encode("latin-1"))
    assert read_rows(path)[0]["units"] == "µV"
