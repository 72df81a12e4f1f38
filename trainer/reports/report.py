"""A comparison as files: report.json, report.md and the figures.

report.json holds everything, report.md what a reader needs; both name the people that were scored.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from data.files import write_atomic
from model.masks import parse
from trainer.reports.tables import (
    band_table,
    headline_table,
    interval,
    plural,
    reference_table,
    short,
    spectrum_table,
    table,
)
from trainer.scoring.closed_forms import headline
from trainer.scoring.compare import ALL, Comparison

METHOD_MEANINGS = {
    "model": "the trained network",
    "start": "what the network starts from before learning (its residual baseline)",
    "gauss": "conditional mean of a Gaussian whose covariance over places and lags was fitted on "
    "training people (one for all montages)",
    "spline": "spherical spline over the channels visible at that moment, fp64; its regularisation "
    "chosen on validation people",
    "cubic": "cubic spline in time through a channel's visible samples",
    "linear": "straight lines in time between a channel's visible samples",
    "zero": "0 everywhere, but for the sum over channels where that is known",
}
READING = (
    "Only hidden samples are scored. **r**: Pearson correlation over a window's hidden samples, "
    "all channels pooled; a constant prediction scores 0. **NMSE**: squared error over squared "
    "signal, 1 for predicting zero. Windows are averaged within a subject, then subjects; [low, "
    "high] is the 95 % interval of Student's t over subjects, left out below three of them. The "
    "best baseline is the one that scores highest on these very people, so that choosing it cannot "
    "flatter the model. Band scores "
    "compare the band-passed windows where they were hidden, with the visible samples in place: "
    "what leaks from those through the filter is in every column, and `zero` shows how much it is "
    "worth. **dB**: 10 log10 of the band's power over the true one; below 0 the reconstruction is "
    "too weak, as every cautious prediction of correlation r is, by about 20 log10 r. What is left "
    "after one gain, which validation people chose for each method and kind of mask, is a wrong "
    "shape."
)


def build_report(
    comparison: Comparison,
    windows: Mapping,
    settings: dict,
    notes: list,
    baselines: Sequence[str],
) -> dict:
    """Everything, JSON-able. windows: {dataset: {subject: number}}; settings and notes as given;
    baselines: the methods of which the best is what the model is compared with."""
    datasets = {}
    for dataset, counts in windows.items():
        kinds = [k for k in comparison.kinds if (dataset, k) not in comparison.impossible]
        datasets[dataset] = {
            "subjects": len(counts),
            "windows": sum(counts.values()),
            "channels": len(comparison.positions_m[dataset]),
            "bands_hz": comparison.bands[dataset]["hz"],
            "bands_left_out": comparison.bands[dataset]["left_out"],
            "average_reference": comparison.referenced.get(dataset, False),
            "kinds": comparison.summary(dataset, "model"),
            "headline": headline(comparison, dataset, "model", baselines),
            "by_subject": comparison.by_subject(dataset),
            "by_channel": {
                kind: {m: comparison.by_channel(dataset, kind, m) for m in comparison.methods}
                for kind in kinds
            },
        }
    return {
        "settings": settings,
        "notes": notes,
        "methods": {name: METHOD_MEANINGS[name] for name in comparison.methods},
        "kinds": {kind: parse(kind)[0].meaning for kind in comparison.kinds},
        ALL: comparison.summary(ALL, "model"),
        "headline": headline(comparison, ALL, "model", baselines),
        "datasets": datasets,
    }


def write_json(path: Path, value: dict) -> None:
    """JSON without NaN, whole or absent."""
    write_atomic(path, (json.dumps(value, indent=1, allow_nan=False) + "\n").encode())


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
        lines += headline_table(report["headline"], report[ALL], "model")
        lines += _tables(report[ALL])
    for dataset, entry in datasets.items():
        lines += ["", f"## {dataset}", ""]
        lines += [
            f"{plural(entry['subjects'], 'subject')}, {plural(entry['windows'], 'window')}, "
            f"{plural(entry['channels'], 'channel')}.",
            "",
            *headline_table(entry["headline"], entry["kinds"], "model"),
            *_tables(entry["kinds"]),
            *(reference_table(entry["kinds"]) if entry["average_reference"] else ()),
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
        rows.append([kind, *(short(entries[method]["r"]["mean"]) for method in methods)])
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = []
    for first, *others in rows:
        cells = [cell.rjust(w) for cell, w in zip(others, widths[1:], strict=True)]
        lines.append("  ".join([first.ljust(widths[0]), *cells]))
    return "\n".join(lines)


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
    lines += spectrum_table(entry["kinds"])
    for kind, methods in entry["kinds"].items():
        lines += band_table(kind, methods, edges)
    return lines


def _subject_table(entry: dict) -> list[str]:
    kinds = list(entry["kinds"])
    present = next(iter(entry["kinds"].values()))
    shown = [m for m in ("model", "gauss", "spline", "linear") if m in present]
    rows = [
        [
            subject,
            *(" / ".join(short(scores[k][m]["r"]) for m in shown) for k in kinds),
        ]
        for subject, scores in entry["by_subject"].items()
    ]
    return table([f"r by subject: {' / '.join(shown)}", *kinds], rows)
