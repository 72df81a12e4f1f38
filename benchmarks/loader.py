"""Samples a second of this project's loader, of WebDataset, of other formats, and the ceiling.

    pip install -r requirements-bench.txt
    python benchmarks/loader.py [--shards DIR] [--plot docs/figures/loader_speed.png]

Without --shards it writes 2,000 windows of 64 x 512 float16 samples to a temporary folder. Every
case gives batches of 64 from the page cache; masks are left out. "One core" is one process pinned
to one core; "two cores" is two such processes at once, each with half of the work, as two ranks
have. This project's loader and the map-style formats read in random order, WebDataset in file
order. The ceiling copies the shards' bytes out of a memory map, a batch in one piece and in the
order of the file, and does nothing else.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

sys.path[0] = str(Path(__file__).resolve().parents[1])

import numpy as np
import torch
import webdataset as wds
from torch.utils.data import DataLoader

from benchmarks.common import table
from benchmarks.formats import Hdf5Windows, LmdbWindows, NpyWindows, write_all
from benchmarks.shards import make_shards
from data.batches.local import LocalMicroBatches, TrainingRequests, WindowDataset
from data.batches.order import TrainingOrder
from data.shards.manifest import Manifest, read_manifest

BATCH = 64
PASSES = 32
"""Of the two fast cases over the shards, so that they take as long as the others."""
REFERENCE, OURS, CEILING = (
    "plain wds.WebDataset",
    "this project's loader",
    "bare copy of a memory map",
)


def plain_webdataset(manifest: Manifest, _: Path, half: slice) -> int:
    """What a reader of the same shards writes without this project: decode, tuple, batch."""
    urls = [str(manifest.path(shard)) for shard in manifest.of_split("train")[half]]
    pipeline = wds.WebDataset(urls, shardshuffle=False, empty_check=False)
    count = 0
    for eeg, _meta in pipeline.decode().to_tuple("eeg.npy", "json").batched(BATCH, partial=False):
        count += len(torch.as_tensor(eeg))
    return count


def ours(manifest: Manifest, _: Path, half: slice) -> int:
    shards = manifest.of_split("train")[half]
    order = TrainingOrder(tuple(shards), 0, BATCH, BATCH)
    requests = TrainingRequests(
        order, rank=0, world=1, micro=BATCH, accumulation=1, consumed=0,
        steps=PASSES * order.epoch_samples // BATCH,
    )  # fmt: skip
    count = 0
    for batches in LocalMicroBatches(WindowDataset(manifest, shards), requests, workers=0):
        count += sum(map(len, batches))
    return count


def copied(manifest: Manifest, _: Path, half: slice) -> int:
    count = 0
    shards = manifest.of_split("train")[half]
    # Mapped once, as in the loader: first touches of a page cost as much as the copy.
    contents = [np.memmap(manifest.path(shard), dtype=np.uint8, mode="r") for shard in shards]
    for _pass in range(PASSES):
        for shard, content in zip(shards, contents, strict=True):
            for start in range(0, shard.samples * shard.stride, BATCH * shard.stride):
                content[start : start + BATCH * shard.stride].copy()
            count += shard.samples
    return count


def shuffled(windows, half: slice) -> int:
    numbers = np.random.default_rng(0).permutation(len(windows))
    numbers = numbers[: len(numbers) // 2] if half != slice(None) else numbers
    batches = numbers[: len(numbers) // BATCH * BATCH].reshape(-1, BATCH).tolist()
    return sum(len(eeg) for eeg in DataLoader(windows, batch_sampler=batches))


CASES: dict[str, Callable[[Manifest, Path, slice], int]] = {
    REFERENCE: plain_webdataset,
    "HDF5, chunked, per recording (LaBraM)": lambda manifest, folder, half: shuffled(
        Hdf5Windows(folder, manifest.of_split("train")[0].window_samples), half
    ),
    "LMDB of pickles (CBraMod)": lambda _, made, half: shuffled(LmdbWindows(made), half),
    "one .npy a window (DreamDiffusion)": lambda _, made, half: shuffled(NpyWindows(made), half),
    OURS: ours,
    CEILING: copied,
}


def start(cores: list[int], counter) -> None:
    with counter.get_lock():
        core = cores[counter.value % len(cores)]
        counter.value += 1
    os.sched_setaffinity(0, {core})
    torch.set_num_threads(1)


def run_case(name: str, shards: Path, folder: Path, half: slice) -> int:
    return CASES[name](read_manifest(shards), folder, half)


def measure(shards: Path, folder: Path, processes: int, rounds: int) -> dict[str, list[float]]:
    """Samples a second of each case and round; in a round every case runs once."""
    cores = sorted(os.sched_getaffinity(0))[:processes]
    context = get_context("spawn")
    count = len(read_manifest(shards).of_split("train"))
    middle = count // 2
    halves = [slice(None)] if processes == 1 else [slice(0, middle), slice(middle, count)]
    rates: dict[str, list[float]] = {name: [] for name in CASES}
    with ProcessPoolExecutor(
        processes, context, initializer=start, initargs=(cores, context.Value("i", 0))
    ) as pool:
        for number in range(rounds + 1):
            for name in CASES:
                begin = time.perf_counter()
                jobs = [pool.submit(run_case, name, shards, folder, half) for half in halves]
                done = sum(job.result() for job in jobs)
                if number:  # the first round fills caches and imports
                    rates[name].append(done / (time.perf_counter() - begin))
    return rates


def print_table(one: dict[str, float], two: dict[str, float], sizes: dict[str, float]) -> None:
    rows = [
        {
            "case": name,
            "one core, samples/s": one[name], "x WebDataset": one[name] / one[REFERENCE],
            "two cores, samples/s": two[name], "x WebDataset, two": two[name] / two[REFERENCE],
            "bytes a window": sizes[name],
        }
        for name in CASES
    ]  # fmt: skip
    print(table(rows))
    print(f"\nof the ceiling: {one[OURS] / one[CEILING]:.0%} on one core, "
          f"{two[OURS] / two[CEILING]:.0%} on two")  # fmt: skip


def plot(one: dict[str, float], two: dict[str, float], path: Path) -> None:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    figure, axis = plt.subplots(figsize=(8.5, 4), layout="constrained")
    rows = np.arange(len(CASES))
    for offset, rates, label, shade in ((-0.2, one, "one core", 1.0), (0.2, two, "two", 0.5)):
        colours = ["#c8553d" if name == OURS else "#4a6fa5" for name in CASES]
        axis.barh(
            rows + offset, [rates[name] / 1000 for name in CASES], 0.38,
            color=colours, alpha=shade, label=label,
        )  # fmt: skip
        for row, name in enumerate(CASES):
            text = f" {rates[name] / 1000:.1f} ({rates[name] / rates[REFERENCE]:.1f}x)"
            axis.text(rates[name] / 1000, row + offset, text, va="center", fontsize=8)
    axis.set_yticks(rows, list(CASES))
    axis.invert_yaxis()
    axis.set(xlabel="thousand samples a second, dark: one core, light: two cores (x: WebDataset)")
    axis.set_xlim(0, 1.22 * max(two.values()) / 1000)
    for side in ("top", "right"):
        axis.spines[side].set_visible(False)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--shards", type=Path, help="a folder that data/pack.py wrote, one montage")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--plot", type=Path, help="write a bar chart to this PNG")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        shards = arguments.shards or make_shards(
            Path(temporary) / "shards", channels=(64,), samples=512, sfreq_hz=200.0, windows=2000
        )
        folder = Path(temporary) / "formats"
        folder.mkdir()
        manifest = read_manifest(shards)
        written = write_all(manifest, folder)
        windows = sum(shard.samples for shard in manifest.of_split("train"))
        tars = sum(shard.bytes for shard in manifest.of_split("train")) / windows
        sizes = dict.fromkeys(CASES, tars)
        for name, size in zip(list(CASES)[1:4], written.values(), strict=True):
            sizes[name] = size / windows
        one, two = (
            {name: statistics.median(found) for name, found in rates.items()}
            for rates in (measure(shards, folder, n, arguments.rounds) for n in (1, 2))
        )
    print_table(one, two, sizes)
    if arguments.plot:
        plot(one, two, arguments.plot)


if __name__ == "__main__":
    main()
