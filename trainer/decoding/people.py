"""Who trains, who chooses the step and who is scored, by a file in place of the shards' splits.

    {"train": ["01", "02"], "val": ["03"], "test": ["04"]}

A person is "SUBJECT", or "DATASET SUBJECT". People in none of the lists take no part.
"""

from __future__ import annotations

import json
from pathlib import Path

from data.batches.window_table import Names, people_of
from data.errors import InputError, some
from data.files import read_text
from data.shards.manifest import Manifest

SPLITS = ("train", "val", "test")


def read_people(path: str, manifest: Manifest) -> dict[str, set[int]]:
    """Numbers of `Names.people` by split. InputError for a file that says something else, unknown
    people, and people in two lists."""
    try:
        content = json.loads(read_text(Path(path)))
    except ValueError as error:
        raise InputError(f"--people {path}: not JSON: {error}", "mend the file") from None
    if not isinstance(content, dict) or set(content) != set(SPLITS):
        raise InputError(f"--people {path}: not the three lists", '{"train": [..], "val": [..], '
                         '"test": [..]}')  # fmt: skip
    known: dict[str, set[int]] = {}
    for number, (dataset, subject) in enumerate(Names.of(manifest).people):
        for name in (str(subject), f"{dataset} {subject}"):
            known.setdefault(name, set()).add(number)
    found: dict[str, set[int]] = {}
    for split in SPLITS:
        found[split] = set()
        for name in map(str, content[split]):
            there = known.get(name, set())
            if len(there) != 1:
                what = "nobody" if not there else "people of several datasets"
                raise InputError(
                    f"--people {path}: {name!r} is {what}", f"people: {some(sorted(known))}"
                )
            found[split] |= there
    for one, other in (("train", "val"), ("train", "test"), ("val", "test")):
        if found[one] & found[other]:
            raise InputError(f"--people {path}: somebody is in {one} and in {other}",
                             "a person is in one list")  # fmt: skip
    return found


def with_splits(manifest: Manifest, people: dict[str, set[int]]) -> list[dict]:
    """The manifest's recordings, each in its person's split; of others the split is `none`."""
    names = Names.of(manifest)
    number = {who: place for place, who in enumerate(names.people)}
    who = people_of(manifest)
    split_of = {one: split for split, own in people.items() for one in own}
    return [
        {**entry, "split": split_of.get(number[who[entry["id"]]], "none")}
        for entry in manifest.recordings
    ]
