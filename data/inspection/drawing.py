"""The pictures of an inspection: windows, spectra, histograms, electrodes, what was dropped."""

from __future__ import annotations

from pathlib import Path

import matplotlib
import numpy as np

matplotlib.use("Agg")
from matplotlib import pyplot as plt
from matplotlib.ticker import LogFormatter

from data.inspection.survey import DatasetSurvey

DPI = 110
MOST_TRACES = 24
MOST_NAMES = 34
UNIT = {"uV": "µV", "units": "units of the source"}
plt.rcParams.update({"font.size": 9, "axes.spines.top": False, "axes.spines.right": False})


def draw_windows(entry: DatasetSurvey, sfreq_hz: float, path: Path) -> None:
    """Some windows of one dataset: at most MOST_TRACES channels, evenly chosen, one scale."""
    count = len(entry.examples)
    figure, axes = plt.subplots(
        1, count, figsize=(4.4 * count, 5.2), layout="constrained", squeeze=False
    )
    step = 6 * np.median([np.median(np.abs(signal)) for _, _, signal in entry.examples]) or 1.0
    for axis, (title, names, signal) in zip(axes[0], entry.examples, strict=True):
        rows = np.unique(np.linspace(0, len(names) - 1, MOST_TRACES).round().astype(int))
        times_s = np.arange(signal.shape[1]) / sfreq_hz
        for place, row in enumerate(rows):
            axis.plot(times_s, signal[row] - step * place, lw=0.6, color="#1f4e79")
        axis.set_yticks(-step * np.arange(len(rows)), [names[row] for row in rows], fontsize=7)
        axis.set(xlabel="seconds", ylim=(-step * len(rows), step), xlim=(0, times_s[-1]))
        axis.tick_params(axis="y", length=0)
        axis.set_title(title, fontsize=8)
    figure.suptitle(f"{entry.name}: traces {step:.3g} {UNIT[entry.unit]} apart", fontsize=11)
    _save(figure, path)


def draw_spectra(surveys: list[DatasetSurvey], profile: dict, path: Path) -> None:
    """Mean power density of each dataset; one panel for volts, one for sources without a unit."""
    units = sorted({entry.unit for entry in surveys})
    figure, axes = plt.subplots(
        1, len(units), figsize=(6.6 * len(units), 4.4), layout="constrained", squeeze=False
    )
    for axis, unit in zip(axes[0], units, strict=True):
        chosen = [entry for entry in surveys if entry.unit == unit]
        for entry, style in zip(chosen, _styles(len(chosen)), strict=True):
            positive = (entry.freqs_hz > 0) & (entry.power > 0)
            axis.loglog(entry.freqs_hz[positive], entry.power[positive], label=entry.name, **style)
        for edge in ("l_freq_hz", "h_freq_hz"):
            if edge in profile:
                axis.axvline(profile[edge], color="0.6", lw=0.8, ls=":")
        in_band = [e.power[(e.freqs_hz > 1) & (e.freqs_hz < _band_end(profile))] for e in chosen]
        in_band = np.concatenate(in_band)
        in_band = in_band[in_band > 0]
        if in_band.size:
            axis.set_ylim(in_band.min() / 30, 30 * in_band.max())
        axis.set_xticks([1, 2, 5, 10, 20, 50, 100], ["1", "2", "5", "10", "20", "50", "100"])
        axis.set_xlim(0.4, chosen[0].freqs_hz[-1])
        axis.minorticks_off()
        symbol = "µV²/Hz" if unit == "uV" else "(unit of the source)²/Hz"
        axis.set(xlabel="hertz (dotted: the band's edges)", ylabel=symbol)
        axis.set_title("mean spectrum over channels and windows", fontsize=10)
        _legend(axis, len(chosen))
    _save(figure, path)


def draw_amplitudes(surveys: list[DatasetSurvey], path: Path) -> None:
    """Histogram of the stored values, and each recording's robust scale."""
    height = max(3.8, 0.26 * len(surveys) + 1.2)
    figure, (left, right) = plt.subplots(1, 2, figsize=(12, height), layout="constrained")
    for entry, style in zip(surveys, _styles(len(surveys)), strict=True):
        density = entry.counts / max(1, entry.counts.sum()) / np.diff(entry.edges)
        left.stairs(np.where(density > 0, density, np.nan), entry.edges, label=entry.name, **style)
    grid = np.linspace(-4.5, 4.5, 200)
    normal = np.exp(-(grid**2) / 2) / np.sqrt(2 * np.pi)
    left.plot(grid, normal, color="0.5", ls="--", lw=0.8, label="normal")
    left.set(yscale="log", xlabel="stored value (robust units)", ylabel="density")
    left.set_title("amplitude histogram", fontsize=10)
    _legend(left, len(surveys))
    rng = np.random.default_rng(0)
    for row, (entry, style) in enumerate(zip(surveys, _styles(len(surveys)), strict=True)):
        jitter = row + rng.uniform(-0.25, 0.25, len(entry.scales))
        right.scatter(entry.scales, jitter, s=8, alpha=0.7, color=style["color"], lw=0)
    labels = [f"{e.name}{'' if e.unit == 'uV' else ' (own unit)'}" for e in surveys]
    right.set_yticks(range(len(surveys)), labels)
    right.set_ylim(len(surveys) - 0.4, -0.6)
    right.set(xscale="log", xlabel="robust scale of a recording, µV")
    scales = [s for entry in surveys for s in entry.scales]
    right.set_xlim(min(scales) / 2, 2 * max(scales))
    for which in (right.xaxis.set_major_formatter, right.xaxis.set_minor_formatter):
        which(LogFormatter(minor_thresholds=(1.5, 0.5)))
    right.set_title("one point for each recording", fontsize=10)
    _save(figure, path)


