"""Shards behind a URL or a pipe, streamed through WebDataset.

For data that cannot be copied to local disk. Ranks take different shards, every rank the same
number of batches (what is left over differs between epochs, since the order of shards does), and a
batch has one montage. Throughput is that of tar parsing, several times below the local reader's:
stage shards locally where you can. Resuming skips what was consumed by reading past it.

Nothing that comes is trusted: no more bytes are taken than the manifest says, and they are hashed
on the way, so a shard of up to SHUFFLE_SAMPLES windows is known to be the manifest's before its
first window is trained on, a longer one at its end.

`shard_url` is a template with `{file}`, e.g. `https://host/eeg/{file}` or `pipe:cat /mnt/x/{file}`.
It is the user's own setting and is handed to WebDataset, which runs `pipe:` commands in a shell;
file names come from the manifest, where only letters, digits, `_`, `.` and `-` are accepted.
"""

from __future__ import annotations

import hashlib
import io
from collections.abc import Callable, Iterator, Sequence

import numpy as np
import torch
import webdataset as wds
from webdataset.tariterators import group_by_keys, tar_file_expander

from data.batches.batch import Batch, Prepare, finite
from data.errors import InputError
from data.shards.manifest import Manifest, ShardEntry

SHUFFLE_SAMPLES = 1000
PACKED = (b"\x1f\x8b", b"BZh", b"\xfd7zXZ", b"]\0\0")  # gzip, bzip2, xz, lzma


