"""Recipes: a small YAML file that names what to pack, and what must not be trained on.

sources: [moabb:AlexMI, "moabb:PhysionetMI,subjects=1-89", "things:sources/ds003825"]
profile: default                                     # the rest is optional
window_s: 4
scale: recording                                     # or session: one for all of a person's there
seed: 0
shard_mb: 256
reserve: [neuralbench, "Cho2017,subjects=1-9"]       # kept for evaluation: lists of data/reserve,
                                                     # or datasets by hand (data/subjects/reserved.py)
exclude: ["Cho2017,subjects=32+46+49"]               # left out of everything
same_people: [[MyStudy_rest, MyStudy_task]]          # subject n of one is subject n of the other
weights: {PhysionetMI: 2, AlexMI: 0.5}               # sampling weights, noted in the manifest
"""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import yaml

from data.errors import InputError, did_you_mean
from data.sources.spec import WorkItem
from data.subjects.moabb_names import class_names
from data.subjects.people import People, plain_dataset
from data.subjects.reserved import (
    TRAINING_SPLITS,
    Reservation,
    check_names,
    left_out,
    lists_in,
    parse_line,
)
from data.subjects.split import Wish

ORIGINAL = Path(__file__).parent / "recipes" / "original.yaml"
LARGEST_SEED = 2**31


@dataclass(frozen=True)
class Recipe:
    """What to pack and how. The first seven fields are also the command line's options."""

    sources: tuple[str, ...]
    profile: str = "default"
    window_s: float | None = None
    scale: str = "recording"
    seed: int = 0
    shard_mb: float = 256.0
    reserve: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()
    same_people: tuple[tuple[str, ...], ...] = ()
    weights: dict[str, float] = field(default_factory=dict)

    @property
    def people(self) -> People:
        return People.known(self.same_people)

    def selection(self) -> dict:
        """What the recipe withholds and weighs, for the manifest; JSON-able."""
        return {
            "reserve": list(self.reserve),
            "exclude": list(self.exclude),
            "same_people": [list(names) for names in self.same_people],
            "weights": {name: float(weight) for name, weight in self.weights.items()},
            "reserve_lists": {
                one.name: {"read": one.read, "sha256": one.sha256} for one in lists_in(self.reserve)
            },
        }


KINDS = {
    "profile": str, "window_s": (int, float), "scale": str, "seed": int, "shard_mb": (int, float),
}  # fmt: skip
LISTS = ("reserve", "exclude")
SETTINGS = ("sources", *KINDS, *LISTS, "same_people", "weights")


def read_recipe(path: Path) -> Recipe:
    """Read and check a recipe. `$NAME` and `~` in sources are expanded; InputError if amiss."""
    value = read_yaml(path)
    refuse_unknown_keys(path, value)
    sources = value.pop("sources", None)
    if not _texts(sources) or not sources:
        raise InputError(f"{path}: sources must be a list of source names", _EXAMPLE)
    for key, kind in KINDS.items():
        if key in value and (not isinstance(value[key], kind) or isinstance(value[key], bool)):
            raise InputError(f"{path}: {key}: {value[key]!r} is not of the right kind", _EXAMPLE)
    for key in LISTS:
        if key in value:
            if not _texts(value[key]):
                raise InputError(f"{path}: {key} must be a list of datasets", _LINES)
            for line in value[key]:
                parse_line(line)
            value[key] = tuple(value[key])
    value["same_people"] = same_people_of(path, value)
    weights = value.get("weights", {})
    if not isinstance(weights, dict) or not all(map(_weight, weights.values())):
        raise InputError(
            f"{path}: weights must give a number above 0 for each dataset it names",
            "write it like  weights: {PhysionetMI: 2, AlexMI: 0.5}",
        )
    value["weights"] = {str(name): float(weight) for name, weight in weights.items()}
    return Recipe(tuple(os.path.expandvars(os.path.expanduser(s)) for s in sources), **value)


def refuse_unknown_keys(path: Path, value: dict) -> None:
    """InputError where a recipe, or a file of reservations, has a key that is no setting."""
    for key in value:
        if key not in SETTINGS:
            raise InputError(
                f"{path}: no setting is called {key!r}",
                f"{did_you_mean(str(key), SETTINGS)} The settings are "
                f"{', '.join(SETTINGS)}.".strip(),
            )


