"""Lists of the data sets that public benchmarks test on: their files, recipes and commands."""

from __future__ import annotations

import datetime
import json
import re
from dataclasses import dataclass

import pytest
import yaml
from moabb_sets import LEFT_OUT
from tiny import tiny_shards

from data.errors import InputError
from data.pack import main as pack_main
from data.packing.options import parse_arguments, resolve
from data.packing.recipe import ORIGINAL, Recipe, read_recipe, withhold
from data.remaining import people_in, remaining
from data.shards.manifest import MANIFEST, read_manifest
from data.subjects.benchmarks import (
    FOLDER,
    NAMES,
    benchmark_names,
    names_of,
    read_benchmark,
    spellings,
)
from data.subjects.people import plain_dataset
from data.subjects.reserved import Reservation, find_reservation, refuse_reserved
from data.subjects.split import Wish

LISTS = ["cbramod", "eeg_challenge", "labram", "moabb", "neuralbench", "open_eeg_bench"]


@dataclass(frozen=True)
class Item:
    dataset: str
    subject: str


def listed(*named, split="auto"):
    items = [Item(dataset, str(subject)) for dataset, subject in named]
    return items, [Wish(0, item.dataset, item.subject, split) for item in items]


# ---- the files ----


@pytest.mark.parametrize("name", LISTS)
def test_a_list_says_where_it_comes_from_and_when_it_was_read(name):
    found = read_benchmark(name)
    assert found.title
    assert found.source
    assert found.url.startswith("https://")
    assert 2020 <= found.year <= datetime.date.today().year
    assert datetime.date(2026, 1, 1) <= datetime.date.fromisoformat(found.read)
    assert not found.arxiv or re.fullmatch(r"\d{4}\.\d{5}", found.arxiv)
    names = [plain_dataset(entry.dataset) for entry in found.sets]
    assert len(set(names)) == len(names) > 0
    comment = (FOLDER / f"{name}.yaml").read_text().split("title:")[0]
    assert all(line.startswith("#") for line in comment.strip().splitlines())


def test_the_lists_are_those_that_the_documentation_names():
    assert benchmark_names() == LISTS
    counts = {name: len(read_benchmark(name).sets) for name in LISTS}
    assert {"open_eeg_bench": 12, "cbramod": 13, "moabb": 36}.items() <= counts.items()
    page = (FOLDER.parents[1] / "docs/reserve.md").read_text()
    assert all(f"`{name}`" in page for name in LISTS)


def test_what_could_not_be_confirmed_is_marked():
    marked = {e.dataset for name in LISTS for e in read_benchmark(name).sets if e.unconfirmed}
    assert marked == {"SEED-V", "MoBI", "ds005509", "HBN_test"}


def test_no_name_belongs_to_two_data_sets():
    table = yaml.safe_load((FOLDER / f"{NAMES}.yaml").read_text())
    owners: dict[str, str] = {}
    for dataset, others in table.items():
        for name in (dataset, *others):
            assert owners.setdefault(plain_dataset(name), dataset) == dataset
    known = {entry.dataset for name in LISTS for entry in read_benchmark(name).sets}
    assert set(table) <= known


@pytest.mark.slow
def test_names_that_look_like_moabbs_are_moabbs():
    from data.subjects.moabb_names import class_names

    theirs = {plain_dataset(name): name for name in class_names()}
    for name in ("moabb", "neuralbench"):
        for entry in read_benchmark(name).sets:
            assert theirs.get(plain_dataset(entry.dataset), entry.dataset) == entry.dataset
    assert all(plain_dataset(entry.dataset) in theirs for entry in read_benchmark("moabb").sets)
    count = sum(plain_dataset(e.dataset) in theirs for e in read_benchmark("neuralbench").sets)
    assert count == 72


@pytest.mark.parametrize(
    ("packed", "listed"),
    [
        ("eegmmidb", "PhysionetMI"),
        ("eegmmidb-1.0.0", "PhysionetMI"),
        ("eeg-motor-movementimagery-dataset-1.0.0", "PhysionetMI"),
        ("BNCI2014-001", "BNCI2014_001"),
        ("BCICIV_2a", "BNCI2014_001"),
        ("bcic2a", "BNCI2014_001"),
        ("chb-mit-scalp-eeg-database-1.0.0", "CHB-MIT"),
        ("ds003825", "THINGS-EEG"),
        ("MunichMI", "GrosseWentrup2009"),
        ("eeg-during-mental-arithmetic-tasks-1.0.0", "EEGMAT"),
    ],
)
def test_a_data_set_is_found_by_the_names_that_it_goes_by(packed, listed):
    assert spellings(packed) & names_of(listed)
    assert not spellings("MyStudy-1.0.0") & names_of(listed)


