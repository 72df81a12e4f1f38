"""One scale for all recordings of a person's session, so that what differs between them is kept.

Conditions are often files: rest and task, before and after. A scale by recording makes their
amplitudes equal. By session, the packer's workers leave windows unclipped in units of their own
recording's scale, and with them `Amplitudes`; when all are there, the session's scale is the
median of all recordings' samples together, and windows are brought to it as they are written. So
recordings are still read once, in any order and on any machine.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass

import numpy as np

from data.signals.profiles import Profile

LARGEST = 60_000.0
"""Unclipped windows are clipped here: below the largest float16."""
QUANTILES = 513
"""Of |x|, at equal steps: the median of several recordings comes out 0.1 % precise."""
GAUSSIAN = 1.4826
"""As in `data.signals.bad_channels.robust_amplitude`."""


@dataclass
class Amplitudes:
    """What a recording must tell for a scale to be made of it and others; JSON-able."""

    quantiles: list[float]
    """`[QUANTILES]` of |x|, in units of the recording's own scale."""
    values: int
    """How many samples of all channels its windows hold: its weight."""
    peaks: list[float]
    """`peak` of each window."""
    clip: float


def amplitudes_of(
    samples: np.ndarray, scale: float | None, windows: np.ndarray, profile: Profile
) -> dict:
    """`Amplitudes`, as a dict. `samples`: those that `scale` is the robust amplitude of; `windows`
    `[n, C, T]`, in units of it."""
    found = quantiles_of(samples) / scale if len(windows) else np.zeros(QUANTILES)
    peaks = [round(peak(window, profile.saturated_fraction), 4) for window in windows]
    rounded = [float(f"{value:.6g}") for value in found]
    return asdict(Amplitudes(rounded, int(windows.size), peaks, profile.clip))


def quantiles_of(samples: np.ndarray) -> np.ndarray:
    """`[QUANTILES]` of |samples| at equal steps, to the nearest sample. By sorting: ten times as
    fast as np.quantile, which takes float64."""
    values = np.sort(np.abs(samples.ravel()))
    return values[np.linspace(0, len(values) - 1, QUANTILES).round().astype(int)]


def peak(window: np.ndarray, fraction: float) -> float:
    """The largest |x| of a window but for the `fraction` of its samples that may be clipped: it is
    saturated by a clip at or below this, and by no other."""
    values = np.abs(window, dtype=np.float32).ravel()
    place = values.size - 1 - int(fraction * values.size)
    return float(np.partition(values, place)[place])


def combined_scale(
    quantiles: Sequence[Sequence[float]], scales: Sequence[float], weights: Sequence[float]
) -> float:
    """The robust amplitude of several recordings together, in their unit.

    `quantiles`: of |x| of each, at equal steps, in units of its entry of `scales`; `weights`: how
    many samples each stands for.
    """
    if len(scales) == 1:
        return float(scales[0])
    values = [scale * np.asarray(row) for row, scale in zip(quantiles, scales, strict=True)]
    shares = np.asarray(weights, np.float64) / np.sum(weights)

    def below(bound: float) -> float:
        steps = np.linspace(0, 1, len(values[0]))
        return sum(
            share * np.interp(bound, row, steps) for share, row in zip(shares, values, strict=True)
        )

    low, high = 0.0, max(row[-1] for row in values)
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if below(middle) < 0.5 else (low, middle)
    return GAUSSIAN * high


def by_session(entries: Iterable[dict]) -> list[dict]:
    """The packer's records of recordings, with their session's scale where they carry amplitudes.

    Such an entry gets `rows` (its windows that are not saturated by that scale, as rows of its
    file), `gain` (what they are to be multiplied by) and `clip`; its metas, counts and scales are
    changed accordingly. Others are returned as they are.
    """
    entries = list(entries)
    sessions: dict[tuple, list[dict]] = {}
    for entry in entries:
        if entry.get("amplitudes") and entry["info"]["scale"]:
            sessions.setdefault(_session(entry), []).append(entry)
    scales = {
        session: combined_scale(
            [entry["amplitudes"]["quantiles"] for entry in members],
            [entry["info"]["scale"] for entry in members],
            [entry["amplitudes"]["values"] for entry in members],
        )
        for session, members in sessions.items()
    }
    return [
        _rescaled(entry, scales[_session(entry)], len(sessions[_session(entry)]))
        if entry.get("amplitudes") and entry["info"]["scale"]
        else entry
        for entry in entries
    ]


def _session(entry: dict) -> tuple:
    return entry["dataset"], entry["subject"], entry["session"], entry["info"]["unit"]


def _rescaled(entry: dict, scale: float, recordings: int) -> dict:
    info, amplitudes = dict(entry["info"]), entry["amplitudes"]
    gain = info["scale"] / scale
    rows = [n for n, high in enumerate(amplitudes["peaks"]) if gain * high < amplitudes["clip"]]
    saturated = len(amplitudes["peaks"]) - len(rows)
    if saturated:
        dropped = info["dropped"] | {"saturated": info["dropped"].get("saturated", 0) + saturated}
        info |= {"dropped": dict(sorted(dropped.items()))}
        info["hours"] *= len(rows) / len(amplitudes["peaks"])
    info |= {"scale": scale, "recording_scale": info["scale"], "recordings_of_scale": recordings}
    if info["scale_uv"] is not None:
        info["scale_uv"] = 1e6 * scale
    return entry | {
        "info": info,
        "rows": rows,
        "gain": gain,
        "clip": amplitudes["clip"],
        "meta": [entry["meta"][row] for row in rows],
        "windows": len(rows),
    }
