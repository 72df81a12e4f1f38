"""What readers warn of reaches the manifest and the printed summary, once, without folders."""

from __future__ import annotations

import sys
import warnings

import mne
import numpy as np
from commands import ROOT, run

from data.shards.manifest import read_manifest
from data.shards.remarks import grouped, kept_warnings, remarks_of


def test_warnings_are_kept_once_without_folders_and_not_printed(recwarn):
    kept: list[str] = ["said before"]
    with kept_warnings(kept):
        for _ in range(3):
            warnings.warn("/data/people/x.edf has\n no unit", RuntimeWarning, stacklevel=1)
        warnings.warn("use another function", DeprecationWarning, stacklevel=1)
    assert kept == ["said before", "x.edf has no unit"]
    assert not recwarn.list


def test_what_was_warned_of_before_a_failure_is_kept():
    kept: list[str] = []
    try:
        with kept_warnings(kept):
            warnings.warn("odd", stacklevel=1)
            raise ValueError
    except ValueError:
        pass
    assert kept == ["odd"]


def test_remarks_that_differ_in_numbers_are_one_line():
    entries = [
        {"id": f"d_sub-{n}", "notes": {"amplitude": f"{n}e-05 uV"}, "remarks": ["blank unit"]}
        for n in (1, 2, 3)
    ]
    entries.append({"id": "d_sub-4", "notes": {"world": {"a": 1}}, "remarks": ["gap at 3 s"]})
    entries.append({"id": "older"})
    assert remarks_of(entries[0]) == ["amplitude: 1e-05 uV", "blank unit"]
    assert grouped(entries) == [
        "3 recordings: amplitude: 1e-05 uV (e.g. d_sub-1)",
        "3 recordings: blank unit (e.g. d_sub-1)",
        "d_sub-4: gap at 3 s",
    ]


def test_mnes_warnings_are_in_manifest_and_summary(tmp_path):
    """A FIF file of a name that MNE does not know as one of its own."""
    names = ["Fp1", "Fp2", "F3", "F4", "C3", "C4"]
    for person in "123":
        data = 1e-5 * np.random.default_rng(int(person)).standard_normal((6, 4000))
        raw = mne.io.RawArray(data, mne.create_info(names, 200.0, "eeg"), verbose="error")
        raw.save(tmp_path / f"sub-{person}_odd.fif", verbose="error")
    source = f"raw:{tmp_path}/*.fif"
    pack = (sys.executable, ROOT / "data/pack.py", "--source", source, "--workers", "2")
    output = run(*pack, "--out", tmp_path / "out")
    for record in read_manifest(tmp_path / "out").recordings:
        [remark] = record["remarks"]
        assert "does not conform to MNE naming conventions" in remark
        assert str(tmp_path) not in remark
    assert output.count("does not conform to MNE naming conventions") == 1
    assert "3 recordings: This filename" in output
    assert "RuntimeWarning" not in output
