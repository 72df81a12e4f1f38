"""Weak scaling over two nodes: the engine (ZeRO-2, bf16) against plain DistributedDataParallel.

    python benchmarks/scaling.py [--preset tiny] [--batch 8] [--ranks 1 2 4 8]

Needs root: the nodes are those of tests/cluster, two network namespaces on this machine, with ranks
shared out evenly. Every rank trains the same model on a batch of the same size, all cases in turn
in one process group (gloo). The ranks share this machine's cores, so with more ranks than cores the
windows a second cannot grow: the ratio of the two columns is what the numbers are for.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path[0] = str(ROOT)

import torch
import torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel

from benchmarks.common import interleaved, noise_batch, table
from benchmarks.step import autocast_step, build_engine, engine_step
from model.autoencoder import MaskedVAE
from model.config import preset
from tests.cluster.nodes import NAMES, Cluster, missing
from trainer.ranks.ranks import start_ranks

ENGINE, PLAIN = "DeepSpeed ZeRO-2, bf16", "DistributedDataParallel, bf16 autocast"


def as_rank(arguments: argparse.Namespace) -> None:
    """What runs on the nodes; the first rank prints one line of JSON."""
    ranks = start_ranks()
    torch.set_num_threads(1)
    config = preset(arguments.preset)
    torch.manual_seed(ranks.rank)
    batch = noise_batch(config, arguments.batch, first=ranks.rank * arguments.batch)
    # A process group needs no wrapper for a single rank, and DDP would only slow it down.
    alone = MaskedVAE(config)
    model = DistributedDataParallel(alone) if ranks.world > 1 else alone
    engine = build_engine(config, arguments.batch)
    steps = {ENGINE: engine_step(engine, batch), PLAIN: autocast_step(model, batch)}

    def of_all(step):
        def timed() -> int:
            dist.barrier()
            done = sum(step() for _ in range(arguments.steps)) * ranks.world
            dist.barrier()
            return done

        return timed

    cases = {name: of_all(step) for name, step in steps.items()}
    for case in cases.values():
        case()
    rates = interleaved(cases, arguments.rounds)
    if ranks.first:
        print(json.dumps(rates), flush=True)
    dist.barrier()
    os._exit(0)


def launch(cluster: Cluster, world: int, arguments: argparse.Namespace) -> dict[str, float]:
    """Run `world` ranks, shared out over the nodes; windows a second of each case."""
    here = -(-world // len(NAMES))
    words = [sys.executable, str(Path(__file__).resolve()), "--as_rank", "--preset",
             arguments.preset, "--batch", str(arguments.batch), "--steps", str(arguments.steps),
             "--rounds", str(arguments.rounds)]  # fmt: skip
    processes = []
    for rank in range(world):
        node = NAMES[rank // here]
        own = {
            "RANK": str(rank), "WORLD_SIZE": str(world), "LOCAL_RANK": str(rank % here),
            "LOCAL_SIZE": str(here), "MASTER_ADDR": NAMES[0], "MASTER_PORT": str(21_000 + world),
            "OMP_NUM_THREADS": "1", "DS_ACCELERATOR": "cpu",
        }  # fmt: skip
        processes.append(
            subprocess.Popen(
                cluster.on(node, words, ROOT), env=cluster.environment(own), text=True,
                stdout=subprocess.PIPE if rank == 0 else subprocess.DEVNULL,
            )
        )  # fmt: skip
    output = processes[0].communicate()[0]
    if any(process.wait() for process in processes):
        sys.exit(f"error: a rank of {world} failed\n{output}")
    return json.loads(output.splitlines()[-1])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--preset", default="tiny")
    parser.add_argument("--batch", type=int, default=8, help="windows a rank and step")
    parser.add_argument("--ranks", type=int, nargs="+", default=[1, 2, 4, 8])
    parser.add_argument("--steps", type=int, default=4, help="of a case in each round")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--as_rank", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.as_rank:
        return as_rank(arguments)
    if why := missing():
        sys.exit(f"error: {why}")
    print(f"{len(os.sched_getaffinity(0))} cores, preset {arguments.preset}, "
          f"{arguments.batch} windows a rank\n")  # fmt: skip
    with Cluster() as cluster:
        found = {world: launch(cluster, world, arguments) for world in arguments.ranks}
    print(table([
        {
            "ranks over 2 nodes": world,
            **{f"{name}: windows/s": rate for name, rate in rates.items()},
            "ratio": rates[ENGINE] / rates[PLAIN],
        }
        for world, rates in found.items()
    ]))  # fmt: skip


if __name__ == "__main__":
    main()
