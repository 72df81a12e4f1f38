"""Section `step`: windows a second and MFU of the presets, beside the original and ViTMAE.

This project's step goes through deepspeed.initialize and the real loader. ViTMAE needs a square
number of tokens, so that comparison uses windows that give one, for both.
"""

from __future__ import annotations

from dataclasses import replace

from benchmarks.gpu_cases import Case, EngineRun, Rate, Setting, plan_of, release, timed, usual_case
from benchmarks.gpu_original import original_step, vitmae_step
from benchmarks.gpu_report import Report
from model.tokens import TOKENS
from trainer.engine.task import Plan


def rates(rate: Rate, micro: int) -> dict:
    return {"micro_batch": micro, "windows_per_s": rate.per_s, "spread": rate.spread,
            "step_ms": 1e3 * rate.step_s, "steps": rate.steps}  # fmt: skip


def achieved(rate: Rate, plan: Plan, setting: Setting) -> dict:
    """What trainer/engine/loop.py logs of a rate, and bytes read."""
    return {
        **rates(rate, plan.micro),
        "tokens_per_s": rate.per_s * plan.tokens_per_sample,
        "mb_per_s": rate.per_s * 2e-6 * _values(plan),
        "tflops": rate.per_s * plan.flops_per_sample / 1e12,
        "mfu": rate.per_s * plan.flops_per_sample / setting.peak_flops,
    }


def _values(plan: Plan) -> int:
    shard = plan.manifest.shards[0]
    return shard.channels * shard.window_samples


def engine_rate(setting: Setting, plan: Plan) -> Rate:
    run = EngineRun(plan, setting.ranks)
    try:
        return timed(run.step, setting.device, setting.seconds)
    finally:
        run.close()


def run(setting: Setting, report: Report) -> None:
    title = "presets, through the engine and the loader"
    found: dict[str, Rate] = {}
    for name in ("large", "brain2image", "base"):
        if not report.time_for(12, title, preset=name):
            continue
        with report.case(title, preset=name):
            plan = plan_of(setting, usual_case(name, setting.small))
            found[name] = engine_rate(setting, plan)
            report.row(title, preset=name, **achieved(found[name], plan, setting))
    against_original(setting, report, found.get("brain2image"))
    against_vitmae(setting, report)


def against_original(setting: Setting, report: Report, ours: Rate | None) -> None:
    """The original at brain2image's shapes; `ours`: the rate measured above."""
    title = "the original's step, rebuilt, at brain2image's shapes"
    case = usual_case("brain2image", setting.small)
    for correlation in ("on the CPU", "left out"):
        if not report.time_for(10, title, correlation=correlation):
            continue
        with report.case(title, correlation=correlation):
            step = original_step(
                case.model, case.samples, case.micro, setting.device, correlation == "on the CPU"
            )
            theirs = timed(step, setting.device, setting.seconds)
            ratio = ours.per_s / theirs.per_s if ours else float("nan")
            report.row(title, correlation=correlation, **rates(theirs, case.micro),
                       ours_over_it=ratio)  # fmt: skip
        step = None
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
        names = {"shape": f"{name}, {side * side} tokens of {values} values"}
        ours = None
        if not report.time_for(22, title, **names):
            continue
        with report.case(title, **names, step="this project"):
            ours = engine_rate(setting, plan_of(setting, case))
            report.row(title, **names, step="this project", **rates(ours, case.micro))
        with report.case(title, **names, step="ViTMAE"):
            step = vitmae_step(case.model, side, values, case.micro, setting.device)
            theirs = timed(step, setting.device, setting.seconds)
            ratio = ours.per_s / theirs.per_s if ours else float("nan")
            report.row(title, **names, step="ViTMAE", **rates(theirs, case.micro),
                       ours_over_it=ratio)  # fmt: skip
        step = None
        release()
