"""One montage for all trials of a run: recordings lack different bad channels.

A channel that a recording lacks is filled from its others by a spherical spline (Perrin et al.
1989); what is there stays as it is. A run's networks see so many channels, whoever is tested. What
was filled is counted and stands in the report: filled channels tell nothing of their own.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import torch
from torch.nn import functional as F

from data.batches.batch import Batch
from data.errors import InputError, did_you_mean
from data.shards.manifest import Manifest, Montage
from model.interpolation import head_directions, sphere_centre, spline_matrix

ALL, POSTERIOR = "all", "posterior"
POSTERIOR_CHANNELS = (
    "P7", "P5", "P3", "P1", "Pz", "P2", "P4", "P6", "P8", "PO7", "PO3", "POz", "PO4", "PO8", "O1",
    "Oz", "O2",
)  # fmt: skip
"""Which results on THINGS-EEG2 within a person mostly use."""
FARTHEST_M = 0.02
"""A channel of one name lies in two montages at most so far apart."""
MOST_FILLED = 0.5


@dataclass(frozen=True)
class CommonMontage:
    """channels and places float32 `[C, 3]` (metres) that all trials are brought to, of folders
    whose montages are `own`."""

    channels: tuple[str, ...]
    positions_m: np.ndarray
    own: tuple[Montage, ...]

    @classmethod
    def of(cls, manifest: Manifest, asked: str, where: str) -> CommonMontage:
        """What `--channels` asks for: all that any recording has, or some. InputError for unknown
        names, and one name at two places."""
        own = _montages(manifest)
        places: dict[str, np.ndarray] = {}
        for montage in sorted(own, key=lambda one: (-len(one.channels), one.channels)):
            for name, place in zip(montage.channels, montage.positions_m, strict=True):
                known = places.setdefault(name, place)
                if np.linalg.norm(known - place) > FARTHEST_M:
                    raise InputError(
                        f"{where}: {name} lies at two places, "
                        f"{1000 * np.linalg.norm(known - place):.0f} mm apart",
                        "pack caps of one kind together",
                    )
        names = tuple(places) if asked == ALL else (
            POSTERIOR_CHANNELS if asked == POSTERIOR else tuple(asked.split("+"))
        )  # fmt: skip
        for name in names:
            if name not in places:
                raise InputError(
                    f"--channels {asked}: no recording of {where} has {name}",
                    did_you_mean(name, sorted(places), f"use {ALL}, {POSTERIOR}, or names, A+B:"),
                )
        return cls(names, np.stack([places[name] for name in names]), own)

    @classmethod
    def again(cls, told: dict, manifest: Manifest, where: str) -> CommonMontage:
        """The montage of a run (`as_dict`), for another folder. InputError where that folder has
        less than half of its channels."""
        names = tuple(told["channels"])
        found = cls(names, np.array(told["positions_m"], np.float32), _montages(manifest))
        for montage in found.own:
            lacking = len(set(names) - set(montage.channels))
            if lacking > MOST_FILLED * len(names):
                raise InputError(
                    f"{where}: a recording has {len(names) - lacking} of the {len(names)} "
                    "channels that the run reads",
                    "score recordings of the same cap, or train with --channels that both have",
                )
        return found

    def as_dict(self) -> dict:
        return {"channels": list(self.channels), "positions_m": self.positions_m.tolist()}

    @cached_property
    def maps(self) -> dict[bytes, torch.Tensor | None]:
        """fp32 `[C, own channels]` by an own montage's places; None: it is the common one."""
        return {one.positions_m.tobytes(): self._map(one) for one in self.own}

    def _map(self, montage: Montage) -> torch.Tensor | None:
        if montage.channels == self.channels:
            return None
        number = {name: place for place, name in enumerate(montage.channels)}
        found = torch.zeros(len(self.channels), len(montage.channels))
        missing = [row for row, name in enumerate(self.channels) if name not in number]
        for row, name in enumerate(self.channels):
            if name in number:
                found[row, number[name]] = 1.0
        if missing:
            own = torch.from_numpy(montage.positions_m).double()
            wanted = torch.from_numpy(self.positions_m[missing]).double()
            unit = F.normalize(wanted - sphere_centre(own), dim=-1)
            found[missing] = spline_matrix(unit, head_directions(own))
        return found

    def __call__(self, batch: Batch) -> Batch:
        """The batch on the common montage, fp16 as it came."""
        own = self.maps[batch.positions_m.numpy().tobytes()]
        places = torch.from_numpy(np.asarray(self.positions_m, np.float32))
        if own is None:
            return replace(batch, positions_m=places)
        eeg = (own @ batch.eeg.float()).to(batch.eeg.dtype)
        return replace(batch, eeg=eeg, positions_m=places)

    def filled(self, manifest: Manifest) -> dict[str, int]:
        """By channel, how many recordings of a folder lack it."""
        of = {shard.montage for shard in manifest.shards}
        lacking: dict[str, int] = {}
        for entry in manifest.recordings:
            montage = manifest.montages.get(entry.get("montage"))
            if montage is None or entry["montage"] not in of:
                continue
            for name in set(self.channels) - set(montage.channels):
                lacking[name] = lacking.get(name, 0) + 1
        return dict(sorted(lacking.items()))


def _montages(manifest: Manifest) -> tuple[Montage, ...]:
    """Those that a folder's shards have, each once."""
    found = {}
    for shard in manifest.shards:
        montage = manifest.montages[shard.montage]
        found.setdefault(montage.positions_m.tobytes(), montage)
    return tuple(found.values())


def filled_line(filled: dict[str, int]) -> str:
    """By channel; empty where nothing is filled."""
    return ", ".join(f"{name} in {count} recordings" for name, count in filled.items())
