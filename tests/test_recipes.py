"""Recipes: what is reserved, excluded, one person under two names; and names that MOABB knows."""

from __future__ import annotations

import json
from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st
from moabb_sets import LEFT_OUT
from tiny import tiny_shards

from data.errors import InputError
from data.pack import main as pack_main
from data.packing.recipe import ORIGINAL, Recipe, read_recipe, withhold
from data.shards.manifest import MANIFEST, read_manifest
from data.sources.spec import parse_spec
from data.subjects.benchmarks import benchmark_names
from data.subjects.people import SAME_NUMBERS, SHARED_UNNUMBERED, People, plain_dataset
from data.subjects.reserved import Reservation, parse_entry, read_reservation, refuse_reserved
from data.subjects.split import Wish, assign_splits
from model.config import preset
from trainer.engine.plan import make_plan
from trainer.masked.config import MaskedConfig
from trainer.masked.task import MaskedTask


@dataclass(frozen=True)
class Item:
    dataset: str
    subject: str


def listed(*named, split="auto"):
    items = [Item(dataset, str(subject)) for dataset, subject in named]
    return items, [Wish(0, item.dataset, item.subject, split) for item in items]


# ---- one person, several datasets ----


@given(
    st.lists(
        st.tuples(
            st.sampled_from(["Lee2019_MI", "Lee2019_ERP", "Lee2019_SSVEP", "Weibo2014",
                             "Beetl2021_B", "PhysionetMI", "Dreyer2023", "Dreyer2023A"]),
            st.integers(1, 12),
        ),
        min_size=1, max_size=60, unique=True,
    ),
    st.integers(0, 50),
)  # fmt: skip
def test_no_person_is_in_two_splits(named, seed):
    _, wishes = listed(*named)
    splits = assign_splits(wishes, seed)
    seen = {}
    for wish, split in zip(wishes, splits, strict=True):
        family = wish.dataset.split("_")[0].removesuffix("A").replace("Beetl2021", "Weibo2014")
        whole = family == "Weibo2014"
        assert seen.setdefault((family, whole or wish.subject), split) == split


def test_a_dataset_is_split_alike_with_and_without_its_relatives():
    """Packed in two folders, a person must not train in one and be tested in the other."""
    numbers = range(1, 31)
    alone = assign_splits(listed(*(("Lee2019_MI", n) for n in numbers))[1], 0)
    both = assign_splits(
        listed(*((d, n) for d in ("Lee2019_ERP", "Lee2019_MI") for n in numbers))[1], 0
    )
    assert both[:30] == both[30:] == alone
    assert set(alone) == {"train", "val", "test"}


def test_a_split_asked_for_follows_the_person():
    wishes = [Wish(0, "Lee2019_MI", "3", "test"), Wish(1, "Lee2019_ERP", "3", "auto")]
    assert assign_splits(wishes, 0) == ["test", "test"]
    wishes[1] = Wish(1, "Lee2019_ERP", "3", "val")
    with pytest.raises(InputError, match="same person as Lee2019_MI subject 3"):
        assign_splits(wishes, 0)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("BCIComp2020WalkingERP", "Lee2021Mobile_ERP"),
        ("BCIComp2020WalkingERP", "Lee2021Mobile_SSVEP"),
        ("BCIComp2020UpperLimb", "Jeong2020"),
    ],
)
def test_competition_sets_stay_on_one_side_with_what_they_may_be_cut_from(one, other):
    _, wishes = listed(*((d, n) for d in (one, other) for n in range(1, 16)))
    for seed in range(5):
        assert len(set(assign_splits(wishes, seed))) == 1
    assert Reservation.of([f"{other},subjects=3"]).holds(one, "7")


def test_people_named_in_a_recipe():
    people = People.known([["rest", "task"], ["task", "sleep"], ["Lee2019_MI", "MyLee"]])
    assert people.person("rest", "sub-07") == people.person("sleep", "7")
    assert people.person("rest", "7") != people.person("rest", "8")
    assert people.person("MyLee", "5") == people.person("Lee2019_ERP", "5")
    assert people.person("other", "7") == ("other", "7")
    _, wishes = listed(*((d, n) for d in ("rest", "task") for n in range(20)))
    splits = assign_splits(wishes, 3, people)
    assert splits[:20] == splits[20:]


# ---- reservations ----


