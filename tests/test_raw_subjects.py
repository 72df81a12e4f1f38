"""Whose recording a `raw:` file is: told by its name, or asked for, never guessed."""

from __future__ import annotations

from pathlib import Path

import pytest
from loading import items_of

from data.errors import InputError
from data.packing.listing import list_all
from data.signals.profiles import get_profile
from data.sources.spec import parse_spec


def touched(folder: Path, *names: str) -> Path:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()
    return folder


def people(source: str) -> list[str]:
    return [item.subject for item in items_of(source)]


@pytest.mark.parametrize(
    ("names", "subjects"),
    [
        (["only.edf"], ["only"]),
        (["S0.edf", "S1.edf"], ["S0", "S1"]),
        (["sub-01_rest.edf", "sub-02_rest.edf"], ["01", "02"]),
        (["sub-01/a.edf", "sub-02/a.edf"], ["01", "02"]),
        (["day1/P01.edf", "day2/P01.edf"], ["P01", "P01"]),
        (["rest.edf", "rest-2.edf", "task_03.edf"], ["one"] * 3),
    ],
)
def test_names_that_tell(tmp_path, names, subjects):
    touched(tmp_path / "study", *names)
    assert people(f"raw:{tmp_path}/study/**/*.edf") == subjects


@pytest.mark.parametrize(
    ("names", "example"),
    [
        (["anna_rest.edf", "anna_task.edf", "ben_rest.edf"], "anna (2 files), ben (1 file)"),
        (["S001R01.edf", "S001R02.edf", "S002R01.edf"], "S001 (2 files), S002 (1 file)"),
        (["anna/1.edf", "anna/2.edf", "ben/1.edf"], "anna (2 files), ben (1 file)"),
        (["sub-1_rest.edf", "other.edf"], "subject=one"),
        (["a.edf", "b.edf"], "subject=file"),
    ],
)
def test_names_that_do_not_tell_stop_with_a_pattern_that_fits_them(tmp_path, names, example):
    touched(tmp_path / "study", *names)
    source = f"raw:{tmp_path}/study/**/*.edf"
    with pytest.raises(InputError, match="nothing tells whose recordings these are") as caught:
        items_of(source)
    assert example in caught.value.remedy
    assert people(f"{source},subject=one") == ["one"] * len(names)
    assert len(set(people(f"{source},subject=file"))) == len(names)


def test_the_pattern_that_is_shown_does_what_is_said_of_it(tmp_path):
    touched(tmp_path / "study", "anna_rest.edf", "anna_task.edf", "ben_rest.edf")
    with pytest.raises(InputError) as caught:
        items_of(f"raw:{tmp_path}/study/*.edf")
    pattern = caught.value.remedy.split("'")[1]
    assert people(f"raw:{tmp_path}/study/*.edf,{pattern}") == ["anna", "anna", "ben"]


def test_a_folder_above_all_files_is_nobody(tmp_path):
    touched(tmp_path / "P300_study", "P00_rest.edf", "P01_rest.edf")
    assert people(f"raw:{tmp_path}/P300_study/*.edf,subject=(P\\d+)") == ["P00", "P01"]
    touched(tmp_path / "sub-group" / "data", "P1_x.edf", "P2_x.edf")
    with pytest.raises(InputError, match="nothing tells whose"):
        items_of(f"raw:{tmp_path}/sub-group/data/*.edf")


def test_one_person_for_many_files_stops_unless_it_is_said(tmp_path):
    touched(tmp_path / "P300_study", "anna.edf", "ben.edf")
    source = f"raw:{tmp_path}/P300_study/*.edf"
    with pytest.raises(InputError, match=r"all 'P300', found in a folder above them all") as caught:
        items_of(f"{source},subject=(P\\d+)")
    assert "subject=one" in caught.value.remedy
    assert people(f"{source},subject=P300") == ["P300", "P300"]
    touched(tmp_path / "runs", "S01_1.edf", "S01_2.edf")
    with pytest.raises(InputError, match="makes every file one person"):
        items_of(f"raw:{tmp_path}/runs/*.edf,subject=(S\\d+)")


def test_all_of_one_bids_subject_are_said_to_be_one_person(tmp_path, capsys):
    touched(tmp_path / "ds/sub-07/eeg", "sub-07_task-a_eeg.edf", "sub-07_task-b_eeg.edf")
    assert people(f"raw:{tmp_path}/ds/sub-07/eeg/*.edf") == ["07", "07"]
    assert "every file (2) is one person, 07" in capsys.readouterr().out
    touched(tmp_path / "ds/sub-08/eeg", "a.edf", "b.edf")
    assert people(f"raw:{tmp_path}/ds/sub-08/eeg/*.edf") == ["08", "08"]


def test_two_spellings_of_a_name_are_asked_about(tmp_path):
    touched(tmp_path / "study", "sub-1_a.edf", "sub-01_b.edf")
    spec = parse_spec(f"raw:{tmp_path}/study/*.edf")
    with pytest.raises(InputError, match="are subjects 01 and 1 one person"):
        list_all([spec], get_profile("default"), default=False)
