"""Drawings of reconstructions and scores. Arrays in, matplotlib figures out; nothing is computed
that a score depends on, and no window is ever opened (Agg).

Used by the report, by the TensorBoard log of pretraining and by fine-tuning. Every function
returns a Figure that pyplot does not know, so nothing has to be closed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import matplotlib

matplotlib.use("Agg")  # before MNE imports pyplot; a compute node has no display
import mne
import numpy as np
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

COLOURS = {
    "model": "#1f5fbf", "after": "#1f5fbf", "before": "#d9822b", "start": "#8ab4e8",
    "gauss": "#c23b6b", "spline": "#2e8b57", "cubic": "#b58ac9", "linear": "#8c8c8c",
    "zero": "#c9c9c9",
}  # fmt: skip
FALLBACK_COLOUR = "#444444"
TRUTH, GAP, FILL = "#222222", "#f3ead7", "#d1352b"
DPI = 130
MOST_PANELS = 5


def reconstruction_figure(
    truth: np.ndarray,
    masked: np.ndarray,
    prediction: np.ndarray,
    hidden: np.ndarray,
    channel_names: Sequence[str],
    sfreq_hz: float,
    unit: str,
    title: str,
) -> Figure:
    """Ground truth, masked input and reconstruction, one panel for each channel.

    truth, masked, prediction `[C, T]` in `unit`; `masked` is what the network was given, drawn
    where it is visible; hidden bool `[C, N]` or `[C, T]`. The r of a panel is over its hidden
    samples. Of more than five channels, five that are spread over the montage are drawn.
    """
    rows = range(len(truth)) if len(truth) <= MOST_PANELS else pick_channels(hidden, MOST_PANELS)
    truth, masked, prediction = (
        np.asarray(x, dtype=float)[list(rows)] for x in (truth, masked, prediction)
    )
    hidden, channel_names = np.asarray(hidden)[list(rows)], [channel_names[row] for row in rows]
    n_channels, n_samples = truth.shape
    hidden_T = np.repeat(np.asarray(hidden, dtype=bool), n_samples // hidden.shape[1], axis=1)
    time_s = np.arange(n_samples) / sfreq_hz
    figure = Figure(figsize=(10, 1.1 + 1.25 * n_channels), dpi=DPI, layout="constrained")
    axes = figure.subplots(n_channels, 1, sharex=True, sharey=True, squeeze=False)[:, 0]
    # An overshooting reconstruction may be cut, the truth may not.
    largest = np.abs(truth).max()
    limit = 1.1 * min(max(largest, np.abs(prediction).max()), 1.5 * largest) or 1.0
    for row, ax in enumerate(axes):
        for start, stop in _runs(hidden_T[row]):
            ax.axvspan((start - 0.5) / sfreq_hz, (stop - 0.5) / sfreq_hz, color=GAP, lw=0, zorder=0)
        ax.plot(time_s, truth[row], color=TRUTH, lw=0.9, alpha=0.7, zorder=2)
        visible = np.where(hidden_T[row], np.nan, masked[row])
        ax.plot(time_s, visible, color=COLOURS["model"], lw=1.8, zorder=3)
        for start, stop in _runs(hidden_T[row]):
            ax.plot(time_s[start:stop], prediction[row, start:stop], color=FILL, lw=1.5, zorder=4)
        ax.set_title(
            f"{channel_names[row]}   {_r_text(truth[row], prediction[row], hidden_T[row])}",
            loc="left", fontsize=9, pad=2,
        )  # fmt: skip
        ax.set_ylim(-limit, limit)
        ax.margins(x=0)
        _plain(ax)
    axes[-1].set_xlabel("time (s)")
    figure.supylabel(unit, fontsize=10)
    handles = [
        Line2D([], [], color=TRUTH, lw=0.9, alpha=0.7, label="ground truth"),
        Line2D([], [], color=COLOURS["model"], lw=1.8, label="masked input (visible)"),
        Line2D([], [], color=FILL, lw=1.5, label="reconstruction (hidden)"),
        Patch(color=GAP, label="hidden from the network"),
    ]
    figure.suptitle(title, fontsize=11)
    figure.legend(handles=handles, loc="outside lower center", ncols=4, frameon=False, fontsize=9)
    return figure


def pick_channels(hidden: np.ndarray, count: int) -> list[int]:
    """Up to `count` rows of a mask `[C, N]`, spread over the montage: rows with something hidden,
    and one that is all visible where there is one."""
    touched = np.asarray(hidden).any(1)
    visible = _spread(np.flatnonzero(~touched), 1)
    return sorted([*visible, *_spread(np.flatnonzero(touched), count - len(visible))])


def bars_figure(
    panels: Mapping[str, Mapping[str, Mapping[str, dict]]],
    score: str,
    title: str,
    ceiling: float | None = None,
    floor: float = 0.0,
) -> Figure:
    """Grouped bars, one panel for each entry: panels[name][group][method] = {mean, low, high}.

    `score` labels the axis; whiskers are the 95 % intervals, where there are any. Where there is a
    `ceiling`, bars above it or below `floor` are cut and their value is written on them.
    """
    methods = list(dict.fromkeys(m for p in panels.values() for g in p.values() for m in g))
    widest = max(len(groups) for groups in panels.values())
    size = (max(6.0, 1.2 + 0.28 * widest * (len(methods) + 1.2)), 0.9 + 2.5 * len(panels))
    figure = Figure(figsize=size, dpi=DPI, layout="constrained")
    axes = figure.subplots(len(panels), 1, sharey=True, squeeze=False)[:, 0]
    width = 0.82 / len(methods)
    for ax, (name, groups) in zip(axes, panels.items(), strict=True):
        for number, method in enumerate(methods):
            at = np.arange(len(groups)) + (number - (len(methods) - 1) / 2) * width
            entries = [group.get(method, {}) for group in groups.values()]
            means = np.array([_number(entry.get("mean")) for entry in entries])
            ax.bar(at, means, 0.9 * width, color=_colour(method), zorder=2)
            # Of a score that is exactly 0 there is no bar to see: a mark tells it from no score.
            ax.plot(at[means == 0], means[means == 0], "_", color=_colour(method), ms=7, mew=1.5)
            ends = np.array([[_number(e.get("low")), _number(e.get("high"))] for e in entries]).T
            spread = np.abs(ends - means)
            ax.errorbar(at, means, spread, fmt="none", ecolor="#333333", elinewidth=0.9, zorder=3)
            for x, mean in zip(at, means, strict=True):
                if ceiling is not None and not floor <= mean <= ceiling and np.isfinite(mean):
                    above = mean > ceiling
                    ax.text(
                        x, 0.97 * (ceiling if above else floor), f"{mean:.3g}", rotation=90,
                        va="top" if above else "bottom", ha="center", fontsize=7, zorder=4,
                    )  # fmt: skip
        ax.axhline(0, color="#333333", lw=0.8)
        ax.set_xticks(range(len(groups)), list(groups))
        ax.set_xlim(-0.6, len(groups) - 0.4)
        if ceiling is not None:
            ax.set_ylim(floor, ceiling)
        ax.set_ylabel(score, fontsize=9)
        ax.set_title(name, loc="left", fontsize=10)
        ax.grid(axis="y", color="#e5e5e5", lw=0.6, zorder=0)
        ax.set_axisbelow(True)
        _plain(ax)
    figure.suptitle(title, fontsize=11)
    handles = [Patch(color=_colour(method), label=method) for method in methods]
    figure.legend(
        handles=handles, loc="outside lower center", ncols=len(methods), frameon=False, fontsize=9
    )
    return figure


def topography_figure(
    maps: Mapping[str, Mapping[str, dict[str, float]]],
    positions_m: Mapping[str, Sequence[float]],
    title: str,
    differences: Sequence[str] = (),
) -> Figure | None:
    """r on the scalp: maps[row][column] = {channel: r}; None with fewer than 4 channels.

    Colours run from 0 to 1, in the rows named by `differences` around 0 as far as the row's values
    go. positions_m: {channel: (x, y, z) metres, head frame}.
    """
    columns = list(dict.fromkeys(column for row in maps.values() for column in row))
    if max((len(v) for row in maps.values() for v in row.values()), default=0) < 4:
        return None
    size = (1.1 + 2.0 * len(columns), 0.9 + 2.3 * len(maps))
    figure = Figure(figsize=size, dpi=DPI, layout="constrained")
    axes = figure.subplots(len(maps), len(columns), squeeze=False)
    for row_axes, (row, entries) in zip(axes, maps.items(), strict=True):
        shown = {column: values for column, values in entries.items() if len(values) >= 4}
        limits, palette = (0.0, 1.0), "viridis"
        if row in differences:
            sizes = [abs(x) for values in shown.values() for x in values.values()]
            limit = max([1e-3, *sizes])
            limits, palette = (-limit, limit), "RdBu_r"
        image = None
        for ax, column in zip(row_axes, columns, strict=True):
            ax.set_title(column, fontsize=9)
            if column not in shown:
                ax.axis("off")
                continue
            image = _topomap(ax, shown[column], positions_m, limits, palette)
        if image is not None:
            bar = figure.colorbar(image, ax=list(row_axes), shrink=0.75, pad=0.02)
            bar.set_label(row, fontsize=9)
    figure.suptitle(title, fontsize=11)
    return figure


def adaptation_figure(
    values: Mapping[str, np.ndarray],
    spectra_db: Mapping[str, np.ndarray],
    frequencies_hz: np.ndarray,
    masked_r: Mapping[str, Mapping[str, dict]],
    unit: str,
    title: str,
) -> Figure:
    """Amplitude distribution and power spectrum of the signal and of its reconstructions, and the
    masked r.

    values: {"signal", "before", "after"} -> samples in `unit`; spectra_db: the same names ->
    `[F]` dB at `frequencies_hz`; masked_r[kind][method] = {mean, low, high}.
    """
    figure = Figure(figsize=(13, 4.2), dpi=DPI, layout="constrained")
    left, middle, right = figure.subplots(1, 3, width_ratios=[1, 1, 1.3])
    edge = float(np.quantile(np.abs(values["signal"]), 0.9995)) * 1.15
    bins = np.linspace(-edge, edge, 81)
    styles = {"signal": (TRUTH, "-", 2.0), "before": (COLOURS["before"], "--", 1.4),
              "after": (COLOURS["after"], "-", 1.4)}  # fmt: skip
    for name, samples in values.items():
        colour, style, width = styles[name]
        density, _ = np.histogram(samples, bins, density=True)
        centres = (bins[1:] + bins[:-1]) / 2
        shown = np.where(density > 0, density, np.nan)
        left.plot(centres, shown, color=colour, ls=style, lw=width, label=name)
        middle.plot(frequencies_hz, spectra_db[name], color=colour, ls=style, lw=width, label=name)
    left.set(yscale="log", xlabel=f"amplitude ({unit})", ylabel="density", xlim=(-edge, edge))
    left.set_title("amplitude distribution", loc="left", fontsize=10)
    middle.set(xlabel="frequency (Hz)", ylabel=f"power (dB re 1 {unit}²/Hz)")
    middle.set_title("power spectrum", loc="left", fontsize=10)
    middle.margins(x=0)
    for ax in (left, middle):
        ax.legend(frameon=False, fontsize=9)
        ax.grid(color="#ececec", lw=0.6)
    methods = list(dict.fromkeys(m for group in masked_r.values() for m in group))
    width = 0.82 / len(methods)
    for number, method in enumerate(methods):
        at = np.arange(len(masked_r)) + (number - (len(methods) - 1) / 2) * width
        means = [_number(group.get(method, {}).get("mean")) for group in masked_r.values()]
        right.bar(at, means, 0.9 * width, color=_colour(method), label=method, zorder=2)
    right.axhline(0, color="#333333", lw=0.8)
    right.set_xticks(range(len(masked_r)), list(masked_r))
    right.set_ylabel("masked r")
    right.set_title("reconstruction, by kind of mask", loc="left", fontsize=10)
    right.grid(axis="y", color="#ececec", lw=0.6)
    right.set_axisbelow(True)
    right.legend(
        frameon=False, fontsize=8, ncols=len(methods), loc="upper center",
        bbox_to_anchor=(0.5, -0.13), columnspacing=1.0, handlelength=1.2,
    )  # fmt: skip
    for ax in (left, middle, right):
        _plain(ax)
    figure.suptitle(title, fontsize=11)
    return figure


def _topomap(ax, values, positions_m, limits, palette):
    info = mne.create_info(list(values), 1.0, "eeg")
    places = {channel: np.asarray(positions_m[channel], dtype=float) for channel in values}
    info.set_montage(mne.channels.make_dig_montage(places, coord_frame="head"))
    radius = float(np.median([np.linalg.norm(place) for place in places.values()]))
    image, _ = mne.viz.plot_topomap(
        np.array(list(values.values())), info, axes=ax, show=False, contours=0, cmap=palette,
        vlim=limits, sphere=(0.0, 0.0, 0.0, radius), extrapolate="local", res=40,
    )  # fmt: skip
    return image


def _r_text(truth: np.ndarray, prediction: np.ndarray, hidden: np.ndarray) -> str:
    a, b = truth[hidden], prediction[hidden]
    if len(a) < 2:
        return "(visible)"
    if not (a.std() and b.std()):
        return "r = -- (constant)"
    return f"r = {np.corrcoef(a, b)[0, 1]:.2f}"


def _spread(rows: np.ndarray, count: int) -> list[int]:
    middles = (np.arange(count) + 0.5) / count * len(rows)
    return np.unique(rows[middles.astype(int)]).tolist() if len(rows) else []


def _runs(mask: np.ndarray) -> list[tuple[int, int]]:
    """(start, stop) of every run of True."""
    edges = np.flatnonzero(np.diff(np.concatenate([[0], mask.astype(int), [0]])))
    return list(zip(edges[::2].tolist(), edges[1::2].tolist(), strict=True))


def _plain(ax) -> None:
    ax.spines[["top", "right"]].set_visible(False)
    ax.tick_params(labelsize=8)


def _colour(method: str) -> str:
    return COLOURS.get(method, FALLBACK_COLOUR)


def _number(value: float | None) -> float:
    return float("nan") if value is None else value
