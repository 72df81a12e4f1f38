"""What a look at the MEG half of a paired folder is made of, and its pictures.

Magnetometers in femtotesla, gradiometers in femtotesla per centimetre, as MEG papers write them.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from scipy.signal import welch

from data.batches.pairs import PairedWindows
from data.inspection.survey import MANY_BAD, SPECTRUM_S
from data.shards.manifest import Manifest
from data.shards.sensors import MEG_TYPES
from data.signals.bad_channels import robust_amplitude
from data.spacing import evenly

UNITS = {"mag": (1e15, "fT"), "grad": (1e13, "fT/cm")}
PLAUSIBLE = {"mag": (5.0, 1e5), "grad": (1.0, 1e5)}
"""Robust scales outside are reported: the unit is probably not tesla, or tesla per metre."""


@dataclass
class MegSurvey:
    """One dataset's sensors of one type."""

    dataset: str
    kind: str
    freqs_hz: np.ndarray
    power: np.ndarray
    """Mean power density over windows and sensors, in the unit of UNITS squared, per hertz."""
    amplitude: dict[str, float]
    """Sensor -> robust amplitude over the windows read, in the unit of UNITS."""
    places_m: dict[str, np.ndarray]
    """Sensor -> place in the head frame, of the first recording read that has it."""
    scales: list[float]
    """Robust scale of each recording, in the unit of UNITS."""


def survey_meg(manifest: Manifest, windows: int) -> list[MegSurvey]:
    """Of each dataset and sensor type, from `windows` evenly spaced windows of each dataset."""
    found = []
    for dataset in sorted({shard.dataset for shard in manifest.shards}):
        recordings = [r for r in manifest.recordings if r["dataset"] == dataset]
        pairs = PairedWindows(manifest, [r["id"] for r in recordings])
        places = evenly(len(pairs), windows)
        for kind in MEG_TYPES:
            factor = UNITS[kind][0]
            power, values, at = [], {}, {}
            for place in places.tolist():
                montage, window = pairs.montage(place), pairs[place]
                rows = [row for row, name in enumerate(montage.meg_types) if name == kind]
                if not rows:
                    continue
                signal = factor * window.meg[rows]
                length = min(signal.shape[1], round(SPECTRUM_S * pairs.sfreq_hz))
                freqs, density = welch(signal, pairs.sfreq_hz, nperseg=length, axis=1)
                power.append(density.mean(axis=0))
                for row, channel in zip(rows, signal, strict=True):
                    name = montage.meg_names[row]
                    values.setdefault(name, []).append(float(robust_amplitude(channel)))
                    at.setdefault(name, montage.meg_positions_m[row])
            if power:
                found.append(
                    MegSurvey(
                        dataset,
                        kind,
                        freqs,
                        np.mean(power, axis=0),
                        {name: float(np.median(several)) for name, several in values.items()},
                        at,
                        [
                            factor * r["meg_scale"][kind]
                            for r in recordings
                            if kind in r["meg_scale"]
                        ],
                    )
                )
    return found


def remarks_meg(manifest: Manifest) -> list[str]:
    """What deserves a look in the MEG of these recordings."""
    found = []
    for recording in manifest.recordings:
        sensors = manifest.montages[recording["montage"]].meg
        bad = len(recording.get("bad_meg", {}))
        if bad > MANY_BAD * (bad + len(sensors.names)):
            found.append(f"{recording['id']}: {bad} of {bad + len(sensors.names)} MEG sensors bad")
        for kind, scale in recording["meg_scale"].items():
            factor, unit = UNITS[kind]
            low, high = PLAUSIBLE[kind]
            if not low < factor * scale < high:
                found.append(
                    f"{recording['id']}: {kind} of {factor * scale:.3g} {unit} is implausible"
                )
    return found


def draw_meg(surveys: list[MegSurvey], path: Path) -> None:
    """A row for each dataset and sensor type: its spectrum, and the sensors from above."""
    from matplotlib import pyplot as plt

    from data.inspection.drawing import DPI, from_above

    figure, axes = plt.subplots(
        len(surveys), 2, figsize=(11, 3.8 * len(surveys)), layout="constrained", squeeze=False
    )
    for (left, right), entry in zip(axes, surveys, strict=True):
        unit = UNITS[entry.kind][1]
        positive = (entry.freqs_hz > 0) & (entry.power > 0)
        left.loglog(entry.freqs_hz[positive], entry.power[positive], color="#1f4e79", lw=1.2)
        scales = f"{min(entry.scales):.3g}" + (
            f" to {max(entry.scales):.3g}" if len(entry.scales) > 1 else ""
        )
        left.set(xlabel="hertz", ylabel=f"({unit})²/Hz")
        left.set_title(f"{entry.dataset}, {entry.kind}: robust scale {scales} {unit}", fontsize=10)
        flat = from_above(np.array([entry.places_m[name] for name in entry.amplitude]))
        # The two gradiometers of a place lie on one another: drawn side by side.
        _, first, group = np.unique(flat.round(3), axis=0, return_index=True, return_inverse=True)
        flat[:, 0] += 0.05 * (np.arange(len(flat)) != first[group.ravel()])
        points = right.scatter(*flat.T, c=list(entry.amplitude.values()), cmap="magma", s=22, lw=0)
        right.set_aspect("equal")
        right.axis("off")
        right.set_title(f"{len(entry.amplitude)} sensors from above, nose up", fontsize=10)
        figure.colorbar(points, ax=right, shrink=0.8, label=f"robust amplitude, {unit}")
    figure.savefig(path, dpi=DPI)
    plt.close(figure)
