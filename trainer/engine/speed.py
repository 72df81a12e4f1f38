"""What a run changes in DeepSpeed and the compiler for speed's or safety's sake; results stay."""

from __future__ import annotations

import math
from types import MethodType

import torch
import torch._inductor
from deepspeed.runtime.zero.stage_1_and_2 import DeepSpeedZeroOptimizer


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
