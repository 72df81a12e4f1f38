"""Loading: the same batches for any number of ranks and workers, and the streamed way."""

from __future__ import annotations

import subprocess
import sys
from itertools import islice
from pathlib import Path

import pytest
import torch
from commands import ROOT
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny import tiny_shards

from data.batches.local import (
    LocalMicroBatches,
    TrainingRequests,
    WindowDataset,
    batches_ahead,
)
from data.batches.order import TrainingOrder
from data.batches.streamed import ShardStream
from data.errors import InputError
from data.shards.manifest import read_manifest
from data.shards.readers import Readers
from data.spacing import evenly


@pytest.fixture(scope="module")
def manifest(tmp_path_factory):
    return read_manifest(tiny_shards(tmp_path_factory.mktemp("shards")))


def batches(manifest, *, world=1, workers=0, consumed=0, steps=7, global_batch=16, taken=None):
    """{place in the order: (sample number, sum of its signal)} over all ranks; of `steps` steps,
    `taken` are taken and the rest is left in the loader."""
    shards = manifest.of_split("train")
    dataset = WindowDataset(manifest, shards)
    order = TrainingOrder(tuple(shards), 3, global_batch, 4)
    found = {}
    for rank in range(world):
        requests = TrainingRequests(
            order, rank=rank, world=world, micro=global_batch // world, accumulation=1,
            consumed=consumed, steps=steps,
        )  # fmt: skip
        loader = LocalMicroBatches(dataset, requests, workers=workers)
        for batches in islice(loader, taken):
            for batch in batches:
                assert batch.positions_m.shape == (batch.eeg.shape[1], 3)
                for place, number, eeg in zip(
                    batch.order_index.tolist(), batch.window.tolist(), batch.eeg, strict=True
                ):
                    assert place not in found
                    found[place] = (number, eeg.float().sum().item())
    return found


@pytest.mark.parametrize(("world", "workers"), [(1, 2), (2, 0), (4, 1), (8, 0)])
def test_ranks_and_workers_change_nothing(manifest, world, workers):
    assert batches(manifest, world=world, workers=workers) == batches(manifest)


def test_resume_continues_where_it_stopped(manifest):
    straight = batches(manifest, steps=9)  # into the second epoch: 114 windows, 7 batches of 16
    first = batches(manifest, steps=4)
    second = batches(manifest, consumed=4 * 16, steps=5, world=2, workers=1)
    assert {**first, **second} == straight


def all_windows(dataset, count: int, size: int) -> list:
    return dataset.requests(evenly(len(dataset), count), lambda channels, samples: size)


def test_signals_are_those_of_the_shards(manifest):
    shards = manifest.of_split("train")
    dataset = WindowDataset(manifest, shards)
    (request, *_) = all_windows(dataset, 8, 8)
    (batch,) = dataset[request]
    for number, eeg in zip(batch.window.tolist(), batch.eeg, strict=True):
        index = number if number < shards[0].samples else number - shards[0].samples
        shard = 0 if number < shards[0].samples else 1
        torch.testing.assert_close(
            eeg, torch.from_numpy(dataset.readers[shard].signals[index].copy()), rtol=0, atol=0
        )


def test_requests_cover_the_split_once(manifest):
    dataset = WindowDataset(manifest, manifest.of_split("val"))
    numbers = [n for request in all_windows(dataset, 1000, 5) for n in request.window.tolist()]
    assert sorted(numbers) == list(range(len(dataset)))


@pytest.mark.parametrize("kind", ["{folder}/{{file}}", "pipe:cat {folder}/{{file}}"])
def test_streamed_shards(manifest, kind):
    url = kind.format(folder=manifest.folder)
    shards = manifest.of_split("train")
    settings = {"seed": 0, "world": 2, "micro": 4}
    everything = []
    for rank in range(2):
        stream = ShardStream(manifest, shards, url, rank=rank, **settings)
        straight = iter(stream)
        epoch = stream.batches_per_epoch(0)
        sums = [next(straight)[0].eeg.float().sum().item() for _ in range(epoch + 3)]
        later = iter(ShardStream(manifest, shards, url, rank=rank, skip=epoch - 2, **settings))
        again = [next(later)[0].eeg.float().sum().item() for _ in range(5)]
        assert again == sums[epoch - 2 :]
        everything += sums[:epoch]
    assert len(set(everything)) == len(everything)


def test_a_stream_that_ends_early_is_named(manifest, tmp_path):
    shard = manifest.of_split("train")[0]
    content = manifest.path(shard).read_bytes()
    (tmp_path / shard.file).write_bytes(content[: 5 * shard.stride] + bytes(1024))
    stream = ShardStream(
        manifest, [shard], f"{tmp_path}/{{file}}", seed=0, rank=0, world=1, micro=4
    )
    with pytest.raises(InputError, match="ended after"):
        list(zip(range(shard.samples), stream, strict=False))


