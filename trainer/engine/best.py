"""Whether a run can validate, and the best validation so far: RUN/best, and how long ago it was.

Kept by the task's `criterion`, a value to minimise. The state lies in the checkpoint, so a resumed
run neither forgets its best nor waits anew. RUN/best may be newer than the last checkpoint; a run
that goes on from there writes it again. The weights are fp32, whatever the run computes in: exact
copies of what the optimizer holds.
"""

from __future__ import annotations

import math
import shutil

import deepspeed
import torch
from deepspeed.utils import safe_get_full_fp32_param

from data.errors import InputError
from trainer.engine.task import BEST, Plan
from trainer.ranks.ranks import Ranks, broadcast_object, together


def can_validate(plan: Plan, ranks: Ranks) -> bool:
    """Whether there are held-out windows to read: a run that streams its training shards may have
    only the manifest in its folder."""
    held_out = plan.task.held_out(plan.manifest)
    here = bool(held_out) and all(plan.manifest.path(shard).is_file() for shard in held_out)
    here = broadcast_object(here, ranks)
    if held_out and not here and ranks.first:
        print(
            f"no validation: {plan.config.shards} lacks the val shards of its manifest", flush=True
        )
    return here


class Best:
    """`state`: {"step", "value"} of the best validation and "since", the validations after it; None
    without a criterion or a validation."""

    def __init__(self, plan: Plan, ranks: Ranks, state: dict | None):
        self.plan, self.ranks = plan, ranks
        folder = plan.run / BEST
        there = broadcast_object(folder.is_dir(), ranks)
        if state and not there and ranks.first:
            print(f"resume: {folder} is gone: the best from here on is kept", flush=True)
        self.state = state if there else None

    @property
    def waited(self) -> int:
        """Validations without a better one."""
        return self.state["since"] if self.state else 0

    def __str__(self) -> str:
        return f"{self.plan.task.criterion} {self.state['value']:.4g} at step {self.state['step']}"

    @property
    def settled(self) -> bool:
        """Whether `--patience` has run out: the run is at its end."""
        patience = self.plan.config.patience
        return bool(patience) and self.waited >= patience

    def seen(self, engine, step: int, values: dict[str, float]) -> None:
        """After a validation; the values are the same on all ranks, which all call this."""
        task = self.plan.task
        if task.criterion is None:
            return
        value = values[task.criterion]
        if not math.isfinite(value):
            raise InputError(
                f"step {step}: the {task.criterion} of validation is {value}",
                "try a lower --lr; the last checkpoint is whole",
            )
        if self.state and value >= self.state["value"]:
            self.state = {**self.state, "since": self.state["since"] + 1}
            return
        self.state = {"step": step, "value": value, "since": 0}
        weights = whole_weights(engine, self.ranks)
        with together(self.ranks):
            if self.ranks.first:
                self._write(weights, {"step": step, **values})

    def _write(self, weights: dict[str, torch.Tensor], reached: dict) -> None:
        """Into a folder beside it first: a stop in between leaves the earlier best whole."""
        folder = self.plan.run / BEST
        new, old = folder.with_name(f".{BEST}.new"), folder.with_name(f".{BEST}.old")
        for path in (new, old):
            shutil.rmtree(path, ignore_errors=True)
        new.mkdir(parents=True)
        self.plan.task.write_best(new, weights, self.plan, reached)
        if folder.exists():
            folder.rename(old)
        new.rename(folder)
        shutil.rmtree(old, ignore_errors=True)


def whole_weights(engine, ranks: Ranks) -> dict[str, torch.Tensor]:
    """The model's state dict in fp32 on the first rank's CPU; every rank calls it.

    A run in bf16 has its exact weights in DeepSpeed's optimizer, a share on each rank; with ZeRO 3
    the model itself holds nothing else. Frozen weights are in no optimizer.
    """
    parameters = dict(engine.module.named_parameters())
    found = {}
    for name, value in engine.module.state_dict(keep_vars=True).items():
        value = _whole(parameters[name]) if name in parameters else value
        if ranks.first:
            value = value.float() if value.is_floating_point() else value
            found[name] = value.detach().cpu().clone().contiguous()
    return found


def _whole(parameter: torch.nn.Parameter) -> torch.Tensor:
    """A parameter as the optimizer has it; gathered where ZeRO 3 has divided a frozen one."""
    divided = hasattr(parameter, "ds_id")
    if divided and not parameter.requires_grad:
        with deepspeed.zero.GatheredParameters([parameter]):
            return parameter.detach().clone()
    if divided or hasattr(parameter, "_hp_mapping"):
        return safe_get_full_fp32_param(parameter)
    return parameter
