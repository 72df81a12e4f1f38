"""The figures of a report, as PNG files."""

from __future__ import annotations

import functools
from pathlib import Path

from matplotlib.figure import Figure

from data.signals.recording import safe_name
from trainer.reports.figures import bars_figure, reconstruction_figure, topography_figure
from trainer.reports.tables import SIGNED
from trainer.scoring.compare import ALL, Comparison, Example
from trainer.scoring.fill_scores import AFTER_GAIN
from trainer.scoring.held_out import KIND_MEANINGS

TRAINED_MARK = "TRAINED ON: these numbers say nothing about new people"
LIMITS_DB = {"ceiling": 12.0, "floor": -16.0}


def write_figures(folder: Path, report: dict, comparison: Comparison) -> list[Path]:
    """All figures of a report, as PNG; returns their paths. Where the people or recordings were
    trained on, each says so."""
    save = functools.partial(save_figure, mark=trained_mark(report))
    groups = {name: entry["kinds"] for name, entry in report["datasets"].items()}
    if len(groups) > 1:
        groups = {ALL: report[ALL], **groups}
    paths = [
        save(
            folder / f"{name}_by_kind.png",
            bars_figure(
                {group: _scores(kinds, name) for group, kinds in groups.items()},
                label,
                f"Hidden samples, by kind of mask: {label}",
                ceiling,
            ),
        )
        for name, label, ceiling in (("r", "r", None), ("nmse", "NMSE", 2.0))
    ]
    for name, score, label, limits in (
        ("r_by_band.png", ("r",), "r", {}),
        ("spectrum_by_band.png", (SIGNED,), "power over the true one (dB)", LIMITS_DB),
        ("spectrum_after_gain.png", (AFTER_GAIN, SIGNED), "power after one gain (dB)", LIMITS_DB),
    ):
        panels = {
            f"{kind}: {KIND_MEANINGS[kind]}": _bands(methods, score)
            for kind, methods in report[ALL].items()
        }
        if any(panels.values()):
            title = f"Hidden samples, by frequency band, all subjects: {label}"
            paths.append(save(folder / name, bars_figure(panels, label, title, **limits)))
    for dataset, entry in report["datasets"].items():
        figure = _topography(dataset, entry, comparison)
        if figure is not None:
            paths.append(save(folder / f"topography_{safe_name(dataset)}.png", figure))
    for example in comparison.examples:
        name = f"example_{safe_name(example.dataset)}_{example.kind}.png"
        figure = example_figure(example, report["settings"]["sfreq_hz"])
        paths.append(save(folder / name, figure))
    return paths


def example_figure(example: Example, sfreq_hz: float) -> Figure:
    """Several channels of one window, in microvolts where the recording's scale is known."""
    factor, unit = (example.scale_uv, "µV") if example.scale_uv else (1.0, "robust units")
    return reconstruction_figure(
        truth=example.truth * factor,
        masked=example.truth * factor,
        prediction=example.fill * factor,
        hidden=example.hidden,
        channel_names=example.channels,
        sfreq_hz=sfreq_hz,
        unit=unit,
        title=f"{example.dataset}, subject {example.subject}, {example.kind} mask "
        f"(window of median score: r = {example.r:.2f} over all {len(example.channels)} channels)",
    )


def trained_mark(report: dict) -> str:
    """What a figure says where its numbers are of what was trained on; else nothing."""
    marked = [note for note in report["notes"] if note.startswith("TRAINED ON")]
    return TRAINED_MARK if marked else ""


def save_figure(path: Path, figure: Figure, mark: str = "") -> Path:
    """Write a PNG under a temporary name and rename it; `mark` is written below the axes."""
    if mark:
        figure.text(0.5, 0.0, mark, ha="center", va="top", color="red", weight="bold")
    temporary = path.with_name(path.name + ".partial")
    figure.savefig(temporary, format="png", bbox_inches="tight" if mark else None)
    temporary.replace(path)
    return path


def _scores(kinds: dict, score: str) -> dict:
    return {kind: {m: scores[score] for m, scores in e.items()} for kind, e in kinds.items()}


def _bands(methods: dict, score: tuple[str, ...]) -> dict:
    bands = next(iter(methods.values())).get("bands", {})
    return {
        band: {
            method: functools.reduce(dict.__getitem__, score, scores["bands"][band])
            for method, scores in methods.items()
        }
        for band, entry in bands.items()
        if score[0] in entry
    }


def _topography(dataset: str, entry: dict, comparison: Comparison) -> Figure | None:
    beside = "gauss" if "gauss" in comparison.methods else "spline"
    gap = f"model - {beside}"
    maps: dict[str, dict] = {"r of the model": {}, gap: {}}
    for kind, methods in entry["by_channel"].items():
        maps["r of the model"][kind] = methods["model"]
        maps[gap][kind] = {
            channel: r - methods[beside][channel]
            for channel, r in methods["model"].items()
            if channel in methods[beside]
        }
    places = comparison.positions_m[dataset]
    title = f"{dataset}: r of hidden samples, by electrode"
    return topography_figure(maps, places, title, differences=(gap,))
