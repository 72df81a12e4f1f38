"""A comparison as files: report.json, report.md and the figures.

report.json holds everything, report.md what a reader needs; both say for whom the numbers hold.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from matplotlib.figure import Figure

from data.files import write_atomic
from data.recordings import safe_name
from trainer.comparison import ALL, Comparison, Example
from trainer.figures import (
    bars_figure,
    reconstruction_figure,
    topography_figure,
)
from trainer.held_out import KIND_MEANINGS

METHOD_MEANINGS = {
    "model": "the trained network",
    "start": "what the network starts from before learning (its residual baseline)",
    "spline": "spherical spline over the channels visible at that moment, fp64",
    "cubic": "cubic spline in time through a channel's visible samples",
    "linear": "straight lines in time between a channel's visible samples",
    "zero": "0 everywhere",
}
TRAINED_MARK = "TRAINED ON: these numbers say nothing about new people"
READING = (
    "Only hidden samples are scored. **r**: Pearson correlation over a window's hidden samples, "
    "all channels pooled; a constant prediction scores 0. **NMSE**: squared error over squared "
    "signal, 1 for predicting zero. Windows are averaged within a subject, then subjects; [low, "
    "high] is a 95 % bootstrap interval over subjects, left out below three of them. Band scores "
    "compare the band-passed windows where they were hidden, with the visible samples in place: "
    "what leaks from those through the filter is in every column, and `zero` shows how much it is "
    "worth."
)


def build_report(comparison: Comparison, windows: Mapping, settings: dict, notes: list) -> dict:
    """Everything, JSON-able. windows: {dataset: {subject: number}}; settings and notes as given."""
    datasets = {}
    for dataset, counts in windows.items():
        kinds = [k for k in comparison.kinds if (dataset, k) not in comparison.impossible]
        datasets[dataset] = {
            "subjects": len(counts),
            "windows": sum(counts.values()),
            "channels": len(comparison.positions_m[dataset]),
            "bands_hz": comparison.bands[dataset]["hz"],
            "bands_left_out": comparison.bands[dataset]["left_out"],
            "kinds": comparison.summary(dataset, "model"),
            "by_subject": comparison.by_subject(dataset),
            "by_channel": {
                kind: {m: comparison.by_channel(dataset, kind, m) for m in comparison.methods}
                for kind in kinds
            },
        }
    return {
        "settings": settings,
        "notes": notes,
        "methods": METHOD_MEANINGS,
        "kinds": {kind: KIND_MEANINGS[kind] for kind in comparison.kinds},
        ALL: comparison.summary(ALL, "model"),
        "datasets": datasets,
    }


def write_json(path: Path, value: dict) -> None:
    """JSON without NaN, whole or absent."""
    write_atomic(path, (json.dumps(value, indent=1, allow_nan=False) + "\n").encode())


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
    for score, label, ceiling in (
        ("r", "r", None),
        ("log_spectral_error_db", "log-spectral error (dB)", 20.0),
    ):
        panels = {
            f"{kind}: {KIND_MEANINGS[kind]}": _bands(methods, score)
            for kind, methods in report[ALL].items()
        }
        if any(panels.values()):
            title = f"Hidden samples, by frequency band, all subjects: {label}"
            name = "r_by_band.png" if score == "r" else "spectrum_by_band.png"
            paths.append(save(folder / name, bars_figure(panels, label, title, ceiling)))
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


def markdown(report: dict, figures: Sequence[Path]) -> str:
    """report.md."""
    settings, datasets = report["settings"], report["datasets"]
    lines = [f"# Reconstruction of hidden EEG: {settings['model_path']}", ""]
    lines += [
        f"> **{note}**" if note.startswith("TRAINED ON") else note for note in report["notes"]
    ]
    lines += ["", READING, ""]
    lines += [f"* `{name}`: {what}" for name, what in report["methods"].items()]
    lines += ["", "Kinds of mask:", ""]
    lines += [f"* `{name}`: {what}" for name, what in report["kinds"].items()]
    if len(datasets) > 1:
        lines += ["", "## All datasets, every subject the same weight", ""]
        lines += _tables(report[ALL])
    for dataset, entry in datasets.items():
        lines += ["", f"## {dataset}", ""]
        lines += [
            f"{plural(entry['subjects'], 'subject')}, {plural(entry['windows'], 'window')}, "
            f"{plural(entry['channels'], 'channel')}.",
            "",
            *_tables(entry["kinds"]),
            *_band_tables(entry),
            *_subject_table(entry),
        ]
    lines += ["", "## Figures", ""]
    lines += [f"![{path.stem}]({path.name})" for path in figures]
    return "\n".join(lines) + "\n"


def short_table(kinds: dict) -> str:
    """kind x method, r: what is printed at the end."""
    methods = list(next(iter(kinds.values())))
    rows = [["r, hidden samples", *methods]]
    for kind, entries in kinds.items():
        rows.append([kind, *(_short(entries[method]["r"]["mean"]) for method in methods)])
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = []
    for first, *others in rows:
        cells = [cell.rjust(w) for cell, w in zip(others, widths[1:], strict=True)]
        lines.append("  ".join([first.ljust(widths[0]), *cells]))
    return "\n".join(lines)


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """A Markdown table, numbers to the right."""
    line = "|".join(["---", *["---:"] * (len(header) - 1)])
    return [
        f"| {' | '.join(header)} |",
        f"|{line}|",
        *(f"| {' | '.join(row)} |" for row in rows),
        "",
    ]


def interval(summary: dict) -> str:
    """`.812 [.790, .830]`, or the mean alone."""
    mean, low, high = (_short(summary[name]) for name in ("mean", "low", "high"))
    return mean if summary["low"] is None or low == high else f"{mean} [{low}, {high}]"


def plural(count: int, noun: str) -> str:
    """`1 subject`, `2 subjects`."""
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"


def _tables(kinds: dict) -> list[str]:
    lines = []
    for score, label in (("r", "r"), ("nmse", "NMSE")):
        methods = list(next(iter(kinds.values())))
        rows = [[kind, *(interval(e[m][score]) for m in methods)] for kind, e in kinds.items()]
        lines += table([label, *methods], rows)
    others = [m for m in methods if m != "model"]
    rows = [
        [kind, *(interval(entries[m]["model_minus_this"]["r"]) for m in others)]
        for kind, entries in kinds.items()
    ]
    return lines + table(["r of the model minus that of", *others], rows)


def _band_tables(entry: dict) -> list[str]:
    edges = entry["bands_hz"]
    lines = [f"Left out: {band}, {why}." for band, why in entry["bands_left_out"].items()]
    lines += [""] if lines else []
    if not edges:
        return lines
    for kind, methods in entry["kinds"].items():
        rows = [
            [
                f"{band} {low:g}-{high:g} Hz",
                *(
                    f"{_short(scores['bands'][band]['r']['mean'])} / "
                    f"{_short(scores['bands'][band]['log_spectral_error_db']['mean'], 1)}"
                    for scores in methods.values()
                ),
            ]
            for band, (low, high) in edges.items()
        ]
        lines += table([f"{kind}: r / dB", *methods], rows)
    return lines


def _subject_table(entry: dict) -> list[str]:
    kinds = list(entry["kinds"])
    rows = [
        [
            subject,
            *(
                " / ".join(_short(scores[k][m]["r"]) for m in ("model", "spline", "linear"))
                for k in kinds
            ),
        ]
        for subject, scores in entry["by_subject"].items()
    ]
    return table(["r by subject: model / spline / linear", *kinds], rows)


def _scores(kinds: dict, score: str) -> dict:
    return {kind: {m: scores[score] for m, scores in e.items()} for kind, e in kinds.items()}


def _bands(methods: dict, score: str) -> dict:
    bands = next(iter(methods.values())).get("bands", {})
    return {
        band: {method: scores["bands"][band][score] for method, scores in methods.items()}
        for band in bands
    }


def _topography(dataset: str, entry: dict, comparison: Comparison) -> Figure | None:
    maps: dict[str, dict] = {"r of the model": {}, "model - spline": {}}
    for kind, methods in entry["by_channel"].items():
        maps["r of the model"][kind] = methods["model"]
        maps["model - spline"][kind] = {
            channel: r - methods["spline"][channel]
            for channel, r in methods["model"].items()
            if channel in methods["spline"]
        }
    places = comparison.positions_m[dataset]
    title = f"{dataset}: r of hidden samples, by electrode"
    return topography_figure(maps, places, title, differences=("model - spline",))


def _short(value: float | None, digits: int = 3) -> str:
    return "--" if value is None else f"{round(value, digits) + 0.0:.{digits}f}"
