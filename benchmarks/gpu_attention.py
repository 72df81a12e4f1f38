"""Section `attention`: torch's kernels and flash-attn, both passes, at the presets' shapes.

Time is at a batch that fills the chip. Errors are of outputs and gradients in bf16 against fp32
with attention written out, at batch 2: the norm of the difference over the norm.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial

import torch
import torch.nn.functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel

from benchmarks.gpu_cases import Setting, wait_for
from benchmarks.gpu_report import Report
from model import transformer as switch

KERNELS = {
    "torch flash": SDPBackend.FLASH_ATTENTION,
    "torch cuDNN": SDPBackend.CUDNN_ATTENTION,
    "torch efficient": SDPBackend.EFFICIENT_ATTENTION,
    "torch math": SDPBackend.MATH,
}
DEFAULT = "model/transformer.py"
# (tokens, heads, head width): encoder and decoder of brain2image, then lengths with large's heads;
# 192 is a length modulo 128 at which cuDNN has failed, 1,152 and 2,560 are large's own.
SHAPES = [(32, 16, 64), (128, 16, 32), (192, 12, 64), (512, 12, 64), (1152, 12, 64),
          (2560, 12, 64), (2560, 4, 64), (4096, 12, 64)]  # fmt: skip
SMALL_SHAPES = [(16, 2, 16), (40, 2, 8)]
TOKENS = 65_536  # in a timed batch
MATH_BYTES = 16e9  # the written-out form is left out where its weights would take more


def kernel(name: str) -> Callable:
    """`[B, L, heads, width]` three times -> the same, through one kernel."""
    if name == DEFAULT:
        return switch.attention
    if name == "flash-attn":
        if switch.flash_attn_func is None:
            raise RuntimeError("flash-attn is not installed")
        return switch.flash_attn_func
    backend = KERNELS[name]

    def run(q, k, v):
        with sdpa_kernel([backend]):
            q, k, v = (x.transpose(1, 2) for x in (q, k, v))
            return F.scaled_dot_product_attention(q, k, v).transpose(1, 2)

    return run


@contextmanager
def only(backend: SDPBackend) -> Iterator[None]:
    """The whole model on one of torch's kernels."""
    before = switch._TORCH_KERNELS
    switch._TORCH_KERNELS = [backend]
    try:
        yield
    finally:
        switch._TORCH_KERNELS = before


def results(run: Callable, inputs: list[torch.Tensor], weight: torch.Tensor) -> list[torch.Tensor]:
    """Output and the three gradients, of a loss that weighs each output differently; fp32."""
    inputs = [x.detach().clone().requires_grad_() for x in inputs]
    out = run(*inputs)
    (out.float() * weight).sum().backward()
    return [out.detach().float(), *(x.grad.float() for x in inputs)]


def errors(run: Callable, shape: tuple[int, int, int], device: torch.device) -> dict:
    """Relative errors of output and gradients in bf16 against fp32; `finite`: all of them."""
    tokens, heads, width = shape
    generator = torch.Generator(device).manual_seed(0)
    q, k, v, weight = (
        torch.randn(2, tokens, heads, width, device=device, generator=generator) for _ in range(4)
    )
    halves = [x.bfloat16() for x in (q, k, v)]
    wanted = results(kernel("torch math"), [x.float() for x in halves], weight)
    found = results(run, halves, weight)
    relative = [((a - b).norm() / a.norm()).item() for a, b in zip(wanted, found, strict=True)]
    return {
        "output_error": relative[0],
        "gradient_error": max(relative[1:]),
        "finite": all(bool(x.isfinite().all()) for x in found),
    }


def seconds(run: Callable, shape: tuple[int, int, int], batch: int, setting: Setting) -> float:
    """Median seconds of a forward and backward pass in bf16."""
    tokens, heads, width = shape
    device = setting.device
    # q, k and v are views of one tensor, as a block gives them.
    qkv = torch.randn(batch, tokens, 3, heads, width, device=device, dtype=torch.bfloat16)
    qkv.requires_grad_()
    weight = torch.randn(batch, tokens, heads, width, device=device, dtype=torch.bfloat16)

    def once() -> None:
        run(*qkv.unbind(2)).backward(weight)
        qkv.grad = None

    for _ in range(3):
        once()
    times = []
    for _ in range(3):
        repeats = 2 if setting.small else 10
        wait_for(device)
        begin = time.perf_counter()
        for _ in range(repeats):
            once()
        wait_for(device)
        times.append((time.perf_counter() - begin) / repeats)
    return sorted(times)[1]


def measure_attention(setting: Setting, report: Report) -> None:
    dtype = torch.bfloat16
    report.row("the switch", kernel=switch.kernel_name(setting.device, dtype),
               kernels_run=device_kernels(setting.device))  # fmt: skip

    def timed(name: str, shape: tuple[int, int, int], batch: int) -> dict:
        tokens, heads, width = shape
        call = kernel(name)
        found = errors(call, shape, setting.device)
        took = seconds(call, shape, batch, setting)
        flops = 3 * 4 * batch * heads * tokens**2 * width
        return {"batch": batch, "ms": 1e3 * took, "tflops": flops / took / 1e12, **found}

    title = "forward and backward, bf16"
    for shape in SMALL_SHAPES if setting.small else SHAPES:
        tokens, heads, width = shape
        batch = 2 if setting.small else max(1, TOKENS // tokens)
        for name in (DEFAULT, *KERNELS, "flash-attn"):
            names = {"tokens": tokens, "heads": heads, "width": width, "kernel": name}
            if name == "torch math" and 6 * batch * heads * tokens**2 > MATH_BYTES:
                report.row(title, **names, failed="left out: its weights would not fit")
            else:
                report.measure(title, 2, partial(timed, name, shape, batch), **names)


def device_kernels(device: torch.device) -> str:
    """Names of the longest kernels that one call of the switch runs, from the profiler."""
    from torch.profiler import ProfilerActivity, profile

    cuda = device.type == "cuda"
    q = torch.randn(4, 1152, 12, 64, device=device, dtype=torch.bfloat16, requires_grad=True)
    switch.attention(q, q, q).sum().backward()  # not counting what a first call sets up
    with profile(activities=[ProfilerActivity.CUDA if cuda else ProfilerActivity.CPU]) as found:
        switch.attention(q, q, q).sum().backward()
        wait_for(device)
    times = {
        event.key: event.self_device_time_total if cuda else event.self_cpu_time_total
        for event in found.key_averages()
    }
    longest = sorted(times, key=times.get, reverse=True)[:3]
    return ", ".join(name[:60] for name in longest)
