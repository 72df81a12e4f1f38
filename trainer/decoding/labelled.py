"""All labelled windows of a folder, whatever split they are in, for protocols of their own."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from data.batches.batch import Batch
from data.batches.window_table import NO_LABEL, WindowTable
from data.errors import InputError, did_you_mean
from data.shards.manifest import SPLITS, Manifest
from trainer.decoding.protocols import Rows
from trainer.decoding.windows import read_windows


@dataclass(frozen=True)
class LabelledWindows:
    """Windows in the order of `batches`; truth: int64 `[n]`, numbers of `classes`."""

    batches: list[Batch]
    truth: np.ndarray
    classes: tuple[str, ...]
    rows: Rows
    channels: tuple[str, ...]
    """Names of the channels, where all batches have the same; else none."""
    left_out: dict[str, int]
    """Windows by the reason that they are not here."""

    @property
    def one_montage(self) -> bool:
        return bool(self.channels)


def read_labelled(
    manifest: Manifest, where: str, labels: Sequence[str] = (), most: int | None = None
) -> LabelledWindows:
    """Read them into memory (2 bytes a value). labels: those that are told apart, in this order
    [all]. most: windows of a person, spread over time. InputError where fewer than two labels or
    two lengths of window are left."""
    there = [split for split in SPLITS if manifest.of_split(split)]
    tables = WindowTable.read_all(manifest, there)
    names = [str(name) for name in next(iter(tables.values())).names.labels]
    chosen = _classes(names, tables, labels, where)
    left_out = {"no label": 0, "another label": 0, f"more than {most} of a person": 0}
    batches, parts = [], []
    for split, table in tables.items():
        labelled = table.label != NO_LABEL
        wanted = np.isin(table.label, chosen)
        windows = np.sort(table.spread(**({} if most is None else {"per_subject": most}),
                                       among=wanted))  # fmt: skip
        left_out["no label"] += int((~labelled).sum())
        left_out["another label"] += int((labelled & ~wanted).sum())
        left_out[f"more than {most} of a person"] += int(wanted.sum()) - len(windows)
        read = list(read_windows(manifest, split, windows)) if len(windows) else []
        batches += read
        order = np.concatenate([batch.window.numpy() for batch in read]) if read else windows
        parts.append(_rows(table, split, order, chosen))
    truth, rows = _joined(parts, next(iter(tables.values())).names.people)
    if len({batch.eeg.shape[-1] for batch in batches}) > 1:
        raise InputError(f"{where}: windows of several lengths", "pack with one --window_s")
    return LabelledWindows(
        batches, truth, tuple(names[label] for label in chosen), rows,
        _channels(manifest, batches), {what: count for what, count in left_out.items() if count},
    )  # fmt: skip


def halves(known: LabelledWindows) -> np.ndarray:
    """A control, int64 `[n]`: of the commonest class, 1 for the later half of each recording's
    windows, 0 for the earlier one; -1 of other classes. What tells these apart has found drift."""
    truth = np.full(len(known.truth), -1, np.int64)
    commonest = known.truth == np.bincount(known.truth).argmax()
    for recording in np.unique(known.rows.recording[commonest]):
        own = np.flatnonzero(commonest & (known.rows.recording == recording))
        own = own[np.argsort(known.rows.onset_s[own], kind="stable")]
        truth[own] = np.arange(len(own)) >= len(own) // 2
    return truth


def _classes(names, tables, labels: Sequence[str], where: str) -> list[int]:
    found = sorted({int(x) for table in tables.values() for x in table.label} - {NO_LABEL})
    if not found:
        raise InputError(
            f"{where}: no window has a label",
            "pack with labels (label=, labels= or events= of a source)",
        )
    there = [names[label] for label in found]
    for label in labels:
        if label not in there:
            raise InputError(
                f"--labels {label}: no window of {where} has it", did_you_mean(label, there)
            )
    chosen = [names.index(label) for label in labels] if labels else found
    if len(set(chosen)) < 2:
        raise InputError(
            f"{where}: all labelled windows have one label, {names[chosen[0]]}",
            "two at least are told apart: pack recordings of another label too",
        )
    return chosen


def _rows(table: WindowTable, split: str, windows: np.ndarray, chosen: list[int]) -> dict:
    lookup = {label: place for place, label in enumerate(chosen)}
    return {
        "truth": np.array([lookup[label] for label in table.label[windows].tolist()], np.int64),
        "person": table.person[windows],
        "recording": table.recording[windows],
        "onset_s": table.onset_s[windows],
        "split": np.full(len(windows), split),
    }


def _joined(parts: list[dict], people: Sequence[tuple[str, str]]) -> tuple[np.ndarray, Rows]:
    whole = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
    return whole["truth"], Rows(**whole, people=people)


def _channels(manifest: Manifest, batches: Sequence[Batch]) -> tuple[str, ...]:
    places = {batch.positions_m.numpy().tobytes() for batch in batches}
    if len(places) > 1:
        return ()
    for montage in manifest.montages.values():
        if montage.positions_m.tobytes() in places:
            return tuple(montage.channels)
    return ()
