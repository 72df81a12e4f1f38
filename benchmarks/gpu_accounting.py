"""Section `accounting`: model/flops.py against torch's own counter, at the presets' full shapes.

The counting runs under FakeTensorMode, where tensors have shapes and no values: full-size presets
cost neither memory nor a GPU. torch counts the backward pass of fused attention with its recomputed
scores (5 products); an MFU counts useful work, so here it is counted as twice the forward (4).
"""

from __future__ import annotations

import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.gpu_cases import Case, Setting, usual_case
from benchmarks.gpu_report import Report
from data.batches.batch import Batch
from model.autoencoder import MaskedVAE
from model.config import PRESETS
from model.flops import forward_flops, training_flops


def _attention_flops(q, k, v, *args, **kwargs) -> int:
    batch, heads, queries, width = q
    return 4 * batch * heads * queries * k[2] * width


def _attention_backward_flops(gradient, q, k, v, *args, **kwargs) -> int:
    return 2 * _attention_flops(q, k, v)


# torch's counter knows the GPU's fused kernels only; fake tensors here are on the CPU.
CPU_ATTENTION = {
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: _attention_flops,
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward: _attention_backward_flops,
}


def torch_flops(case: Case) -> tuple[float, float]:
    """Operations of one window by torch's counter: forward, and forward with backward."""
    channels, batch = case.channels[0], 2
    tokens = case.model.token_count(channels, case.samples)
    hidden = case.model.hidden_count(tokens)
    with FakeTensorMode(allow_non_fake_inputs=True):
        model = MaskedVAE(case.model)
        windows = Batch.of(
            torch.zeros(batch, channels, case.samples),
            torch.zeros(channels, 3),
            keep=torch.zeros(batch, tokens - hidden, dtype=torch.int64),
            hide=torch.zeros(batch, hidden, dtype=torch.int64),
        )
        with FlopCounterMode(display=False, custom_mapping=CPU_ATTENTION) as counter:
            loss = model([windows], 1e-3, 0).total
            forward = counter.get_total_flops()
            loss.backward()
    return forward / batch, counter.get_total_flops() / batch


def run(setting: Setting, report: Report) -> None:
    for name in PRESETS:
        with report.case("operations a window", preset=name):
            fewer = {"depth": 2, "decoder_depth": 1} if setting.small else {}
            case = usual_case(name, small=False, **fewer)
            shape = case.channels[0], case.samples
            tokens = case.model.token_count(*shape)
            forward, both = torch_flops(case)
            report.row(
                "operations a window", preset=name, channels=shape[0], samples=shape[1],
                tokens=tokens, kept=tokens - case.model.hidden_count(tokens),
                signal_bytes=2 * shape[0] * shape[1],
                forward_gflop=forward_flops(case.model, *shape) / 1e9,
                training_gflop=training_flops(case.model, *shape) / 1e9,
                forward_over_torch=forward_flops(case.model, *shape) / forward,
                training_over_torch=training_flops(case.model, *shape) / both,
            )  # fmt: skip