@pytest.mark.parametrize(
    ("line", "dataset", "subject", "held"),
    [
        ("BNCI2014_001", "BNCI2014_001", "4", True),
        ("BNCI2014001", "BNCI2014_001", "4", True),
        ("moabb:BNCI2014-001", "BNCI2014_001", "4", True),
        ("MunichMI", "GrosseWentrup2009", "1", True),
        ("BNCI2014_001", "BNCI2014_002", "4", False),
        ("PhysionetMI,subjects=1-3+7", "PhysionetMI", "007", True),
        ("PhysionetMI,subjects=1-3+7", "PhysionetMI", "4", False),
        ("Lee2019_MI", "Lee2019_SSVEP", "12", True),
        ("Lee2019_MI,subjects=12", "Lee2019_SSVEP", "12", True),
        ("Lee2019_MI,subjects=12", "Lee2019_SSVEP", "13", False),
        ("Weibo2014,subjects=1", "Beetl2021_B", "5", True),
    ],
)
def test_who_is_reserved(line, dataset, subject, held):
    assert Reservation.of([line]).holds(dataset, subject) is held


@pytest.mark.parametrize(
    "line", ["A,subject=3", "A,subjects=3-1", "A,subjects=", ",subjects=1", ""]
)
def test_lines_that_cannot_be_read(line):
    with pytest.raises(InputError):
        parse_entry(line)


def test_reserved_and_excluded_items_are_left_out_and_counted():
    items, wishes = listed(("A", 1), ("A", 2), ("B", 1), ("C", 9))
    recipe = Recipe((), reserve=("B", "A,subjects=2"), exclude=("C,subjects=9",))
    kept, kept_wishes, notes = withhold(items, wishes, recipe)
    assert kept == [Item("A", "1")]
    assert [wish.dataset for wish in kept_wishes] == ["A"]
    assert notes == [
        "exclude: 1 item left out: C (1 item)",
        "reserve: 2 items left out: A (1 item), B (1 item)",
    ]
    with pytest.raises(InputError, match="nothing is left"):
        withhold(items, wishes, Recipe((), reserve=("A", "B", "C")))


def test_reserved_recordings_may_be_packed_for_testing_only():
    recipe = Recipe((), reserve=("B",))
    assert len(withhold(*listed(("B", 1), split="test"), recipe)[0]) == 1
    for split in ("train", "val"):
        with pytest.raises(InputError, match=f"split={split}"):
            withhold(*listed(("B", 1), split=split), recipe)


def test_a_misspelled_reservation_is_refused_and_an_absent_one_noted():
    items, wishes = listed(("PhysionetMI", 1))
    for key in ("reserve", "exclude"):
        with pytest.raises(InputError, match="Did you mean PhysionetMI"):
            withhold(items, wishes, Recipe((), **{key: ("PhysionetMu",)}))
    notes = withhold(items, wishes, Recipe((), reserve=("BNCI2014_001",)))[2]
    assert notes == ["reserve: nothing of BNCI2014_001 is among the sources"]
    with pytest.raises(InputError, match="weights: Other"):
        withhold(items, wishes, Recipe((), weights={"Other": 1.0}))


def packed(tmp_path, *lines, name="out"):
    recipe = tmp_path / f"{name}.yaml"
    recipe.write_text(
        "\n".join(["sources:", "  - simulated:1020-19,subjects=4,minutes=0.2", *lines])
    )
    assert (
        pack_main(["--recipe", str(recipe), "--out", str(tmp_path / name), "--workers", "1"]) == 0
    )
    return read_manifest(tmp_path / name)


@pytest.mark.slow
def test_the_packer_leaves_reserved_people_out_and_the_trainer_checks(tmp_path):
    lines = ["reserve: ['simulated-1020-19,subjects=2']", "weights: {simulated-1020-19: 2}"]
    manifest = packed(tmp_path, *lines)
    assert {r["subject"] for r in manifest.recordings} == {"001", "003", "004"}
    assert manifest.raw["source"]["reserve"] == ["simulated-1020-19,subjects=2"]
    assert manifest.raw["source"]["weights"] == {"simulated-1020-19": 2.0}
    refuse_reserved(manifest)
    refuse_reserved(manifest, read_reservation(tmp_path / "out.yaml"))
    trained = next(r["subject"] for r in manifest.recordings if r["split"] == "train")
    other = Reservation.of([f"simulated-1020-19,subjects={trained}"])
    with pytest.raises(InputError, match=rf"packed for training: .*{trained}"):
        refuse_reserved(manifest, other)
    with pytest.raises(InputError, match="other settings"):
        packed(tmp_path, name="out")


def test_the_trainer_refuses_shards_that_break_their_own_reservation(tmp_path, root):
    folder = tiny_shards(tmp_path / "shards")
    config = MaskedConfig(
        deepspeed_config=str(root / "ds_configs/zero2.json"), shards=str(folder),
        run=str(tmp_path / "run"), preset="tiny", micro_batch=4,
    )  # fmt: skip
    model = preset("tiny")
    make_plan(config, MaskedTask(config, model), 1)
    manifest = json.loads((folder / MANIFEST).read_text())
    manifest["source"]["reserve"] = ["B"]
    (folder / MANIFEST).write_text(json.dumps(manifest))
    with pytest.raises(InputError, match="reserved for evaluation, but packed for training: B"):
        make_plan(config, MaskedTask(config, model), 1)
    manifest["source"]["reserve"] = ["B,subjects=test0"]  # in test shards, where it may be
    (folder / MANIFEST).write_text(json.dumps(manifest))
    make_plan(config, MaskedTask(config, model), 1)


