"""Copy a shard folder to a fast local disk, verified.

    python data/stage.py --shards shards/pretrain --to $SLURM_TMPDIR/shards

Once on each node. Every byte is hashed while it is copied and compared with the manifest, so a cut
or damaged shard is named here, not met in the middle of a run. Safe to run again at any time: what
is already there and verified is left alone, and the manifest arrives last, so a half-copied folder
is never taken for a whole one.
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path[0] = str(Path(__file__).resolve().parents[1])  # repo root, not this directory

import argparse
import os
import time

from data.diskspace import readable
from data.errors import InputError, run_command
from data.shards.copying import copy_shards


def parse_arguments(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python data/stage.py",
        description="Copy shards to a local disk, verified against their manifest.",
    )
    add = parser.add_argument
    add("--shards", type=Path, default=Path("shards/pretrain"),
        help="folder that data/pack.py wrote (shards/pretrain)")  # fmt: skip
    add(
        "--to", type=Path, required=True, help="folder on the local disk, e.g. $SLURM_TMPDIR/shards"
    )
    add("--workers", type=int, help="files copied at once (one per core, at most 8)")
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> int:
    args = parse_arguments(argv)
    workers = args.workers if args.workers is not None else min(8, os.cpu_count() or 1)
    if workers < 1:
        raise InputError(f"--workers {workers}", "give a number from 1")
    start = time.monotonic()
    result = copy_shards(args.shards, args.to, workers)
    took_s = time.monotonic() - start
    if result.copied:
        rate = result.copied_bytes / took_s
        print(f"staged: {result.copied} shards, {readable(result.copied_bytes)} in {took_s:.1f} s "
              f"({readable(rate)}/s); {result.kept} were there already")  # fmt: skip
    else:
        print(f"already staged: {result.kept} shards in {args.to}")
    print(f"every byte is verified: train with  --shards {args.to} --verify size")
    return 0


if __name__ == "__main__":
    run_command(main)
