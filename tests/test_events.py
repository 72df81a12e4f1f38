"""Events of a recording: where they are looked for, which are counted, and what is said of both."""

from __future__ import annotations

import sys
import warnings
from pathlib import Path

import edfio
import mne
import numpy as np
import pytest
from commands import ROOT, run
from loading import items_of

from data.errors import InputError
from data.shards.manifest import read_manifest
from data.signals.eeg import make_windows
from data.signals.profiles import get_profile
from data.sources.events.moments import EventChoice
from data.sources.spec import parse_spec

NAMES = ["Fp1", "Fp2", "F3", "F4", "C3", "C4", "P3", "P4", "O1", "O2"]
SFREQ = 200
PACK = (sys.executable, ROOT / "data/pack.py", "--workers", "1")


def write_fif(path: Path, codes=(), notes=(), seconds=40, more=(), seed=0) -> None:
    """`codes` (second, code, seconds held) of STI 014, `more` channels of the same; `notes`
    (second, text)."""
    channels = [("STI 014", codes), *more] if codes else list(more)
    rng = np.random.default_rng(seed)
    data = 1e-5 * rng.standard_normal((len(NAMES) + len(channels), seconds * SFREQ))
    for row, (_, entries) in enumerate(channels, start=len(NAMES)):
        data[row] = 0
        for at, code, held in entries:
            data[row, round(at * SFREQ) : round((at + held) * SFREQ)] = code
    kinds = ["eeg"] * len(NAMES) + ["stim"] * len(channels)
    info = mne.create_info([*NAMES, *(name for name, _ in channels)], float(SFREQ), kinds)
    raw = mne.io.RawArray(data, info, verbose="error")
    if notes:
        raw.set_annotations(mne.Annotations(*zip(*((at, 0.0, n) for at, n in notes), strict=True)))
    raw.save(path, verbose="error")


def events_of(source: str) -> tuple[list, str]:
    """(onset, label) of the only recording's events, and what was warned of."""
    [item] = items_of(source)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        [recording] = item.load()
    said = " | ".join(str(entry.message) for entry in caught)
    return [(round(event.onset_s, 4), event.label) for event in recording.events], said


def test_codes_held_until_the_next_are_all_events(tmp_path):
    write_fif(tmp_path / "x_raw.fif", [(2 * n, (5, 3, 4, 3)[n % 4], 2) for n in range(2, 18)])
    source = f"raw:{tmp_path}/x_raw.fif,events=3+4+5"
    found, said = events_of(source)
    assert found == [(2.0 * n, "5343"[n % 4]) for n in range(2, 18)]
    assert not said
    rising, _ = events_of(f"{source},edges=rise")
    assert [label for _, label in rising] == ["4", "5"] * 4


def test_a_code_that_may_be_the_rest_of_another_is_told(tmp_path):
    write_fif(tmp_path / "x_raw.fif", [(5, 3, 1), (6, 1, 1), (9, 1, 1), (12, 3, 1), (13, 1, 1)])
    source = f"raw:{tmp_path}/x_raw.fif,events=1"
    found, said = events_of(source)
    assert [onset for onset, _ in found] == [6.0, 9.0, 13.0]
    assert "ends: 1 (2)" in said
    assert "edges=rise" in said
    assert events_of(f"{source},edges=rise") == ([(9.0, "1")], "")


def test_short_steps_and_a_code_before_the_start_are_told(tmp_path):
    one = 1 / SFREQ
    codes = [(0, 8, 1), (5, 1, one), (5 + one, 9, 1), (9, 1, 1), (15, 8, 1), (20, 1, one)]
    write_fif(tmp_path / "x_raw.fif", codes)
    found, said = events_of(f"raw:{tmp_path}/x_raw.fif,events=1+8")
    assert found == [(9.0, "1"), (15.0, "8"), (20.0, "1")]
    assert "stood for one sample between two others" in said
    assert "1 (1)" in said
    assert "stood at code 8 when the recording began" in said


def test_comments_do_not_hide_triggers(tmp_path):
    write_fif(tmp_path / "x_raw.fif", [(5, 7, 1), (9, 7, 1)], [(3, "subject moved"), (4, "coffee")])
    source = f"raw:{tmp_path}/x_raw.fif"
    found, said = events_of(f"{source},events=7")
    assert found == [(5.0, "7"), (9.0, "7")]
    assert "events were taken from STI 014" in said
    found, said = events_of(f"{source},events=7+coffee")
    assert found == [(4.0, "coffee"), (5.0, "7"), (9.0, "7")]
    assert "events were taken from STI 014 and annotations" in said
    with pytest.raises(InputError, match=r"'6'; present: 'coffee' .*; in STI 014 '7' \(2\)"):
        events_of(f"{source},events=6")
    with pytest.raises(InputError, match=r"present: 'coffee' \(1\), 'subject moved' \(1\)\n"):
        events_of(f"{source},events=7,events_from=annotations")


def test_a_name_in_two_places_is_not_guessed_at(tmp_path):
    codes = [(5, 7, 1), (9, 7, 1)]
    more = [("LEFT", codes), ("RIGHT", [(6, 7, 1)])]
    write_fif(tmp_path / "z_raw.fif", notes=[(3, "7")], more=more)
    with pytest.raises(
        InputError, match=r"at different times \(annotations: 1, LEFT: 2, RIGHT: 1\)"
    ) as no:
        events_of(f"raw:{tmp_path}/z_raw.fif,events=7")
    assert "events_from=annotations or events_from=LEFT or events_from=RIGHT" in no.value.remedy
    write_fif(tmp_path / "x_raw.fif", codes, [(3, "7")], more=[("STI 001", [(6, 7, 1)])])
    source = f"raw:{tmp_path}/x_raw.fif,events=7"
    assert events_of(f"{source},events_from=annotations")[0] == [(3.0, "7")]
    assert events_of(f"{source},events_from=sti014")[0] == [(5.0, "7"), (9.0, "7")]
    assert events_of(f"{source},events_from=STI 001")[0] == [(6.0, "7")]
    with pytest.raises(InputError, match=r"events_from=STI 009: no such channel .*'STI 014'"):
        events_of(f"{source},events_from=STI 009")
    # Annotations that somebody made of the codes are the same events.
    write_fif(tmp_path / "y_raw.fif", codes, [(5.0, "7"), (9.0, "7")])
    assert events_of(f"raw:{tmp_path}/y_raw.fif,events=7")[0] == [(5.0, "7"), (9.0, "7")]


