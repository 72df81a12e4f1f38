"""The training loop, for every task alike.

State is (weights, optimizer, steps done, steps applied, the best validation); data order and a
task's draws are functions of the seed and the place in the data. So 3 steps, a resume and 3 more
steps give the numbers of 6 steps, bit for bit on the same machine and ranks.
"""

from __future__ import annotations

import math
import time

import deepspeed
import torch
from torch import nn
from tqdm import tqdm

from model.transformer import kernel_name
from trainer.checkpoints import load
from trainer.checkpoints.save import save
from trainer.engine.best import Best, can_validate
from trainer.engine.feed import BROKEN, FINE, Feed
from trainer.engine.log import Log, Meter, Skips, Spikes, measured_peak_flops
from trainer.engine.optim import (
    check_gradients_together,
    compile_options,
    lr_factor,
    make_optimizer,
    set_lr,
)
from trainer.engine.task import Plan, Progress
from trainer.ranks.ranks import Ranks
from trainer.ranks.stopping import StopRequests
from trainer.ranks.watch import Watch


def train(plan: Plan, model: nn.Module, ranks: Ranks, resume_from: tuple[str, dict] | None) -> str:
    """Train `model` to `plan.config.last_step`, from the given checkpoint or from its present
    weights. Returns "" when it got there or ran out of patience, else what asked it to stop before
    (trainer/ranks/stopping.py); it has then saved."""
    config, task = plan.config, plan.task
    watch = Watch(ranks, config.timeout_s)

    # ---- engine -------------------------------------------------------------------------------
    optimizer = make_optimizer(task.parameter_groups(model, plan), config)
    settings = load.engine_settings(plan.deepspeed, resume_from, ranks)
    watch.at(0, "building the engine")
    engine, *_ = deepspeed.initialize(model=model, optimizer=optimizer, config=settings)
    check_gradients_together(engine)
    if config.compile:
        engine.compile(compile_kwargs={"options": compile_options()})
    state = {"step": 0, "applied": 0, "skipped": 0}
    if resume_from is not None:
        watch.at(0, "loading the checkpoint")
        state = load.load(engine, plan.run, *resume_from, ranks)
    step, applied, skipped = state["step"], state["applied"], state["skipped"]
    best = Best(plan, ranks, state.get("best"))

    # ---- data ---------------------------------------------------------------------------------
    watch.at(step, "opening the data")
    stopping = StopRequests(plan.run, ranks)
    feed = Feed(plan, ranks, step)
    validation = None
    if config.eval_every and config.eval_windows and can_validate(plan, ranks):
        validation = task.open_validation(plan, ranks)

    # ---- log ----------------------------------------------------------------------------------
    dtype = next(engine.module.parameters()).dtype
    peak = measured_peak_flops(ranks.device, dtype)
    log = Log(plan.run, step, ranks)
    meter = Meter(feed.source.dataset_names, ranks.device)
    bar = tqdm(
        total=config.last_step, initial=step, disable=None if ranks.first else True, unit="step"
    )
    if ranks.first:
        bar.write(
            f"training {dtype} on {ranks.world} x {ranks.device.type}, attention: "
            f"{kernel_name(ranks.device, dtype)}, measured peak {peak / 1e12:.3g} TFLOP/s a rank"
        )
    say = bar.write if ranks.first else _silent

    def validate() -> None:
        """Every rank; what is best so far is kept before the next step changes it."""
        values = validation(engine)
        log.scalars("val", step, values)
        say(f"step {step}: {task.validation_line(values)}")
        best.seen(engine, step, values)

    if validation and step == 0:
        watch.at(0, "validation")
        validate()

    def ended() -> bool:
        return step >= config.last_step or best.settled

    if ended():
        say(f"finished already: step {step} of {config.steps}")
    skips = Skips(config.max_skips, log, say)
    spikes = Spikes(config.spike, log, say)
    timed_from, timed_steps = time.perf_counter(), 0

    # ---- steps --------------------------------------------------------------------------------
    engine.train()
    _, trouble = stopping.agree(feed.trouble)
    if trouble == BROKEN:
        feed.stop_all()
    while not ended():
        lr = config.peak_lr * lr_factor(applied, config)
        set_lr(optimizer, lr)
        at = Progress(step, applied, config.steps, config.seed)
        step += 1
        timed_steps += 1
        bar.update()
        if trouble == FINE:
            per_window = []
            for batches in feed.micro_batches():
                watch.at(step, "the forward pass")
                losses = task.loss(engine, batches, at)
                watch.at(step, "the backward pass")
                engine.backward(losses.total)
                engine.step()
                meter.add(losses, torch.cat([batch.dataset for batch in batches]))
                per_window.append(next(iter(losses.per_window.values())))
        if trouble == FINE and engine.was_step_applied():
            applied += 1
            skips.applied()
            spikes.add(step, engine.get_global_grad_norm())
        else:
            # Left out on all ranks: by us for its data, or by DeepSpeed for its gradients.
            skipped += 1
            bad = feed.explain() if trouble else feed.suspects(per_window)
            what = "data are not finite" if trouble else "a gradient was not finite"
            skips.skipped(step, f"{what}: {bad or 'the loss was, on all ranks'}")

        watch.at(step, "reading the next step's data")
        if step < config.last_step:
            feed.fetch()
        watch.at(step, "agreeing")
        asked, trouble = stopping.agree(feed.trouble)
        asked = asked or ("a damaged shard" if trouble == BROKEN else None)
        if step % config.log_every == 0 or step == config.last_step or asked:
            values, vectors = meter.result(ranks)
            values |= task.summarise(vectors)
            seconds = time.perf_counter() - timed_from
            rate = timed_steps * plan.global_batch / seconds
            values |= {
                "lr": lr,
                "grad_norm": float(engine.get_global_grad_norm() or math.nan),
                "skipped": skipped,
                "samples": step * plan.global_batch,
                "samples_per_s": rate,
                "tokens_per_s": rate * plan.tokens_per_sample,
                "mfu": rate * plan.flops_per_sample / (peak * ranks.world),
            }
            values = {name: value for name, value in values.items() if math.isfinite(value)}
            spikes.tell()
            log.scalars("train", step, values)
            if ranks.first:
                bar.write(_line(step, config.steps, values, task.shown))
            timed_from, timed_steps = time.perf_counter(), 0
        paused = time.perf_counter()
        watch.at(step, "the log and validation")
        if validation and (step % config.eval_every == 0 or step == config.last_step):
            validate()
        if validation and config.figure_every and (step % config.figure_every == 0 or ended()):
            for name, figure in task.figures(engine.module, plan, ranks).items():
                log.figure(name, step, figure)
        if step % config.save_every == 0 or ended() or asked:
            state = {"step": step, "applied": applied, "skipped": skipped}
            if best.state:
                state["best"] = best.state
            if (fixed := task.fixed_loss(engine, ranks.device)) is not None:
                state["parity_loss"] = fixed
                state["parity_dtype"] = str(dtype).removeprefix("torch.")
            watch.at(step, "the checkpoint")
            save(engine, plan.run, step, state, config, ranks)
        timed_from += time.perf_counter() - paused
        if asked:
            if ranks.first:
                bar.write(f"stopped after step {step}: asked by {asked}")
            break
    if best.settled and ranks.first:
        bar.write(f"ended at step {step} by --patience {config.patience}: {best}")
    watch.close()
    feed.close()
    stopping.close()
    bar.close()
    log.close()
    if trouble == BROKEN:
        feed.stop_all()
    return "" if ended() else str(asked)


def _silent(text: str) -> None:
    """What `say` is on all ranks but the first."""


def _line(step: int, steps: int, values: dict[str, float], shown: tuple[str, ...]) -> str:
    left = (steps - step) * values["samples"] / step / values["samples_per_s"]
    words = [f"step {step}/{steps}"]
    words += [
        f"{name} {values[name]:.4g}" for name in (*shown, "lr", "grad_norm") if name in values
    ]
    words += [f"{values['samples_per_s']:.4g} windows/s", f"{left / 60:.0f} min left"]
    return "  ".join(words)
