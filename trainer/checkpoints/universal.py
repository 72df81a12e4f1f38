"""Loading a checkpoint that another number of ranks wrote.

ZeRO divides weights and moments among ranks in flat pieces, so such a checkpoint is first taken
apart into one fp32 tensor for each parameter and state, by DeepSpeed's own converter; every rank
then takes its share. That costs as much disk again while it lasts, and three small files for each
parameter. Weights and moments are exact; sums over ranks in another order differ by bf16 rounding.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

from data.errors import InputError
from trainer.ranks.ranks import Ranks, together


def engine_settings(deepspeed: dict) -> dict:
    """DeepSpeed's settings for loading a converted checkpoint."""
    return {**deepspeed, "checkpoint": {**deepspeed.get("checkpoint", {}), "load_universal": True}}


def load(engine, folder: Path, ranks: Ranks) -> None:
    """Load the checkpoint in `folder` into an engine made with `engine_settings`."""
    converted = folder.with_name(f"universal_{folder.name}")
    try:
        with together(ranks):
            if ranks.first:
                print(f"converting {folder} for {ranks.world} ranks", flush=True)
                convert(folder, converted)
        with together(ranks):
            path, _ = engine.load_checkpoint(str(converted.parent), tag=converted.name)
            if path is None:
                raise InputError(f"{converted}: DeepSpeed could not load it")
    finally:
        if ranks.first:
            shutil.rmtree(converted, ignore_errors=True)
            (converted.parent / "latest_universal").unlink(missing_ok=True)


def convert(folder: Path, out: Path) -> None:
    """Write the universal form of a checkpoint, in a process of its own: it starts others."""
    shutil.rmtree(out, ignore_errors=True)
    words = [
        sys.executable, "-m", "deepspeed.checkpoint.ds_to_universal", "--inject_missing_state",
        "--input_folder", str(folder), "--output_folder", str(out),
        "--num_extract_workers", "1", "--num_merge_workers", "1",
    ]  # fmt: skip
    launched = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
    environment = {key: value for key, value in os.environ.items() if key not in launched}
    done = subprocess.run(words, env=environment, capture_output=True, text=True)
    if done.returncode:
        last = (done.stderr.strip().splitlines() or ["no message"])[-1]
        raise InputError(
            f"{folder}: DeepSpeed's converter failed: {last}",
            "see that there is room for as much again on this disk, or start as many ranks as "
            "wrote it",
        )
