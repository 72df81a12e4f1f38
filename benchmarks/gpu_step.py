"""Sections `step`, `compile` and `zero`: the training step beside others, compiled, and divided.

`step`: windows a second and MFU of the presets, beside the original and ViTMAE. This project's step
goes through deepspeed.initialize and the real loader. ViTMAE needs a square number of tokens, so
that comparison uses windows that give one, for both.

`compile`: what torch.compile costs before the first step and gains after it. Warm-up is the time to
the end of the third step. Recompiles are graphs that appear after it, while the KL weight and the
learning rate go on changing as in training.

`zero`: ZeRO stages 0 to 3 and plain DistributedDataParallel, on one rank. One rank has nothing to
divide: this measures what each costs in time and memory by itself. DDP is written the usual way:
fp32 weights, bf16 autocast, fused AdamW, gradients clipped at 1. It reads the same loader.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial

import torch
from torch import nn

from benchmarks.common import plain_step
from benchmarks.gpu_cases import (
    Case,
    EngineRun,
    Rate,
    Setting,
    peak_gib,
    plan_of,
    release,
    reset_peak,
    timed,
    usual_case,
    wait_for,
    with_stage,
)
from benchmarks.gpu_original import original_step, vitmae_step
from benchmarks.gpu_report import Report
from model.tokens import TOKENS
from trainer.engine.feed import Feed
from trainer.engine.optim import compile_options, make_optimizer
from trainer.engine.task import Plan

# Preset, form, and seconds it needs. The whole model takes longest to compile, so it comes last.
COMPILED = (
    ("large", "eager", 12), ("large", "each block", 25), ("brain2image", "eager", 12),
    ("brain2image", "each block", 25), ("large", "whole model", 45),
)  # fmt: skip


def achieved(rate: Rate, plan: Plan, setting: Setting) -> dict:
    """What trainer/engine/loop.py logs of a rate, and bytes read."""
    shard = plan.manifest.shards[0]
    return {
        **rate.row(plan.micro),
        "tokens_per_s": rate.per_s * plan.tokens_per_sample,
        "mb_per_s": rate.per_s * 2e-6 * shard.channels * shard.window_samples,
        "tflops": rate.per_s * plan.flops_per_sample / 1e12,
        "mfu": rate.per_s * plan.flops_per_sample / setting.peak_flops,
    }


def engine_rate(setting: Setting, plan: Plan, seconds: float | None = None) -> Rate:
    with EngineRun(plan, setting.ranks) as run:
        return timed(run.step, setting.device, seconds or setting.seconds)


# ---- step -------------------------------------------------------------------------------------


def measure_step(setting: Setting, report: Report) -> None:
    def preset_step(name: str) -> dict:
        plan = plan_of(setting, usual_case(name, setting.small))
        return achieved(engine_rate(setting, plan), plan, setting)

    title = "presets, through the engine and the loader"
    found = {
        name: report.measure(title, 12, partial(preset_step, name), preset=name)
        for name in ("large", "brain2image", "base")
    }
    against_original(setting, report, found["brain2image"])
    against_vitmae(setting, report)


def beside(step: Callable[[], int], setting: Setting, micro: int, ours: dict | None) -> dict:
    """The rate of another project's step, and this project's over it."""
    rate = timed(step, setting.device, setting.seconds)
    ratio = ours["windows_per_s"] / rate.per_s if ours else float("nan")
    return {**rate.row(micro), "ours_over_it": ratio}


def against_original(setting: Setting, report: Report, ours: dict | None) -> None:
    """The original at brain2image's shapes; `ours`: the row measured above."""
    case = usual_case("brain2image", setting.small)

    def theirs(correlate: bool) -> dict:
        step = original_step(case.model, case.samples, case.micro, setting.device, correlate)
        return beside(step, setting, case.micro, ours)

    title = "the original's step, rebuilt, at brain2image's shapes"
    for where, correlate in (("on the CPU", True), ("left out", False)):
        report.measure(title, 10, partial(theirs, correlate), correlation=where)
        release()


def square_case(name: str, small: bool) -> tuple[Case, int, int]:
    """(the preset with a square number of tokens, its side, inputs a token)."""
    case = usual_case(name, small)
    if TOKENS[case.model.tokens].one_row:
        side = 4 if small else 12
        case = replace(case, samples=side * side * case.model.patch_samples)
        return case, side, 128 * case.model.patch_samples
    side = 6 if small else 50
    case = replace(case, channels=(side,), samples=side * case.model.patch_samples)
    return case, side, case.model.patch_samples


