"""What a shard folder holds, by its manifest.json: montages, recordings, shards, split.

The manifest is written last and atomically, so a folder that has one is finished. All samples of a
shard have one shape and their JSON one size, so a shard's offsets follow from its entry alone.
Nothing in a manifest is trusted: names that lead outside its folder, sizes that do not add up and
numbers that are none are refused.

This is the only module that knows offsets and the manifest's schema.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path

import numpy as np

from data.errors import InputError
from data.files import dump_json, write_atomic
from data.shards.sensors import MegSensors, rounded

FORMAT = "eeg-shards"
FORMAT_VERSION = 1
MANIFEST = "manifest.json"
SPLITS = ("train", "val", "test")
BLOCK = 512  # tar's unit
LARGEST_SHARD = 1 << 48  # bytes; beyond it a manifest is damaged, and products stay within int64
HIGHEST_RATE = 1e6  # hertz
NPY_HEADER = 128  # what np.save writes for any shape of ours (checked when a shard is opened)
SAFE_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_-]*")
SAFE_FILE = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]*\.tar")


@dataclass(frozen=True)
class ShardEntry:
    """One shard, as the manifest describes it. `meg_channels`: 0 (and not written) without MEG."""

    file: str
    dataset: str
    split: str
    montage: str
    samples: int
    channels: int
    window_samples: int
    json_bytes: int
    bytes: int
    sha256: str
    meg_channels: int = 0

    @property
    def signal_block(self) -> int:
        """Bytes of a signal member's content, with padding to whole tar blocks."""
        return blocks(NPY_HEADER + 2 * self.channels * self.window_samples)

    @property
    def meg_block(self) -> int:
        """Bytes of the MEG member with its tar header; 0 where there is none."""
        values = 2 * self.meg_channels * self.window_samples
        return BLOCK + blocks(NPY_HEADER + values) if self.meg_channels else 0

    @property
    def stride(self) -> int:
        """Bytes from one sample to the next."""
        return BLOCK + self.signal_block + self.meg_block + BLOCK + self.json_bytes

    def signal_offset(self, index: int) -> int:
        """Byte offset of the first float16 value of sample `index`."""
        return index * self.stride + BLOCK + NPY_HEADER

    def meg_offset(self, index: int) -> int:
        """Byte offset of the first float16 MEG value of sample `index`."""
        return index * self.stride + BLOCK + self.signal_block + BLOCK + NPY_HEADER

    def json_offset(self, index: int) -> int:
        """Byte offset of the JSON text of sample `index`."""
        return index * self.stride + BLOCK + self.signal_block + self.meg_block + BLOCK

    def as_dict(self) -> dict:
        """For the manifest."""
        return {key: value for key, value in asdict(self).items() if key in REQUIRED or value}


REQUIRED = {field.name for field in fields(ShardEntry)} - {"meg_channels"}


@dataclass(frozen=True)
class Montage:
    """Electrode names and places. `positions_m`: float32 `[C, 3]`, metres, MNE's head frame."""

    channels: tuple[str, ...]
    positions_m: np.ndarray
    meg: MegSensors | None = None
    """The MEG sensors of a paired recording."""


@dataclass(frozen=True)
class Manifest:
    """A shard folder's manifest, checked. `recordings` and `profile` are plain JSON values."""

    folder: Path
    profile: dict
    montages: dict[str, Montage]
    recordings: list[dict]
    shards: list[ShardEntry]
    raw: dict

    def of_split(self, split: str) -> list[ShardEntry]:
        return [shard for shard in self.shards if shard.split == split]

    def path(self, shard: ShardEntry) -> Path:
        return self.folder / shard.file

    @property
    def paired(self) -> bool:
        """Whether every window has MEG beside its EEG."""
        return bool(self.shards) and all(shard.meg_channels for shard in self.shards)

    @property
    def sha256(self) -> str:
        """Hash of the manifest's meaning: two folders with equal hashes hold the same data."""
        return hashlib.sha256(dump_json(self.raw).encode()).hexdigest()


def montage_id(
    channels: Sequence[str], positions_m: np.ndarray, meg: MegSensors | None = None
) -> str:
    """A short stable name of a montage: its channel count and a hash of names and 0.1 mm places."""
    places = np.round(np.asarray(positions_m, dtype=np.float64), 4) + 0.0
    text = dump_json([list(channels), places.tolist(), *([meg.as_dict()] if meg else [])])
    return f"{len(channels)}ch-{hashlib.sha256(text.encode()).hexdigest()[:8]}"


def write_manifest(
    folder: Path,
    *,
    profile: dict,
    montages: dict[str, Montage],
    recordings: list[dict],
    shards: list[ShardEntry],
    split: dict,
    source: dict,
) -> None:
    """Write manifest.json, atomically: it is what makes a shard folder a finished one.

    `split` and `source` describe the rule of the split and what was packed; they are kept as given.
    """
    value = {
        "format": FORMAT,
        "format_version": FORMAT_VERSION,
        "profile": profile,
        "montages": {
            name: {
                "channels": list(montage.channels),
                "positions_m": rounded(montage.positions_m),
                **({"meg": montage.meg.as_dict()} if montage.meg else {}),
            }
            for name, montage in montages.items()
        },
        "recordings": recordings,
        "shards": [shard.as_dict() for shard in shards],
        "split": split,
        "source": source,
    }
    text = json.dumps(value, sort_keys=True, indent=1, allow_nan=False) + "\n"
    write_atomic(folder / MANIFEST, text.encode())


