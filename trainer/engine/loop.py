"""The training loop, for pretraining and fine-tuning alike.

State is (weights, optimizer, steps done, steps applied); data order, masks and latent noise are
functions of the seed and the place in the data. So 3 steps, a resume and 3 more steps give the
numbers of 6 steps, bit for bit on the same machine and ranks.
"""

from __future__ import annotations

import math
import time

import deepspeed
import torch
from torch import nn
from tqdm import tqdm

from model.transformer import kernel_name
from trainer.checkpoints import checkpoint
from trainer.checkpoints.save import save
from trainer.engine.feed import BROKEN, FINE, Feed
from trainer.engine.log import Accumulator, Log, measured_peak_flops
from trainer.engine.optim import kl_weight, lr_factor, make_optimizer, set_lr
from trainer.engine.plan import Plan, can_validate
from trainer.engine.skips import Skips, Spikes
from trainer.engine.speed import check_gradients_together, compile_options
from trainer.masked.parity import parity_loss
from trainer.masked.pictures import reconstruction_picture
from trainer.masked.validation import Validation
from trainer.ranks.ranks import Ranks
from trainer.ranks.stopping import StopRequests
from trainer.ranks.watch import Watch


def train(plan: Plan, model: nn.Module, ranks: Ranks, resume_from: tuple[str, dict] | None) -> str:
    """Train `model` to `plan.config.last_step`, from the given checkpoint or from its present
    weights. Returns "" when it got there, else what asked it to stop before
    (trainer/ranks/stopping.py); it has then saved."""
    config = plan.config
    watch = Watch(ranks, config.timeout_s)

    # ---- engine -------------------------------------------------------------------------------
    model.recompute_activations(config.recompute)
    optimizer = make_optimizer(model, config, plan.model.depth)
    settings = checkpoint.engine_settings(plan.deepspeed, resume_from, ranks)
    watch.at(0, "building the engine")
    engine, *_ = deepspeed.initialize(model=model, optimizer=optimizer, config=settings)
    check_gradients_together(engine)
    if config.compile:
        engine.compile(compile_kwargs={"options": compile_options()})
    state = {"step": 0, "applied": 0, "skipped": 0}
    if resume_from is not None:
        watch.at(0, "loading the checkpoint")
        state = checkpoint.load(engine, plan.run, *resume_from, ranks)
    step, applied, skipped = state["step"], state["applied"], state["skipped"]

    # ---- data ---------------------------------------------------------------------------------
    watch.at(step, "opening the data")
    stopping = StopRequests(plan.run, ranks)
    feed = Feed(plan, ranks, step)
    validation = None
    if config.eval_every and config.eval_windows and can_validate(plan, ranks):
        validation = Validation(plan.manifest, plan.model, config.eval_windows, plan.micro, ranks)

    # ---- log ----------------------------------------------------------------------------------
    dtype = next(engine.module.parameters()).dtype
    peak = measured_peak_flops(ranks.device, dtype)
    log = Log(plan.run, step, ranks)
    meter = Accumulator(feed.dataset.dataset_names, plan.model.latent_dim, ranks.device)
    bar = tqdm(
        total=config.last_step, initial=step, disable=None if ranks.first else True, unit="step"
    )
    if ranks.first:
        bar.write(
            f"training {dtype} on {ranks.world} x {ranks.device.type}, attention: "
            f"{kernel_name(ranks.device, dtype)}, measured peak {peak / 1e12:.3g} TFLOP/s a rank"
        )
    if validation and step == 0:
        watch.at(0, "validation")
        _validate(engine, validation, config.seed, log, bar, 0, ranks)
    say = bar.write if ranks.first else _silent
    skips = Skips(config.max_skips, log, say)
    spikes = Spikes(config.spike, log, say)
    timed_from, timed_steps = time.perf_counter(), 0

    # ---- steps --------------------------------------------------------------------------------
    engine.train()
    _, trouble = stopping.agree(feed.trouble)
    if trouble == BROKEN:
        feed.stop_all()
    while step < config.last_step:
        lr = config.peak_lr * lr_factor(applied, config)
        set_lr(optimizer, lr)
        beta = kl_weight(applied, plan.model.beta, config)
        step += 1
        timed_steps += 1
        bar.update()
        if trouble == FINE:
            r = []
            for batches in feed.micro_batches():
                watch.at(step, "the forward pass")
                losses = engine(batches, torch.tensor(beta), config.seed)
                watch.at(step, "the backward pass")
                engine.backward(losses.total)
                engine.step()
                meter.add(losses, torch.cat([batch.dataset for batch in batches]))
                r.append(losses.per_window["r"])
        if trouble == FINE and engine.was_step_applied():
            applied += 1
            skips.applied()
            spikes.add(step, engine.get_global_grad_norm())
        else:
            # Left out on all ranks: by us for its data, or by DeepSpeed for its gradients.
            skipped += 1
            bad = feed.explain() if trouble else feed.suspects(r)
            what = "data are not finite" if trouble else "a gradient was not finite"
            skips.skipped(step, f"{what}: {bad or 'the loss was, on all ranks'}")

        watch.at(step, "reading the next step's data")
        if step < config.last_step:
            feed.fetch()
        watch.at(step, "agreeing")
        asked, trouble = stopping.agree(feed.trouble)
        asked = asked or ("a damaged shard" if trouble == BROKEN else None)
        if step % config.log_every == 0 or step == config.last_step or asked:
            values = meter.result(ranks)
            seconds = time.perf_counter() - timed_from
            rate = timed_steps * plan.global_batch / seconds
            values |= {
                "lr": lr,
                "beta": beta,
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
                bar.write(_line(step, config.steps, values))
            timed_from, timed_steps = time.perf_counter(), 0
        paused = time.perf_counter()
        watch.at(step, "the log and validation")
        if validation and (step % config.eval_every == 0 or step == config.last_step):
            _validate(engine, validation, config.seed, log, bar, step, ranks)
        if validation and config.figure_every and (
            step % config.figure_every == 0 or step == config.last_step
        ):  # fmt: skip
            figure = reconstruction_picture(engine.module, plan, ranks.device)
            log.figure("reconstruction", step, figure)
        if step % config.save_every == 0 or step == config.last_step or asked:
            state = {"step": step, "applied": applied, "skipped": skipped}
            state["parity_loss"] = parity_loss(engine, ranks.device)
            state["parity_dtype"] = str(dtype).removeprefix("torch.")
            watch.at(step, "the checkpoint")
            save(engine, plan.run, step, state, config, ranks)
        timed_from += time.perf_counter() - paused
        if asked:
            if ranks.first:
                bar.write(f"stopped after step {step}: asked by {asked}")
            break
    watch.close()
    feed.close()
    stopping.close()
    bar.close()
    log.close()
    if trouble == BROKEN:
        feed.stop_all()
    return "" if step >= config.last_step else str(asked)


def _silent(text: str) -> None:
    """What `say` is on all ranks but the first."""


def _validate(engine, validation: Validation, seed: int, log: Log, bar, step: int, ranks) -> None:
    values = validation.run(engine, seed)
    log.scalars("val", step, values)
    if ranks.first:
        beside = {"spline": "r_spline", "linear": "r_linear",
                  "with another window's latents": "r_other_latents"}  # fmt: skip
        shown = [f"{name} {values[key]:.4f}" for name, key in beside.items() if key in values]
        bar.write(f"step {step}: held-out masked r {values['r']:.4f} ({', '.join(shown)})")


def _line(step: int, steps: int, values: dict[str, float]) -> str:
    left = (steps - step) * values["samples"] / step / values["samples_per_s"]
    parts = [f"step {step}/{steps}"]
    parts += [
        f"{name} {values[name]:.4g}"
        for name in ("loss", "r", "kl", "lr", "grad_norm")
        if name in values
    ]
    parts += [f"{values['samples_per_s']:.4g} windows/s", f"{left / 60:.0f} min left"]
    return "  ".join(parts)
