"""Windows of many recordings -> shards and a manifest, the same bytes every time.

Windows of one dataset, split, montage and length are permuted by a generator seeded with the pack's
seed and the group's name, then cut into shards of equal size: so a shard mixes recordings, and a
trainer that reads shards in order already sees mixed data. Nothing here depends on which worker
finished first, on the machine or on the time. The main process holds one small dict for each window
(its onset and label), and of keys and paths only those of the shards being written.
"""

from __future__ import annotations

import hashlib
import re
from bisect import bisect_right
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import accumulate
from operator import itemgetter
from pathlib import Path

import numpy as np
from tqdm import tqdm

from data.errors import InputError
from data.files import disk_full, is_full, require_free
from data.packing.writing import Group, Row, ShardJob, close_files, sample_bytes, write_one
from data.shards.manifest import SPLITS, Montage, ShardEntry, montage_id
from data.shards.sensors import MegSensors
from data.signals.session_scale import by_session
from data.workers import in_workers

SHARD_NAME = re.compile(
    r"[A-Za-z0-9_-]+-(?:train|val|test)-\d+ch-[0-9a-f]{8}-t\d+-\d{5}\.tar(\.partial)?"
)


@dataclass(frozen=True)
class Source:
    """The windows of one recording: the rows of `file`, and what their JSON will say."""

    index: int
    recording: str
    file: Path
    metas: list[dict]
    meg_file: Path | None = None
    label: str | None = None
    """Of the whole recording."""
    rows: list[int] | None = None
    """The rows of `file` that `metas` are about; None: all, in order."""
    gain: float | None = None
    clip: float = 0.0


def collect(
    records: list[dict], folder: Path, splits: list[str | None]
) -> tuple[list[dict], dict[str, Montage], dict[Group, list[Source]]]:
    """Sort the items' records into (manifest recordings, montages, windows of each group).

    `splits`: of each record; None for one without windows. Raises InputError for two recordings
    with one name, or no window at all.
    """
    of_split = [
        split for record, split in zip(records, splits, strict=True) for _ in record["recordings"]
    ]
    found = by_session(entry for record in records for entry in record["recordings"])
    entries = [(entry["id"], entry, split) for entry, split in zip(found, of_split, strict=True)]
    entries.sort(key=itemgetter(0))
    recordings, montages, groups = [], {}, {}
    for index, (name, entry, split) in enumerate(entries):
        if index and name == entries[index - 1][0]:
            raise InputError(
                f"two recordings are called {name}",
                "name each recording by one --source only (or give raw: sources dataset=NAME)",
            )
        positions = np.array(entry["positions_m"])
        meg = MegSensors.checked(entry["meg"]) if "meg" in entry else None
        montage = montage_id(entry["channels"], positions, meg)
        montages.setdefault(montage, Montage(tuple(entry["channels"]), positions, meg))
        label = entry["label"]
        if entry["meta"]:
            group = Group(entry["dataset"], split, montage, entry["shape"][1])
            meg_file = folder / entry["meg"]["file"] if meg else None
            source = Source(
                index, name, folder / entry["file"], entry["meta"], meg_file, label,
                entry.get("rows"), entry.get("gain"), entry.get("clip", 0.0),
            )  # fmt: skip
            groups.setdefault(group, []).append(source)
        own = {k: entry[k] for k in ("id", "dataset", "subject", "session", "run", "windows")}
        own |= {k: entry[k] for k in ("label", "labels") if entry[k]}
        recordings.append(entry["info"] | own | {"montage": montage, "split": split})
    if not groups:
        raise InputError(
            "no window is left of these recordings: " + _reasons(recordings),
            "check events, channels and --window_s; recordings shorter than a window give none",
        )
    return recordings, dict(sorted(montages.items())), groups


def pictures_of(groups: dict[Group, list[Source]]) -> dict[str, list[str]]:
    """{label: names}, sorted: the pictures that windows show, for the manifest; from it a trainer
    knows what is tested without opening a window. Empty where windows name none."""
    found: dict[str, set[str]] = {}
    for source in (source for sources in groups.values() for source in sources):
        for meta in source.metas:
            label = meta.get("label", source.label)
            if meta.get("image") is not None and label is not None:
                found.setdefault(str(label), set()).add(str(meta["image"]))
    return {label: sorted(names) for label, names in sorted(found.items())}