# ---- who is reserved ----


@pytest.mark.parametrize(
    ("lines", "dataset", "subject", "held"),
    [
        (["neuralbench"], "Stieger2021", "3", True),
        (["neuralbench"], "Dreyer2023A", "3", True),
        (["neuralbench"], "Jeong2020", "3", False),
        (["cbramod"], "PhysionetMI", "3", True),
        (["cbramod"], "Stieger2021", "3", False),
        (["cbramod", "neuralbench"], "Stieger2021", "3", True),
        (["moabb"], "Lee2019_SSVEP", "3", True),
        (["moabb"], "Beetl2021_B", "1", True),
        (["labram"], "tuh_eeg", "aaaaaaaa", True),
        (["eeg_challenge"], "ds005509", "NDARAA306NT2", True),
        (["eeg_challenge"], "ds005510", "NDARAA306NT2", False),
        (["open_eeg_bench", "Mine,subjects=2"], "Mine", "2", True),
        (["open_eeg_bench", "Mine,subjects=2"], "Mine", "3", False),
        (["PhysionetMI,subjects=90-109"], "eegmmidb", "95", True),
        (["PhysionetMI,subjects=90-109"], "eegmmidb", "5", False),
    ],
)
def test_a_list_stands_for_its_data_sets(lines, dataset, subject, held):
    assert Reservation.of(lines).holds(dataset, subject) is held


def test_lists_are_used_together_and_what_they_leave_out_is_told():
    items, wishes = listed(("PhysionetMI", 1), ("PhysionetMI", 2), ("Stieger2021", 1), ("Own", 1))
    recipe = Recipe((), reserve=("neuralbench", "cbramod"))
    kept, _, notes = withhold(items, wishes, recipe)
    assert kept == [Item("Own", "1")]
    assert notes == [
        "reserve: 3 items left out: PhysionetMI (2 items; neuralbench, cbramod), "
        "Stieger2021 (1 item; neuralbench)"
    ]


def test_reserved_data_sets_are_packed_for_testing_alone():
    recipe = Recipe((), reserve=("moabb",))
    assert len(withhold(*listed(("Cho2017", 1), split="test"), recipe)[0]) == 1
    for split in ("train", "val"):
        with pytest.raises(InputError, match=f"split={split}"):
            withhold(*listed(("Cho2017", 1), split=split), recipe)


@pytest.mark.parametrize(("wrong", "right"), [("neuralbnch", "neuralbench"), ("cbramd", "cbramod")])
def test_a_misspelled_list_is_refused(tmp_path, wrong, right):
    with pytest.raises(InputError, match=f"Did you mean {right}"):
        withhold(*listed(("Own", 1)), Recipe((), reserve=(wrong,)))
    with pytest.raises(InputError, match=f"Did you mean {right}"):
        find_reservation(f"moabb,{wrong}")
    path = tmp_path / "own.yaml"
    path.write_text(f"reserve: [{wrong}]\n")
    with pytest.raises(InputError, match=f"Did you mean {right}"):
        find_reservation(str(path))
    with pytest.raises(InputError, match="no such list") as caught:
        find_reservation("everything")
    assert "The lists are cbramod, eeg_challenge" in caught.value.remedy


def test_a_list_is_called_as_its_benchmark_spells_it():
    for text in ("NeuralBench", "CBraMod", "MOABB", "open-eeg-bench", " labram "):
        assert len(Reservation.of([text]).entries) > 3
    assert Reservation.of(["TUAB"]).entries[0].benchmark == ""


def test_a_folder_packed_with_a_list_that_is_not_here_is_refused(tmp_path):
    folder = tiny_shards(tmp_path / "shards")
    manifest = json.loads((folder / MANIFEST).read_text())
    manifest["source"] |= {"reserve": ["futurebench"], "reserve_lists": {"futurebench": {}}}
    (folder / MANIFEST).write_text(json.dumps(manifest))
    with pytest.raises(InputError, match="futurebench: no such list"):
        refuse_reserved(read_manifest(folder))


def test_a_trainer_refuses_what_a_list_reserves(tmp_path):
    folder = tiny_shards(tmp_path / "shards", datasets={"eegmmidb": ("biosemi16", 12)})
    manifest = read_manifest(folder)
    refuse_reserved(manifest, find_reservation("labram"))
    with pytest.raises(InputError, match=r"reserved for evaluation \(by cbramod, neuralbench\)"):
        refuse_reserved(manifest, find_reservation("cbramod,neuralbench"))


