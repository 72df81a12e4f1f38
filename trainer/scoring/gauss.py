"""The Gaussian of a training split, kept beside the weights: found there, or fitted and put there.

`RUN/gauss.safetensors` for a run folder or an encoder's folder, `NAME.gauss.safetensors` for
`NAME.safetensors` or `NAME.pt`. The file holds tensors and, as text in its header, the people
that it was fitted on, how many windows, and how many seconds that took.
"""

from __future__ import annotations

import json
import time
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save

from data.errors import InputError
from data.files import write_atomic
from data.shards.manifest import Manifest
from data.shards.readers import Readers
from data.spacing import evenly
from model.interpolation import sums_to_zero
from trainer.scoring.gauss_fit import LARGEST_LAG_S, LagMoments, fit_kernel
from trainer.scoring.gauss_kernel import GaussFill, GaussKernel

WINDOWS = 2000
"""Windows of the training split that the covariance is taken from, evenly spaced."""
CHUNK = 32
FORMAT = "eeg-gauss 1"


@dataclass(frozen=True)
class FittedGauss:
    """A kernel and what is known of it: people {dataset: [subject]}, windows, seconds, and the
    manifest_sha256 of the shards."""

    kernel: GaussKernel
    people: dict[str, list[str]]
    windows: int
    seconds: float
    manifest_sha256: str

    def fill(self):
        """The kernel as a fill (trainer/scoring/baselines.py): fp32 arithmetic, an fp64 result."""
        gauss = GaussFill(self.kernel)

        def filled(eeg, positions_m, hidden):
            fill = gauss(eeg.float(), positions_m, hidden).double()
            hidden_T = hidden.repeat_interleave(eeg.shape[2] // hidden.shape[2], dim=2)
            return torch.where(hidden_T, fill, eeg.double())

        return filled

    def about(self) -> dict:
        """JSON-able, for reports."""
        return {
            "people": self.people,
            "windows": self.windows,
            "seconds": self.seconds,
            "manifest_sha256": self.manifest_sha256,
            "average_reference": self.kernel.average_reference,
        }

    def describe(self) -> str:
        people = sum(map(len, self.people.values()))
        return (
            f"gauss: fitted on {self.windows} windows of {people} people "
            f"({', '.join(self.people)}) in {self.seconds:.1f} s"
        )


def gauss_path(weights: str | Path) -> Path:
    """Where the Gaussian of these weights is kept."""
    weights = Path(weights)
    if weights.suffix in (".safetensors", ".pt"):
        return weights.with_suffix(".gauss.safetensors")
    return weights / "gauss.safetensors"


def gauss_for(manifest: Manifest, weights: str | Path | None = None) -> FittedGauss | None:
    """The Gaussian kept beside `weights`, if it is of this rate; else one fitted on the training
    split of `manifest` and, where there is a folder to write to, kept. None: nothing to fit on."""
    path = gauss_path(weights) if weights is not None else None
    if path is not None and path.exists():
        found = load_gauss(path)
        if found.kernel.sfreq_hz == manifest.profile["sfreq_hz"]:
            return found
    if not manifest.of_split("train"):
        return None
    found = fit_gauss(manifest)
    if found is not None and path is not None:
        try:
            save_gauss(found, path)
        except OSError as error:
            print(f"{path}: the Gaussian is not kept ({error.strerror}); it is fitted every time")
    return found


def fit_gauss(manifest: Manifest, windows: int = WINDOWS) -> FittedGauss | None:
    """Fit to windows of the training split; None where all of them are silent."""
    started = time.monotonic()
    sfreq_hz = manifest.profile["sfreq_hz"]
    records = {record["id"]: record for record in manifest.recordings}
    shards = manifest.of_split("train")
    readers = Readers(manifest, shards)
    ends = np.cumsum([shard.samples for shard in shards])
    chosen = evenly(ends[-1], windows)
    owners = np.searchsorted(ends, chosen, side="right")
    groups: dict[tuple, list] = defaultdict(list)
    people: dict[str, set[str]] = {}
    for number, owner in zip(chosen.tolist(), owners.tolist(), strict=True):
        shard, index = shards[owner], number - int(ends[owner]) + shards[owner].samples
        groups[shard.montage, shard.window_samples].append((owner, index))
        record = records.get(readers[owner].meta(index).get("recording"), {})
        people.setdefault(shard.dataset, set()).add(str(record.get("subject")))
    moments, referenced = [], []
    for (montage, samples), members in groups.items():
        places = torch.from_numpy(manifest.montages[montage].positions_m)
        moment = LagMoments.of(places, min(samples, round(LARGEST_LAG_S * sfreq_hz)))
        for start in range(0, len(members), CHUNK):
            rows = [readers[owner].signals[index] for owner, index in members[start:][:CHUNK]]
            eeg = torch.from_numpy(np.stack(rows).astype(np.float32))
            referenced.append(sums_to_zero(eeg))
            moment.add(eeg)
        moments.append(moment)
    used = sum(moment.windows for moment in moments)
    if not used:
        return None
    kernel = fit_kernel(moments, sfreq_hz, all(referenced))
    return FittedGauss(
        kernel,
        {dataset: sorted(subjects) for dataset, subjects in people.items()},
        used,
        time.monotonic() - started,
        manifest.sha256,
    )


def save_gauss(found: FittedGauss, path: Path) -> None:
    """Whole or absent."""
    kernel = found.kernel
    tensors = {"spatial": kernel.spatial, "noise": kernel.noise, "lags": kernel.lags}
    about = {**found.about(), "sfreq_hz": kernel.sfreq_hz}
    metadata = {"format": FORMAT, "about": json.dumps(about)}
    write_atomic(path, save({k: v.contiguous() for k, v in tensors.items()}, metadata))


def load_gauss(path: Path) -> FittedGauss:
    """InputError where the file is damaged or of another format."""
    try:
        with safe_open(path, "pt") as file:
            if (file.metadata() or {}).get("format") != FORMAT:
                raise ValueError(f"not {FORMAT}")
            about = json.loads(file.metadata()["about"])
            tensors = {name: file.get_tensor(name) for name in ("spatial", "noise", "lags")}
        kernel = GaussKernel(
            **tensors,
            sfreq_hz=about.pop("sfreq_hz"),
            average_reference=about.pop("average_reference"),
        )
        return FittedGauss(kernel, **about)
    except (SafetensorError, OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(
            f"{path}: cannot be read ({error})", "delete it: it is fitted again where it is needed"
        ) from None