@settings(max_examples=12, deadline=None)
@given(
    st.lists(
        st.tuples(st.sampled_from([1, 2, 4, 8]), st.integers(0, 2), st.integers(1, 6)),
        min_size=2,
        max_size=4,
    ),
    st.integers(0, 5),
)
def test_runs_resumed_with_other_ranks_and_workers_lose_and_repeat_nothing(manifest, legs, ahead):
    """Legs of (ranks, workers, steps), each killed after its steps with more already loaded: every
    position comes once, and an epoch holds its samples once."""
    found, consumed = {}, 0
    for world, workers, steps in legs:
        leg = batches(
            manifest, world=world, workers=workers, consumed=consumed, steps=steps + ahead,
            taken=steps,
        )  # fmt: skip
        assert not set(leg) & set(found)
        found.update(leg)
        consumed += 16 * steps
    assert sorted(found) == list(range(consumed))
    epoch = sum(shard.samples for shard in manifest.of_split("train")) // 16 * 16
    for start in range(0, consumed, epoch):
        numbers = [found[place][0] for place in range(start, min(start + epoch, consumed))]
        assert len(set(numbers)) == len(numbers)
    assert found == batches(manifest, steps=consumed // 16)


def a_process_with_workers(manifest, last_lines: str) -> subprocess.CompletedProcess:
    """A process that starts two workers shielded from signals, as training does, takes one of the
    three `batches`, and ends as `last_lines` say. Returns when nobody holds its pipes any more."""
    code = (
        "import os, signal, sys\n"
        "from data.batches.local import LocalMicroBatches, TrainingRequests, WindowDataset\n"
        "from data.shards.manifest import read_manifest\n"
        "from data.batches.order import TrainingOrder\n"
        "from trainer.ranks.stopping import shielded\n"
        "if __name__ == '__main__':\n"
        "    manifest = read_manifest(sys.argv[1])\n"
        "    shards = manifest.of_split('train')\n"
        "    order = TrainingOrder(tuple(shards), 0, 8, 4)\n"
        "    requests = TrainingRequests(order, rank=0, world=1, micro=8, accumulation=1,\n"
        "                                consumed=0, steps=3)\n"
        "    dataset = WindowDataset(manifest, shards)\n"
        "    with shielded():\n"
        "        batches = iter(LocalMicroBatches(dataset, requests, workers=2))\n"
        "    next(batches)\n"
        f"    {last_lines}\n"
    )
    words = [sys.executable, "-c", code, str(manifest.folder)]
    root = Path(__file__).resolve().parents[1]
    return subprocess.run(words, cwd=root, capture_output=True, text=True, timeout=300)


@pytest.mark.slow
def test_workers_end_with_a_killed_trainer(manifest):
    """Their fork server would live on with them, and hold what the trainer's output goes to."""
    done = a_process_with_workers(manifest, "os.kill(os.getpid(), signal.SIGKILL)")
    assert done.returncode == -9, done.stderr


@pytest.mark.slow
def test_a_process_ends_although_a_loader_is_still_referred_to(manifest):
    """Nobody then asks its workers to end, and SIGTERM does not reach them."""
    done = a_process_with_workers(manifest, "sys.held = batches")
    assert done.returncode == 0, done.stderr


# ---- more shards than a process may have open --------------------------------------------------


def test_few_open_shards_change_nothing(manifest):
    shards = manifest.shards
    free, bound = WindowDataset(manifest, shards), WindowDataset(manifest, shards)
    bound.readers.most = 2
    for request in all_windows(free, 60, 1) + all_windows(free, 60, 1)[::-1]:
        for one, other in zip(free[request], bound[request], strict=True):
            assert one.eeg.equal(other.eeg)
        assert len(bound.readers.open) <= 2
    assert len(free.readers.open) == len(shards)


def test_a_shard_that_changed_while_it_was_closed_is_noticed(tmp_path):
    manifest = read_manifest(tiny_shards(tmp_path / "shards"))
    readers = Readers(manifest, manifest.shards, most=1)
    readers[0].check_unchanged()
    assert len(readers[1].signals) > 0
    path = manifest.path(manifest.shards[0])
    content = bytearray(path.read_bytes())
    content[4096] ^= 1
    path.write_bytes(content)
    with pytest.raises(InputError, match="its SHA-256 is"):
        readers[0].check_unchanged()


def test_more_shards_than_open_files(tmp_path):
    """In a process that may have 48 files open: 100 shards, twice."""
    folder = tiny_shards(tmp_path / "shards", train=(1,) * 45, held_out=1, samples=20)
    code = (
        "import resource, sys; resource.setrlimit(resource.RLIMIT_NOFILE, (24, 48))\n"
        "from data.batches.local import WindowDataset\n"
        "from data.shards.manifest import read_manifest\n"
        "manifest = read_manifest(sys.argv[1]); data = WindowDataset(manifest, manifest.shards)\n"
        "for _ in range(2):\n"
        "    requests = data.requests(range(len(data)), lambda channels, samples: 1)\n"
        "    print(sum(len(batch) for request in requests for batch in data[request]))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(folder)], cwd=ROOT, capture_output=True, text=True
    )
    assert done.stdout.split() == ["94", "94"], done.stderr


@pytest.mark.parametrize(
    ("workers", "batch_bytes", "ahead"),
    [(8, 13_107_200, 4), (8, 134_217_728, 1), (8, 10**9, 1), (2, 134_217_728, 4), (0, 10**6, 4)],
)
def test_workers_run_ahead_within_a_gibibyte(workers, batch_bytes, ahead):
    assert batches_ahead(workers, batch_bytes) == ahead
