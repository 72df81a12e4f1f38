"""What a look at a shard folder is made of: numbers from the manifest and from a sample of windows.

A few hundred windows of each dataset, evenly spaced over its shards, stand for all: enough for a
spectrum and a histogram, and read in seconds however large the folder is.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

import numpy as np
from scipy.signal import welch

from data.electrodes.frames import FEWEST_NAMED, NamesContradictPlaces, place_in_head
from data.shards.manifest import Manifest
from data.shards.tars import ShardReader

SPECTRUM_S = 2.0
BINS = 120
MANY_DROPPED = 0.2
MANY_BAD = 0.1


@dataclass
class DatasetSurvey:
    """One dataset. Signals in microvolts where `unit` is "uV", else in the source's own unit."""

    name: str
    unit: str
    freqs_hz: np.ndarray
    power: np.ndarray
    """Mean power density over windows and channels, `unit`² / Hz, at `freqs_hz`."""
    edges: np.ndarray
    counts: np.ndarray
    """Histogram of the stored values (units of each recording's robust scale)."""
    scales: list[float]
    """Robust scale of each recording, in `unit`."""
    examples: list[tuple[str, list[str], np.ndarray]]
    """(title, channel names, `[C, T]` in `unit`) of some windows."""
    electrodes: dict[str, tuple[np.ndarray, float]]
    """Channel -> (place in metres `[3]`, share of the recordings in which it is used)."""
    kept: int
    dropped: dict[str, int] = field(default_factory=dict)


def survey(manifest: Manifest, windows: int, examples: int) -> list[DatasetSurvey]:
    """One survey for each dataset of the folder, from `windows` sampled windows each."""
    datasets = sorted({shard.dataset for shard in manifest.shards})
    return [_dataset(manifest, name, windows, examples) for name in datasets]


def _dataset(manifest: Manifest, name: str, windows: int, examples: int) -> DatasetSurvey:
    shards = [shard for shard in manifest.shards if shard.dataset == name]
    recordings = {r["id"]: r for r in manifest.recordings if r.get("dataset") == name}
    starts = np.cumsum([0, *(shard.samples for shard in shards)])
    numbers = np.unique(np.linspace(0, starts[-1] - 1, windows).round().astype(int))
    shown = set(numbers[np.linspace(0, len(numbers) - 1, examples + 2).astype(int)[1:-1]].tolist())
    sfreq_hz = manifest.profile["sfreq_hz"]
    clip = float(manifest.profile.get("clip", 15.0))
    edges = np.linspace(-clip, clip, BINS + 1)
    counts, power, freqs, pictures = np.zeros(BINS, np.int64), [], None, []
    shortest = min(shard.window_samples for shard in shards)
    for index, shard in enumerate(shards):
        reader = ShardReader(manifest, shard)
        inside = numbers[(numbers >= starts[index]) & (numbers < starts[index + 1])]
        for number in inside.tolist():
            row = number - int(starts[index])
            signal = np.array(reader.signals[row], np.float32)
            counts += np.histogram(signal, edges)[0]
            meta = reader.meta(row)
            recording = recordings.get(meta.get("recording"), {})
            signal *= _scale(recording)[0]
            length = min(shortest, round(SPECTRUM_S * sfreq_hz))
            freqs, density = welch(signal, sfreq_hz, nperseg=length, axis=1)
            power.append(density.mean(axis=0))
            if number in shown:
                title = f"{recording.get('id', shard.file)}, {meta.get('onset_s', 0):g} s"
                pictures.append((title, list(manifest.montages[shard.montage].channels), signal))
    dropped = Counter()
    for recording in recordings.values():
        dropped.update(recording.get("dropped", {}))
    units = {_scale(recording)[1] for recording in recordings.values()}
    return DatasetSurvey(
        name=name,
        unit=units.pop() if len(units) == 1 else "units",
        freqs_hz=freqs,
        power=np.mean(power, axis=0),
        edges=edges,
        counts=counts,
        scales=[_scale(recording)[0] for recording in recordings.values()],
        examples=pictures,
        electrodes=_electrodes(manifest, list(recordings.values())),
        kept=sum(shard.samples for shard in shards),
        dropped=dict(dropped.most_common()),
    )


def _scale(recording: dict) -> tuple[float, str]:
    """(what one stored unit is, of which unit)."""
    if recording.get("unit") == "V" and recording.get("scale_uv"):
        return float(recording["scale_uv"]), "uV"
    return float(recording.get("scale") or 1.0), "units"


def _electrodes(manifest: Manifest, recordings: list[dict]) -> dict[str, tuple[np.ndarray, float]]:
    places, used = {}, Counter()
    for recording in recordings:
        montage = manifest.montages.get(recording.get("montage"))
        if montage:
            places.update(zip(montage.channels, montage.positions_m, strict=True))
            used.update(montage.channels)
    return {name: (place, used[name] / len(recordings)) for name, place in places.items()}


def remarks(manifest: Manifest, surveys: list[DatasetSurvey]) -> list[str]:
    """What deserves a look before hours are spent on these shards."""
    found = []
    for split in ("train", "val"):
        if not manifest.of_split(split):
            found.append(f"there are no {split} windows")
    for entry in surveys:
        lost = sum(entry.dropped.values())
        if lost > MANY_DROPPED * (lost + entry.kept):
            share = lost / (lost + entry.kept)
            found.append(f"{entry.name}: {share:.0%} of the windows were dropped")
        if entry.unit != "uV":
            found.append(f"{entry.name}: the source gives no volts; amplitudes are in its own unit")
        outside = entry.counts[[0, -1]].sum() / max(1, entry.counts.sum())
        if outside > 1e-3:
            found.append(f"{entry.name}: {outside:.2%} of the samples lie at the clip")
    for recording in manifest.recordings:
        bad, notes = len(recording.get("bad_channels", {})), recording.get("notes", {})
        montage = manifest.montages.get(recording.get("montage"))
        if montage and bad > MANY_BAD * (bad + len(montage.channels)):
            found.append(f"{recording['id']}: {bad} of {bad + len(montage.channels)} channels bad")
        if "amplitude" in notes:
            found.append(f"{recording['id']}: {notes['amplitude']}")
    return found + foreign_frames(manifest)


def foreign_frames(manifest: Manifest) -> list[str]:
    """Montages whose places are not in the head frame, as those of earlier versions may be."""
    from data.electrodes.montages import TEMPLATE, template_positions  # MNE takes a second

    template = {key: place for key, (_, place) in template_positions(TEMPLATE).items()}
    found = []
    for name, montage in manifest.montages.items():
        if montage.meg is not None or len(montage.channels) < FEWEST_NAMED:
            continue
        try:
            placed = place_in_head(montage.channels, montage.positions_m, template, False)
            wrong = placed.handling if placed else "the places are not those of one head"
        except NamesContradictPlaces as error:
            wrong = str(error)
        if wrong:
            found.append(
                f"montage {name}: packed in another frame than the head's: {wrong}; pack again"
            )
    return found