def test_a_trainers_flag_takes_lists_or_a_file(tmp_path):
    assert find_reservation("moabb, cbramod").holds("FACED", "1")
    path = tmp_path / "own.yaml"
    path.write_text("reserve: [Mine, labram]\n")
    reservation = find_reservation(str(path))
    assert all(reservation.holds(dataset, "1") for dataset in ("Mine", "TUAB"))
    with pytest.raises(InputError, match="cannot be read"):
        find_reservation(str(tmp_path / "absent.yaml"))


@pytest.mark.parametrize(
    ("more", "words"),
    [
        ("same_poeple: [[A, B]]", "'same_poeple'\n  -> Did you mean same_people"),
        ("exclued: [A]", "Did you mean exclude"),
        ("same_people: [A, B]", "list of lists"),
    ],
)
def test_a_misspelled_key_beside_reserve_is_refused(tmp_path, more, words):
    file = tmp_path / "r.yaml"
    file.write_text(f"reserve: [AlexMI]\n{more}\n")
    with pytest.raises(InputError, match=words):
        find_reservation(str(file))


def test_the_packers_flag_adds_to_the_recipe(tmp_path):
    path = tmp_path / "own.yaml"
    path.write_text("sources: [simulated]\nreserve: [Mine, moabb]\n")
    recipe = resolve(
        parse_arguments(["--recipe", str(path), "--reserve", "cbramod", "--reserve", "moabb"])
    )
    assert recipe.reserve == ("Mine", "moabb", "cbramod")
    lists = recipe.selection()["reserve_lists"]
    assert set(lists) == {"moabb", "cbramod"}
    assert lists["moabb"]["sha256"] == read_benchmark("moabb").sha256


@pytest.mark.slow
def test_the_packer_prints_what_a_list_keeps_out(tmp_path, capsys, raw_files):
    source = f"raw:{raw_files}/*.fif,dataset=eegmmidb,subject=(p\\d+)"
    with pytest.raises(InputError, match="nothing is left to pack"):
        pack_main(["--source", source, "--out", str(tmp_path / "a"), "--reserve", "cbramod"])
    arguments = ["--source", source, "--source", "simulated:1020-19,subjects=2,minutes=0.2"]
    arguments += ["--out", str(tmp_path / "b"), "--reserve", "cbramod", "--workers", "1"]
    assert pack_main(arguments) == 0
    assert "reserve: 3 items left out: eegmmidb (3 items; cbramod)" in capsys.readouterr().out


@pytest.fixture
def raw_files(tmp_path):
    import mne
    import numpy as np

    rng = np.random.default_rng(0)
    info = mne.create_info(["Fp1", "Fp2", "Cz", "O1", "O2"], 100.0, "eeg")
    for person in range(3):
        raw = mne.io.RawArray(1e-5 * rng.standard_normal((5, 1000)), info, verbose="error")
        raw.save(tmp_path / f"p{person}_raw.fif", verbose="error")
    return tmp_path


# ---- the shipped recipes ----


@pytest.mark.slow
def test_what_the_wide_recipe_says_of_what_is_left_is_true():
    from importlib.metadata import version

    from data.subjects.moabb_names import class_names

    if not version("moabb").startswith("1.7."):
        pytest.skip("the counts are of MOABB 1.7")
    path = ORIGINAL.with_name("moabb_wide.yaml")
    recipe = read_recipe(path)
    names = [name for name in class_names() if name not in LEFT_OUT]
    everything = remaining(Recipe(tuple(f"moabb:{name}" for name in names)))
    found = remaining(recipe)
    assert all(entry.subjects and not entry.lists for entry in found)
    people, of_people = (people_in(some, recipe.people) for some in (found, everything))
    hours, of_hours = (
        sum(entry.trial_h for entry in some if entry.trial_h is not None)
        for some in (found, everything)
    )
    text = " ".join(path.read_text().replace("#", " ").split())
    page = " ".join((path.parents[2] / "docs/reserve.md").read_text().split())
    assert f"{len(found)} of {len(everything)} datasets" in text
    assert (
        f"Of {len(everything)} datasets of MOABB that it could take, {len(found)} are left" in page
    )
    for words in (text, page):
        assert f"at most {people} of {of_people} people" in words
        assert f"hold {hours:.0f} of {of_hours:.0f} hours of trials" in words


@pytest.mark.slow
def test_every_data_set_of_the_original_recipe_is_tested_on_somewhere():
    found = remaining(Recipe(read_recipe(ORIGINAL).sources, reserve=tuple(LISTS)))
    assert not [entry for entry in found if entry.subjects]
    assert Reservation.of(LISTS).holds("THINGS-EEG", "01")
