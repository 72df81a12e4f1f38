"""The report of drawn pictures: a contact sheet that a person can judge, and the table."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

import numpy as np

from trainer.images.pictures.conditions import CONDITIONS
from trainer.images.pictures.judges import NEEDS_MODELS

if TYPE_CHECKING:
    from matplotlib.figure import Figure

MEANING = {
    "seen": "what was seen", "truth": "from its own\nembedding", "eeg": "from EEG",
    "nearest": "training picture\nnearest to EEG", "swapped": "from EEG of\nanother picture",
    "random": "random\ntraining picture", "mean": "mean of\ntraining",
    "as it is": "that picture\nas it is",
}  # fmt: skip


def shown(names: list[str], count: int) -> list[int]:
    """Places of the pictures on the sheet: the first by the hash of their names, never the best."""
    order = sorted(
        range(len(names)), key=lambda row: hashlib.sha256(names[row].encode()).hexdigest()
    )
    return sorted(order[:count])


def contact_sheet(columns: dict[str, np.ndarray], names: list[str]) -> Figure:
    """columns: of each, by the keys of MEANING, pictures `[rows, side, side, 3]`."""
    from matplotlib.figure import Figure

    rows, width = len(names), len(columns)
    figure = Figure(figsize=(1.25 * width + 1.1, 1.22 * rows + 0.7), layout="constrained")
    axes = figure.subplots(rows, width, squeeze=False)
    for column, (key, pictures) in enumerate(columns.items()):
        axes[0, column].set_title(MEANING[key], fontsize=8)
        for row, picture in enumerate(pictures):
            axis = axes[row, column]
            axis.imshow(picture, interpolation="nearest")
            axis.set_xticks([])
            axis.set_yticks([])
            axis.spines[:].set_visible(False)
    for row, name in enumerate(names):
        axes[row, 0].set_ylabel(name.rpartition(".")[0][:18], fontsize=6)
    return figure


def markdown(report: dict) -> str:
    lines = [
        f"# Pictures from EEG: {report['run']}, {report['about']['generator']}", "",
        f"{len(report['people'])} {'person' if len(report['people']) == 1 else 'people'}, "
        f"{report['pictures']} test pictures of new concepts, {report['repeats']} trials of each. "
        f"EEG's embedding and the picture's correlate by {report['head']['correlation']:.2f} "
        "on concepts that chose the step.", "",
        "| drawn from | " + " | ".join(report["judges"]) + " |",
        "|---|" + "---|" * len(report["judges"]),
    ]  # fmt: skip
    for condition in CONDITIONS:
        cells = [_cell(report["judges"][one].get(condition)) for one in report["judges"]]
        lines.append(f"| {MEANING[condition]} | ".replace("\n", " ") + " | ".join(cells) + " |")
    lines += ["", "Two-way: of pairs with another test picture, how often the drawn one is more "
              "like the one that was seen; chance .50. In brackets 95 %, pictures and people "
              "redrawn.", ""]  # fmt: skip
    for one in report["comparisons"]:
        shown_ = one["low"] > 0 or one["high"] < 0
        lines.append(
            f"{one['judge']}, {one['method']} - {one['rival']}: {one['difference']:+.3f} "
            f"[{one['low']:+.3f}, {one['high']:+.3f}]{'' if shown_ else ': no difference shown'}\n"
        )
    lines.append(f"Not computed, for want of their weights: {', '.join(NEEDS_MODELS)}.")
    lines += [f"Not computed: {text}." for text in report["not_computed"]]
    return "\n".join(lines) + "\n"


def _cell(found: dict | None) -> str:
    return "" if found is None else f"{found['mean']:.3f} [{found['low']:.3f}, {found['high']:.3f}]"
