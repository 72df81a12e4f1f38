"""What is called packed is what was asked for: compared by content, and what differs is named."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import mne
import numpy as np
import pytest
from files import write_edf

from data.errors import InputError
from data.pack import main
from data.packing.same_signal import equal_files
from data.shards.manifest import MANIFEST, read_manifest

NAMES = ["Fp1", "Fp2", "F3", "F4", "C3", "C4", "P3", "P4", "O1", "O2"]
TABLE = "name\ttype\tunits\tstatus\n" + "".join(f"{name}\tEEG\tuV\tgood\n" for name in NAMES)


def edf(path: Path, seed: int, seconds: int = 12, notes=None) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    counts = np.random.default_rng(seed).integers(-300, 300, (len(NAMES), seconds * 200))
    write_edf(path, range(seconds), NAMES, counts, 200, notes=notes, kind="EDF+C")
    return path


@pytest.fixture
def study(tmp_path):
    """Three people of one study."""
    for person in range(3):
        edf(tmp_path / "a/eeg" / f"S{person}.edf", person, notes={2: "go", 6: "stop"})
    return tmp_path / "a/eeg"


def pack(source, out: Path, *words) -> int:
    sources = [source] if isinstance(source, str) else source
    named = [word for one in sources for word in ("--source", one)]
    return main([*named, "--out", str(out), "--workers", "1", *words])


def refused(source, out: Path, *words) -> str:
    """The refusal's text; the folder must be as it was."""
    before = (out / MANIFEST).read_bytes() if (out / MANIFEST).exists() else None
    with pytest.raises(InputError) as caught:
        pack(source, out, *words)
    if before is not None:
        assert (out / MANIFEST).read_bytes() == before
        assert "--overwrite" in caught.value.remedy
    return str(caught.value)


def test_the_same_again_is_said_to_be_so_by_content(study, tmp_path, capsys):
    source, out = f"raw:{study}/*.edf", tmp_path / "out"
    assert pack(source, out) == 0
    assert pack(source, out) == 0
    text = capsys.readouterr().out
    assert "already packed" in text
    assert "3 recordings were made of the same 3 files" in text
    os.utime(study / "S0.edf")  # a time alone is no other content
    assert pack(source, out) == 0
    moved = tmp_path / "moved/eeg"
    shutil.copytree(study, moved)
    assert pack(f"raw:{moved}/*.edf", out) == 0
    assert "already packed" in capsys.readouterr().out
    assert str(tmp_path) not in (out / MANIFEST).read_text()


def test_another_folder_of_the_same_name_is_another(study, tmp_path):
    out = tmp_path / "out"
    pack(f"raw:{study}/*.edf", out)
    for person in range(3):
        edf(tmp_path / "b/eeg" / f"S{person}.edf", 10 + person, notes={2: "go", 6: "stop"})
    text = refused(f"raw:{tmp_path}/b/eeg/*.edf", out)
    assert "eeg_sub-S0_ses-1_run-S0: S0.edf: other content than was packed" in text
    assert "is this another folder?" in text


def test_files_that_changed_came_or_went_are_named(study, tmp_path):
    source, out = f"raw:{study}/*.edf", tmp_path / "out"
    pack(source, out)
    edf(study / "S1.edf", 77, notes={2: "go", 6: "stop"})
    edf(study / "S9.edf", 78)
    (study / "S2.edf").unlink()
    text = refused(source, out)
    assert "S9_ses-1_run-S9: new" in text
    assert "S2_ses-1_run-S2: packed, but not among" in text
    assert pack(source, out, "--overwrite") == 0
    assert {r["subject"] for r in read_manifest(out).recordings} == {"S0", "S1", "S9"}
    edf(study / "S1.edf", 77, seconds=16, notes={2: "go", 6: "stop"})
    assert "S1.edf: changed: " in refused(source, out)


@pytest.mark.parametrize(
    ("first", "second", "words"),
    [
        (",events=go", ",events=stop", "events=go there, events=stop asked"),
        (",events=a/go+go", ",events=b/go+go", "events=a/go+go there, events=b/go+go asked"),
        ("", ",subject=S(\\d)", "subject=not given there, subject=S(\\d) asked"),
        ("", ",mains_hz=50", "mains_hz=not given there, mains_hz=50 asked"),
        ("", ",split=train", "split=not given there"),
    ],
)
def test_another_option_is_named(study, tmp_path, first, second, words):
    out = tmp_path / "out"
    pack(f"raw:{study}/*.edf{first}", out, "--window_s", "2")
    assert words in refused(f"raw:{study}/*.edf{second}", out, "--window_s", "2")


