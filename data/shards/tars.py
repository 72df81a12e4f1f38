"""The shard format: uncompressed tars that any WebDataset reader reads.

A sample is two tar members, `KEY.eeg.npy` (float16 `[C, T]`) and `KEY.json`; of a paired recording
it is three, with `KEY.meg.npy` (float16 `[Ct, T]`, the same instants) between them. All samples of
a shard share dataset, split, montage and length, and their JSON is padded with spaces to one size,
so every sample takes the same number of bytes (`stride`). A shard is therefore also one strided
array in a file: `ShardReader.signals` maps it without parsing a single tar header. The price is at
most 511 bytes of padding a member, 1-2 % at 32 channels x 4 s.

This is the only module that knows member names and dtypes.
"""

from __future__ import annotations

import io
import json
import os
import tarfile
from collections.abc import Iterable, Sequence
from functools import lru_cache
from itertools import repeat
from pathlib import Path

import numpy as np

from data.errors import InputError
from data.files import dump_json, hash_file
from data.shards.manifest import BLOCK, NPY_HEADER, SAFE_NAME, Manifest, ShardEntry, blocks

EXPONENT = np.uint16(0x7C00)
"""The exponent's bits of a float16; all of them are set in infinities and NaN alone."""


def write_shard(
    path: Path,
    keys: Sequence[str],
    signals: Iterable[np.ndarray],
    metas: Sequence[dict],
    *,
    dataset: str,
    split: str,
    montage: str,
    megs: Iterable[np.ndarray] | None = None,
) -> ShardEntry:
    """Write one shard under a temporary name and rename it when whole.

    `signals` yields float16 `[C, T]`, one for each of `keys` and `metas`; `megs`, for paired
    recordings, float16 `[Ct, T]` of the same T. The bytes depend on the
    arguments alone (no time, user or machine enters). Raises ValueError for unequal shapes, a wrong
    dtype, non-finite values or a key that WebDataset would split.
    """
    texts = [dump_json(meta).encode() for meta in metas]
    json_bytes = blocks(max(len(text) for text in texts))
    temporary = path.with_name(path.name + ".partial")
    shape: tuple[int, ...] | None = None
    meg_shape: tuple[int, ...] | None = None
    with open(temporary, "wb") as file:
        with tarfile.open(fileobj=file, mode="w", format=tarfile.USTAR_FORMAT) as tar:
            megs = repeat(None, len(texts)) if megs is None else megs
            for key, signal, meg, text in zip(keys, signals, megs, texts, strict=True):
                if not SAFE_NAME.fullmatch(key) or len(key) > 80:
                    raise ValueError(f"key {key!r}: letters, digits, _ and - only, 80 at most")
                shape = shape or signal.shape
                _add(tar, f"{key}.eeg.npy", _npy(key, signal, shape))
                if meg is not None:
                    meg_shape = meg_shape or (len(meg), shape[1])
                    _add(tar, f"{key}.meg.npy", _npy(f"{key} MEG", meg, meg_shape))
                _add(tar, f"{key}.json", text.ljust(json_bytes))
        file.flush()
        os.fsync(file.fileno())
    digest, size = hash_file(temporary)
    os.replace(temporary, path)
    return ShardEntry(
        file=path.name,
        dataset=dataset,
        split=split,
        montage=montage,
        samples=len(texts),
        channels=shape[0],
        window_samples=shape[1],
        json_bytes=json_bytes,
        bytes=size,
        sha256=digest,
        meg_channels=meg_shape[0] if meg_shape else 0,
    )


def _npy(name: str, signal: np.ndarray, shape: tuple[int, ...]) -> bytes:
    """The .npy of one window, checked."""
    if signal.shape != shape or signal.dtype != np.float16:
        raise ValueError(f"{name}: {signal.dtype}{signal.shape}, not float16{shape}")
    # Ten times as fast as np.isfinite, which converts every float16.
    if (np.ascontiguousarray(signal).view(np.uint16) & EXPONENT).max(initial=0) == EXPONENT:
        raise ValueError(f"{name}: non-finite values")
    return _npy_header(shape) + signal.tobytes()


