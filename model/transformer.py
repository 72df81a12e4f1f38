"""Transformers and what they are made of: the kernel of attention, linear layers, first weights,
pre-norm blocks (ViT).

**Attention.** `attention` is the one place that picks a kernel: flash-attn where it is installed
and the tensors are half precision on a GPU; else torch's fused kernels, with cuDNN's left out: its
backward has given NaN gradients on Hopper (pytorch/pytorch#196678). There is no attention mask
anywhere: a fixed keep count makes batches dense, and without a mask the fast kernels apply. On a
CPU it runs in fp32: torch's bf16 kernel there takes 1.2 to 4.6 times as long forward and backward
(one core with AMX, 144 to 2,560 tokens). `EEG_ATTENTION=flash|sdpa` in the environment forces one.

**Linear layers** do not stall on CPUs without bf16 arithmetic. There (most laptops, and servers
older than AMX or AVX512-BF16) torch multiplies bf16 matrices 8 to 11 times as slowly as fp32 ones.
Rounding to bf16 after an fp32 product is what the hardware with bf16 does too, so the product is
taken in fp32: the same numbers, for twice the memory of a layer's input.

**First weights.** Every module draws from a generator of its own. The key is (seed, the module's
name), so a module's first values depend on nothing else: not on which other modules there are, nor
on the order in which they are made. Two configurations that differ in one switch (`beta = 0`, say)
start from the same weights wherever they have the same modules, and their difference is the
switch's.

Shapes: B batch, L tokens, D width.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.checkpoint import checkpoint

try:
    from flash_attn import flash_attn_func
except ImportError:  # optional: requirements-flash.txt
    flash_attn_func = None

_TORCH_KERNELS = [SDPBackend.FLASH_ATTENTION, SDPBackend.EFFICIENT_ATTENTION, SDPBackend.MATH]
_CHOICE = os.environ.get("EEG_ATTENTION", "auto")
if _CHOICE not in ("auto", "flash", "sdpa"):
    raise ValueError(f"EEG_ATTENTION={_CHOICE!r}: use auto, flash or sdpa")
if _CHOICE == "flash" and flash_attn_func is None:
    raise ValueError("EEG_ATTENTION=flash, but flash-attn is not installed: requirements-flash.txt")


def uses_flash(q: torch.Tensor) -> bool:
    """Whether `attention` would run flash-attn on this tensor."""
    fits = q.is_cuda and q.dtype in (torch.bfloat16, torch.float16)
    return flash_attn_func is not None and _CHOICE != "sdpa" and fits


def attention(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, key_mask: torch.Tensor | None = None
) -> torch.Tensor:
    """Full softmax attention. q, k, v: `[B, L, heads, head_dim]`; returns the same shape. key_mask:
    bool `[B, L]`, the tokens that are looked at; no flash-attn then."""
    if uses_flash(q) and key_mask is None:
        return flash_attn_func(q, k, v)
    dtype = q.dtype
    q, k, v = (x.transpose(1, 2) for x in (q, k, v))
    if q.device.type == "cpu":
        q, k, v = q.float(), k.float(), v.float()
    looked_at = None if key_mask is None else key_mask[:, None, None]
    with sdpa_kernel(_TORCH_KERNELS):
        found = F.scaled_dot_product_attention(q, k, v, attn_mask=looked_at)
    return found.transpose(1, 2).to(dtype)


def kernel_name(device: torch.device, dtype: torch.dtype) -> str:
    """What will run on `device`, for the log."""
    flash = uses_flash(torch.empty(0, device=device, dtype=dtype))
    return "flash-attn" if flash else "torch fused attention (cuDNN off)"


def named_generator(seed: int, name: str) -> torch.Generator:
    """A CPU generator keyed by (seed, name)."""
    digest = hashlib.blake2b(f"{seed} {name}".encode(), digest_size=8).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest, "little"))


def start_weights(model: nn.Module, seed: int) -> None:
    """Call `start(generator)` of every module that has one. Modules without (norms) keep the
    constants that torch gives them."""
    for name, module in model.named_modules():
        if hasattr(module, "start"):
            module.start(named_generator(seed, name))


@torch.no_grad()
def draw_normal(parameter: torch.Tensor, std: float, generator: torch.Generator) -> None:
    """Fill with normal numbers drawn on the CPU: the same on every device. On the meta device there
    is nothing to fill."""
    if not parameter.is_meta:
        parameter.copy_(
            torch.empty(parameter.shape, device="cpu").normal_(0.0, std, generator=generator)
        )


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


class Block(nn.Module):
    """x + attention(norm(x)), then x + MLP(norm(x)). `[B, L, D]` -> `[B, L, D]`."""

    def __init__(self, width: int, heads: int, mlp_ratio: float):
        super().__init__()
        self.heads = heads
        self.norm1 = nn.LayerNorm(width)
        self.qkv = Linear(width, 3 * width)
        self.attention_out = Linear(width, width)
        self.norm2 = nn.LayerNorm(width)
        self.mlp_in = Linear(width, int(mlp_ratio * width))
        self.mlp_out = Linear(int(mlp_ratio * width), width)

    def forward(self, x_BLD: torch.Tensor, key_mask: torch.Tensor | None = None) -> torch.Tensor:
        qkv = self.qkv(self.norm1(x_BLD)).unflatten(-1, (3, self.heads, -1))
        x_BLD = x_BLD + self.attention_out(attention(*qkv.unbind(2), key_mask).flatten(2))
        return x_BLD + self.mlp_out(F.gelu(self.mlp_in(self.norm2(x_BLD))))


class Stack(nn.Module):
    """`depth` blocks and a final norm. `recompute` trades a second forward pass for memory.

    What writes into the residual stream starts divided by sqrt(2 x depth), so that the sum over all
    blocks has the variance of one and deep presets start as calmly as shallow ones (Radford et al.
    2019, GPT-2).
    """

    def __init__(self, width: int, depth: int, heads: int, mlp_ratio: float):
        super().__init__()
        self.blocks = nn.ModuleList(Block(width, heads, mlp_ratio) for _ in range(depth))
        for block in self.blocks:
            block.attention_out.init_gain = block.mlp_out.init_gain = (2 * depth) ** -0.5
        self.norm = nn.LayerNorm(width)
        self.recompute = False

    def forward(self, x_BLD: torch.Tensor, key_mask: torch.Tensor | None = None) -> torch.Tensor:
        for block in self.blocks:
            if self.recompute and torch.is_grad_enabled():
                x_BLD = checkpoint(block, x_BLD, key_mask, use_reentrant=False)
            else:
                x_BLD = block(x_BLD, key_mask)
        return self.norm(x_BLD)

    def states(self, x_BLD: torch.Tensor) -> Iterator[torch.Tensor]:
        """What goes in, what each block but the last gives, and what comes out."""
        yield x_BLD
        for block in self.blocks[:-1]:
            x_BLD = block(x_BLD, None)
            yield x_BLD
        yield self.norm(self.blocks[-1](x_BLD, None))
