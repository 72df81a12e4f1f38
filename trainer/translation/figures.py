"""Drawings of translations: traces, sensor topographies, maps of scores. Arrays in, figures out.

A planar gradiometer pair shares a place, so its map shows the root mean square of the two.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import matplotlib

matplotlib.use("Agg")  # before MNE imports pyplot; a compute node has no display
import mne
import numpy as np
from matplotlib.figure import Figure

from data.batches.pairs import PairedMontage

TRUTH, PREDICTED, ERROR = "#222222", "#1f5fbf", "#d1352b"
UNITS = {"mag": ("fT", 1e15), "grad": ("fT/cm", 1e13)}
TITLES = {"mag": "magnetometers", "grad": "gradiometers"}
COLOURS = {
    "oracle": "#222222", "oracle linear": "#777777", "model": PREDICTED, "no attention": "#6fa0e0",
    "no linear map": "#c5d9f3", "minimum norm": "#2e8b57", "ridge": "#d9822b",
    "ridge lags": "#f0b478", "reduced rank": "#a8631c", "mean": "#c9c9c9", "shifted EEG": "#d1352b",
}  # fmt: skip
DPI = 130
SAME_PLACE_M = 1e-3
FEWEST_PLACES = 4


def traces_figure(
    truth: np.ndarray, prediction: np.ndarray, montage: PairedMontage, sfreq_hz: float, title: str,
    each: int = 3,
) -> Figure:  # fmt: skip
    """True and predicted traces of sensors spread over each type, `[Ct, T]` in T and T/m."""
    rows = [row for kind in UNITS for row in _spread(_rows(montage, kind), each)]
    figure = Figure(figsize=(10, 1.1 + 1.15 * len(rows)), dpi=DPI, layout="constrained")
    axes = figure.subplots(len(rows), 1, sharex=True, squeeze=False)[:, 0]
    time_s = np.arange(truth.shape[1]) / sfreq_hz
    for ax, row in zip(axes, rows, strict=True):
        unit, factor = UNITS[montage.meg_types[row]]
        x, y = truth[row] * factor, prediction[row] * factor
        ax.plot(time_s, x, color=TRUTH, lw=1.0, label="measured")
        ax.plot(time_s, y, color=PREDICTED, lw=1.4, label="translated from EEG")
        moves = x.std() > 0 and y.std() > 0
        r = f"{np.corrcoef(x, y)[0, 1]:.2f}" if moves else "-- (constant)"
        ax.set_title(f"{montage.meg_names[row]}   r = {r}", loc="left", fontsize=9, pad=2)
        ax.set_ylabel(unit, fontsize=8)
        ax.margins(x=0)
        ax.spines[["top", "right"]].set_visible(False)
        ax.tick_params(labelsize=8)
    axes[-1].set_xlabel("time (s)")
    handles, labels = axes[0].get_legend_handles_labels()
    figure.suptitle(title, fontsize=11)
    figure.legend(handles, labels, loc="outside lower center", ncols=2, frameon=False, fontsize=9)
    return figure


def topographies_figure(
    truth: np.ndarray, prediction: np.ndarray, montage: PairedMontage, sfreq_hz: float, title: str
) -> Figure | None:
    """Measured, translated and difference over the sensors at the instant of the strongest field
    of each type; `[Ct, T]` in T and T/m. None with fewer than four places."""
    kinds = [kind for kind in UNITS if _drawable(montage, kind)]
    if not kinds:
        return None
    figure = Figure(figsize=(8.4, 0.9 + 2.5 * len(kinds)), dpi=DPI, layout="constrained")
    axes = figure.subplots(len(kinds), 3, squeeze=False)
    for row_axes, kind in zip(axes, kinds, strict=True):
        unit, factor = UNITS[kind]
        rows = _rows(montage, kind)
        at = int(truth[rows].std(0).argmax())
        fields = {
            "measured": truth[rows, at] * factor,
            "translated": prediction[rows, at] * factor,
            "difference": (truth[rows, at] - prediction[rows, at]) * factor,
        }
        places = montage.meg_positions_m[rows]
        maps = {name: _over_places(values, places, kind)[0] for name, values in fields.items()}
        where = _over_places(fields["measured"], places, kind)[1]
        limit = max(float(np.abs(values).max()) for values in maps.values()) or 1.0
        signed = kind == "mag"
        for ax, (name, values) in zip(row_axes, maps.items(), strict=True):
            limits = (-limit, limit) if signed else (0.0, limit)
            image = _map(ax, values, where, limits, "RdBu_r" if signed else "viridis")
            ax.set_title(f"{name}, {at / sfreq_hz:.3f} s", fontsize=9)
        bar = figure.colorbar(image, ax=list(row_axes), shrink=0.75, pad=0.02)
        bar.set_label(f"{TITLES[kind]} ({unit}{'' if signed else ', rms of pair'})", fontsize=9)
    figure.suptitle(title, fontsize=11)
    return figure


def score_maps_figure(
    maps: Mapping[str, Mapping[str, np.ndarray]], montage: PairedMontage, title: str
) -> Figure | None:
    """r of each sensor over the helmet: maps[kind][method] `[sensors of kind]`; of a gradiometer
    pair the mean. None with fewer than four places."""
    kinds = [kind for kind in maps if _drawable(montage, kind)]
    if not kinds:
        return None
    columns = list(maps[kinds[0]])
    size = (1.2 + 2.2 * len(columns), 0.9 + 2.5 * len(kinds))
    figure = Figure(figsize=size, dpi=DPI, layout="constrained")
    axes = figure.subplots(len(kinds), len(columns), squeeze=False)
    for row_axes, kind in zip(axes, kinds, strict=True):
        places = montage.meg_positions_m[_rows(montage, kind)]
        found = {
            name: _over_places(np.nan_to_num(values), places, kind, mean=True)
            for name, values in maps[kind].items()
        }
        limit = max([0.05, *(float(np.abs(values).max()) for values, _ in found.values())])
        for ax, (name, (values, where)) in zip(row_axes, found.items(), strict=True):
            image = _map(ax, values, where, (-limit, limit), "RdBu_r")
            ax.set_title(f"{name}\nmedian {np.median(maps[kind][name]):.3f}", fontsize=9)
        bar = figure.colorbar(image, ax=list(row_axes), shrink=0.75, pad=0.02)
        bar.set_label(f"r, {TITLES[kind]}", fontsize=9)
    figure.suptitle(title, fontsize=11)
    return figure


def _rows(montage: PairedMontage, kind: str) -> np.ndarray:
    return np.flatnonzero(np.asarray(montage.meg_types) == kind)


def _drawable(montage: PairedMontage, kind: str) -> bool:
    places = montage.meg_positions_m[_rows(montage, kind)]
    return len(places) > 0 and len(_over_places(np.zeros(len(places)), places, kind)[1]) >= (
        FEWEST_PLACES
    )


def _over_places(values, places, kind: str, mean: bool = False):
    """(one value for each place, places): gradiometers at one place are joined."""
    if kind == "mag":
        return values, places
    keys = np.round(places / SAME_PLACE_M).astype(int)
    _, first, owner = np.unique(keys, axis=0, return_index=True, return_inverse=True)
    owner = owner.ravel()
    count = np.bincount(owner)
    if mean:
        return np.bincount(owner, values) / count, places[first]
    return np.sqrt(np.bincount(owner, values**2) / count), places[first]


def _map(ax, values, places, limits, palette):
    names = [f"S{number}" for number in range(len(values))]
    info = mne.create_info(names, 1.0, "eeg")
    points = {name: np.asarray(place, float) for name, place in zip(names, places, strict=True)}
    info.set_montage(mne.channels.make_dig_montage(points, coord_frame="head"))
    centre = np.array([0.0, 0.0, 0.04])
    radius = float(np.median(np.linalg.norm(places - centre, axis=1)))
    image, _ = mne.viz.plot_topomap(
        np.asarray(values, float), info, axes=ax, show=False, contours=0, cmap=palette,
        vlim=limits, sphere=(*centre, radius), extrapolate="local", res=48, sensors="k.",
    )  # fmt: skip
    return image


def _spread(rows: Sequence[int], count: int) -> list[int]:
    if not len(rows):
        return []
    at = ((np.arange(count) + 0.5) / count * len(rows)).astype(int)
    return sorted({int(rows[number]) for number in at})


def bands_figure(tables: Mapping[str, Mapping[str, dict]], bands_hz: Mapping) -> Figure:
    """r by frequency band and method, one panel for each sensor type."""
    figure = Figure(figsize=(9, 0.9 + 2.5 * len(tables)), dpi=DPI, layout="constrained")
    axes = figure.subplots(len(tables), 1, sharey=True, squeeze=False)[:, 0]
    methods = list(next(iter(tables.values())))
    width = 0.85 / len(methods)
    for ax, (kind, rows) in zip(axes, tables.items(), strict=True):
        for number, name in enumerate(methods):
            at = np.arange(len(bands_hz)) + (number - (len(methods) - 1) / 2) * width
            entries = [rows[name]["bands"][band] for band in bands_hz]
            means = np.array([np.nan if e["mean"] is None else e["mean"] for e in entries], float)
            ends = np.array([[e["low"], e["high"]] for e in entries], float).T
            colour = COLOURS.get(name, "#444444")
            ax.bar(at, means, 0.9 * width, color=colour, label=name, zorder=2)
            spread = np.abs(ends - means)
            ax.errorbar(at, means, spread, fmt="none", ecolor="#333333", elinewidth=0.8, zorder=3)
        ax.axhline(0, color="#333333", lw=0.8)
        names = [f"{name}\n{low:g}-{high:g} Hz" for name, (low, high) in bands_hz.items()]
        ax.set_xticks(range(len(bands_hz)), names, fontsize=8)
        ax.set_ylabel("r", fontsize=9)
        ax.set_title(TITLES[kind], loc="left", fontsize=10)
        ax.grid(axis="y", color="#e5e5e5", lw=0.6, zorder=0)
        ax.set_axisbelow(True)
        ax.spines[["top", "right"]].set_visible(False)
    handles, labels = axes[0].get_legend_handles_labels()
    figure.suptitle("Median r over sensors, by frequency band", fontsize=11)
    figure.legend(handles, labels, loc="outside lower center", ncols=6, frameon=False, fontsize=8)
    return figure
