"""Few-shot curves: how a person is decoded from their own first windows of each class.

Each person alone: fitted on the first 1, 2, 5, 10 ... windows of each class, scored on the rest.
What is later is scored by what was earlier, as on a first visit; windows next to each other are
alike, which flatters all methods. Curves of few people cross by chance: intervals stand beside.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np
from matplotlib.figure import Figure

from data.errors import InputError
from trainer.decoding.statistics import interval
from trainer.reports.tables import table

SCORE = "balanced_accuracy"


def counts_of(text: str) -> list[int]:
    """`1,2,5` -> [1, 2, 5]. InputError for anything but rising numbers from 1."""
    parts = text.split(",")
    found = [int(part) for part in parts if part.strip().isdigit()]
    if len(found) != len(parts) or found != sorted(set(found)) or found[0] < 1:
        raise InputError(f"--few {text}", "give rising numbers of windows of a class, as 1,2,5,10")
    return found


def few_shot(decode: Callable[[str], dict], counts: Sequence[int]) -> dict:
    """JSON-able: of each method and count the mean over people and half its 95 % interval. decode:
    a protocol -> the report of a decoding."""
    methods: dict[str, dict[str, dict]] = {}
    people = 0
    for count in counts:
        report = decode(f"first:{count}")
        people = len(report["people"])
        for name, scores in report["scores"].items():
            if name.endswith("*"):
                continue  # their adaptation sees the windows that are scored
            mean, half = interval(np.array(scores[SCORE]))
            methods.setdefault(name, {})[str(count)] = {"mean": mean, "half": half}
    return {"score": SCORE, "people": people, "counts": list(counts), "methods": methods}


def few_markdown(found: Mapping) -> list[str]:
    """The table, a row a method."""
    rows = [
        [name, *(_cell(by_count[str(count)]) for count in found["counts"])]
        for name, by_count in found["methods"].items()
    ]
    heads = ["windows of each class", *map(str, found["counts"])]
    return [
        "## Few-shot", "",
        f"Each of {found['people']} people alone, fitted on the first windows of each class, "
        "scored on the rest; balanced accuracy.", "", *table(heads, rows), "",
    ]  # fmt: skip


def few_figure(found: Mapping, chance: float) -> Figure:
    figure = Figure(figsize=(7, 4.5), dpi=130, layout="constrained")
    axis = figure.subplots()
    for number, (name, by_count) in enumerate(found["methods"].items()):
        means = np.array([by_count[str(count)]["mean"] for count in found["counts"]])
        halves = np.array([by_count[str(count)]["half"] or 0.0 for count in found["counts"]])
        shifted = np.array(found["counts"]) * (1 + 0.02 * number)
        axis.errorbar(shifted, means, halves, marker="o", markersize=4, capsize=2, label=name)
    axis.axhline(chance, color="#999999", linewidth=1, linestyle="--")
    axis.set_xscale("log")
    axis.set_xticks(found["counts"], [str(count) for count in found["counts"]])
    axis.minorticks_off()
    axis.set_xlabel("windows of each class that are fitted on")
    axis.set_ylabel("balanced accuracy")
    axis.spines[["top", "right"]].set_visible(False)
    axis.legend(frameon=False, fontsize="small")
    return figure


def _cell(found: Mapping) -> str:
    mean, half = found["mean"], found["half"]
    return f"{mean:.3f}" if half is None else f"{mean:.3f} [{mean - half:.3f}, {mean + half:.3f}]"
