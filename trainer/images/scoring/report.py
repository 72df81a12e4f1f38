"""The table of a retrieval, its comparisons and its figure."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from data.subjects.trained_on import renamed_recordings, subjects_of
from trainer.images.config import window_s
from trainer.images.montage import filled_line
from trainer.images.scoring.scores import interval

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from trainer.images.scoring.queries import Queries
    from trainer.images.scoring.retrieval import Scored

LEAK_P = 0.001


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


def warnings_of(runs: Sequence[Scored], queries: Queries) -> list[str]:
    """What a reader must know before any number."""
    people = {str(one) for one in queries.person.tolist()}
    entries = [
        entry for entry in queries.trials.manifest.recordings if str(entry["subject"]) in people
    ]
    found = []
    for one in runs:
        trained_on = one.about["trained_on"]
        if copies := renamed_recordings(entries, trained_on):
            found.append(f"SAW THE TEST RECORDINGS: {'; '.join(map(str, copies[:3]))}")
        known = {name for names in subjects_of(trained_on).values() for name in map(str, names)}
        if not one.about["model"]["people"] and known & people:
            found.append(f"trained on {', '.join(sorted(known & people))}, who is left out here")
    filled = queries.trials.montage.filled(queries.trials.manifest)
    if filled:
        found.append(f"test channels filled by a spherical spline: {filled_line(filled)}")
    return sorted(set(found))


def missing(runs: Sequence[Scored]) -> list[str]:
    """What should stand beside the runs and does not."""
    told = [one.about for one in runs]
    found = []
    if not any(one["model"]["trunk"]["kind"] == "flat" for one in told):
        found.append("a flat network (--trunk flat)")
    if not any(one["run"]["permute"] for one in told):
        found.append("a run on permuted pictures (--permute)")
    if not any(one["run"]["before_onset"] for one in told):
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
        lines.append(
            f"| {row['name']} | {_cell(row['single'])} | {_cell(row['summed'][most])} "
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
