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

from benchmarks.common import noise_batch, one_core, table
from benchmarks.shards import make_shards
from benchmarks.step import build_engine, engine_step
from data.batches.batch import finite
from data.files import hash_file, readable
from data.shards.manifest import read_manifest
from data.shards.tars import ShardReader
from model.config import preset
from trainer.checkpoints.find import checkpoint_folder, damaged, tag_of
from trainer.checkpoints.save import save
from trainer.masked.config import MaskedConfig
from trainer.ranks.ranks import start_ranks


def seconds(action: Callable[[], object], rounds: int) -> float:
    """Median time of an action, after one that is not counted."""
    action()
    found = []
    for _ in range(rounds):
        start = time.perf_counter()
        action()
        found.append(time.perf_counter() - start)
    return statistics.median(found)


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
    model = preset(arguments.preset)
    batch = noise_batch(model, arguments.batch, arguments.channels, arguments.patches)
    config = MaskedConfig(preset=arguments.preset, keep_last=1)
    engine = build_engine(model, arguments.batch, bf16={"enabled": False})
    parameters = sum(parameter.numel() for parameter in engine.module.parameters())
    step = engine_step(engine, batch)
    saves = [0]

    def one_save() -> None:
        saves[0] += 1
        save(engine, run, saves[0], {"step": saves[0], "applied": saves[0]}, config, ranks)

    samples = arguments.patches * model.patch_samples
    half = batch[0].eeg.half().numpy()
    with tempfile.TemporaryDirectory(dir=arguments.folder) as folder:
        run = Path(folder) / "run"
        step_s = seconds(step, arguments.rounds)
        save_s = seconds(one_save, arguments.rounds)
        last = checkpoint_folder(run) / tag_of(saves[0])
        size = sum(file.stat().st_size for file in last.iterdir())
        check_s = seconds(lambda: damaged(last), arguments.rounds)
        finite_s = seconds(lambda: finite(half), 50)
        manifest = read_manifest(make_shards(
            Path(folder) / "shards", channels=(arguments.channels,), samples=samples,
            sfreq_hz=model.sfreq_hz, windows=128,
        ))  # fmt: skip
        reader = ShardReader(manifest, manifest.shards[0])
        look_s = seconds(reader.check_unchanged, 1000)
        hash_s = seconds(lambda: hash_file(reader.path), arguments.rounds)
        rate = reader.path.stat().st_size / hash_s

    share = save_s / (save_s + arguments.save_every * step_s)
    looks = arguments.batch * look_s / step_s
    rows = {
        "a step": (f"{step_s * 1e3:.1f} ms", ""),
        f"a checkpoint of {readable(size)}": (
            f"{save_s:.3f} s ({readable(size / save_s)}/s)",
            f"{share:.2%} at one every {arguments.save_every} steps",
        ),
        "reading one again, every byte (CRC-32)": (f"{check_s:.3f} s", "once, at a resume"),
        "NaN and infinity looked for in a batch": (
            f"{finite_s * 1e3:.3f} ms", f"{finite_s / step_s:.2%}, in the loader's processes"
        ),
        "a look at a shard before it is read": (
            f"{look_s * 1e6:.1f} us", f"{looks:.3%} if each window is of another shard"
        ),
        "hash of the shards (`--verify hash`)": (
            f"{readable(rate)}/s a rank", "once, at the start"
        ),
    }  # fmt: skip
    print(
        f"preset {arguments.preset}, {parameters / 1e6:.1f} M parameters, batch {arguments.batch} "
        f"x {arguments.channels} channels x {samples} samples, one core\n"
    )
    print(table([
        {"what": what, "takes": takes, "of training time": share}
        for what, (takes, share) in rows.items()
    ]))  # fmt: skip


if __name__ == "__main__":
    main()
