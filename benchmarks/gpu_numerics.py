"""Sections `numerics` and `memory`: what bf16 changes, and what training needs.

`numerics`: bf16 against fp32, as loss curves and as gradients of the whole network. The curves
start from the same weights and see the same windows, masks and latent noise: what parts them is
rounding. A second seed in fp32 says how much a curve moves for no reason at all.

`memory`: peak bytes by preset and batch, with and without recomputed activations. Each case is an
engine of its own and some real steps. On a CPU there is no such peak; there, the bytes that one
forward pass hands to autograd are counted instead (recomputed blocks keep their inputs outside
autograd: those are not counted).
"""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import replace
from functools import partial

import numpy as np
import torch
from torch.nn.attention import SDPBackend

from benchmarks.gpu_attention import KERNELS, only
from benchmarks.gpu_cases import (
    EngineRun,
    Setting,
    in_fp32,
    peak_gib,
    plan_of,
    reset_peak,
    timed,
    usual_case,
)
from benchmarks.gpu_report import Report
from data.batches.batch import Request
from trainer.engine.feed import training_dataset
from trainer.engine.task import Plan
from trainer.preflight.largest import largest_micro_batch

POINTS = 12  # rows of the table of curves
BATCHES = {"large": 64, "brain2image": 2048, "base": 128}
LARGEST = "large"  # a search takes 20 to 30 s: one preset has time


# ---- numerics ---------------------------------------------------------------------------------


def measure_numerics(setting: Setting, report: Report) -> None:
    gradients(setting, report)
    steps = 24 if setting.small else 120
    case = usual_case("small", setting.small)
    if not setting.small:  # as large as fp32 has time for
        case = replace(case, channels=(32,), samples=400, micro=32)
    plan = plan_of(setting, case, steps=steps, warmup=0.1)
    fp32 = in_fp32(plan)
    other = replace(fp32, config=replace(plan.config, seed=1))
    curves: dict[str, np.ndarray] = {}

    def compared(name: str, form: Plan) -> dict:
        """A curve, and what parts it from the one in fp32, which comes first."""
        curves[name] = found = curve(form, setting, steps)
        last = slice(steps * 3 // 4, None)
        reference = curves["fp32"]
        step_by_step = np.abs(found - reference)[last] / np.abs(reference[last])
        return {
            "loss_of_last_quarter": float(found[last].mean()),
            "mean_of_last_quarter": float(found[last].mean() / reference[last].mean() - 1),
            "step_by_step": float(step_by_step.mean()),
        }

    for name, form in (("fp32", fp32), ("bf16", plan), ("fp32, other seed", other)):
        label = name if form is fp32 else f"{name} against fp32"
        report.measure("difference of curves", 8, partial(compared, name, form), curve=label)
        if "fp32" not in curves:
            return
    for part in np.array_split(np.arange(steps), POINTS):
        means = {f"loss, {name}": float(found[part].mean()) for name, found in curves.items()}
        report.row(f"small, {steps} steps", steps=f"{part[0] + 1}-{part[-1] + 1}", **means)


def curve(plan: Plan, setting: Setting, steps: int) -> np.ndarray:
    """The loss of each step, `[steps]`."""
    with EngineRun(plan, setting.ranks) as run:
        losses = []
        for _ in range(steps):
            run.step()
            losses.append(run.loss)
        return torch.stack(losses).float().cpu().numpy()


def gradients(setting: Setting, report: Report) -> None:
    """Gradients of all weights of `base` at the start, on each kernel in bf16."""
    case = replace(usual_case("base", setting.small), micro=4)
    plan = plan_of(setting, case)
    numbers = np.arange(case.micro)
    found = training_dataset(plan)[Request(numbers, numbers)]
    batches = [batch.to(setting.device) for batch in found]

    def gradient(dtype: torch.dtype, backend: SDPBackend | None) -> torch.Tensor:
        model = plan.task.build_model(plan).to(setting.device, dtype)
        with only(backend) if backend else nullcontext():
            model(batches, 1e-3, 0).total.backward()
        return torch.cat([p.grad.float().flatten() for p in model.parameters()])

    wanted = gradient(torch.float32, SDPBackend.MATH)

    def beside(dtype: torch.dtype, backend: SDPBackend | None) -> dict:
        found = gradient(dtype, backend)
        return {
            "relative_error": ((found - wanted).norm() / wanted.norm()).item(),
            "cosine": (torch.dot(found, wanted) / found.norm() / wanted.norm()).item(),
            "finite": bool(found.isfinite().all()),
        }

    title = "gradient of the whole network (base) against fp32 with attention written out"
    cases = {
        "fp32, the switch": (torch.float32, None),
        "bf16, the switch": (torch.bfloat16, None),
        **{f"bf16, {name}": (torch.bfloat16, backend) for name, backend in KERNELS.items()},
    }
    for name, (dtype, backend) in cases.items():
        report.measure(title, 3, partial(beside, dtype, backend), form=name)


# ---- memory -----------------------------------------------------------------------------------


def kept_bytes(run: EngineRun) -> int:
    """Bytes that autograd keeps from one forward pass, weights left out."""
    own = {p.data_ptr() for p in run.engine.module.parameters()}
    kept: dict[int, int] = {}

    def note(x: torch.Tensor) -> torch.Tensor:
        storage = x.untyped_storage()
        if x.data_ptr() not in own:
            kept[storage.data_ptr()] = storage.nbytes()
        return x

    batches = next(run.feed.micro_batches())
    with torch.autograd.graph.saved_tensors_hooks(note, lambda x: x):
        run.engine.module(batches, 0.0, 0)
    return sum(kept.values())


def measure_memory(setting: Setting, report: Report) -> None:
    small = setting.small

    def peak(preset: str, micro: int, recompute: bool) -> dict:
        case = replace(usual_case(preset, small), micro=micro)
        reset_peak(setting.device)
        plan = plan_of(setting, case, recompute=recompute, workers=1 if small else 4)
        with EngineRun(plan, setting.ranks) as run:
            rate = timed(run.step, setting.device, setting.seconds / 5, warmup=2)
            found = peak_gib(setting.device) or {"kept_mib": kept_bytes(run) / 2**20}
        return {**rate.row(micro), **found}

    for preset, usual in BATCHES.items():
        for micro in (2, 4) if small else (usual,):
            for recompute in (False, True):
                take = partial(peak, preset, micro, recompute)
                report.measure("peak memory, ZeRO-2 on one rank", 4, take, preset=preset,
                               micro_batch=micro, recompute=recompute)  # fmt: skip

    def largest(recompute: bool) -> dict:
        case = replace(usual_case(LARGEST, False), micro=1)
        plan = plan_of(setting, case, recompute=recompute)
        micro, peak = largest_micro_batch(plan, setting.ranks)
        return {"micro_batch": micro, "peak_gib": peak / 2**30}

    for recompute in () if small else (False, True):
        report.measure("largest micro-batch", 25, partial(largest, recompute), preset=LARGEST,
                       recompute=recompute)  # fmt: skip
