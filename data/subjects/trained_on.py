"""Which people and recordings a model was trained on, and whether it is scored on any of it.

A model says it in its `trained_on`: the people by name, their recordings by content
(data/subjects/digests.py). So a person is found under another dataset's name where it is known to
be the same, and a recording under any name.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from data.errors import InputError
from data.shards.manifest import Manifest
from data.subjects.benchmarks import benchmark_names, read_benchmark
from data.subjects.digests import Twin, digests_of, find_twins, union, without_digest
from data.subjects.people import People, canonical_subject, plain_dataset
from data.subjects.reserved import Reservation

Subjects = Mapping[str, Iterable[str]]
SHOWN = 5
UNKNOWN = "unknown"


def trained_subjects(
    manifest: Manifest, recordings: Iterable[Mapping] | None = None
) -> dict[str, list[str]]:
    """Subjects of the training split, by dataset: people that a score must not be computed
    on. `recordings`: the manifest's entries where a task divides them otherwise."""
    found: dict[str, set[str]] = {}
    for recording in manifest.recordings if recordings is None else recordings:
        if recording["split"] == "train":
            found.setdefault(recording["dataset"], set()).add(recording["subject"])
    return {dataset: sorted(subjects) for dataset, subjects in sorted(found.items())}


def record_of(manifest: Manifest, recordings: Sequence[Mapping] | None = None) -> dict:
    """`trained_on` of a run on a folder: people and recordings of its training split.
    `recordings`: the manifest's entries where a task divides them otherwise."""
    entries = manifest.recordings if recordings is None else recordings
    return {
        "manifest_sha256": manifest.sha256,
        "subjects": trained_subjects(manifest, entries),
        "recordings": digests_of(entry for entry in entries if entry["split"] == "train"),
    }


def union_of_records(record: Mapping, earlier: Mapping | None) -> dict:
    """`record`, and what the weights that it starts from were trained on.

    Where earlier weights do not say which recordings those were, `names_only` lists the datasets:
    their people are known by name alone.
    """
    earlier = earlier or {}
    subjects = subjects_of(earlier)
    found = {**record, "subjects": union_of_subjects(subjects_of(record), subjects)}
    names_only = {*record.get("names_only", ()), *earlier.get("names_only", ())}
    if "recordings" in earlier or "recordings" in record:
        found["recordings"] = union(record.get("recordings", {}), earlier.get("recordings", {}))
        for one in (record, earlier):
            names_only |= set() if "recordings" in one else set(subjects_of(one))
    return found | ({"names_only": sorted(names_only)} if names_only else {})


def twins_among(recordings: Iterable[Mapping], trained_on: Mapping | None) -> list[Twin] | None:
    """Those of a manifest's recordings that a model was trained on, by content; None: it does not
    say which it was trained on, as models of earlier versions."""
    known = (trained_on or {}).get("recordings")
    return None if known is None else find_twins(recordings, known)


def recordings_of(manifest: Manifest, split: str) -> list[dict]:
    """The manifest's entries of a split."""
    return [entry for entry in manifest.recordings if entry.get("split") == split]


def renamed_recordings(
    recordings: Iterable[Mapping], trained_on: Mapping | None
) -> list[str] | None:
    """Those that were trained on under another name, as text; None: the model does not say which
    recordings it was trained on."""
    twins = twins_among(recordings, trained_on)
    return None if twins is None else [str(twin) for twin in twins if twin.renamed]


def names_only(trained_on: Mapping | None, recordings: Iterable[Mapping] = ()) -> str:
    """What is compared with a model's people by name alone, as text; empty: nothing. A model of an
    earlier version knows no recording's content, and simulated recordings have no files."""
    if not trained_on or "subjects" not in trained_on:
        return ""
    if "recordings" not in trained_on:
        return "the model, of an earlier version, has no record of files"
    parts = [f"training on {', '.join(named)}"] if (named := trained_on.get("names_only")) else []
    scored = list(recordings)
    if bare := without_digest(scored):
        parts.append(f"{bare} of the {len(scored)} scored recordings, which have no file")
    return "; ".join(parts)


def refuse_renamed(recordings: Iterable[Mapping], trained_on: Mapping | None) -> None:
    """InputError where a recording that is to be scored was trained on under another name."""
    renamed = [twin for twin in twins_among(recordings, trained_on) or () if twin.renamed]
    if renamed:
        raise InputError(
            f"{describe_twins(renamed)}: the model was trained on the same bytes, under the name "
            "after =",
            "score other recordings; or add --allow_trained_on, which marks the report",
        )


def describe_twins(twins: list[Twin]) -> str:
    more = f" and {len(twins) - SHOWN} more" if len(twins) > SHOWN else ""
    return f"{'; '.join(map(str, twins[:SHOWN]))}{more}"


def benchmarks_seen(trained_on: Mapping | None) -> dict[str, dict] | str:
    """{list: {read, people, datasets: {dataset: people}}}: how many of the people that each
    benchmark tests on (data/reserve) were trained on. `unknown` where the model has no record."""
    if not trained_on or "subjects" not in trained_on:
        return UNKNOWN
    seen = {}
    for name in benchmark_names():
        reservation = Reservation.of([name])
        datasets: dict[str, int] = {}
        persons = set()
        for dataset, subjects in trained_on["subjects"].items():
            held = {str(s) for s in subjects if reservation.holds(dataset, str(s))}
            if held:
                datasets[dataset] = len(held)
                persons |= {_one_of(reservation.people, dataset, subject) for subject in held}
        seen[name] = {
            "read": read_benchmark(name).read,
            "people": len(persons),
            "datasets": datasets,
        }
    return seen


def describe_benchmarks(seen: Mapping[str, Mapping] | str) -> str:
    """`benchmarks_seen` as a sentence."""
    if seen == UNKNOWN:
        return "It is not known which people of public benchmarks were trained on."
    told, clean = [], []
    for name, entry in seen.items():
        datasets = ", ".join(f"{dataset} {count}" for dataset, count in entry["datasets"].items())
        if entry["people"]:
            told.append(f"{name}: {entry['people']} ({datasets})")
        else:
            clean.append(name)
    if not told:
        return f"Nobody that a public benchmark tests on was trained on ({', '.join(clean)})."
    return (
        f"People of public benchmarks that were trained on: {'; '.join(told)}. "
        f"None of: {', '.join(clean) or 'no other'}."
    )


def _one_of(people: People, dataset: str, subject: str) -> tuple:
    """A person, as `People.person`, but told apart within a dataset where nobody says who is who
    elsewhere."""
    group, person = people.person(dataset, subject)
    return (dataset, subject) if person == "all" else (group, person)


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
