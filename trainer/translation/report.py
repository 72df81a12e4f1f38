"""report.md and its figures from the numbers of report.json."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from trainer.reports.report_figures import TRAINED_MARK, save_figure
from trainer.reports.tables import headline_lines, interval, plural, table

TITLES = {"mag": "Magnetometers", "grad": "Gradiometers"}
READING = (
    "Scores of translated MEG against measured MEG, on recordings left out. r: Pearson correlation "
    "of each sensor over time, its median over sensors (quartiles in the last column); R2: against "
    "the training mean, 0 is no better than that; error: size of the residual over that of the "
    "signal; topography: correlation over sensors at each instant, weighted by the strength of the "
    "field. Means over {unit}s; in brackets the 95 % interval of Student's t over {unit}s, "
    "where there are three or more."
)
MAP_METHODS = ("oracle", "oracle linear", "model", "ridge", "shifted EEG")


def markdown(report: dict, figures: Sequence[Path]) -> str:
    """report.md."""
    unit = _unit(report)
    lines = [f"# EEG to MEG: {report['model_path']}", ""]
    lines += [f"> **{text}**" for text in report["warnings"]]
    lines += [""] if report["warnings"] else []
    lines += [
        f"Left out ({report['split']['rule']}): {', '.join(report['subjects'])}; "
        f"{plural(len(report['tested']), 'recording')}, "
        f"{plural(sum(report['pieces'].values()), 'sample')} at {report['sfreq_hz']:g} Hz.",
        "",
        READING.format(unit=unit),
        "",
    ]
    lines += [f"* `{name}`: {what}" for name, what in report["methods"].items()]
    lines += [f"* `{name}`: not there; {why}" for name, why in report["left_out"].items()]
    for kind, rows in report["types"].items():
        lines += ["", f"## {TITLES[kind]}", "", *_table(rows)]
        lines += headline_lines({"r": report["headline"][kind]}, "model")
        lines += ["", *_bands(rows, report)]
    lines += _evoked(report)
    lines += _leak(report)
    lines += ["", "## Figures", ""]
    lines += [f"![{path.stem}]({path.name})" for path in figures]
    return "\n".join(lines) + "\n"


def short_table(report: dict) -> str:
    """method x type, r and R2: what is printed at the end."""
    kinds = list(report["types"])
    rows = [["", *(f"{kind} {score}" for kind in kinds for score in ("r", "R2"))]]
    for name in report["types"][kinds[0]]:
        cells = [
            _short(report["types"][kind][name][score]["mean"])
            for kind in kinds
            for score in ("r", "r2")
        ]
        rows.append([name, *cells])
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return "\n".join(
        "  ".join([first.ljust(widths[0]), *(c.rjust(w) for c, w in zip(cells, widths[1:],
                                                                     strict=True))])
        for first, *cells in rows
    )  # fmt: skip


def save_figures(folder: Path, report: dict, found, sfreq_hz: float) -> list[Path]:
    """Traces, topographies, maps of r, bars of bands."""
    # Here, since matplotlib and MNE cost seconds where no figure is asked for.
    from trainer.translation import figures

    piece, shown = found.example
    title = f"{piece.recording} from {piece.onset_s:.1f} s (left out)"
    drawn = (piece.meg, shown, piece.montage, sfreq_hz, title)
    made = {
        "traces.png": figures.traces_figure(*drawn),
        "topographies.png": figures.topographies_figure(*drawn),
    }
    recording = piece.recording
    methods = [name for name in MAP_METHODS if name in found.scores]
    maps = {
        kind: {
            name: found.scores[name][recording].sums.scores()["r"][
                found.scores[name][recording].rows(kind)
            ]
            for name in methods
        }
        for kind in report["types"]
    }
    made["r_by_sensor.png"] = figures.score_maps_figure(
        maps, piece.montage, f"r of each sensor, {recording}"
    )
    if report["bands_hz"]:
        made["r_by_band.png"] = figures.bands_figure(report["types"], report["bands_hz"])
    seen = any("TRAINED ON" in warning for warning in report["warnings"])
    mark = TRAINED_MARK if seen else ""
    return [save_figure(folder / name, one, mark) for name, one in made.items() if one is not None]


def _table(rows: dict) -> list[str]:
    header = ["method", "r", "R2", "error", "topography", "model minus this, r", "r, quartiles"]
    lines = []
    for name, one in rows.items():
        gap = one.get("model_minus_this")
        low, high = one["r_quartiles"]
        lines.append(
            [
                name,
                *(interval(one[score]) for score in ("r", "r2", "error", "topography")),
                "" if gap is None else interval(gap),
                f"{_short(low)} to {_short(high)}",
            ]
        )
    return table(header, lines)


def _bands(rows: dict, report: dict) -> list[str]:
    lines = [f"Left out: {name}, {why}." for name, why in report["bands_left_out"].items()]
    lines += [""] if lines else []
    if not report["bands_hz"]:
        return lines
    names = [f"{name} {low:g}-{high:g} Hz" for name, (low, high) in report["bands_hz"].items()]
    cells = [
        [name, *(interval(one["bands"][band]) for band in report["bands_hz"])]
        for name, one in rows.items()
    ]
    return lines + table(["r by band", *names], cells)


def _evoked(report: dict) -> list[str]:
    if not report["evoked"]:
        return ["", "No evoked responses: fewer than two windows were cut at the same event."]
    kinds = report["evoked"]["r"]
    counts: dict[str, int] = {}
    for trials in report["evoked"]["trials"].values():
        for label, count in trials.items():
            counts[label] = counts.get(label, 0) + count
    shown = ", ".join(f"{label}: {count}" for label, count in sorted(counts.items()))
    cells = [
        [name, *(_short(kinds[kind].get(name)) for kind in kinds)]
        for name in next(iter(kinds.values()))
    ]
    return [
        "", "## Evoked responses", "",
        f"r of averages over trials, median over sensors, mean over recordings (trials {shown}).",
        "", *table(["method", *(TITLES[kind].lower() for kind in kinds)], cells),
    ]  # fmt: skip


def _leak(report: dict) -> list[str]:
    leak = report.get("leak_test")
    if leak is None:
        return []
    lines = ["", "## Leak test", ""]
    if "proper" not in leak:
        return [*lines, f"{leak['note'].capitalize()}."]
    cells = [
        [TITLES[kind].lower(), _short(leak["proper"][kind]), _short(leak["random"][kind])]
        for kind in leak["proper"]
    ]
    return [
        *lines,
        f"Ridge regression without lags, all {leak['pieces']} pieces predicted fold by fold "
        f"({leak['folds']} folds), r. The folds are whole {leak['unit']}s, or shuffled pieces. "
        "What shuffling adds is memory of the same recording, not translation.",
        "",
        *table(["", f"each {leak['unit']} left out", "shuffled pieces"], cells),
    ]  # fmt: skip


def _unit(report: dict) -> str:
    return next(iter(next(iter(report["types"].values())).values()))["unit"]


def _short(value, digits: int = 3) -> str:
    if value is None or not np.isfinite(value):
        return "--"
    return f"{round(value, digits) + 0.0:.{digits}f}"