def against_vitmae(setting: Setting, report: Report) -> None:
    title = "equal shapes: this project and transformers' ViTMAE"
    for name in ("brain2image", "base"):
        case, side, values = square_case(name, setting.small)

        def ours(case: Case) -> dict:
            return engine_rate(setting, plan_of(setting, case)).row(case.micro)

        def theirs(case: Case, side: int, values: int, ours: dict | None) -> dict:
            step = vitmae_step(case.model, side, values, case.micro, setting.device)
            return beside(step, setting, case.micro, ours)

        names = {"shape": f"{name}, {side * side} tokens of {values} values"}
        found = report.measure(title, 22, partial(ours, case), **names, step="this project")
        theirs = partial(theirs, case, side, values, found)
        report.measure(title, 11, theirs, **names, step="ViTMAE")
        release()


# ---- compile ----------------------------------------------------------------------------------


def compile_run(run: EngineRun, form: str, small: bool) -> None:
    """Compile a run in one of these forms; small: with the backend that needs no compiler."""
    backend = "aot_eager" if small else "inductor"
    module = run.engine.module
    if form == "whole model":
        options = {} if small else {"options": compile_options()}
        run.engine.compile(backend=backend, compile_kwargs=options)
    elif form == "each block":
        for stack in (module.encoder.stack, module.decoder.stack):
            for block in stack.blocks:
                block.compile(backend=backend)


def graphs() -> int:
    return torch._dynamo.utils.counters["stats"]["unique_graphs"]


def measure_compile(setting: Setting, report: Report) -> None:
    eager: dict[str, float] = {}

    def compiled(preset: str, form: str) -> dict:
        torch._dynamo.reset()
        torch._dynamo.utils.counters.clear()
        plan = plan_of(setting, usual_case(preset, setting.small))
        with EngineRun(plan, setting.ranks) as run:
            compile_run(run, form, setting.small)
            begin = time.perf_counter()
            for _ in range(3):
                run.step()
            wait_for(setting.device)
            warmup_s = time.perf_counter() - begin
            before = graphs()
            rate = timed(run.step, setting.device, setting.seconds)
        if form == "eager":
            eager[preset] = rate.per_s
        breaks = torch._dynamo.utils.counters["graph_break"]
        for why, count in breaks.most_common(5):
            report.row("graph breaks", preset=preset, form=form, count=count,
                       why=why.split("\n")[0][:160])  # fmt: skip
        return {
            **achieved(rate, plan, setting), "warmup_s": warmup_s, "graphs": graphs(),
            "recompiles": graphs() - before, "graph_breaks": sum(breaks.values()),
            "gain": rate.per_s / eager.get(preset, float("nan")),
        }  # fmt: skip

    for preset, form, needs_s in COMPILED:
        if not setting.small or preset == "large":
            take = partial(compiled, preset, form)
            report.measure("compiled forms of the step", needs_s, take, preset=preset, form=form)


# ---- zero -------------------------------------------------------------------------------------


def ddp_step(plan: Plan, setting: Setting) -> Callable[[], int]:
    """One optimizer step of torch's DistributedDataParallel; returns the windows it took."""
    device = setting.device
    plain = plan.task.build_model(plan).to(device)
    ids = [device.index] if device.type == "cuda" else None
    model = nn.parallel.DistributedDataParallel(plain, device_ids=ids)
    feed = Feed(plan, setting.ranks, 0)

    def loss() -> torch.Tensor:
        return model(next(feed.micro_batches()), plan.task.model.beta, plan.config.seed).total

    optimizer = make_optimizer(plan.task.parameter_groups(plain, plan), plan.config)
    step = plain_step(model, optimizer, loss, plan.micro)

    def fed() -> int:
        windows = step()
        feed.fetch()
        return windows

    return fed


def measure_zero(setting: Setting, report: Report) -> None:
    plan = plan_of(setting, usual_case("base", setting.small))

    def one(name: str) -> dict:
        reset_peak(setting.device)
        if name == "DDP":
            rate = timed(ddp_step(plan, setting), setting.device, setting.seconds / 2)
        else:
            rate = engine_rate(setting, with_stage(plan, int(name[-1])), setting.seconds / 2)
        return {**achieved(rate, plan, setting), **peak_gib(setting.device)}

    for name in ("ZeRO-2", "DDP", "ZeRO-1", "ZeRO-3", "ZeRO-0"):
        report.measure("base, one rank", 8, partial(one, name), engine=name)
        release()
