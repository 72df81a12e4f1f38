"""Which windows of a split are scored, and which of their patches are hidden.

Windows are spread evenly over each subject's recordings, so that the score of a subject does not
hang on one minute. A mask is a function of (seed, the window's key, kind) and of nothing else:
every method and every later run meets the same gaps.
"""

from __future__ import annotations

import hashlib
import sys
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from data.errors import InputError
from data.shards.manifest import SPLITS, Manifest
from data.shards.readers import Readers
from data.subjects.people import People
from data.subjects.trained_on import known_among
from model.config import MASK_KINDS, ModelConfig
from model.masking import draw_hidden

RANDOM_TIME = "random-time"
KINDS = (*MASK_KINDS, RANDOM_TIME)
KIND_MEANINGS = {
    "random": "single patches anywhere",
    "block": "a neighbourhood of electrodes for 0.3-0.6 s",
    "tube": "a neighbourhood of electrodes, the whole window",
    "channel": "scattered channels, the whole window",
    "time": "all channels at once, for spans of 0.2-0.4 s",
    RANDOM_TIME: "all channels at once, single patches",
}
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
    possible = KINDS if config.tokens == "channel" else ("time", RANDOM_TIME)
    if not wanted:
        return MASK_KINDS if config.tokens == "channel" else possible
    for kind in wanted:
        if kind not in possible:
            why = "no such kind" if kind not in KINDS else "joint tokens hide all channels at once"
            raise InputError(f"--kinds {kind}: {why}", f"choose from {', '.join(possible)}")
    return tuple(dict.fromkeys(wanted))


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
        self.readers = Readers(manifest, manifest.of_split(split))
        self.records = {record["id"]: record for record in manifest.recordings}
        by_subject: dict[tuple[str, str], list[tuple]] = defaultdict(list)
        for owner, reader in enumerate(self.readers):
            for index in range(reader.shard.samples):
                meta = reader.meta(index)
                record = self.records.get(meta.get("recording"))
                if record is None:
                    raise InputError(
                        f"{reader.path}: sample {index} is of recording "
                        f"{meta.get('recording')!r}, which the manifest does not list",
                        "the shards and the manifest do not belong together: pack again",
                    )
                where = (record["id"], float(meta.get("onset_s", 0.0)), reader.key(index))
                subject = (reader.shard.dataset, str(record["subject"]))
                by_subject[subject].append((where, owner, index))
        per_subject = min(per_subject, max(1, total // len(by_subject)))
        self.chosen = {}
        for subject, windows in sorted(by_subject.items()):
            windows.sort()
            self.chosen[subject] = [windows[i] for i in _evenly(len(windows), per_subject)]

    def __len__(self) -> int:
        return sum(len(windows) for windows in self.chosen.values())

    def windows_of(self) -> dict[str, dict[str, int]]:
        """{dataset: {subject: number of windows}}."""
        counts: dict[str, dict[str, int]] = {}
        for (dataset, subject), windows in self.chosen.items():
            counts.setdefault(dataset, {})[subject] = len(windows)
        return counts

    def batches(self) -> Iterator[WindowBatch]:
        """All chosen windows, dataset by dataset, in batches of one montage and length."""
        groups: dict[tuple, list[tuple]] = defaultdict(list)
        for (dataset, subject), windows in self.chosen.items():
            for (record, _, key), owner, index in windows:
                shard = self.readers[owner].shard
                group = groups[dataset, shard.montage, shard.window_samples]
                group.append((owner, index, key, subject, record))
        for (dataset, montage, samples), windows in groups.items():
            place = self.manifest.montages[montage]
            n_patches = samples // self.config.patch_samples
            size = max(1, TOKENS_A_BATCH // (len(place.channels) * n_patches))
            for start in range(0, len(windows), size):
                yield self._batch(dataset, place, n_patches, windows[start : start + size])

    def _batch(self, dataset, place, n_patches, windows) -> WindowBatch:
        owners, indices, keys, subjects, records = zip(*windows, strict=True)
        used = n_patches * self.config.patch_samples
        eeg = np.stack(
            [self.readers[o].signals[i, :, :used] for o, i in zip(owners, indices, strict=True)]
        )
        return WindowBatch(
            dataset=dataset,
            channels=place.channels,
            positions_m=torch.from_numpy(place.positions_m),
            eeg=torch.from_numpy(eeg.astype(np.float32)),
            keys=list(keys),
            subjects=list(subjects),
            scales_uv=[self.records[record].get("scale_uv") for record in records],
        )

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


def hidden_count(kind: str, n_channels: int, n_patches: int, mask_ratio: float) -> int:
    """How many patches to hide, so that a kind is what it says: whole channels for `tube` and
    `channel`, all channels for `time` and `random-time`. 0: the kind is impossible here."""
    if kind in ("tube", "channel"):
        return n_patches * _share(n_channels, mask_ratio)
    if kind in ("time", RANDOM_TIME):
        return n_channels * _share(n_patches, mask_ratio)
    return _share(n_channels * n_patches, mask_ratio)


def draw_masks(
    kind: str, batch: WindowBatch, config: ModelConfig, mask_ratio: float, seed: int
) -> torch.Tensor | None:
    """Bool `[B, C, N]`, True = hidden, the same count in each window; None where `kind` cannot be
    drawn (whole channels of a single channel)."""
    n_channels, n_patches = batch.eeg.shape[1], batch.eeg.shape[2] // config.patch_samples
    count = hidden_count(kind, n_channels, n_patches, mask_ratio)
    if not count:
        return None
    places = batch.positions_m.numpy()
    masks = []
    for key in batch.keys:
        digest = hashlib.sha256(f"{seed}/{key}/{kind}".encode()).digest()
        rng = np.random.default_rng(int.from_bytes(digest[:8], "little"))
        if kind == RANDOM_TIME:
            mask = draw_hidden("random", places[:1], n_patches, count // n_channels, rng)
            mask = np.repeat(mask, n_channels, axis=0)
        else:
            rate_hz = config.sfreq_hz / config.patch_samples
            mask = draw_hidden(kind, places, n_patches, count, rng, rate_hz)
        masks.append(mask)
    return torch.from_numpy(np.stack(masks))


def _share(total: int, ratio: float) -> int:
    return 0 if total < 2 else min(max(1, round(ratio * total)), total - 1)


def _evenly(total: int, count: int) -> list[int]:
    return np.unique(np.linspace(0, total - 1, min(total, count)).round().astype(int)).tolist()
