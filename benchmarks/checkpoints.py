"""What safety costs: the share of training time that checkpoints and checks of the data take.

    python benchmarks/checkpoints.py [--preset tiny] [--batch 16] [--save_every 1000] [--folder DIR]

One rank on one CPU core, in fp32 (bf16 on a CPU without instructions for it is twenty times slower,
which would flatter the share): training steps, whole saves (written, flushed to the disk, marked),
the search for NaN in a batch, the look at a shard before it is read, and the hash of shards at the
start. On N ranks each writes 1/N of the optimizer's state, at the same time.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

sys.path[0] = str(Path(__file__).resolve().parents[1])

import deepspeed
import numpy as np
import torch

from benchmarks.common import one_core
from data.batches.batch import Batch, finite
from data.files import hash_file, readable
from data.shards.manifest import Manifest, Montage, montage_id
from data.shards.tars import ShardReader, write_shard
from model.autoencoder import MaskedVAE
from model.config import preset
from model.tokens import grid_positions
from trainer.checkpoints.checkpoint import checkpoint_folder, damaged, tag_of
from trainer.checkpoints.save import save
from trainer.engine.deepspeed_json import read_deepspeed_config
from trainer.engine.optim import make_optimizer
from trainer.masked.config import MaskedConfig
from trainer.masked.draw import DrawMasks
from trainer.masked.task import layered_groups
from trainer.ranks.ranks import start_ranks

ROOT = Path(__file__).resolve().parents[1]


def seconds(action: Callable[[], object], rounds: int) -> float:
    """Median time of an action, after one that is not counted."""
    action()
    found = []
    for _ in range(rounds):
        start = time.perf_counter()
        action()
        found.append(time.perf_counter() - start)
    return statistics.median(found)


def opened_shard(folder: Path, channels: int, samples: int) -> ShardReader:
    """A shard of 64 windows of noise."""
    places = grid_positions(channels).numpy()
    names = tuple(f"c{index}" for index in range(channels))
    montage = montage_id(names, places)
    rng = np.random.default_rng(0)
    entry = write_shard(
        folder / "noise.tar",
        [f"w{index}" for index in range(64)],
        (rng.standard_normal((channels, samples)).astype(np.float16) for _ in range(64)),
        [{"recording": "noise"}] * 64,
        dataset="noise", split="train", montage=montage,
    )  # fmt: skip
    manifest = Manifest(folder, {}, {montage: Montage(names, places)}, [], [entry], {})
    return ShardReader(manifest, entry)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--preset", default="tiny")
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--channels", type=int, default=32)
    parser.add_argument("--patches", type=int, default=10)
    parser.add_argument("--save_every", type=int, default=1000)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--folder", help="where to write; default: a temporary folder")
    arguments = parser.parse_args()
    ranks = start_ranks()
    one_core()
    model_config = preset(arguments.preset)
    samples = arguments.patches * model_config.patch_samples
    eeg = torch.randn(arguments.batch, arguments.channels, samples)
    batch = [DrawMasks(model_config, 0)(Batch.of(eeg, grid_positions(arguments.channels)))]
    model = MaskedVAE(model_config)
    parameters = sum(parameter.numel() for parameter in model.parameters())
    config = MaskedConfig(preset=arguments.preset, keep_last=1)
    settings = read_deepspeed_config(str(ROOT / "ds_configs/zero2.json"))
    settings["train_micro_batch_size_per_gpu"] = arguments.batch
    settings["bf16"] = {"enabled": False}
    groups = layered_groups(model, config, model_config.depth)
    engine, *_ = deepspeed.initialize(
        model=model, optimizer=make_optimizer(groups, config), config=settings
    )

    def step() -> None:
        engine.backward(engine(batch, 1e-3, 0).total)
        engine.step()

    saves = [0]

    def one_save() -> None:
        saves[0] += 1
        save(engine, run, saves[0], {"step": saves[0], "applied": saves[0]}, config, ranks)

    half = eeg.half().numpy()
    with tempfile.TemporaryDirectory(dir=arguments.folder) as folder:
        run = Path(folder) / "run"
        step_s = seconds(step, arguments.rounds)
        save_s = seconds(one_save, arguments.rounds)
        last = checkpoint_folder(run) / tag_of(saves[0])
        size = sum(file.stat().st_size for file in last.iterdir())
        check_s = seconds(lambda: damaged(last), arguments.rounds)
        finite_s = seconds(lambda: finite(half), 50)
        reader = opened_shard(Path(folder), arguments.channels, samples)
        look_s = seconds(reader.check_unchanged, 1000)
        hash_s = seconds(lambda: hash_file(reader.path), arguments.rounds)
        rate = reader.path.stat().st_size / hash_s

    share = save_s / (save_s + arguments.save_every * step_s)
    print(
        f"preset {arguments.preset}, {parameters / 1e6:.1f} M parameters, batch {arguments.batch} "
        f"x {arguments.channels} channels x {samples} samples, one core\n\n"
        f"| what | takes | of training time |\n|---|---|---|\n"
        f"| a step | {step_s * 1e3:.1f} ms | |\n"
        f"| a checkpoint of {readable(size)} | {save_s:.3f} s ({readable(size / save_s)}/s) | "
        f"{share:.2%} at one every {arguments.save_every} steps |\n"
        f"| reading one again, every byte (CRC-32) | {check_s:.3f} s | once, at a resume |\n"
        f"| NaN and infinity looked for in a batch | {finite_s * 1e3:.3f} ms | "
        f"{finite_s / step_s:.2%}, in the loader's processes |\n"
        f"| a look at a shard before it is read | {look_s * 1e6:.1f} us | "
        f"{arguments.batch * look_s / step_s:.3%} if each window is of another shard |\n"
        f"| hash of the shards (`--verify hash`) | {readable(rate)}/s a rank | once, at the start |"
    )


if __name__ == "__main__":
    main()