def draw_electrodes(surveys: list[DatasetSurvey], path: Path) -> None:
    """Electrodes from above, coloured by the share of recordings in which they are used."""
    columns = min(4, len(surveys))
    rows = -(-len(surveys) // columns)
    figure, axes = plt.subplots(
        rows, columns, figsize=(3.4 * columns + 0.8, 3.6 * rows), layout="constrained",
        squeeze=False,
    )  # fmt: skip
    for axis in axes.flat[len(surveys) :]:
        axis.remove()
    points = None
    for axis, entry in zip(axes.flat, surveys, strict=False):
        axis.set_aspect("equal")
        axis.axis("off")
        axis.set(xlim=(-1.4, 1.4), ylim=(-1.4, 1.4))
        axis.set_title(f"{entry.name}: {len(entry.electrodes)} electrodes", fontsize=9)
        ring = np.linspace(0, 2 * np.pi, 100)
        axis.plot(np.cos(ring), np.sin(ring), color="0.6", lw=1)
        axis.plot([-0.1, 0, 0.1], [0.995, 1.13, 0.995], color="0.6", lw=1)
        if entry.electrodes:
            places = np.array([place for place, _ in entry.electrodes.values()])
            shares = [share for _, share in entry.electrodes.values()]
            flat = from_above(places)
            points = axis.scatter(
                *flat.T, c=shares, cmap="viridis", vmin=0, vmax=1, s=26, zorder=3, lw=0
            )
            if len(places) <= MOST_NAMES:
                for name, (x, y) in zip(entry.electrodes, flat, strict=True):
                    axis.annotate(
                        name, (x, y), (0, 5), textcoords="offset points", fontsize=6, ha="center"
                    )
    if points is not None:
        figure.colorbar(
            points,
            ax=axes.flat[: len(surveys)].tolist(),
            shrink=0.6,
            label="share of recordings using it",
        )
    _save(figure, path)


def draw_dropped(surveys: list[DatasetSurvey], path: Path) -> None:
    """Share of each dataset's windows that was dropped, by reason."""
    reasons = sorted({reason for entry in surveys for reason, n in entry.dropped.items() if n})
    figure, axis = plt.subplots(
        figsize=(8, max(1.8, 0.32 * len(surveys) + 1.2)), layout="constrained"
    )
    left = np.zeros(len(surveys))
    total = np.array([entry.kept + sum(entry.dropped.values()) for entry in surveys], float)
    for reason, style in zip(reasons, _styles(len(reasons)), strict=True):
        share = 100 * np.array([entry.dropped.get(reason, 0) for entry in surveys]) / total
        axis.barh(range(len(surveys)), share, left=left, label=reason, color=style["color"])
        left += share
    for row, (value, entry) in enumerate(zip(left, surveys, strict=True)):
        text = f" {value:.1f} % of {int(total[row]):,}" if sum(entry.dropped.values()) else " none"
        axis.text(value, row, text, va="center", fontsize=8)
    axis.set_yticks(range(len(surveys)), [entry.name for entry in surveys])
    axis.set_ylim(len(surveys) - 0.4, -0.6)
    axis.set(xlabel="% of windows dropped", xlim=(0, max(1.0, 1.3 * left.max())))
    if reasons:
        axis.legend(fontsize=8, frameon=False, loc="upper left", bbox_to_anchor=(1.0, 1.0))
    _save(figure, path)


def from_above(places_m: np.ndarray) -> np.ndarray:
    """Azimuthal projection `[C, 3]` metres -> `[C, 2]`: the top of the head at 0, its equator at 1.

    Around a point 4 cm above the head frame's origin, which is near the middle of a head.
    """
    around = places_m - np.array([0.0, 0.0, 0.04])
    flat = np.hypot(around[:, 0], around[:, 1])
    angle = np.arctan2(flat, around[:, 2]) / (np.pi / 2)
    unit = around[:, :2] / np.maximum(flat, 1e-9)[:, None]
    return unit * angle[:, None]


def _band_end(profile: dict) -> float:
    return float(profile.get("h_freq_hz", profile["sfreq_hz"] / 2.5))


def _styles(count: int) -> list[dict]:
    colours = plt.get_cmap("tab20" if count > 10 else "tab10").colors
    marks = ["-", "--", "-.", ":"]
    return [
        {"color": colours[i % len(colours)], "ls": marks[i // len(colours) % 4], "lw": 1.2}
        for i in range(count)
    ]


def _legend(axis, count: int) -> None:
    axis.legend(fontsize=7 if count > 8 else 8, frameon=False, ncols=1 + (count > 20))


def _save(figure, path: Path) -> None:
    figure.savefig(path, dpi=DPI)
    plt.close(figure)
