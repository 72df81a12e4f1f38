"""The report of a decoding: table in the terminal and as Markdown, figure."""

from __future__ import annotations

from collections.abc import Mapping

import matplotlib

matplotlib.use("Agg")
import numpy as np
from matplotlib.figure import Figure

from trainer.decoding.decoding import CONTROLS, ENCODER, TWIN
from trainer.decoding.statistics import SCORES, interval
from trainer.reports.figures import COLOURS, FALLBACK_COLOUR
from trainer.reports.tables import plural, short, table

HEADS = {"balanced_accuracy": "balanced accuracy", "auroc": "AUROC", "kappa": "kappa"}
OURS, THEIRS, TWINS = COLOURS["model"], COLOURS["gauss"], COLOURS["start"]


def headline(report: Mapping) -> str:
    """What was decoded, in one line."""
    counts = ", ".join(
        f"{name} {count}"
        for name, count in zip(report["classes"], report["windows_of_class"], strict=True)
    )
    return (
        f"{plural(report['windows'], 'window')} ({counts}), people scored: "
        f"{len(report['people'])}, protocol {report['protocol']}, chance {short(report['chance'])}"
    )


def rows(report: Mapping) -> list[list[str]]:
    """Method, and `.812 [.790, .834]` of each score: mean over people, Student's interval."""
    return [
        [name, *(_cell(np.array(scores[score])) for score in SCORES)]
        for name, scores in report["scores"].items()
    ]


def claims(report: Mapping) -> list[str]:
    """A line for each comparison."""
    found = []
    for entry in report["comparisons"]:
        mean, half = entry["difference"], entry["half"]
        inside = "" if half is None else f" [{mean - half:+.3f}, {mean + half:+.3f}]"
        found.append(
            f"{HEADS[entry['score']]}: {entry['method']} - {entry['rival']}: {mean:+.3f}{inside}, "
            f"p {entry['p']:.3f}: {entry['verdict']}"
        )
    return found


def terminal(report: Mapping) -> str:
    """The report for a terminal."""
    lines = [["", *HEADS.values()], *rows(report)]
    widths = [max(len(line[column]) for line in lines) for column in range(len(lines[0]))]
    text = [headline(report)]
    text += [
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip()
        for line in lines
    ]
    return "\n".join([*text, *_notes(report), *claims(report)])


def markdown(report: Mapping, figure: str) -> str:
    """The report as a page."""
    return "\n".join(
        [
            "# Decoding",
            "",
            headline(report),
            "",
            *table(["", *HEADS.values()], rows(report)),
            *(f"* {line}" for line in (*_notes(report), *claims(report))),
            "",
            f"![balanced accuracy by person]({figure})",
            "",
        ]
    )


def figure_of(report: Mapping) -> Figure:
    """Balanced accuracy of each method: every person a dot, the mean with Student's interval."""
    names = list(report["scores"])
    figure = Figure(figsize=(9, 1.2 + 0.34 * len(names)), dpi=130, layout="constrained")
    axis = figure.subplots()
    rng = np.random.default_rng(0)
    for place, name in enumerate(names):
        scores = np.array(report["scores"][name]["balanced_accuracy"])
        mean, half = interval(scores)
        colour, y = _colour(name), len(names) - 1 - place
        spread = y + rng.uniform(-0.18, 0.18, len(scores))
        axis.plot(scores, spread, ".", color=colour, alpha=0.35, markersize=5)
        axis.errorbar(mean, y, xerr=half, fmt="o", color=colour, capsize=3, markersize=5)
    axis.axvline(report["chance"], color="#999999", linewidth=1, linestyle="--")
    axis.annotate("chance", (report["chance"], -0.9), fontsize=8, color="#666666", ha="center")
    axis.set_yticks(range(len(names)), names[::-1])
    axis.set_ylim(-1.1, len(names) - 0.4)
    axis.set_xlabel(f"balanced accuracy; a dot is one of {len(report['people'])} people")
    for side in ("top", "right"):
        axis.spines[side].set_visible(False)
    return figure


def _cell(scores: np.ndarray) -> str:
    mean, half = interval(scores)
    if half is None:
        return short(mean)
    return f"{mean:.3f} [{mean - half:.3f}, {mean + half:.3f}]"


def _notes(report: Mapping) -> list[str]:
    notes = []
    if any(name.endswith("*") for name in report["scores"]):
        notes.append("*: also uses each tested person's windows without their labels")
    if report["seeds"]:
        notes.append(f"{TWIN}: mean over {plural(report['seeds'], 'seed')}")
    notes += [f"left out: {count} windows, {why}" for why, count in report["left_out"].items()]
    return notes


def _colour(name: str) -> str:
    if name in CONTROLS:
        return FALLBACK_COLOUR
    return OURS if name.startswith(ENCODER) else TWINS if name.startswith(TWIN) else THEIRS
