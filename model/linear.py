"""Linear layers that do not stall on CPUs without bf16 arithmetic.

There (most laptops, and servers older than AMX or AVX512-BF16) torch multiplies bf16 matrices 8 to
11 times as slowly as fp32 ones. Rounding to bf16 after an fp32 product is what the hardware with
bf16 does too, so the product is taken in fp32: the same numbers, for twice the memory of a layer's
input.
"""

from __future__ import annotations

from pathlib import Path

import torch
import torch.nn.functional as F
from torch import nn

from .initial import draw_normal


def bf16_units(cpu_info: str) -> list[str]:
    """The bf16 instruction sets that a /proc/cpuinfo names (x86-64: AMX, AVX512; Arm: bf16)."""
    words = set(cpu_info.split())
    return [unit for unit in ("amx_bf16", "avx512_bf16", "bf16") if unit in words]


def _cpu_info() -> str:
    try:
        return Path("/proc/cpuinfo").read_text()
    except OSError:
        return ""


CPU_BF16_UNITS = bf16_units(_cpu_info())


def multiplied_in(device: torch.device, dtype: torch.dtype) -> torch.dtype:
    """The dtype in which `Linear` takes the product of matrices of `dtype`."""
    emulated = device.type == "cpu" and dtype == torch.bfloat16 and not CPU_BF16_UNITS
    return torch.float32 if emulated else dtype


class Linear(nn.Linear):
    """nn.Linear, with its product in the dtype of `multiplied_in`, and with a start that keeps a
    token's variance: normal weights with standard deviation `init_gain` / sqrt(fan_in), a bias of
    `init_bias`."""

    init_gain = 1.0
    init_bias = 0.0

    def start(self, generator: torch.Generator) -> None:
        draw_normal(self.weight, self.init_gain * self.in_features**-0.5, generator)
        nn.init.constant_(self.bias, self.init_bias)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        dtype = multiplied_in(x.device, x.dtype)
        if dtype == x.dtype:
            return super().forward(x)
        return F.linear(x.to(dtype), self.weight.to(dtype), self.bias.to(dtype)).to(x.dtype)
