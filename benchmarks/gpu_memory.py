"""Section `memory`: peak bytes by preset and batch, with and without recomputed activations.

Each case is an engine of its own and some real steps. On a CPU there is no such peak; there, the
bytes that one forward pass hands to autograd are counted instead (recomputed blocks keep their
inputs outside autograd: those are not counted).
"""

from __future__ import annotations

from dataclasses import replace

import torch

from benchmarks.gpu_cases import EngineRun, Setting, plan_of, timed, usual_case
from benchmarks.gpu_report import Report
from benchmarks.gpu_step import rates
from trainer.largest import largest_micro_batch

BATCHES = {"large": 64, "brain2image": 2048, "base": 128}
LARGEST = "large"  # a search takes 20 to 30 s: one preset has time


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


def run(setting: Setting, report: Report) -> None:
    title = "peak memory, ZeRO-2 on one rank"
    for preset, usual in BATCHES.items():
        for micro in (2, 4) if setting.small else (usual,):
            for recompute in (False, True):
                names = {"preset": preset, "micro_batch": micro, "recompute": recompute}
                if not report.time_for(4, title, **names):
                    continue
                with report.case(title, **names):
                    measure(setting, report, title, names)
    if setting.small:
        return
    for recompute in (False, True):
        names = {"preset": LARGEST, "recompute": recompute}
        if not report.time_for(25, "largest micro-batch", **names):
            continue
        with report.case("largest micro-batch", **names):
            plan = plan_of(setting, replace(usual_case(LARGEST, False), micro=1),
                           recompute=recompute)  # fmt: skip
            micro, peak = largest_micro_batch(plan, setting.ranks)
            report.row("largest micro-batch", **names, micro_batch=micro, peak_gib=peak / 2**30)


def measure(setting: Setting, report: Report, title: str, names: dict) -> None:
    case = replace(usual_case(names["preset"], setting.small), micro=names["micro_batch"])
    if setting.device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
    plan = plan_of(setting, case, recompute=names["recompute"], workers=1 if setting.small else 4)
    run = EngineRun(plan, setting.ranks)
    try:
        rate = timed(run.step, setting.device, setting.seconds / 5, warmup=2)
        if setting.device.type == "cuda":
            found = {"peak_gib": torch.cuda.max_memory_allocated() / 2**30}
        else:
            found = {"kept_mib": kept_bytes(run) / 2**20}
    finally:
        run.close()
    report.row(title, **{**names, **rates(rate, case.micro), **found})
