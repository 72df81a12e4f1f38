"""Which windows of a split are scored, and which of their patches are hidden.

Windows are spread evenly over each subject's recordings, so that the score of a subject does not
hang on one minute. A mask is a function of (seed, the window's key, kind) and of nothing else:
every method and every later run meets the same gaps.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from data.batches.local import WindowDataset
from data.batches.window_table import WindowTable
from data.errors import InputError
from data.shards.manifest import SPLITS, Manifest
from data.subjects.people import People
from data.subjects.trained_on import known_among
from model.config import ModelConfig
from model.masks import (
    MASKS,
    Sheet,
    draw_mask,
    fits,
    generator,
    parse,
    scored_kinds,
    spelled,
    usual_kinds,
)
from model.tokens import tokens_of

TOKENS_A_BATCH = 16_384


@dataclass(frozen=True)
class WindowBatch:
    """Windows of one dataset and montage. eeg fp32 `[B, C, T]` in robust units, T a whole number of
    patches; positions_m fp32 `[C, 3]`; the lists have one entry for each window."""

    dataset: str
    channels: tuple[str, ...]
    positions_m: torch.Tensor
    eeg: torch.Tensor
    keys: list[str]
    subjects: list[str]
    scales_uv: list[float | None]

    def __len__(self) -> int:
        return len(self.keys)


def kinds_for(config: ModelConfig, wanted: Sequence[str] | None) -> tuple[str, ...]:
    """The kinds of mask to score a model on; InputError for one that is unknown or impossible."""
    one_row = tokens_of(config).one_row
    possible = scored_kinds(one_row)
    for kind in wanted or ():
        if not fits(kind, possible):
            raise InputError(
                f"--masks {kind}: {_why_not(kind)}", f"choose from {spelled(possible)}"
            )
    return tuple(dict.fromkeys(wanted or usual_kinds(one_row)))


def _why_not(kind: str) -> str:
    """What is wrong with a kind that cannot be scored."""
    if fits(kind, tuple(MASKS)):
        return "joint tokens hide all channels at once"
    name = kind.partition("=")[0]
    if name not in MASKS:
        return "no such kind"
    number = MASKS[name].number
    return f"give {name}=NUMBER, {number}, above 0" if number else f"{name} takes no number"


def subjects_of_splits(manifest: Manifest) -> dict[str, dict[str, int]]:
    """{split: {dataset: windows}} of the splits that hold any."""
    held: dict[str, dict[str, int]] = {}
    for shard in manifest.shards:
        windows = held.setdefault(shard.split, {})
        windows[shard.dataset] = windows.get(shard.dataset, 0) + shard.samples
    return {split: held[split] for split in SPLITS if split in held}


class HeldOutWindows:
    """The chosen windows of a split. `len()` counts them; iterate with `batches()`.

    per_subject: at most as many of each subject; total: at most about as many together, shared out
    evenly. Raises InputError where the shards do not fit the model or the split is empty.
    """

    def __init__(
        self,
        manifest: Manifest,
        split: str,
        config: ModelConfig,
        per_subject: int = sys.maxsize,
        total: int = sys.maxsize,
    ):
        self.manifest, self.config = manifest, config
        self._check(split)
        self.dataset = WindowDataset(manifest, manifest.of_split(split))
        self.table = WindowTable.read(manifest, split)
        self.windows = self.table.spread(per_subject, total)

    def __len__(self) -> int:
        return len(self.windows)

    def windows_of(self) -> dict[str, dict[str, int]]:
        """{dataset: {subject: number of windows}}."""
        counts: dict[str, dict[str, int]] = {}
        for dataset, subject in map(self.table.subject, self.windows):
            own = counts.setdefault(dataset, {})
            own[subject] = own.get(subject, 0) + 1
        return counts

    def batches(self) -> Iterator[WindowBatch]:
        """All chosen windows, dataset by dataset, in batches of one montage and length."""
        for request in self.dataset.requests(self.windows.tolist(), self._size):
            [batch] = self.dataset.checked(request)
            shard, _ = self.dataset.name(int(request.window[0]))
            used = batch.eeg.shape[2] // self.config.patch_samples * self.config.patch_samples
            records = [self.manifest.recordings[i] for i in self.table.recording[request.window]]
            yield WindowBatch(
                dataset=shard.dataset,
                channels=self.manifest.montages[shard.montage].channels,
                positions_m=batch.positions_m,
                eeg=batch.eeg[..., :used].float(),
                keys=[self.dataset.key(window) for window in request.window.tolist()],
                subjects=[str(record["subject"]) for record in records],
                scales_uv=[record.get("scale_uv") for record in records],
            )

    def _size(self, channels: int, samples: int) -> int:
        return TOKENS_A_BATCH // (channels * (samples // self.config.patch_samples))

    def _check(self, split: str) -> None:
        folder, rate_hz = self.manifest.folder, self.manifest.profile["sfreq_hz"]
        if rate_hz != self.config.sfreq_hz:
            raise InputError(
                f"{folder}: sampled at {rate_hz:g} Hz, but the model is made for "
                f"{self.config.sfreq_hz:g} Hz",
                "pack the recordings with the profile that the model was trained on",
            )
        shards = self.manifest.of_split(split)
        if not shards:
            held = "; ".join(
                f"{name}: {', '.join(f'{d} ({n} windows)' for d, n in windows.items())}"
                for name, windows in subjects_of_splits(self.manifest).items()
            )
            raise InputError(
                f"{folder}: no subject is in the {split} split",
                f"choose another --split, or pack more subjects; it holds {held or 'nothing'}",
            )
        for shard in shards:
            if shard.window_samples < 2 * self.config.patch_samples:
                raise InputError(
                    f"{folder}/{shard.file}: windows of {shard.window_samples} samples",
                    f"the model's patches have {self.config.patch_samples}; at least two must fit",
                )


def known_subjects(
    counts: dict, trained_on: dict | None, people: People
) -> dict[str, list[str]] | None:
    """Scored subjects that a model was trained on, under this or another dataset's name, by
    dataset; None: the model does not say.

    counts: {dataset: {subject: windows}}. trained_on: what a run's config or a converted file says.
    """
    if not trained_on or "subjects" not in trained_on:
        return None
    asked = [(dataset, subject) for dataset, subjects in counts.items() for subject in subjects]
    found: dict[str, list[str]] = {}
    for dataset, subject in sorted(known_among(asked, trained_on["subjects"], people)):
        found.setdefault(dataset, []).append(subject)
    return found


def draw_masks(
    kind: str, batch: WindowBatch, config: ModelConfig, mask_ratio: float, seed: int
) -> torch.Tensor | None:
    """Bool `[B, C, N]`, True = hidden, the same count in each window; None where `kind` cannot be
    drawn (whole channels of a single channel)."""
    n_channels, n_patches = batch.eeg.shape[1], batch.eeg.shape[2] // config.patch_samples
    count = parse(kind)[0].count(n_channels, n_patches, mask_ratio)
    if not count:
        return None
    sheet = Sheet(batch.positions_m.numpy(), n_patches, config.sfreq_hz / config.patch_samples)
    masks = [draw_mask(kind, sheet, count, generator(seed, f"{key}/{kind}")) for key in batch.keys]
    return torch.from_numpy(np.stack(masks))
