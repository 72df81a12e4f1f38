"""Labelled windows of a split, and their features from a frozen encoder.

Windows are spread evenly over each person's, the same for every run on the same shards. Features
are standardised by the training windows' mean and deviation: a probe then learns at one rate
whatever the encoder's scale (He et al. 2022 put a batch norm there; a fixed one is the same on
every rank).
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
import torch.distributed as dist
from torch import nn
from tqdm import tqdm

from data.batches.batch import Batch, Request
from data.batches.local import WindowDataset
from data.batches.window_table import NO_LABEL, WindowTable
from data.errors import InputError
from data.shards.manifest import Manifest
from data.subjects.trained_on import (
    known_among,
    people_of,
    recordings_of,
    renamed_recordings,
    subjects_of,
)
from model.autoencoder import MaskedVAE
from model.config import ModelConfig
from trainer.ranks.ranks import Ranks, together

SPLITS = ("train", "val", "test")
SHOWN = 5
SIZE = 64
"""Windows that the encoder takes at once where features are computed beforehand."""


@dataclass(frozen=True)
class Known:
    """Windows whose classes are known: batches, and in their order, int64 `[n]`, the numbers of
    windows, classes and people."""

    batches: list[Batch]
    window: np.ndarray
    truth: np.ndarray
    person: np.ndarray


def one_montage(batches: Sequence[Batch]) -> bool:
    """Whether all have the same channels in the same places."""
    return len({batch.positions_m.numpy().tobytes() for batch in batches}) == 1


@dataclass(frozen=True)
class Labelled:
    """The windows of the splits by their labels; checked: two classes or more, and no person in
    two splits."""

    tables: dict[str, WindowTable]
    """Of train, val, and of test where there is one."""
    classes: tuple[int, ...]
    """The labels of the training windows, as numbers of `names.labels`."""
    whole: bool = False
    """True: each table is of all windows of the folder; those of other people have no label."""

    @classmethod
    def read(cls, manifest: Manifest, where: str) -> Labelled:
        there = [split for split in SPLITS if split != "test" or manifest.of_split(split)]
        return cls._checked(WindowTable.read_all(manifest, there), where, False)

    @classmethod
    def by_people(cls, manifest: Manifest, where: str, people: dict[str, set[int]]) -> Labelled:
        """With people (numbers of `names.people`) in the splits that `people` says, whatever the
        folder's are."""
        table = WindowTable.whole(manifest)
        tables = {
            split: replace(
                table,
                label=np.where(np.isin(table.person, sorted(own)), table.label, NO_LABEL),
            )
            for split, own in people.items()
        }
        return cls._checked(tables, where, True)

    @classmethod
    def _checked(cls, tables: dict[str, WindowTable], where: str, whole: bool) -> Labelled:
        train, seen = tables["train"], {}
        for split, table in tables.items():
            if not (table.label != NO_LABEL).any():
                raise InputError(
                    f"{where}: no window of the split {split} has a label",
                    "pack with labels (label=, labels= or events= of a source), by more people",
                )
            for dataset, subject in _people(table, labelled=whole):
                if (before := seen.setdefault((dataset, subject), split)) != split:
                    raise InputError(
                        f"{where}: {dataset} subject {subject} is in {before} and {split}",
                        "a probe is scored on people it was not trained on: pack with a split by "
                        "subject",
                    )
        classes = sorted(set(train.label[train.label != NO_LABEL].tolist()))
        names = [str(train.names.labels[label]) for label in classes]
        if len(classes) < 2:
            raise InputError(
                f"{where}: all training windows have one label, {names[0]}",
                "a probe tells at least two apart: pack recordings of another label too",
            )
        for split, table in tables.items():
            if strange := sorted(set(table.label.tolist()) - {*classes, NO_LABEL}):
                raise InputError(
                    f"{where}: label {train.names.labels[strange[0]]} is in {split}, not in train",
                    f"train has {', '.join(names)}: pack more people, or leave that label out",
                )
        return cls(tables, tuple(classes), whole)

    @property
    def scored(self) -> str:
        """The split that nothing was chosen on: test, or val where there is no other."""
        return "test" if "test" in self.tables else "val"

    def spread(self, split: str, total: int) -> np.ndarray:
        """Numbers of about `total` labelled windows, evenly over each subject's, ascending."""
        table = self.tables[split]
        return np.sort(table.spread(total=total, among=table.label != NO_LABEL))

    def known(self, split: str, windows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """(classes, people) of windows of a split, int64 `[n]` each."""
        table = self.tables[split]
        truth = self.target(torch.from_numpy(table.label[windows])).numpy()
        return truth, table.person[windows]

    def read_known(self, manifest: Manifest, split: str, windows: np.ndarray) -> Known:
        """The chosen windows of a split, with what is known of them."""
        batches = list(read_windows(manifest, None if self.whole else split, windows))
        order = torch.cat([batch.window for batch in batches]).numpy()
        return Known(batches, order, *self.known(split, order))

    @property
    def names(self) -> list[str]:
        """Of the classes, in the order of the logits."""
        return [str(self.tables["train"].names.labels[label]) for label in self.classes]

    def target(self, labels: torch.Tensor) -> torch.Tensor:
        """Numbers of labels -> numbers of classes, int64 `[B]`; -1 stays."""
        lookup = torch.full((max(self.classes) + 2,), NO_LABEL, device=labels.device)
        for place, label in enumerate(self.classes):
            lookup[label] = place
        return lookup[labels]  # -1 looks at the last place, which is -1

    def weights(self) -> torch.Tensor:
        """float32 `[K]`: of each class in the loss, so that all count alike; mean 1 a window."""
        label = self.tables["train"].label
        counts = Counter(label[label != NO_LABEL].tolist())
        total = sum(counts.values())
        return torch.tensor([total / len(self.classes) / counts[label] for label in self.classes])


def _people(table: WindowTable, labelled: bool) -> list[tuple[str, str]]:
    own = table.person[table.label != NO_LABEL] if labelled else table.person
    return [table.names.people[number] for number in np.unique(own)]


def check_encoder(
    path: str,
    model: ModelConfig,
    trained_on: dict | None,
    manifest: Manifest,
    where: str,
    scored: Sequence[dict] | None = None,
) -> None:
    """InputError where the encoder `path` cannot take the folder's windows, or was trained on a
    person or a recording that is held out. `scored`: the manifest's entries of those [val, test].
    """
    rate_hz = manifest.profile["sfreq_hz"]
    if rate_hz != model.sfreq_hz:
        raise InputError(
            f"the encoder {path} reads {model.sfreq_hz:g} Hz, {where} holds {rate_hz:g} Hz",
            "pack these recordings with the encoder's --profile",
        )
    for shard in manifest.shards:
        if model.token_count(shard.channels, shard.window_samples) < 1:
            raise InputError(
                f"{where}/{shard.file}: windows of {shard.window_samples} samples are shorter than "
                f"a patch of the encoder {path}, {model.patch_samples} samples",
                "pack longer windows (--window_s)",
            )
    held = scored
    if held is None:
        held = [one for split in SPLITS[1:] for one in recordings_of(manifest, split)]
    asked = {(entry["dataset"], str(entry["subject"])) for entry in held}
    known = known_among(asked, subjects_of(trained_on), people_of(manifest))
    copies = renamed_recordings(held, trained_on)
    if known or copies:
        names = [f"{dataset} subject {subject}" for dataset, subject in sorted(known)]
        raise InputError(
            f"{where}: the encoder {path} was trained on held-out people: "
            f"{'; '.join((names + (copies or []))[:SHOWN])}",
            "keep other people for val and test: a score on these says nothing",
        )


def read_windows(manifest: Manifest, split: str | None, windows: np.ndarray) -> Iterator[Batch]:
    """The chosen windows of a split, or of the whole folder, `SIZE` at a time; InputError for one
    that is not finite."""
    dataset = WindowDataset(
        manifest, manifest.shards if split is None else manifest.of_split(split)
    )
    for start in range(0, len(windows), SIZE):
        rows = windows[start : start + SIZE]
        yield from dataset.checked(Request(rows, rows))


@torch.inference_mode()
def features(encoder: MaskedVAE, batch: Batch) -> torch.Tensor:
    """fp32 `[B, D]` on the CPU: the encoder's pooled embedding of each window."""
    device = next(encoder.parameters()).device
    batch = batch.to(device)
    return encoder.encode(batch.eeg, batch.positions_m).pooled.cpu()


def features_of(
    encoder: MaskedVAE, manifest: Manifest, split: str, windows: np.ndarray, ranks: Ranks
) -> torch.Tensor:
    """fp32 `[n, D]` of the chosen windows, on every rank: each computes its share of groups of
    `SIZE`, which are the same for any number of ranks."""
    groups = [windows[start : start + SIZE] for start in range(0, len(windows), SIZE)]
    mine = range(ranks.rank, len(groups), ranks.world)
    own, bar = {}, tqdm(mine, f"features of {split}", disable=None if ranks.first else True)
    with together(ranks):
        for number in bar:
            batches = list(read_windows(manifest, split, groups[number]))
            rows = torch.cat([batch.window for batch in batches])
            order = torch.from_numpy(np.argsort(np.argsort(groups[number])))
            found = torch.cat([features(encoder, batch) for batch in batches])
            own[number] = found[rows.argsort()][order]
    everyone: list = [None] * ranks.world
    dist.all_gather_object(everyone, own)
    by_number = {number: part for share in everyone for number, part in share.items()}
    # A tensor made in inference mode cannot be saved for the head's backward pass.
    return torch.cat([by_number[number] for number in range(len(groups))]).clone()


def weights_hash(module: nn.Module) -> str:
    """Of a module's names and values in fp32: the same for a run folder and its converted file."""
    digest = hashlib.sha256()
    for name, value in sorted(module.state_dict().items()):
        digest.update(name.encode())
        digest.update(value.detach().cpu().float().contiguous().numpy().tobytes())
    return digest.hexdigest()