@pytest.mark.parametrize("sidecar", ["channels", "labels"])
def test_a_sidecar_that_changed_is_named(study, tmp_path, sidecar):
    for person in range(3):
        table = study / f"sub-{person}_task-x_channels.tsv"
        table.write_text(TABLE)
        (study / f"S{person}.edf").rename(study / f"sub-{person}_task-x_eeg.edf")
    labels = tmp_path / "labels.tsv"
    labels.write_text("subject\tlabel\n0\told\n1\told\n2\tyoung\n")
    source, out = f"raw:{study}/*.edf,labels={labels}", tmp_path / "out"
    pack(source, out)
    if sidecar == "channels":
        path = study / "sub-1_task-x_channels.tsv"
        path.write_text(path.read_text().replace("Fp2\tEEG\tuV\tgood", "Fp2\tEEG\tuV\tbad"))
        words = "sub-1_ses-1_run-sub-1_task-x_eeg: sub-1_task-x_channels.tsv: changed"
    else:
        labels.write_text(labels.read_text().replace("1\told", "1\tmid"))
        words = "sub-1_ses-1_run-sub-1_task-x_eeg: labels.tsv: other content"
    assert words in refused(source, out)


def test_a_montage_file_belongs_to_what_is_packed(study, tmp_path):
    def write(places_m: float) -> Path:
        ten = mne.channels.make_standard_montage("standard_1020").get_positions()["ch_pos"]
        rows = [f"{n} : {' '.join(f'{1000 * (v + places_m):.2f}' for v in ten[n])}" for n in NAMES]
        path = tmp_path / "cap.elc"
        path.write_text(
            "# ASA electrode file\nReferenceLabel avg\nUnitPosition mm\n"
            f"NumberPositions= {len(NAMES)}\nPositions\n"
            + "\n".join(rows)
            + "\nLabels\n"
            + "\n".join(NAMES)
            + "\n"
        )
        return path

    source, out = f"raw:{study}/*.edf,montage={write(0.0)}", tmp_path / "out"
    pack(source, out)
    write(0.003)
    assert "cap.elc" in refused(source, out)


def test_a_folder_of_an_earlier_version_cannot_be_shown_to_be_the_same(study, tmp_path):
    source, out = f"raw:{study}/*.edf", tmp_path / "out"
    pack(source, out)
    manifest = json.loads((out / MANIFEST).read_text())
    del manifest["source"]["items"]
    (out / MANIFEST).write_text(json.dumps(manifest))
    text = refused(source, out)
    assert "cannot be shown" in text
    assert "--shards" in text


def test_sources_that_are_gone_are_no_proof(study, tmp_path):
    source, out = f"raw:{study}/*.edf", tmp_path / "out"
    pack(source, out)
    shutil.rmtree(study)
    with pytest.raises(InputError, match="its sources cannot be compared with it") as caught:
        pack(source, out)
    assert "give it as --shards" in caught.value.remedy


def test_a_repaired_recording_is_tried_again(study, tmp_path, capsys):
    """Of a finished pack when it is made anew, and of one that was interrupted at once."""
    source, out = f"raw:{study}/*.edf", tmp_path / "out"
    whole = (study / "S1.edf").read_bytes()
    (study / "S1.edf").write_bytes(whole[:-5000])
    pack(source, out, "--skip_bad")
    assert "left out as unreadable (1)" in capsys.readouterr().out
    assert pack(source, out, "--skip_bad") == 0  # nothing has changed
    (study / "S1.edf").write_bytes(whole)
    text = refused(source, out, "--skip_bad")
    assert "S1.edf: changed" in text
    assert "left out as unreadable; packing anew tries it again" in text
    assert pack(source, out, "--skip_bad", "--overwrite") == 0
    assert len(read_manifest(out).recordings) == 3


def test_an_interrupted_pack_makes_again_what_changed_and_says_so(study, tmp_path, capsys):
    source, out = f"raw:{study}/*.edf", tmp_path / "out"
    whole = (study / "S1.edf").read_bytes()
    (study / "S1.edf").write_bytes(whole[:-5000])
    assert pack(source, out, "--skip_bad", "--part", "1/1") == 0  # all but the shards
    (study / "S1.edf").write_bytes(whole)
    edf(study / "S2.edf", 99)
    edf(study / "S3.edf", 100)
    (study / "S0.edf").rename(study / "S4.edf")
    capsys.readouterr()
    assert pack(source, out, "--skip_bad") == 0
    text = capsys.readouterr().out
    for words in (
        "changed since this pack was begun",
        "run-S3: new",
        "run-S0: gone",
        "run-S1: it was left out as unreadable, and since then S1.edf has changed",
        "run-S2: since then S2.edf has changed",
    ):
        assert words in text
    fresh = tmp_path / "fresh"
    pack(source, fresh)
    assert {s.sha256 for s in read_manifest(out).shards} == {
        s.sha256 for s in read_manifest(fresh).shards
    }