def test_triggers_go_before_annotations_that_disagree_and_it_is_said(tmp_path):
    write_fif(tmp_path / "x_raw.fif", [(5, 7, 1), (9, 7, 1)], [(3, "7")])
    found, said = events_of(f"raw:{tmp_path}/x_raw.fif,events=7")
    assert found == [(5.0, "7"), (9.0, "7")]
    assert "disagree (annotations: 1, STI 014: 2): the triggers were used" in said


def test_every_stimulus_channel_is_looked_at(tmp_path):
    more = [("LEFT", [(5, 1, 1)]), ("RIGHT", [(7, 2, 1)])]
    write_fif(tmp_path / "x_raw.fif", more=more)
    found, said = events_of(f"raw:{tmp_path}/x_raw.fif,events=1+2")
    assert found == [(5.0, "1"), (7.0, "2")]
    assert "taken from LEFT and RIGHT" in said


def test_a_name_that_is_not_there_is_told(tmp_path):
    write_fif(tmp_path / "x_raw.fif", notes=[(5, "left"), (9, "left"), (12, "right")])
    found, said = events_of(f"raw:{tmp_path}/x_raw.fif,events=left+rihgt")
    assert found == [(5.0, "left"), (9.0, "left")]
    assert "no event is called 'rihgt'" in said


@pytest.mark.parametrize("wrong", ["edges=up,events=1", "edges=rise", "events_from=annotations"])
def test_options_that_do_not_fit_are_refused(wrong):
    with pytest.raises(InputError, match="edges"):
        EventChoice.of(parse_spec(f"raw:/x/*.edf,{wrong}"))


def edf(path: Path, seed: int) -> None:
    rng = np.random.default_rng(seed)
    signals = [
        edfio.EdfSignal(20 * rng.standard_normal(20 * SFREQ), SFREQ, label=name) for name in NAMES
    ]
    for signal in signals:
        signal.physical_dimension = "uV"
    notes = [edfio.EdfAnnotation(at, 0, "x") for at in (5, 93)]
    edfio.Edf(signals, annotations=notes).write(path)


def fif(path: Path, seed: int) -> None:
    write_fif(path, notes=[(5, "x")], seconds=20, seed=seed)


@pytest.mark.parametrize(("write", "suffix"), [(fif, "_raw.fif"), (edf, ".edf")])
def test_events_outside_of_the_signal_are_counted_and_printed(tmp_path, write, suffix):
    for person in "123":
        folder = tmp_path / f"in/sub-{person}/eeg"
        folder.mkdir(parents=True)
        write(folder / f"sub-{person}_task-a{suffix}", int(person))
        table = [(-2.0, "x"), (5.0, "x"), (0.1, "x"), (19.9, "x"), (20.0, "x"), (500.0, "x")]
        rows = "".join(f"{at}\t0\t{name}\n" for at, name in [*table, ("n/a", "x")])
        (folder / f"sub-{person}_task-a_events.tsv").write_text(
            "onset\tduration\ttrial_type\n" + rows
        )
    if write is edf:
        out = tmp_path / "raw"
        output = run(*PACK, "--source", f"raw:{tmp_path}/in/*/eeg/*.edf,events=x", "--out", out)
        record = read_manifest(out).recordings[0]
        assert record["windows"] == 1
        assert record["dropped"] == {"event outside the recording": 1}
        assert "3 events outside the recording" in output
    for file in tmp_path.rglob(f"*{suffix}"):
        file.rename(file.with_name(file.name.replace(suffix, f"_eeg{suffix[-4:]}")))
    out = tmp_path / "bids"
    output = run(*PACK, "--source", f"bids:{tmp_path}/in,events=x", "--out", out)
    for record in read_manifest(out).recordings:
        assert record["windows"] == 1
        assert record["dropped"] == {"event outside the recording": 3, "event too near an edge": 2}
    assert "9 events outside the recording" in output
    assert "without an onset or a name, left out: 1" in output


def test_events_in_a_stretch_that_is_too_short_are_told_apart(tmp_path):
    write_fif(tmp_path / "x_raw.fif", notes=[(5, "x"), (20.2, "x"), (29.9, "x"), (35, "x")])
    raw = mne.io.read_raw_fif(tmp_path / "x_raw.fif", preload=True, verbose="error")
    edges = mne.Annotations([20.0, 20.5, 30.0], [0.0] * 3, ["EDGE boundary"] * 3)
    raw.set_annotations(raw.annotations + edges)
    raw.save(tmp_path / "x_raw.fif", overwrite=True, verbose="error")
    [item] = items_of(f"raw:{tmp_path}/x_raw.fif,events=x")
    [recording] = item.load()
    windows = make_windows(recording, get_profile("default"))
    assert [meta["onset_s"] for meta in windows.meta] == [4.8, 34.8]
    assert windows.info["dropped"] == {
        "event in a stretch shorter than a window": 1,
        "event too near an edge": 1,
    }