class ShardReader:
    """Random access to one local shard.

    `signals` is a float16 array `[samples, C, T]` mapped from the file: indexing copies only what
    is asked for; `megs` `[samples, Ct, T]` likewise, None where the shard has no MEG. Opening
    checks the size and the first and last samples' headers, which finds truncation and a foreign
    file; `verify_shard` checks every byte.
    """

    def __init__(
        self, manifest: Manifest, shard: ShardEntry, identity: tuple[int, int] | None = None
    ):
        """`identity`: what an earlier reader of this shard had, for `check_unchanged`."""
        self.manifest, self.shard, self.path = manifest, shard, manifest.path(shard)
        found = self._look()
        self.identity = identity or found
        self._bytes = np.memmap(self.path, dtype=np.uint8, mode="r")
        self._check_sample(0)
        self._check_sample(shard.samples - 1)
        end = shard.samples * shard.stride
        if self._bytes[end : end + BLOCK].any():
            raise InputError(
                f"{self.path}: holds more than the {shard.samples} samples of the manifest",
                "the manifest or the shard is another pack's: copy both again, or pack again",
            )
        self.signals = np.ndarray(
            (shard.samples, shard.channels, shard.window_samples),
            dtype=np.float16,
            buffer=self._bytes,
            offset=shard.signal_offset(0),
            strides=(shard.stride, 2 * shard.window_samples, 2),
        )
        self.megs: np.ndarray | None = None
        if shard.meg_channels:
            self.megs = np.ndarray(
                (shard.samples, shard.meg_channels, shard.window_samples),
                dtype=np.float16,
                buffer=self._bytes,
                offset=shard.meg_offset(0),
                strides=(shard.stride, 2 * shard.window_samples, 2),
            )

    def check_unchanged(self) -> None:
        """InputError if the file was deleted, cut or altered since it was opened.

        Reading a mapped file past its present end would kill the process (SIGBUS). One `stat`:
        about 2 microseconds on a local disk; the hash is computed only for a file that was touched.
        """
        identity = self._look()
        if identity != self.identity:
            verify_shard(self.manifest, self.shard)
            self.identity = identity

    def _look(self) -> tuple[int, int]:
        """(inode, time of the last change) of the file; InputError unless its size is right."""
        try:
            found = os.stat(self.path)
        except OSError as error:
            raise InputError(
                f"{self.path}: this shard is missing ({error.strerror})",
                "copy it again, or pack again",
            ) from None
        if found.st_size != self.shard.bytes:
            raise InputError(
                f"{self.path}: {found.st_size} bytes, but the manifest says {self.shard.bytes}",
                "the file was cut or changed: copy it again, or pack again",
            )
        return found.st_ino, found.st_mtime_ns

    def meta(self, index: int) -> dict:
        """The JSON of sample `index`."""
        start = self.shard.json_offset(index)
        try:
            value = json.loads(self._bytes[start : start + self.shard.json_bytes].tobytes())
        except (ValueError, RecursionError):
            value = None
        if not isinstance(value, dict):
            raise InputError(
                f"{self.path}: the JSON of sample {index} is damaged",
                "copy the shard again, or pack again",
            )
        return value

    def key(self, index: int) -> str:
        """The key of sample `index`, as WebDataset would give it."""
        start = index * self.shard.stride
        name = self._bytes[start : start + 100].tobytes().split(b"\0", 1)[0]
        return name.decode("ascii", "replace").split(".", 1)[0]

    def _check_sample(self, index: int) -> None:
        shard = self.shard
        members = [(shard.signal_offset(index), ".eeg.npy", shard.channels)]
        if shard.meg_channels:
            members.append((shard.meg_offset(index), ".meg.npy", shard.meg_channels))
        for values, ending, channels in members:
            start = values - NPY_HEADER - BLOCK
            tar_header = self._bytes[start : start + BLOCK].tobytes()
            npy_header = self._bytes[start + BLOCK : values].tobytes()
            try:
                name = tarfile.TarInfo.frombuf(tar_header, "ascii", "strict").name
            except (tarfile.TarError, ValueError):
                name = ""
            shape = (channels, shard.window_samples)
            if name.endswith(ending) and npy_header == _npy_header(shape):
                continue
            raise InputError(
                f"{self.path}: sample {index} is not where the manifest says it is",
                "the file was damaged or replaced: copy it again, or pack again",
            )


def verify_shard(manifest: Manifest, shard: ShardEntry) -> None:
    """Compare every byte of a shard with the manifest's SHA-256; InputError names the file."""
    path = manifest.path(shard)
    try:
        digest, size = hash_file(path)
    except FileNotFoundError:
        raise InputError(f"{path}: this shard is missing", "copy it again, or pack again") from None
    if (digest, size) != (shard.sha256, shard.bytes):
        raise InputError(
            f"{path}: its SHA-256 is {digest[:12]}… ({size} bytes), the manifest says "
            f"{shard.sha256[:12]}… ({shard.bytes} bytes)",
            "the file was damaged or replaced: copy it again, or pack again",
        )


@lru_cache
def _npy_header(shape: tuple[int, int]) -> bytes:
    """What np.save writes before the values of a float16 array of this shape."""
    buffer = io.BytesIO()
    header = {"descr": "<f2", "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(buffer, header)
    return buffer.getvalue()


def _add(tar: tarfile.TarFile, name: str, content: bytes) -> None:
    info = tarfile.TarInfo(name)
    info.size, info.mode, info.mtime = len(content), 0o644, 0
    tar.addfile(info, io.BytesIO(content))