def test_parts_of_other_files_do_not_go_together(study, tmp_path):
    table = study / "sub-1_task-x_channels.tsv"
    table.write_text(TABLE)
    (study / "S1.edf").rename(study / "sub-1_task-x_eeg.edf")
    source, out = f"raw:{study}/*.edf,subject=(\\d)", tmp_path / "out"
    for number in (1, 2):
        pack(source, out, "--part", f"{number}/2")
    table.write_text(table.read_text().replace("Fp2\tEEG\tuV\tgood", "Fp2\tEEG\tuV\tbad"))
    text = refused(source, out, "--merge")
    assert "since then sub-1_task-x_channels.tsv has changed" in text
    assert "run part 1 of 2 again" in text
    pack(source, out, "--part", "1/2")
    edf(study / "S3.edf", 5)
    text = refused(source, out, "--part", "2/2")
    assert "not those that the parts were begun with" in text
    assert "S3: new" in text
    assert "not those that the parts" in refused(source, out, "--merge")
    assert pack(source, out) == 0
    assert len(read_manifest(out).recordings) == 4


def test_a_pack_begun_from_another_folder_is_refused(study, tmp_path):
    out, other = tmp_path / "out", tmp_path / "b/eeg"
    shutil.copytree(study, other)
    pack(f"raw:{study}/*.edf", out, "--part", "1/2")
    text = refused(f"raw:{other}/*.edf", out, "--part", "2/2")
    assert f"raw:{study}/*.edf" in text
    assert f"raw:{other}/*.edf" in text


# ---- one person, several names ----


def test_equal_signals_of_two_people_are_refused_with_both_names(study, tmp_path):
    copy = tmp_path / "b/eeg/X7.edf"
    copy.parent.mkdir(parents=True)
    shutil.copy(study / "S1.edf", copy)
    sources = [f"raw:{study}/*.edf,dataset=A", f"raw:{copy},dataset=B"]
    for words in ([], ["--list"]):
        text = refused(sources, tmp_path / "out", *words)
        assert f"{study}/S1.edf (A subject S1)" in text
        assert f"{copy} (B subject X7)" in text
    assert not (tmp_path / "out").exists()
    shutil.copy(study / "S1.edf", study / "S5.edf")
    assert "S5.edf" in refused(f"raw:{study}/*.edf", tmp_path / "out")


def test_the_same_file_under_two_names_is_refused(study, tmp_path):
    sources = [f"raw:{study}/*.edf,dataset=A", f"raw:{study}/S0.edf,dataset=B"]
    text = refused(sources, tmp_path / "out")
    assert f"{study}/S0.edf: is A subject S0 and B subject S0" in text


def test_equal_signals_of_one_person_are_said_and_packed(study, tmp_path, capsys):
    shutil.copy(study / "S1.edf", study / "S5.edf")
    assert pack(f"raw:{study}/*.edf,subject=one", tmp_path / "out") == 0
    assert "S1.edf and S5.edf of one person hold the same bytes" in capsys.readouterr().out


def test_people_of_a_recipe_may_be_told_to_be_the_same(study, tmp_path):
    copy = tmp_path / "b/eeg/S1.edf"
    copy.parent.mkdir(parents=True)
    shutil.copy(study / "S1.edf", copy)
    recipe = tmp_path / "recipe.yaml"
    text = f"sources: ['raw:{study}/*.edf,dataset=A', 'raw:{copy},dataset=B']\n"
    recipe.write_text(text)
    with pytest.raises(InputError, match="one recording under two persons' names"):
        main(["--recipe", str(recipe), "--out", str(tmp_path / "out"), "--workers", "1"])
    for more in ("same_people: [[A, B]]\n", 'exclude: ["A,subjects=S1"]\n'):
        recipe.write_text(text + more)
        assert main(["--recipe", str(recipe), "--out", str(tmp_path / "out"), "--list"]) == 0
    recipe.write_text(text + 'reserve: ["A,subjects=S1"]\n')  # would train on whom it reserves
    with pytest.raises(InputError, match="one recording under two persons' names"):
        main(["--recipe", str(recipe), "--out", str(tmp_path / "out"), "--list"])


def test_equal_files_are_found_also_where_only_the_middle_differs(tmp_path):
    rng = np.random.default_rng(0)
    content = bytearray(rng.bytes(1 << 20))
    paths = [tmp_path / name for name in "abcd"]
    for path in paths[:2]:
        path.write_bytes(content)
    content[300_000] ^= 1  # outside the blocks that are looked at first
    paths[2].write_bytes(content)
    paths[3].write_bytes(content[:-1])
    [group] = equal_files(paths)
    assert sorted(group) == paths[:2]
    empty = [tmp_path / "e", tmp_path / "f"]
    for path in empty:
        path.touch()
    assert equal_files(empty) == []
