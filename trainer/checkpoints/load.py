"""Loading a checkpoint into an engine, also one that another number of ranks wrote.

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

import torch

from data.errors import InputError
from trainer.checkpoints.find import checkpoint_folder
from trainer.ranks.ranks import Ranks, together


def engine_settings(deepspeed: dict, found: tuple[str, dict] | None, ranks: Ranks) -> dict:
    """The DeepSpeed settings with which a checkpoint can be loaded."""
    if found is None or found[1]["world"] == ranks.world:
        return deepspeed
    return {**deepspeed, "checkpoint": {**deepspeed.get("checkpoint", {}), "load_universal": True}}


def load(engine, run: Path, tag: str, marker: dict, ranks: Ranks) -> dict:
    """Load a complete checkpoint into the engine; returns its state.

    Each rank holds a part of the optimizer: with another number of ranks than wrote it, it is
    converted first. Of the optimizer only moments and step
    counts are the checkpoint's: decay, betas and gradient clipping stay as this run has set them.
    """
    folder = checkpoint_folder(run)
    optimizer = engine.basic_optimizer
    settings = settings_of(optimizer)
    if marker["world"] != ranks.world:
        _load_converted(engine, folder / tag, ranks)
        state = marker["state"]
    else:
        with together(ranks):
            path, state = engine.load_checkpoint(str(folder), tag=tag)
            if path is None:
                raise InputError(f"{folder / tag}: DeepSpeed could not load it")
    restore_settings(optimizer, settings)
    own_steps(optimizer)
    if hasattr(engine.optimizer, "clip_grad"):
        engine.optimizer.clip_grad = engine.gradient_clipping()
    return {key: state[key] for key in marker["state"]}


def _load_converted(engine, folder: Path, ranks: Ranks) -> None:
    """Load the checkpoint in `folder`, which another number of ranks wrote."""
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


def settings_of(optimizer: torch.optim.Optimizer) -> list[dict]:
    """A copy of what each group says beside its parameters: decay, betas, rates."""
    return [
        {name: value for name, value in group.items() if name != "params"}
        for group in optimizer.param_groups
    ]


def restore_settings(optimizer: torch.optim.Optimizer, settings: list[dict]) -> None:
    """Write back what `settings_of` copied. A checkpoint brings its own settings along, under
    which a changed flag would have no effect; converted for ZeRO-3, the first group's for all."""
    for group, own in zip(optimizer.param_groups, settings, strict=True):
        group.update(own)


def own_steps(optimizer: torch.optim.Optimizer) -> None:
    """Give every parameter a step counter of its own, in fp32, beside it.

    A converted checkpoint leaves one counter on the CPU for all: fused AdamW refuses it on a GPU,
    and counts it up once for each parameter.
    """
    for parameter, state in optimizer.state.items():
        if "step" in state:
            step = torch.as_tensor(state["step"]).detach()
            state["step"] = step.to(parameter.device, torch.float32, copy=True)
