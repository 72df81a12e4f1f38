"""What is not packed is printed, by reason and number of recordings, after packing and later."""

from __future__ import annotations

import sys

import mne
import numpy as np
from commands import ROOT, run

from data.shards.omissions import SHOWN, channel_lines, skipped_lines, window_lines

NAMES = ["Fp1", "Fp2", "F3", "F4", "C3", "C4", "P3", "P4", "EEG Fp1", "Odd", "O1"]


def test_channels_are_counted_by_reason_and_recordings():
    records = [
        {"left_out": {"X1": "no position", "X2": "no position"}},
        {"left_out": {"X1": "no position", "Cz": "the same electrode as CZ, which is used"}},
        {},
    ]
    assert channel_lines(records, "left_out") == [
        "3 no position, in 2 recordings: X1, X2",
        "1 the same electrode as another, in 1 recording: Cz",
    ]


def test_long_lists_are_cut_with_a_count():
    many = {f"X{n}": "flat" for n in range(9)}
    assert channel_lines([{"bad": many}], "bad")[0].endswith("X0, X1, X2, X3 and 5 more")
    reasons = {f"reason {n}": 1 for n in range(SHOWN + 3)}
    assert window_lines([{"dropped": reasons}])[-1] == "... and 3 other reasons, in manifest.json"


def test_counted_nouns_are_in_the_plural():
    dropped = {"event too near an edge": 1, "event outside the recording": 3, "saturated": 2}
    assert window_lines([{"dropped": dropped}]) == [
        "3 events outside the recording, in 1 recording",
        "2 saturated, in 1 recording",
        "1 event too near an edge, in 1 recording",
    ]


def test_unreadable_recordings_are_told_by_reason_where_there_are_many():
    def cut(n):
        return {"name": f"s{n:02}", "reason": f"/data/s{n:02}.edf: ends after {n} of 99 bytes"}

    few = [cut(n) for n in range(SHOWN)]
    assert skipped_lines(few) == [f"{entry['name']}: {entry['reason']}" for entry in few]
    many = [*few, cut(SHOWN), {"name": "odd", "reason": "/data/odd.edf: no EEG channel"}]
    assert skipped_lines(many) == [
        f"s00: /data/s00.edf: ends after 0 of 99 bytes; {SHOWN} more for a like reason, e.g. s01",
        "odd: /data/odd.edf: no EEG channel",
        "all of them: source.skipped in manifest.json",
    ]


def test_packing_and_inspecting_print_what_was_left_out(tmp_path):
    rng = np.random.default_rng(0)
    for person in "123":
        data = 1e-5 * rng.standard_normal((len(NAMES), 6000))
        data[4] = 0  # C3 is flat
        raw = mne.io.RawArray(data, mne.create_info(NAMES, 200.0, "eeg"), verbose="error")
        raw.set_annotations(mne.Annotations([5, 12, 29.9], 0.0, "x"))
        raw.save(tmp_path / f"sub-{person}_raw.fif", verbose="error")
    source = f"raw:{tmp_path}/*.fif,events=x"
    pack = (sys.executable, ROOT / "data/pack.py", "--source", source, "--workers", "1")
    packed = run(*pack, "--out", tmp_path / "out")
    shown = run(sys.executable, ROOT / "data/inspect_shards.py", "--shards", tmp_path / "out")
    for output in (packed, shown):
        assert "dropped     3 events too near an edge, in 3 recordings" in output
        assert "not used    3 the same electrode as another, in 3 recordings" in output
        assert "not used    3 no position, in 3 recordings: Odd" in output
        assert "bad         3 flat, in 3 recordings: C3" in output
