"""The table of a retrieval, its comparisons and its figure."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from data.signals.recording import WHITENED
from data.subjects.digests import Twin
from data.subjects.trained_on import (
    describe_twins,
    known_among,
    names_only,
    people_of,
    subjects_of,
    twins_among,
)
from trainer.images.config import window_s
from trainer.images.montage import filled_line
from trainer.images.scoring.scores import interval

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from trainer.images.scoring.queries import Queries
    from trainer.images.scoring.retrieval import Scored

LEAK_P = 0.001
SAW = "SAW THE TEST RECORDINGS"


def is_control(about: dict) -> bool:
    """Whether a run can only have learnt what it should not."""
    run = about["run"]
    return run["permute"] or run["before_onset"] or window_s(run["window_ms"])[1] <= 0


def name_of(run: Path, about: dict) -> str:
    if about["run"]["permute"]:
        return f"{run.name}: pictures permuted"
    if is_control(about):
        return f"{run.name}: before onset"
    kind = about["model"]["trunk"]["kind"] + ", refitted" * bool(about["run"]["refit"])
    if kind.startswith("encoder"):
        kind += (
            f", {about['run']['encoder_mode']}" + ", from scratch" * about["run"]["from_scratch"]
        )
    return f"{run.name}: {kind}"


def saw_the_test(about: dict, queries: Queries) -> list[Twin]:
    """Recordings of the queries' people that the run, or the weights that it began from, was
    trained on: the same files, under any name."""
    return twins_among(_tested(queries), about["trained_on"]) or []


def warnings_of(runs: Sequence[Scored], queries: Queries) -> list[str]:
    """What a reader must know before any number; the worst first."""
    entries = _tested(queries)
    asked = {(entry["dataset"], str(entry["subject"])) for entry in entries}
    people = people_of(queries.trials.manifest)
    found, more = [], []
    for one in runs:
        about = one.about
        if seen := saw_the_test(about, queries):
            found.append(f"{SAW}: {describe_twins(seen)}")
        known = known_among(asked, subjects_of(about["trained_on"]), people)
        if not about["model"]["people"] and known:
            more.append(f"trained on {_named(known)}, who is left out here")
        known = known_among(asked, about.get("encoder_people", {}), people)
        if about["model"]["people"] and known:
            more.append(f"the encoder knows {_named(known)}")
    filled = queries.trials.montage.filled(queries.trials.manifest)
    if filled:
        more.append(f"test channels filled by a spherical spline: {filled_line(filled)}")
    return sorted(set(found)) + sorted(set(more))


def notes_of(runs: Sequence[Scored], queries: Queries) -> list[str]:
    """What else belongs to the numbers."""
    entries, found = _tested(queries), []
    for one in runs:
        split = one.about["split"]
        if split["dropped_trials"]:
            found.append(
                f"{split['dropped_trials']:,} training trials were left out, for their concepts or "
                "pictures are tested (--drop_test_concepts)"
            )
        if bare := names_only(one.about["trained_on"], entries):
            found.append(f"compared with what was trained on by people's names alone: {bare}")
    if {entry.get("unit") for entry in entries} == {WHITENED}:
        found.append(
            "the trials were published whitened; whether that saw the test trials is not known"
        )
    return [f"{text[0].upper()}{text[1:]}." for text in sorted(set(found))]


def _tested(queries: Queries) -> list[dict]:
    """The manifest's entries of the queries' people."""
    people = {str(one) for one in queries.person.tolist()}
    return [e for e in queries.trials.manifest.recordings if str(e["subject"]) in people]


def _named(people: set[tuple[str, str]]) -> str:
    return ", ".join(f"{subject} ({dataset})" for dataset, subject in sorted(people))


def missing(runs: Sequence[Scored]) -> list[str]:
    """What should stand beside the runs and does not."""
    told = [one.about for one in runs]
    found = []
    if not any(one["model"]["trunk"]["kind"] == "flat" for one in told):
        found.append("a flat network (--trunk flat)")
    if not any(one["run"]["permute"] for one in told):
        found.append("a run on permuted pictures (--permute)")
    if told[0]["signal"]["event_tmin_s"] >= 0:
        found.append("what comes before onset: these trials hold nothing of it")
    elif not any(one["run"]["before_onset"] for one in told):
        found.append("a run on what comes before onset (--before_onset)")
    for one in told:
        if one["model"]["trunk"]["kind"] == "encoder" and not one["run"]["from_scratch"]:
            same = [o for o in told if o["run"]["from_scratch"]
                    and o["run"]["encoder_mode"] == one["run"]["encoder_mode"]]  # fmt: skip
            if not same and one["run"]["encoder_mode"] != "lora":
                found.append(f"the encoder's untrained twin, {one['run']['encoder_mode']} "
                             "(--from_scratch)")  # fmt: skip
    return found


def compared(rows: list[dict]) -> list[dict]:
    """Each method that is no control against ridge, in all repeats added up, person by person and
    picture by picture."""
    (ridge,) = (row for row in rows if row["name"] == "ridge")
    found = []
    for row in rows:
        if row["control"] or row["name"] in ("ridge", "the best there is"):
            continue
        cells = np.array(row["cells"]) - np.array(ridge["cells"])
        low, high = interval(cells)
        found.append(
            {"method": row["name"], "rival": "ridge", "difference": float(cells.mean()),
             "low": low, "high": high}
        )  # fmt: skip
    return found


def markdown(report: dict) -> str:
    """The table: top-1 / top-5 in per cent."""
    count, chance = report["candidates"], 100 / report["candidates"]
    most = report["repeats"]
    who = "person" if len(report["people"]) == 1 else "people"
    lines = [f"# Retrieval of the picture that was seen: {report['protocol']}", ""]
    lines += [f"**{text}**\n" for text in report["warnings"]]
    lines += [f"{text}\n" for text in report["notes"]]
    lines += [
        f"{len(report['people'])} {who}, {count} pictures of concepts that nothing was trained "
        f"on, {most} trials of each; chance {chance:.1f} / {5 * chance:.1f} %.",
        "",
        f"| top-1 / top-5, % | one trial | {most} trials, scores added | 95 % | EEG averaged | p |",
        "|---|---:|---:|---|---:|---|",
    ]
    for row in report["rows"]:
        low, high = (100 * value for value in row["interval"])
        p = "" if row["p"] is None else f"{row['p']:.2g}" + " **LEAK**" * (row["p"] < LEAK_P)
        averaged = _cell(row["averaged"][most])
        if row["name"] == "the best there is":
            averaged = ""
        name = row["name"] + f" **{SAW}**" * row.get("saw", False)
        lines.append(
            f"| {name} | {_cell(row['single'])} | {_cell(row['summed'][most])} "
            f"| {low:.1f}-{high:.1f} | {averaged} | {p} |"
        )
    lines += ["", "Intervals redraw people and pictures (pictures alone under three people). "
              "p: of so many hits where true pictures are shuffled.", ""]  # fmt: skip
    for row in report["rows"]:
        if "among" in row and not row["control"]:
            lines.append(
                f"{row['name']}: among all {row['among']['pictures']:,} pictures "
                f"{_cell(row['among']['top'])} (all trials); median rank "
                f"{row['median_rank']:.0f}; the ten pictures that win most take "
                f"{100 * row['hubness']:.0f} % of queries.\n"
            )
    lines.append(
        "One picture a query, each once (transductive: it uses that every picture was shown), "
        "top-1: "
        + ", ".join(f"{row['name']} {100 * row['assigned']:.1f}" for row in report["rows"])
        + ".\n"
    )
    for one in report["comparisons"]:
        shown = one["low"] > 0 or one["high"] < 0
        lines.append(
            f"{one['method']} - {one['rival']}: {100 * one['difference']:+.1f} "
            f"[{100 * one['low']:+.1f}, {100 * one['high']:+.1f}]"
            + ("" if shown else ": no difference shown")
        )
    if report["missing"]:
        lines += ["", f"**Not beside it: {'; '.join(report['missing'])}.**"]
    return "\n".join(lines) + "\n"


def _cell(numbers: list[float]) -> str:
    return f"{100 * numbers[0]:.1f} / {100 * numbers[1]:.1f}"


def figure_of(report: dict) -> Figure:
    """Top-1 against the number of trials whose scores are added up."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 4.5), layout="constrained")
    axes = figure.add_subplot()
    for row in report["rows"]:
        counts = sorted(row["summed"])
        axes.plot(
            counts, [100 * row["summed"][count][0] for count in counts], marker="o",
            label=row["name"], linestyle=":" if row["control"] else "-",
        )  # fmt: skip
    axes.axhline(100 / report["candidates"], color="0.5", linestyle="--", linewidth=1)
    axes.set_xscale("log")
    axes.set_xticks(counts, [str(count) for count in counts])
    axes.minorticks_off()
    axes.set_xlabel("trials of a picture, scores added up")
    axes.set_ylabel(f"top-1 of {report['candidates']} pictures, %")
    axes.set_ylim(0, 102)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, fontsize="small")
    return figure