def same_people_of(path: Path, value: dict) -> tuple[tuple[str, ...], ...]:
    """The setting `same_people`; InputError where it is no list of lists."""
    same = value.get("same_people", [])
    if not isinstance(same, list) or not all(_texts(names) and len(names) > 1 for names in same):
        raise InputError(
            f"{path}: same_people must be a list of lists of datasets",
            "write it like  same_people: [[Lee2019_MI, Lee2019_ERP]]",
        )
    return tuple(tuple(names) for names in same)


def read_yaml(path: Path) -> dict:
    """The mapping in a YAML file; InputError where there is none."""
    try:
        value = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(
            f"{path}: cannot be read ({error.__class__.__name__})",
            f"give the path of a recipe, like {_shown(ORIGINAL)}",
        ) from None
    except yaml.YAMLError as error:
        raise InputError(f"{path}: not YAML: {' '.join(str(error).split())}", _EXAMPLE) from None
    if not isinstance(value, dict):
        raise InputError(f"{path}: not a recipe", _EXAMPLE)
    return value


def check(recipe: Recipe) -> Recipe:
    """The recipe itself; InputError where a number makes no sense."""
    if not 0 <= recipe.seed <= LARGEST_SEED:
        raise InputError(f"seed {recipe.seed}", f"give a whole number from 0 to {LARGEST_SEED}")
    if not 0.1 <= recipe.shard_mb <= 100_000:
        raise InputError(
            f"shard_mb {recipe.shard_mb}", "give megabytes from 0.1 to 100000, e.g. 256"
        )
    return recipe


def excluded(recipe: Recipe) -> Reservation:
    """Who is left out of everything, by these names alone."""
    return Reservation(tuple(e for line in recipe.exclude for e in parse_line(line)), People({}))


def withhold(
    items: Sequence[WorkItem], wishes: Sequence[Wish], recipe: Recipe
) -> tuple[list[WorkItem], list[Wish], list[str]]:
    """What may be packed: items and wishes without the excluded and reserved ones, and notes.

    Reserved subjects are kept only where their source says split=test. Raises InputError where a
    source asks for reserved subjects in another split, a name looks misspelled, or nothing is left.
    """
    datasets = sorted({item.dataset for item in items})
    left_aside = excluded(recipe)
    reserved = Reservation.of(recipe.reserve, recipe.same_people)
    notes = []
    known = class_names() if recipe.exclude or recipe.reserve else []
    for key, reservation in (("exclude", left_aside), ("reserve", reserved)):
        absent = check_names(reservation, datasets, known)
        if absent:
            notes.append(f"{key}: nothing of {', '.join(absent)} is among the sources")
    plain = {plain_dataset(name) for name in datasets}
    for name in recipe.weights:
        if plain_dataset(name) not in plain:
            raise InputError(
                f"weights: {name}: no source has this dataset",
                f"{did_you_mean(name, datasets)} They are {', '.join(datasets)}.".strip(),
            )
    kept, left = [], {"exclude": [], "reserve": []}
    for item, wish in zip(items, wishes, strict=True):
        if left_aside.holds(item.dataset, item.subject):
            left["exclude"].append(item)
        elif reserved.holds(item.dataset, item.subject) and wish.split != "test":
            if wish.split in TRAINING_SPLITS:
                raise InputError(
                    f"{item.dataset} subject {item.subject} is reserved for evaluation, and a "
                    f"source asks for it with split={wish.split}",
                    "write split=test, or take it off the recipe's reserve:",
                )
            left["reserve"].append(item)
        else:
            kept.append((item, wish))
    for key, reservation in (("exclude", left_aside), ("reserve", reserved)):
        if left[key]:
            notes.append(f"{key}: {left_out(left[key], reservation)}")
    if not kept:
        raise InputError(
            "nothing is left to pack: all sources are reserved or excluded",
            "pack reserved datasets for evaluation with split=test after their names",
        )
    return [item for item, _ in kept], [wish for _, wish in kept], notes


def _texts(value) -> bool:
    return isinstance(value, list) and all(isinstance(entry, str) for entry in value)


def _weight(value) -> bool:
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    return number and math.isfinite(value) and value > 0


def _shown(path: Path) -> str:
    return f"data/recipes/{path.name}"


_EXAMPLE = f"write it like {_shown(ORIGINAL)}: sources: [simulated], seed: 0"
_LINES = 'write it like  reserve: [neuralbench, "PhysionetMI,subjects=90-109"]'
