"""Whether a model was trained on the people it is scored on, also under another dataset's name."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from data.manifest import Manifest
from data.people import People, plain_dataset
from data.sources.selection import canonical_subject

Subjects = Mapping[str, Iterable[str]]


def subjects_of(trained_on: Mapping | None) -> dict[str, list[str]]:
    """{dataset: [subject]} of what a run's config, a converted file or an encoder's folder says;
    some folders hold it beside the shards' hash, as the run does."""
    return dict((trained_on or {}).get("subjects", trained_on or {}))


def union_of_subjects(first: Subjects, second: Subjects) -> dict[str, list[str]]:
    datasets = sorted({*first, *second})
    return {name: sorted({*first.get(name, []), *second.get(name, [])}) for name in datasets}


def people_of(manifest: Manifest) -> People:
    """Who is who, with what the folder's recipe says of it."""
    return People.known(manifest.raw.get("source", {}).get("same_people", ()))


def known_among(
    asked: Iterable[tuple[str, str]], known: Subjects, people: People
) -> set[tuple[str, str]]:
    """Those of the (dataset, subject) that are, or cannot be told from, persons in `known`.

    Within a dataset names tell persons apart. In another one of its group an equal person is the
    same; where nobody says who is whom, that is anyone of the group.
    """
    names: set[tuple[str, str]] = set()
    persons: dict[tuple[str, str], set[str]] = {}
    for dataset, subjects in known.items():
        for subject in map(str, subjects):
            names.add((plain_dataset(dataset), canonical_subject(subject)))
            found = persons.setdefault(people.person(dataset, subject), set())
            found.add(plain_dataset(dataset))

    def is_known(dataset: str, subject: str) -> bool:
        plain = plain_dataset(dataset)
        others = persons.get(people.person(dataset, subject), set()) - {plain}
        return (plain, canonical_subject(subject)) in names or bool(others)

    return {(dataset, subject) for dataset, subject in asked if is_known(dataset, subject)}