# ---- the file ----


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("reserve: B", "must be a list of datasets"),
        ("exclude: [3]", "must be a list of datasets"),
        ("exclude: ['A,subject=3']", "cannot be read"),
        ("same_people: [[A]]", "list of lists"),
        ("weights: [A]", "number above 0"),
        ("weights: {A: 0}", "number above 0"),
        ("weights: {A: .inf}", "number above 0"),
        ("reserved: [A]", "Did you mean reserve"),
    ],
)
def test_wrong_settings_are_told(tmp_path, line, words):
    path = tmp_path / "recipe.yaml"
    path.write_text(f"sources: [simulated]\n{line}\n")
    with pytest.raises(InputError, match=words):
        read_recipe(path)


# ---- names of MOABB ----


@pytest.fixture
def no_network(monkeypatch):
    import socket

    def refuse(*_args, **_kwargs):
        raise AssertionError("a name was looked up over the network")

    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    monkeypatch.setattr(socket, "create_connection", refuse)


@pytest.mark.slow
def test_every_dataset_of_moabb_is_found_by_name_and_code(no_network):
    from data.subjects.moabb_names import class_names, find_class

    names = class_names()
    assert len(names) > 50
    paradigms = set()
    for name in names:
        cls = find_class(name)
        assert cls.__name__ == name
        assert find_class(name.lower().replace("_", "")) is cls
        dataset = cls()
        assert find_class(dataset.code) is cls
        assert dataset.subject_list
        paradigms.add(dataset.paradigm)
    assert paradigms >= {"imagery", "p300", "ssvep", "cvep", "rstate"}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "today"),
    [
        ("AlexMI", "AlexMI"),
        ("AlexandreMotorImagery", "AlexMI"),
        ("BNCI2014002", "BNCI2014_002"),
        ("BNCI2014_002", "BNCI2014_002"),
        ("BNCI2015004", "BNCI2015_004"),
        ("Cho2017", "Cho2017"),
        ("Lee2019_MI", "Lee2019_MI"),
        ("Lee2019-MI", "Lee2019_MI"),
        ("Ofner2017", "Ofner2017"),
        ("MunichMI", "GrosseWentrup2009"),
        ("SSVEPExo", "Kalunga2016"),
    ],
)
def test_old_and_new_names(no_network, name, today):
    from data.subjects.moabb_names import find_class

    assert find_class(name).__name__ == today
    assert plain_dataset(name) == plain_dataset(today) or name in ("AlexandreMotorImagery",)


@pytest.mark.slow
def test_a_lost_dataset_names_its_replacement(no_network):
    from data.subjects.moabb_names import find_class

    with pytest.raises(InputError, match="no longer has") as caught:
        find_class("DemonsP300")
    assert "BI2014a" in caught.value.remedy
    assert find_class("BI2014a").__name__ == "BI2014a"


@pytest.mark.slow
def test_the_wide_recipe_names_every_dataset_that_no_benchmark_tests_on():
    from importlib.metadata import version

    from data.subjects.moabb_names import class_names, find_class

    if not version("moabb").startswith("1.7."):
        pytest.skip("the recipe lists the datasets of MOABB 1.7")
    recipe = read_recipe(ORIGINAL.with_name("moabb_wide.yaml"))
    named = [parse_spec(source).target for source in recipe.sources]
    assert len(set(named)) == len(named)
    assert set(benchmark_names()) < set(recipe.reserve)
    reservation = Reservation.of(recipe.reserve)
    reserved = {name for name in class_names() if reservation.holds(name, "1")}
    assert not reserved & set(named)
    assert set(named) | reserved | LEFT_OUT == set(class_names())
    assert {"PhysionetMI", "Stieger2021", "Dreyer2023"} <= reserved
    for name in named:
        numbers = find_class(name)().subject_list
        assert not any(reservation.holds(name, str(number)) for number in numbers)


@pytest.mark.slow
def test_people_are_known_for_datasets_that_exist():
    from importlib.metadata import version

    from data.subjects.moabb_names import class_names, find_class

    if not version("moabb").startswith("1.7."):
        pytest.skip("the tables are of MOABB 1.7")
    for table in (SAME_NUMBERS, SHARED_UNNUMBERED):
        for datasets in table.values():
            assert set(datasets) <= set(class_names())
    for datasets in SAME_NUMBERS.values():
        lists = {name: set(find_class(name)().subject_list) for name in datasets}
        largest = max(lists.values(), key=len)
        assert all(numbers <= largest for numbers in lists.values())
