"""Section `numerics`: bf16 against fp32, as loss curves and as gradients of the whole network.

The curves start from the same weights and see the same windows, masks and latent noise: what parts
them is rounding. A second seed in fp32 says how much a curve moves for no reason at all.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch
from torch.nn.attention import SDPBackend

from benchmarks.gpu_attention import KERNELS, only
from benchmarks.gpu_cases import EngineRun, Setting, in_fp32, plan_of, usual_case
from benchmarks.gpu_report import Report
from data.batches.batch import Request
from trainer.engine.feed import training_dataset
from trainer.engine.task import Plan

POINTS = 12  # rows of the table of curves


def curve(plan: Plan, setting: Setting, steps: int) -> np.ndarray:
    """The loss of each step, `[steps]`."""
    run = EngineRun(plan, setting.ranks)
    try:
        losses = []
        for _ in range(steps):
            run.step()
            losses.append(run.loss)
        return torch.stack(losses).float().cpu().numpy()
    finally:
        run.close()


def run(setting: Setting, report: Report) -> None:
    gradients(setting, report)
    steps = 24 if setting.small else 120
    case = usual_case("small", setting.small)
    if not setting.small:  # as large as fp32 has time for
        case = replace(case, channels=(32,), samples=400, micro=32)
    plan = plan_of(setting, case, steps=steps, warmup=0.1)
    curves: dict[str, np.ndarray] = {}
    for name, form in (
        ("bf16", plan),
        ("fp32", in_fp32(plan)),
        ("fp32, other seed", in_fp32(replace(plan, config=replace(plan.config, seed=1)))),
    ):
        if not report.time_for(8, "difference of curves", curve=name):
            continue
        with report.case("difference of curves", curve=name):
            curves[name] = curve(form, setting, steps)
    if "fp32" not in curves:
        return
    for part in np.array_split(np.arange(steps), POINTS):
        means = {f"loss, {name}": float(found[part].mean()) for name, found in curves.items()}
        report.row(f"small, {steps} steps", steps=f"{part[0] + 1}-{part[-1] + 1}", **means)
    last = slice(steps * 3 // 4, None)
    reference = curves["fp32"]
    for name, found in curves.items():
        if name != "fp32":
            step_by_step = np.abs(found - reference)[last] / np.abs(reference[last])
            report.row(
                "difference of curves", curve=f"{name} against fp32",
                mean_of_last_quarter=float(found[last].mean() / reference[last].mean() - 1),
                step_by_step=float(step_by_step.mean()),
            )  # fmt: skip


def gradients(setting: Setting, report: Report) -> None:
    """Gradients of all weights of `base` at the start, on each kernel in bf16."""
    title = "gradient of the whole network (base) against fp32 with attention written out"
    case = replace(usual_case("base", setting.small), micro=4)
    plan = plan_of(setting, case)
    numbers = np.arange(case.micro)
    found = training_dataset(plan)[Request(numbers, numbers)]
    batches = [batch.to(setting.device) for batch in found]

    def gradient(dtype: torch.dtype, backend: SDPBackend | None) -> torch.Tensor:
        model = plan.task.build_model(plan).to(setting.device, dtype)
        if backend is None:
            model(batches, 1e-3, 0).total.backward()
        else:
            with only(backend):
                model(batches, 1e-3, 0).total.backward()
        return torch.cat([p.grad.float().flatten() for p in model.parameters()])

    wanted = gradient(torch.float32, SDPBackend.MATH)
    cases = {
        "fp32, the switch": (torch.float32, None),
        "bf16, the switch": (torch.bfloat16, None),
        **{f"bf16, {name}": (torch.bfloat16, backend) for name, backend in KERNELS.items()},
    }
    for name, (dtype, backend) in cases.items():
        if not report.time_for(3, title, form=name):
            continue
        with report.case(title, form=name):
            found = gradient(dtype, backend)
            cosine = torch.dot(found, wanted) / found.norm() / wanted.norm()
            report.row(
                title, form=name, relative_error=((found - wanted).norm() / wanted.norm()).item(),
                cosine=cosine.item(), finite=bool(found.isfinite().all()),
            )  # fmt: skip
