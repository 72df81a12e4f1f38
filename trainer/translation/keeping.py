"""What a run keeps: the best weights as a shareable folder, and checkpoints known to be whole.

`best/` is written whenever the validation error is the smallest so far, the untrained start
included: a run never hands on weights worse than the ridge solution it began with.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from pathlib import Path

import torch
import torch.distributed as dist

from data.errors import InputError
from data.files import write_atomic
from trainer.checkpoints.find import COMPLETE, crc32, damaged, read_complete, unfinished

DESCRIPTION = "eeg2meg.json"
CRITERION = "eval_error"
STATE = "trainer_state.json"


def evaluations(history: Sequence[dict]) -> list[tuple[int, float]]:
    """(step, validation error) of every evaluation in Trainer's log, the last one of a step."""
    found = {entry["step"]: entry[CRITERION] for entry in history if CRITERION in entry}
    return sorted(found.items())


def best_of(history: Sequence[dict]) -> tuple[int, float] | None:
    """(step, error) of the best evaluation; the earlier of equals; NaN is never the best."""
    scored = [(error, step) for step, error in evaluations(history) if error == error]
    if not scored:
        return None
    error, step = min(scored)
    return step, error


def best_step(run: Path) -> int | None:
    """The step whose weights RUN/best holds, as it says itself."""
    try:
        return int(json.loads((run / "best" / DESCRIPTION).read_text())["validation"]["step"])
    except (OSError, ValueError, KeyError, TypeError):
        return None


def out_of_patience(history: Sequence[dict], patience: int) -> bool:
    """Whether `patience` evaluations have passed since the best one."""
    best = best_of(history)
    if not patience or best is None:
        return False
    return sum(step > best[0] for step, _ in evaluations(history)) >= patience


def full_weights(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    """fp32 weights under the names of the model's state dict; every rank must call it.

    bf16 training holds the exact weights in DeepSpeed's optimizer, a part on each rank; with ZeRO-3
    (`ds_id`) the model itself holds nothing else. Frozen weights are in no optimizer.
    """
    parameters = dict(model.named_parameters())
    found = {}
    for name, value in model.state_dict(keep_vars=True).items():
        value = _whole(parameters[name]) if name in parameters else value
        found[name] = value.detach().float().cpu().clone().contiguous()
    return found


def _whole(parameter: torch.nn.Parameter) -> torch.Tensor:
    """A parameter as the optimizer has it; gathered where ZeRO-3 has divided a frozen one."""
    divided = hasattr(parameter, "ds_id")
    if divided and not parameter.requires_grad:
        from deepspeed.runtime.zero import GatheredParameters

        with GatheredParameters([parameter]):
            return parameter.detach().clone()
    if divided or hasattr(parameter, "_hp_mapping"):
        from deepspeed.utils import safe_get_full_fp32_param

        return safe_get_full_fp32_param(parameter)
    return parameter


def write_folder(folder: Path, model, weights: dict, processor, description: dict) -> None:
    """`save_pretrained` of both, and the description last; each file whole or absent."""
    partial = folder.with_name(folder.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)
    model.save_pretrained(partial, state_dict=weights)
    # It names the dtype that the model trains in, which is what would then be loaded.
    config = json.loads((partial / "config.json").read_text())
    (partial / "config.json").write_text(json.dumps({**config, "dtype": "float32"}, indent=2))
    processor.save_pretrained(partial)
    folder.mkdir(parents=True, exist_ok=True)
    for path in sorted(partial.iterdir()):
        path.replace(folder / path.name)
    partial.rmdir()
    text = json.dumps(description, indent=1) + "\n"
    write_atomic(folder / DESCRIPTION, text.encode())


def mark_complete(folder: Path, step: int, ranks) -> None:
    """After all ranks have written their part: name, size and CRC-32 of every file."""
    if ranks.world > 1:
        dist.barrier()
    if ranks.first:
        files = {
            str(path.relative_to(folder)): path
            for path in sorted(folder.rglob("*"))
            if path.is_file() and path.name != COMPLETE
        }
        marker = {
            "world": ranks.world,
            "state": {"step": step},
            "files": {name: path.stat().st_size for name, path in files.items()},
            "crc32": {name: crc32(path) for name, path in files.items()},
        }
        write_atomic(folder / COMPLETE, json.dumps(marker, indent=1).encode())


def drop_superseded(folder: Path, step: int, keep_last: int) -> list[int]:
    """Remove the checkpoints before the last `keep_last` whole ones up to `step`, which has just
    been marked complete; returns the steps of those. Its marker goes first: a half-deleted one must
    not look whole."""
    steps = {step_of(path): path for path in folder.glob("checkpoint-*") if step_of(path) >= 0}
    whole = sorted(one for one, path in steps.items() if one <= step and unfinished(path) is None)
    for one in sorted(one for one in steps if whole and one < whole[-keep_last:][0]):
        (steps[one] / COMPLETE).unlink(missing_ok=True)
        shutil.rmtree(steps[one])
    return whole[-keep_last:]


def step_of(folder: Path) -> int:
    """The step of a checkpoint by its name, as transformers gives it; -1 for another name."""
    number = folder.name.partition("-")[2]
    return int(number) if number.isdecimal() else -1


def name_of(step: int) -> str:
    """The folder's name of a step's checkpoint, as transformers gives it."""
    return f"checkpoint-{step}"


def last_complete(run: Path) -> tuple[Path | None, dict[str, str]]:
    """(the newest whole checkpoint of a run, every byte of it read; {name: why} of those that were
    passed over)."""
    folders = [path for path in (run / "checkpoints").glob("checkpoint-*") if step_of(path) >= 0]
    passed: dict[str, str] = {}
    for folder in sorted(folders, key=step_of, reverse=True):
        problem = unfinished(folder) or damaged(folder)
        if problem is None:
            return folder, passed
        passed[folder.name] = problem
    return None, passed


def check_world(folder: Path, world: int) -> None:
    """InputError where another number of ranks wrote the checkpoint: each holds a part of it."""
    written = read_complete(folder)["world"]
    if written != world:
        raise InputError(
            f"{folder} was written by {written} ranks, this run has {world}",
            f"start {written} ranks (deepspeed --num_gpus {written} ...), or begin a new run with "
            "another --run: translation has no --elastic",
        )


def read_history(checkpoint: Path) -> tuple[int, list[dict]]:
    """(step, Trainer's log) of a checkpoint."""
    state = json.loads((checkpoint / STATE).read_text())
    return state["global_step"], state["log_history"]