def write_shards(
    out: Path, groups: dict[Group, list[Source]], seed: int, shard_mb: float, workers: int = 1
) -> list[ShardEntry]:
    """Write all shards of all groups into `out`, each atomically; returns their entries in order.

    Shards of an earlier, interrupted pack that this one does not make are removed. Raises
    InputError for a full disk.
    """
    plan = list(_plan(groups, seed, shard_mb))
    names = {file for file, _, _ in plan}
    if len(names) < len(plan):
        raise InputError(
            "two datasets have names that differ in punctuation only", "rename one of them"
        )
    for path in out.iterdir():
        if SHARD_NAME.fullmatch(path.name) and path.name not in names:
            path.unlink()
    total = sum(sample_bytes(groups[group][0]) * len(piece) for _, group, piece in plan)
    present = sum((out / name).stat().st_size for name in names if (out / name).exists())
    require_free(out, int(1.02 * (total - present)))
    jobs = (ShardJob(out, file, group, _rows(groups[group], piece)) for file, group, piece in plan)
    shards, written = {}, 0
    with tqdm(total=total, desc="writing", unit="B", unit_scale=True) as bar:
        try:
            for job, shard in _written(jobs, min(workers, len(plan))):
                shards[job.file] = shard
                size = job.sample_bytes * len(job.rows)
                written += size
                bar.update(size)
        except OSError as error:
            if not is_full(error):
                raise
            for name in names:
                (out / f"{name}.partial").unlink(missing_ok=True)
            raise disk_full(out, total - written) from None
        finally:
            close_files()
    return [shards[file] for file, _, _ in plan]


def _written(jobs: Iterator[ShardJob], workers: int) -> Iterator[tuple[ShardJob, ShardEntry]]:
    """Write the shards, here or in worker processes; yields each as it is done."""
    if workers == 1:
        for job in jobs:
            yield job, write_one(job)
    else:
        yield from in_workers(write_one, jobs, workers)


def _plan(
    groups: dict[Group, list[Source]], seed: int, shard_mb: float
) -> Iterator[tuple[str, Group, np.ndarray]]:
    """(file, group, places of its windows among the group's) for every shard to be."""
    for group in sorted(groups, key=_by_name):
        windows = sum(len(source.metas) for source in groups[group])
        name_seed = int.from_bytes(hashlib.sha256(group.name.encode()).digest()[:8], "big")
        order = np.random.default_rng([seed, name_seed]).permutation(windows)
        per_shard = max(1, int(shard_mb * 1e6 / sample_bytes(groups[group][0])))
        for number, piece in enumerate(np.array_split(order, -(-windows // per_shard))):
            yield f"{group.name}-{number:05d}.tar", group, piece


def _rows(sources: list[Source], places: np.ndarray) -> list[Row]:
    """The windows at `places`, counted through the sources in order."""
    starts = [0, *accumulate(len(source.metas) for source in sources)]
    rows = []
    for place in places.tolist():
        number = bisect_right(starts, place) - 1
        source, row = sources[number], place - starts[number]
        meta = source.metas[row] | {"recording": source.recording}
        if source.label is not None:
            meta.setdefault("label", source.label)
        row = row if source.rows is None else source.rows[row]
        key = f"r{source.index:06d}w{row:06d}"
        rows.append(Row(key, source.file, row, meta, source.meg_file, source.gain, source.clip))
    return rows


def _by_name(group: Group) -> tuple[str, int]:
    return group.name, SPLITS.index(group.split)


def _reasons(recordings: list[dict]) -> str:
    dropped: dict[str, int] = {}
    for recording in recordings:
        for reason, count in recording["dropped"].items():
            dropped[reason] = dropped.get(reason, 0) + count
    return ", ".join(f"{count} {reason}" for reason, count in dropped.items()) or "all are empty"
