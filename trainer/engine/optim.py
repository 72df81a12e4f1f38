"""AdamW's parameter groups and the learning-rate schedule, as pure functions; and what a run
changes in DeepSpeed and the compiler for speed's or safety's sake, with the same results.

The schedule is a function of the number of applied steps, so a skipped step does not move it and a
resumed run needs no scheduler state.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from types import MethodType
from typing import Protocol

import torch
import torch._inductor
from deepspeed.runtime.zero.stage_1_and_2 import DeepSpeedZeroOptimizer
from torch import nn

from trainer.engine.config import RunConfig


def lr_factor(step: int, config: RunConfig) -> float:
    """Learning rate at 0-based `step` over its peak: linear warm-up, then cosine to 5 %, or flat
    and a linear fall to 0 (`trapezoid`, which can be extended)."""
    warmup = max(1, round(config.warmup * config.steps))
    if step < warmup:
        return (step + 1) / warmup
    if config.schedule == "trapezoid":
        falling = max(1, round(config.decay * config.steps))
        return min(1.0, max(0.0, (config.steps - step) / falling))
    progress = (step - warmup) / max(1, config.steps - warmup)
    return 0.05 + 0.95 * 0.5 * (1 + math.cos(math.pi * min(1.0, progress)))


def parameter_groups(
    model: nn.Module, weight_decay: float, scale_of: Callable[[str], float] = lambda name: 1.0
) -> list[dict]:
    """Groups by decay and learning rate. Matrices decay; biases, norms and single tokens do not.

    scale_of: a parameter's name -> its learning rate, as a share of the run's.
    """
    groups: dict[tuple[float, float], dict] = {}
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            continue
        decay = weight_decay if parameter.ndim >= 2 else 0.0
        scale = scale_of(name)
        group = groups.setdefault(
            (decay, scale), {"params": [], "weight_decay": decay, "lr_scale": scale}
        )
        group["params"].append(parameter)
    return [groups[key] for key in sorted(groups)]


class Layered(Protocol):
    """What `layered_groups` reads of a run's settings."""

    weight_decay: float
    layer_decay: float


def layered_groups(model: nn.Module, config: Layered, depth: int) -> list[dict]:
    """Groups in which layer l of an encoder of `depth` blocks learns at layer_decay **
    (depth + 1 - l) of the rate (Clark et al. 2020)."""
    return parameter_groups(
        model,
        config.weight_decay,
        lambda name: config.layer_decay ** (depth + 1 - layer_of(name, depth)),
    )


def layer_of(name: str, depth: int) -> int:
    """How deep a parameter sits: 0 embedding, 1..depth encoder blocks, depth + 1 the rest."""
    if name.startswith("encoder.stack.blocks."):
        return int(name.split(".")[3]) + 1
    if name.startswith(("encoder.embed.", "encoder.positions.")):
        return 0
    return depth + 1


def make_optimizer(groups: list[dict], config: RunConfig) -> torch.optim.AdamW:
    """Torch's fused AdamW: DeepSpeed's own would compile a CUDA extension at the start."""
    return torch.optim.AdamW(groups, lr=config.peak_lr, betas=config.betas, fused=True)


def set_lr(optimizer: torch.optim.Optimizer, lr: float) -> None:
    for group in optimizer.param_groups:
        group["lr"] = lr * group["lr_scale"]


def check_gradients_together(engine) -> None:
    """Let ZeRO 2 look for inf and NaN in all gradients at once.

    DeepSpeed asks gradient by gradient, in about thirteen small kernels each: half of all launches
    of a step of `brain2image` (docs/performance.md), at a time when the device has nothing else to
    do. Other stages have optimizers of other classes (stage 1 in bf16 too) and stay as they are.
    """
    optimizer = engine.optimizer
    if isinstance(optimizer, DeepSpeedZeroOptimizer):
        optimizer.has_overflow_partitioned_grads_serial = MethodType(any_not_finite, optimizer)


def any_not_finite(optimizer: DeepSpeedZeroOptimizer) -> torch.Tensor:
    """Bool `[1]`: whether a gradient of this rank's partitions has an inf or a NaN."""
    gradients = [
        gradient
        for index in range(len(optimizer.bit16_groups))
        for gradient in optimizer.averaged_gradients[index]
        if gradient is not None and gradient.numel()  # an empty one has no largest value
    ]
    # The largest magnitude is finite exactly if all are; a sum of squares may overflow.
    largest = torch.nn.utils.get_total_norm(gradients, norm_type=math.inf)
    return largest.isfinite().logical_not().reshape(1)


def compile_options() -> dict[str, bool]:
    """Inductor's options for the whole model.

    Its mix-order reduction, on by default since torch 2.10, fails on an assertion when it compiles
    `large` (torch 2.11), and has given wrong gradients elsewhere (pytorch/pytorch#193061, #190796).
    """
    name = "triton.mix_order_reduction"
    return {name: False} if name in torch._inductor.list_options() else {}
