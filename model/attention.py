"""The one place that picks an attention kernel.

flash-attn where it is installed and the tensors are half precision on a GPU; else torch's fused
kernels, with cuDNN's left out: its backward has given NaN gradients on Hopper
(pytorch/pytorch#196678). There is no attention mask anywhere: a fixed keep count makes batches
dense, and without a mask the fast kernels apply. On a CPU it runs in fp32: torch's bf16 kernel
there takes 1.2 to 4.6 times as long forward and backward (one core with AMX, 144 to 2,560 tokens).
`EEG_ATTENTION=flash|sdpa` in the environment insists on one.
"""

from __future__ import annotations

import os

import torch
import torch.nn.functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel

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


def attention(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
    """Full softmax attention. q, k, v: `[B, L, heads, head_dim]`; returns the same shape."""
    if uses_flash(q):
        return flash_attn_func(q, k, v)
    dtype = q.dtype
    q, k, v = (x.transpose(1, 2) for x in (q, k, v))
    if q.device.type == "cpu":
        q, k, v = q.float(), k.float(), v.float()
    with sdpa_kernel(_TORCH_KERNELS):
        return F.scaled_dot_product_attention(q, k, v).transpose(1, 2).to(dtype)


def kernel_name(device: torch.device, dtype: torch.dtype) -> str:
    """What will run on `device`, for the log."""
    flash = uses_flash(torch.empty(0, device=device, dtype=dtype))
    return "flash-attn" if flash else "torch fused attention (cuDNN off)"