def read_manifest(folder: str | Path) -> Manifest:
    """Read and check a shard folder's manifest. Raises InputError for anything amiss."""
    folder = Path(folder)
    path = folder / MANIFEST
    if not path.is_file():
        what = "no manifest.json: not packed to the end" if folder.is_dir() else "no such folder"
        raise InputError(
            f"{folder}: {what}",
            f"pack some data first, e.g.  python data/pack.py --source simulated --out {folder}",
        )
    try:
        value = json.loads(path.read_bytes(), parse_constant=_no_constant)
        if value.get("format") != FORMAT:
            raise InputError(f"{path}: not a manifest of EEG shards", "check the path of --shards")
        if value.get("format_version") != FORMAT_VERSION:
            raise InputError(
                f"{path}: format version {value.get('format_version')}, this program reads "
                f"{FORMAT_VERSION}",
                "pack the data again, or use the version of the program that packed it",
            )
        return _checked(folder, value)
    except InputError:
        raise
    except (ValueError, KeyError, TypeError, AttributeError, *_TOO_MUCH) as error:
        raise InputError(
            f"{path}: damaged ({type(error).__name__}: {error})", "copy it again, or pack again"
        ) from error


# What JSON can make Python or NumPy raise by its sheer size: depth of nesting, huge numbers.
_TOO_MUCH = (RecursionError, OverflowError, MemoryError)


def _no_constant(text: str):
    raise ValueError(f"{text} is no number")


def _checked(folder: Path, value: dict) -> Manifest:
    montages = {}
    for name, entry in value["montages"].items():
        with np.errstate(over="ignore"):
            positions = np.array(entry["positions_m"], dtype=np.float32)
        channels = tuple(str(channel) for channel in entry["channels"])
        if positions.shape != (len(channels), 3) or not np.isfinite(positions).all():
            raise ValueError(f"montage {name}: positions do not fit {len(channels)} channels")
        try:
            meg = MegSensors.checked(entry["meg"]) if "meg" in entry else None
        except InputError as error:
            raise InputError(f"{folder / MANIFEST}: {error.what}", error.remedy) from None
        montages[name] = Montage(channels, positions, meg)
    known = {field.name: field.type for field in fields(ShardEntry)}
    shards, names = [], set()
    for entry in value["shards"]:
        if not REQUIRED <= set(entry) <= set(known):
            raise ValueError(f"shard fields {sorted(set(entry) ^ REQUIRED)}")
        for field, kind in known.items():
            if field in entry and type(entry[field]).__name__ != kind:
                raise ValueError(f"shard field {field}={entry[field]!r} is not {kind}")
        shard = ShardEntry(**entry)
        # The name comes from a file that may have been downloaded: it must stay in its folder.
        if not SAFE_FILE.fullmatch(shard.file) or shard.file in names:
            raise ValueError(f"shard file name {shard.file!r}")
        names.add(shard.file)
        counts = (shard.samples, shard.channels, shard.window_samples, shard.json_bytes)
        if (
            min(counts) < 1
            or shard.meg_channels < 0
            or shard.bytes > LARGEST_SHARD
            or shard.json_bytes % BLOCK
            or shard.split not in SPLITS
        ):
            raise ValueError(
                f"shard {shard.file}: counts {counts}, {shard.bytes} bytes, split {shard.split!r}"
            )
        if shard.bytes < shard.samples * shard.stride:
            raise ValueError(f"shard {shard.file}: {shard.bytes} bytes cannot hold its samples")
        if len(montages[shard.montage].channels) != shard.channels:
            raise ValueError(f"shard {shard.file}: montage {shard.montage} has other channels")
        meg = montages[shard.montage].meg
        if (len(meg.names) if meg else 0) != shard.meg_channels:
            raise ValueError(f"shard {shard.file}: montage {shard.montage} has other MEG sensors")
        shards.append(shard)
    profile = value["profile"]
    rate = profile["sfreq_hz"]
    if type(rate) not in (int, float) or not 0 < rate < HIGHEST_RATE:
        raise ValueError(f"profile sfreq_hz={rate!r}")
    recordings = value["recordings"]
    if not (isinstance(recordings, list) and all(isinstance(r, dict) for r in recordings)):
        raise ValueError("recordings are not a list of objects")
    dump_json(value)  # raises for infinity, which JSON can spell as 1e999
    return Manifest(folder, profile, montages, recordings, shards, value)


def blocks(size: int) -> int:
    """`size` bytes, rounded up to whole tar blocks."""
    return math.ceil(size / BLOCK) * BLOCK
