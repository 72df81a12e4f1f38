"""Windows of EEG with the MEG of the same instants, in SI units, by recording.

    pairs = PairedWindows(read_manifest("shards/pairs"), recordings=["..."])
    pairs[0].eeg, pairs[0].meg, pairs.montage(0).meg_types

Choose recordings first, by subject or run, then take their windows: windows of one run share
artefacts and slow drifts, and splitting them at random makes a correlation out of nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from data.errors import InputError
from data.shards.manifest import SPLITS, Manifest, ShardEntry
from data.shards.readers import Readers


@dataclass(frozen=True)
class PairedMontage:
    """The sensors of one recording, all in MNE's head frame, metres."""

    eeg_names: tuple[str, ...]
    eeg_positions_m: np.ndarray
    """float32 `[Cs, 3]`."""
    meg_names: tuple[str, ...]
    meg_types: tuple[str, ...]
    """"mag" or "grad"."""
    meg_positions_m: np.ndarray
    """float32 `[Ct, 3]`."""
    meg_orientations: np.ndarray
    """float32 `[Ct, 6]`: the coil's normal, then the gradient's direction (0 for "mag")."""


@dataclass(frozen=True)
class PairedWindow:
    eeg: np.ndarray
    """float32 `[Cs, T]` volts, average reference."""
    meg: np.ndarray
    """float32 `[Ct, T]` tesla ("mag") or tesla/metre ("grad")."""
    recording: str
    subject: str
    run: str
    onset_s: float
    """Of the window's first sample, from the start of the recording."""
    label: int | str | None = None
    """Of the event that the window was cut at."""


class PairedWindows(Sequence):
    """The windows of chosen recordings, in the shards' order; picklable, files opened when read.

    `recordings`: ids (None: all); `split`: "train", "val" or "test" (None: all). Raises InputError
    for a folder without MEG, an unknown recording or split, or when no window is left.
    """

    def __init__(
        self,
        manifest: Manifest,
        recordings: Sequence[str] | None = None,
        split: str | None = None,
    ):
        require_pairs(manifest)
        if split not in (None, *SPLITS):
            raise InputError(f"split {split!r}", f"use one of {', '.join(SPLITS)}")
        entries = {entry.get("id"): entry for entry in manifest.recordings}
        unknown = sorted(set(recordings or ()) - set(entries))
        if unknown:
            raise InputError(
                f"{manifest.folder}: no recording is called {', '.join(unknown[:5])}",
                f"present: {', '.join(list(entries)[:20])}",
            )
        wanted = set(entries if recordings is None else recordings)
        self.manifest, self._readers = manifest, Readers(manifest, manifest.shards)
        self._entries = {name: entry for name, entry in entries.items() if name in wanted}
        for entry in self._entries.values():
            _check(manifest, entry)
        self.sfreq_hz = float(manifest.profile["sfreq_hz"])
        montages = {entry["montage"] for entry in self._entries.values()}
        self._places: list[tuple[int, int]] = []
        for number, shard in enumerate(manifest.shards):
            if shard.montage in montages and split in (None, shard.split):
                reader = self._readers[number]
                self._places += [
                    (number, row)
                    for row in range(shard.samples)
                    if reader.meta(row).get("recording") in wanted
                ]
        if not self._places:
            raise InputError(
                f"{manifest.folder}: no window of {len(wanted)} recordings"
                + (f" in the split {split}" if split else ""),
                "choose other recordings, or pack more data",
            )

    def __len__(self) -> int:
        return len(self._places)

    def __getitem__(self, index: int) -> PairedWindow:
        number, row = self._places[index]
        reader = self._readers[number]
        meta = reader.meta(row)
        entry = self._entries[meta["recording"]]
        scale = meg_scale(entry, self.manifest.montages[reader.shard.montage].meg.types)
        return PairedWindow(
            eeg=reader.signals[row].astype(np.float32) * np.float32(1e-6 * entry["scale_uv"]),
            meg=reader.megs[row].astype(np.float32) * scale[:, None],
            recording=entry["id"],
            subject=entry["subject"],
            run=entry["run"],
            onset_s=float(meta["onset_s"]),
            label=meta.get("label"),
        )

    def montage(self, index: int) -> PairedMontage:
        """The sensors of window `index`."""
        return montage_of(self.manifest, self.manifest.shards[self._places[index][0]].montage)

    def shard(self, index: int) -> ShardEntry:
        """The shard that holds window `index`."""
        return self.manifest.shards[self._places[index][0]]

    def key(self, index: int) -> str:
        """The name of window `index` in its shard."""
        number, row = self._places[index]
        return self._readers[number].key(row)

    def meta(self, index: int) -> dict:
        """What the shard says of window `index` (recording, onset_s, ...); reads no signal."""
        number, row = self._places[index]
        return self._readers[number].meta(row)

    def subjects(self) -> list[str]:
        """The people of the chosen recordings, sorted."""
        return sorted({entry["subject"] for entry in self._entries.values()})

    def recordings(self) -> list[dict]:
        """The manifest's records of the chosen recordings."""
        return list(self._entries.values())


def montage_of(manifest: Manifest, name: str) -> PairedMontage:
    """The sensors of the manifest's montage `name`."""
    montage = manifest.montages[name]
    return PairedMontage(
        montage.channels,
        montage.positions_m,
        montage.meg.names,
        montage.meg.types,
        montage.meg.positions_m,
        montage.meg.orientations,
    )


def meg_scale(entry: dict, types: Sequence[str]) -> np.ndarray:
    """float32 `[Ct]`: what one stored unit is, in tesla or tesla/metre, by each sensor's type."""
    return np.array([entry["meg_scale"][kind] for kind in types], np.float32)


def _check(manifest: Manifest, entry: dict) -> None:
    """That a recording's entry says all that its windows need."""
    try:
        types = manifest.montages[entry["montage"]].meg.types
        scales = (
            [entry["scale_uv"], *meg_scale(entry, types).tolist()]
            if entry.get("windows", 1)
            else []
        )
        good = all(0 < scale < np.inf for scale in scales) and {"subject", "run"} <= set(entry)
    except (KeyError, TypeError, AttributeError, ValueError):
        good = False
    if not good:
        raise InputError(
            f"{manifest.folder}: the record of {entry.get('id')} is damaged",
            "copy the folder again, or pack again",
        )


def require_pairs(manifest: Manifest) -> None:
    """Refuse a folder that holds EEG alone."""
    if not manifest.paired:
        raise InputError(
            f"{manifest.folder}: these shards hold EEG without MEG",
            "pack recordings that hold both, with  --profile eeg2meg, or simulated ones:  "
            "python data/pack.py --source simulated-pairs --out DIR",
        )
