"""What of a recipe may be trained on, once what it reserves is out; offline, from MOABB's tables.

    python data/remaining.py data/recipes/moabb_wide.yaml

People are those that MOABB lists, each counted once where datasets are known to number the same
people alike, so at most that many where people are shared under other numbers. Hours are trials
times their length, of the datasets whose table tells both; recordings are packed whole, which is
more.
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path[0] = str(Path(__file__).resolve().parents[1])

import argparse
import csv
from dataclasses import dataclass

from data.errors import run_command
from data.packing.recipe import Recipe, read_recipe
from data.sources.spec import parse_spec
from data.subjects.moabb_names import find_class
from data.subjects.people import People
from data.subjects.reserved import Reservation


@dataclass(frozen=True)
class Remainder:
    """What is left of one dataset."""

    dataset: str
    subjects: tuple[str, ...]
    lists: tuple[str, ...]
    """The lists that reserve those who are gone."""
    trial_h: float | None
    """Of the subjects that are left; None: the table does not tell."""


def remaining(recipe: Recipe) -> list[Remainder]:
    """One entry for each `moabb:` source."""
    reservation = Reservation.of(recipe.reserve, recipe.same_people)
    hours, found = table_hours(), []
    for source in recipe.sources:
        spec = parse_spec(source)
        if spec.kind != "moabb":
            continue
        cls = find_class(spec.target)
        everybody = [str(subject) for subject in cls().subject_list]
        entries = {name: reservation.reserving(cls.__name__, name) for name in everybody}
        left = tuple(name for name, reserving in entries.items() if not reserving)
        lists = {entry.benchmark for reserving in entries.values() for entry in reserving}
        total_h = hours.get(cls.__name__)
        share_h = None if total_h is None else total_h * len(left) / len(everybody)
        found.append(Remainder(cls.__name__, left, tuple(sorted(lists)), share_h))
    return found


def table_hours() -> dict[str, float]:
    """{dataset: hours of trials of all its people}, by MOABB's tables of imagery and speech."""
    import moabb.datasets

    found = {}
    folder = Path(moabb.datasets.__file__).parent
    for name in ("summary_imagery.csv", "summary_imagined_speech.csv"):
        with open(folder / name, newline="", encoding="utf-8") as file:
            for row in csv.DictReader(file):
                trials, length_s = row["Total_trials"], row["Trials length (s)"]
                if trials.isdecimal():
                    found[row["Dataset"]] = int(trials) * float(length_s) / 3600
    return found


def people_in(found: list[Remainder], people: People) -> int:
    """Persons that are left, each counted once."""
    persons = set()
    for entry in found:
        for subject in entry.subjects:
            group, person = people.person(entry.dataset, subject)
            # "all": nobody says who is whom, so they are counted by their datasets.
            persons.add((group, entry.dataset, subject) if person == "all" else (group, person))
    return len(persons)


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("recipe", type=Path, help="e.g. data/recipes/moabb_wide.yaml")
    recipe = read_recipe(parser.parse_args(argv).recipe)
    found = remaining(recipe)
    left = [entry for entry in found if entry.subjects]
    for entry in found:
        hours = "" if entry.trial_h is None else f", {entry.trial_h:.1f} h of trials"
        by = ", ".join(name or "by hand" for name in entry.lists)
        print(
            f"{entry.dataset}: {len(entry.subjects)} people{hours}"
            + f"  (reserved: {by})" * bool(by)
        )
    told = [entry.trial_h for entry in left if entry.trial_h is not None]
    print(
        f"left: {len(left)} of {len(found)} datasets, {people_in(left, recipe.people)} people at "
        f"most; {sum(told):.0f} h of trials in the {len(told)} datasets whose table tells"
    )
    return 0


if __name__ == "__main__":
    run_command(main)
