"""Section `zero`: ZeRO stages 0 to 3 and plain DistributedDataParallel, on one rank.

One rank has nothing to divide: this measures what each stage costs in time and memory by itself.
DDP is written the usual way: fp32 weights, bf16 autocast, fused AdamW, gradients clipped at 1. It
reads the same loader.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import nn

from benchmarks.gpu_cases import (
    EngineRun,
    Setting,
    plan_of,
    release,
    timed,
    usual_case,
    with_stage,
)
from benchmarks.gpu_report import Report
from benchmarks.gpu_step import achieved
from trainer.engine.feed import Feed
from trainer.engine.optim import make_optimizer
from trainer.engine.task import Plan


def ddp_step(plan: Plan, setting: Setting) -> Callable[[], int]:
    """One optimizer step of torch's DistributedDataParallel; returns the windows it took."""
    device = setting.device
    plain = plan.task.build_model(plan).to(device)
    ids = [device.index] if device.type == "cuda" else None
    model = nn.parallel.DistributedDataParallel(plain, device_ids=ids)
    optimizer = make_optimizer(plan.task.parameter_groups(plain, plan), plan.config)
    feed = Feed(plan, setting.ranks, 0)

    def step() -> int:
        batches = next(feed.micro_batches())
        with torch.autocast(device.type, torch.bfloat16):
            loss = model(batches, plan.task.model.beta, plan.config.seed).total
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        feed.fetch()
        return plan.micro

    return step


def run(setting: Setting, report: Report) -> None:
    title = "base, one rank"
    plan = plan_of(setting, usual_case("base", setting.small))
    cuda = setting.device.type == "cuda"
    for name in ("ZeRO-2", "DDP", "ZeRO-1", "ZeRO-3", "ZeRO-0"):
        if not report.time_for(8, title, engine=name):
            continue
        with report.case(title, engine=name):
            if cuda:
                torch.cuda.reset_peak_memory_stats()
            if name == "DDP":
                rate = timed(ddp_step(plan, setting), setting.device, setting.seconds / 2)
            else:
                run = EngineRun(with_stage(plan, int(name[-1])), setting.ranks)
                try:
                    rate = timed(run.step, setting.device, setting.seconds / 2)
                finally:
                    run.close()
            peak = {"peak_gib": torch.cuda.max_memory_allocated() / 2**30} if cuda else {}
            report.row(title, engine=name, **achieved(rate, plan, setting), **peak)
        release()
