"""Section `compile`: what torch.compile costs before the first step and gains after it.

Three forms: eager, the whole model through `engine.compile()` (what --compile does), and each block
compiled on its own. Warm-up is the time to the end of the third step. Recompiles are graphs that
appear after it, while the KL weight and the learning rate go on changing as in training.
"""

from __future__ import annotations

import time

import torch

from benchmarks.gpu_cases import EngineRun, Setting, plan_of, timed, usual_case, wait_for
from benchmarks.gpu_report import Report
from benchmarks.gpu_step import achieved
from trainer.engine.speed import compile_options

# The whole model takes longest to compile, so it comes last.
JOBS = (
    ("large", "eager"), ("large", "each block"), ("brain2image", "eager"),
    ("brain2image", "each block"), ("large", "whole model"),
)  # fmt: skip
SMALL_JOBS = (("large", "eager"), ("large", "each block"), ("large", "whole model"))
NEEDS_S = {"eager": 12, "each block": 25, "whole model": 45}


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


def run(setting: Setting, report: Report) -> None:
    title = "compiled forms of the step"
    eager: dict[str, float] = {}
    for preset, form in SMALL_JOBS if setting.small else JOBS:
        names = {"preset": preset, "form": form}
        if not report.time_for(NEEDS_S[form], title, **names):
            continue
        with report.case(title, **names):
            torch._dynamo.reset()
            torch._dynamo.utils.counters.clear()
            plan = plan_of(setting, usual_case(preset, setting.small))
            run = EngineRun(plan, setting.ranks)
            try:
                compile_run(run, form, setting.small)
                begin = time.perf_counter()
                for _ in range(3):
                    run.step()
                wait_for(setting.device)
                warmup_s = time.perf_counter() - begin
                before = graphs()
                rate = timed(run.step, setting.device, setting.seconds)
            finally:
                run.close()
            if form == "eager":
                eager[preset] = rate.per_s
            breaks = torch._dynamo.utils.counters["graph_break"]
            report.row(
                title, **names, **achieved(rate, plan, setting), warmup_s=warmup_s,
                graphs=graphs(), recompiles=graphs() - before, graph_breaks=sum(breaks.values()),
                gain=rate.per_s / eager.get(preset, float("nan")),
            )  # fmt: skip
            for why, count in breaks.most_common(5):
                report.row("graph breaks", **names, count=count, why=why.split("\n")[0][:160])