class ShardStream(torch.utils.data.IterableDataset):
    """Micro-batches of one rank, endless, from `skip` micro-batches on.

    A `MicroBatches` (data/batches/batch.py) whose lists hold one `Batch`; `order_index` numbers the
    rank's windows over all ranks, so no two of a run share it; `window` is the same number.
    `fields`: gives more of a batch from its windows' JSON (`StreamedFields` of
    data/batches/window_table.py).
    """

    def __init__(
        self,
        manifest: Manifest,
        shards: list[ShardEntry],
        shard_url: str,
        *,
        seed: int,
        rank: int,
        world: int,
        micro: int,
        skip: int = 0,
        prepare: Prepare | None = None,
        fields: Callable[[Sequence[bytes]], dict[str, torch.Tensor]] | None = None,
    ):
        if "{file}" not in shard_url:
            raise InputError(f"shard_url={shard_url!r}", "it must hold {file}, the shard's name")
        self.manifest, self.shards, self.shard_url = manifest, shards, shard_url
        self.seed, self.rank, self.world = seed, rank, world
        self.micro, self.skip, self.prepare = micro, skip, prepare
        self.fields = fields
        self.dataset_names = sorted({shard.dataset for shard in shards})
        if self.batches_per_epoch(0) < 1:
            raise InputError(
                f"{len(shards)} shards streamed to {world} ranks leave a rank without a batch of "
                f"{micro}",
                "pack smaller shards (--shard_mb), use fewer ranks, or read local shards",
            )

    def order(self, epoch: int) -> list[ShardEntry]:
        """All shards in the epoch's order; rank r takes r, r + world, ..."""
        rng = np.random.Generator(np.random.Philox(key=[self.seed & (2**64 - 1), epoch]))
        return [self.shards[i] for i in rng.permutation(len(self.shards))]

    def batches_per_epoch(self, epoch: int) -> int:
        """The number that every rank can give: the smallest over ranks."""
        order = self.order(epoch)
        return min(
            sum(shard.samples // self.micro for shard in order[rank :: self.world])
            for rank in range(self.world)
        )

    def __iter__(self) -> Iterator[list[Batch]]:
        if torch.utils.data.get_worker_info() is not None:
            raise RuntimeError("a shard stream runs in the training process: use workers=0")
        epoch, batch_index = 0, 0
        while True:
            left = self.batches_per_epoch(epoch)
            for shard in self.order(epoch)[self.rank :: self.world]:
                count = min(shard.samples // self.micro, left)
                if batch_index + count <= self.skip:  # a whole shard that was consumed before
                    batch_index, left = batch_index + count, left - count
                    continue
                for samples in self._batches(shard, epoch, count):
                    if batch_index >= self.skip:
                        yield [self._batch(shard, samples, batch_index)]
                    batch_index, left = batch_index + 1, left - 1
                if left == 0:
                    break
            epoch += 1

    def name(self, batch: Batch, row: int) -> tuple[str, str]:
        """Streamed windows are known by their place in the order alone."""
        return "streamed shard", f"window {int(batch.window[row])}"

    def damaged(self) -> None:
        """No loader process reads what is streamed."""

    def _batches(self, shard: ShardEntry, epoch: int, count: int) -> Iterator[list[dict]]:
        url = self.shard_url.format(file=shard.file)
        buffer = min(shard.samples, SHUFFLE_SAMPLES)
        shuffled = wds.filters.shuffle(buffer, initial=buffer, seed=self.seed ^ epoch)
        samples = shuffled(read_samples(url, shard))
        batch: list[dict] = []
        given = 0
        for sample in samples:
            if given == count:
                return
            batch.append(sample)
            if len(batch) == self.micro:
                yield batch
                batch, given = [], given + 1

    def _batch(self, shard: ShardEntry, samples: list[dict], batch_index: int) -> Batch:
        shape = (shard.channels, shard.window_samples)
        eeg = np.stack([_signal(sample, shape) for sample in samples])
        start = (batch_index * self.world + self.rank) * self.micro
        asked = {}
        if self.fields:
            texts = [sample.get("json", b"") for sample in samples]
            asked = self.fields(texts)
        batch = Batch(
            eeg=torch.from_numpy(eeg),
            positions_m=torch.from_numpy(self.manifest.montages[shard.montage].positions_m),
            order_index=torch.arange(start, start + self.micro),
            window=torch.arange(start, start + self.micro),
            dataset=torch.full((self.micro,), self.dataset_names.index(shard.dataset)),
            finite=torch.from_numpy(finite(eeg)),
            **asked,
        )
        return self.prepare(batch) if self.prepare else batch


class _Checked:
    """The bytes of a shard as they come: not more than the manifest says, and hashed."""

    def __init__(self, file, shard: ShardEntry):
        self.file, self.shard = file, shard
        self.digest, self.seen = hashlib.sha256(), 0

    def read(self, size: int) -> bytes:
        # One byte more than there should be tells a shard that goes on.
        chunk = self.file.read(min(size, self.shard.bytes + 1 - self.seen))
        # tarfile would unpack a compressed stream to whatever size that claims.
        if not self.seen and (chunk[257:262] != b"ustar" or chunk.startswith(PACKED)):
            raise ValueError("not an uncompressed tar")
        self.seen += len(chunk)
        if self.seen > self.shard.bytes:
            raise ValueError(f"more than the {self.shard.bytes} bytes of the manifest")
        self.digest.update(chunk)
        return chunk

    def finish(self) -> None:
        """Read what follows the last sample; ValueError where the whole is not the manifest's."""
        while self.read(1 << 20):
            pass
        if self.seen < self.shard.bytes:
            raise ValueError(f"ended after {self.seen} of {self.shard.bytes} bytes")
        if self.digest.hexdigest() != self.shard.sha256:
            raise ValueError("other bytes than the manifest's (SHA-256)")


def read_samples(url: str, shard: ShardEntry) -> Iterator[dict]:
    """The raw WebDataset samples behind a URL; InputError where they are not the shard's."""
    try:
        with wds.gopen(url) as file:
            source = _Checked(file, shard)
            members = tar_file_expander([{"url": url, "stream": source}])
            count = 0
            for count, sample in enumerate(group_by_keys(members), 1):
                if count > shard.samples:
                    break
                yield sample
            source.finish()
            if count != shard.samples:
                raise ValueError(f"{count} samples, the manifest says {shard.samples}")
    except Exception as error:  # tar, network and shell fail in their own ways
        reason = error.args[0] if error.args else ""  # WebDataset appends objects
        raise InputError(
            f"{url}: {type(error).__name__}: {reason}",
            "the shard was cut or changed, or the connection broke: copy it again, or pack again",
        ) from error


def _signal(sample: dict, shape: tuple[int, int]) -> np.ndarray:
    """The float16 signal of a raw WebDataset sample, checked."""
    content = sample.get("eeg.npy")
    try:
        if content is None:
            raise ValueError("no eeg.npy member")
        file = io.BytesIO(content)
        if np.lib.format.read_magic(file) != (1, 0):
            raise ValueError("not a .npy file of version 1.0")
        found, by_columns, dtype = np.lib.format.read_array_header_1_0(file)
        # Before NumPy makes room for whatever size the header claims.
        if found != shape or dtype != np.float16 or by_columns:
            raise ValueError(f"{dtype}{found}, not float16{shape}")
        return np.frombuffer(file.read(), np.float16).reshape(shape)
    except ValueError as error:
        raise InputError(
            f"{sample.get('__url__')}: sample {sample.get('__key__')}: {error}",
            "the shard does not fit its manifest: copy it again, or pack again",
        ) from None
