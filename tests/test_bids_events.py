"""`bids:` with `events=1`: rows of events.tsv are the events; without them nothing is guessed at
without a word."""

from __future__ import annotations

import sys
from pathlib import Path

import mne
import numpy as np
import pytest
from commands import ROOT, run

from data.shards.manifest import read_manifest
from data.shards.tars import ShardReader

NAMES = ["Fp1", "Fp2", "F3", "F4", "C3", "C4", "P3", "P4", "O1", "O2"]
SFREQ = 200
TRIGGERS = ((6, 7), (10, 8), (14, 7))
COMMENTS = ((3, "patient moved"), (20, "coffee"))
HEAD = "onset\tduration\ttrial_type\n"


def dataset(root: Path, triggers=TRIGGERS, notes=COMMENTS, table: str | None = None) -> str:
    """A BIDS dataset of three people, 30 s each; returns its source."""
    for person in (1, 2, 3):
        folder = root / f"sub-{person}/eeg"
        folder.mkdir(parents=True)
        data = 1e-5 * np.random.default_rng(person).standard_normal((len(NAMES) + 1, 30 * SFREQ))
        data[-1] = 0
        for second, code in triggers:
            data[-1, second * SFREQ : second * SFREQ + 20] = code
        info = mne.create_info([*NAMES, "TRIG"], float(SFREQ), ["eeg"] * len(NAMES) + ["stim"])
        raw = mne.io.RawArray(data, info, verbose="error")
        if notes:
            raw.set_annotations(mne.Annotations(*zip(*((s, 0.0, n) for s, n in notes))))  # noqa: B905
        raw.save(folder / f"sub-{person}_task-x_eeg.fif", verbose="error")
        if table is not None:
            (folder / f"sub-{person}_task-x_events.tsv").write_text(table)
    (root / "dataset_description.json").write_text('{"Name": "x", "BIDSVersion": "1.8.0"}')
    return f"bids:{root},events=1"


def pack(source: str, out: Path, **options) -> tuple[str, dict[str, int]]:
    """What is printed, and the labels of all windows with their numbers."""
    text = run(
        sys.executable, ROOT / "data/pack.py", "--source", source, "--out", out, "--workers", "1",
        **options,
    )  # fmt: skip
    labels: dict[str, int] = {}
    if not options:
        manifest = read_manifest(out)
        for shard in manifest.shards:
            reader = ShardReader(manifest, shard)
            for row in range(shard.samples):
                label = reader.meta(row)["label"]
                labels[label] = labels.get(label, 0) + 1
    return text, labels


def test_comments_are_not_taken_for_the_triggers(tmp_path):
    text, labels = pack(dataset(tmp_path / "in"), tmp_path / "out")
    assert labels == {"7": 6, "8": 3}
    assert "no events.tsv: the triggers of TRIG were taken for events" in text
    assert "not its annotations ('coffee' (1), 'patient moved' (1))" in text
    source = f"bids:{tmp_path}/in,events=1,events_from=annotations"
    assert pack(source, tmp_path / "notes")[1] == {"coffee": 3, "patient moved": 3}


def test_annotations_alone_are_taken_and_it_is_said(tmp_path):
    source = dataset(tmp_path / "in", triggers=())
    text, labels = pack(source, tmp_path / "out")
    assert labels == {"coffee": 3, "patient moved": 3}
    assert "no events.tsv: all annotations were taken for events: 'coffee' (1)" in text


def test_a_table_is_the_datasets_word(tmp_path):
    source = dataset(tmp_path / "in", table=HEAD + "5\t0\ta\n9\t0\tb\n99\t0\ta\n")
    text, labels = pack(source, tmp_path / "out")
    assert labels == {"a": 3, "b": 3}
    assert "no events.tsv" not in text
    assert "3 events outside the recording, in 3 recordings" in text


def test_a_table_without_rows_is_told(tmp_path):
    source = dataset(tmp_path / "in", table=HEAD)
    text, _ = pack(source, tmp_path / "out", fails=True)
    assert "events.tsv has no row that is one; present: in TRIG '7' (2), '8' (1)" in text
    assert "events_from=TRIG" in text


def test_nothing_at_all_is_told(tmp_path):
    text, _ = pack(dataset(tmp_path / "in", (), ()), tmp_path / "out", fails=True)
    assert "no event in it; present: no events at all" in text
    assert "-> leave events out for continuous windows" in text


@pytest.mark.parametrize("events", ["1", "coffee"])
def test_annotations_outside_of_the_signal_are_counted(tmp_path, events):
    source = dataset(tmp_path / "in", triggers=())
    for path in (tmp_path / "in").glob("sub-*/eeg/*.fif"):
        raw = mne.io.read_raw_fif(path, preload=True, verbose="error")
        notes = raw.annotations.append(29.9, 0.0, "coffee")
        raw.set_annotations(notes)
        raw.save(path, overwrite=True, verbose="error")
    text, labels = pack(source.replace("events=1", f"events={events}"), tmp_path / "out")
    assert labels["coffee"] == 3
    assert "3 events too near an edge, in 3 recordings" in text
