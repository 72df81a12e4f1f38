"""The presets as the GPU benchmark runs them, and the training step from the trainer's parts.

`EngineRun.step` does what trainer/engine/loop.py does between two log lines, with the same
functions and the same loader; the loop itself also validates, draws and saves, which has no place
in a step time.
"""

from __future__ import annotations

import gc
import json
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from benchmarks.common import ROOT
from benchmarks.shards import make_shards
from data.batches.batch import Request
from model.autoencoder import MaskedVAE
from model.config import PRESETS, ModelConfig, preset
from model.tokens import TOKENS
from trainer.engine.feed import Feed
from trainer.engine.log import Meter
from trainer.engine.optim import check_gradients_together, lr_factor, make_optimizer, set_lr
from trainer.engine.plan import make_plan
from trainer.engine.task import Plan, Progress
from trainer.masked.config import MaskedConfig
from trainer.masked.task import MaskedTask
from trainer.ranks.ranks import Ranks
from trainer.ranks.stopping import StopRequests

SHRUNK = {
    "width": 64, "heads": 4, "depth": 2, "decoder_width": 32, "decoder_heads": 2,
    "decoder_depth": 1, "latent_dim": 8,
}  # fmt: skip
MICRO = {"tiny": 256, "small": 128, "base": 128, "large": 64, "brain2image": 1024}


@dataclass(frozen=True)
class Setting:
    """What all sections need to know. `small`: tiny shapes, for a CPU."""

    small: bool
    work: Path
    out: Path
    ranks: Ranks
    peak_flops: float
    """The chip's measured rate of bf16 matrix products, operations a second."""

    @property
    def device(self) -> torch.device:
        return self.ranks.device

    @property
    def seconds(self) -> float:
        """How long one timed case runs."""
        return 0.3 if self.small else 4.0


@dataclass(frozen=True)
class Case:
    """A preset at its usual window: 64 channels x 4 s at 200 Hz, or 128 x 512 samples at 1 kHz."""

    model: ModelConfig
    channels: tuple[int, ...]
    samples: int
    micro: int


def usual_case(name: str, small: bool, **changes) -> Case:
    """The preset's case; `small` shrinks the network, the window and the batch."""
    changes = {**(SHRUNK if small else {}), **changes}
    joint = TOKENS[PRESETS[name].tokens].one_row
    if small:
        return Case(preset(name, **changes), (16,) if joint else (8,), 64 if joint else 100, 4)
    model = preset(name, **changes)
    return Case(model, (128,) if joint else (64,), 512 if joint else 800, MICRO[name])


def plan_of(
    setting: Setting, case: Case, deepspeed: str = "zero2", windows: int | None = None, **changes
) -> Plan:
    """The trainer's own plan of a run over shards of the case's shape. `changes`: RunConfig's."""
    windows = windows or (64 if setting.small else 2048)
    shape = "-".join(map(str, (*case.channels, case.samples, windows)))
    shards = make_shards(
        setting.work / f"shards-{shape}-{case.model.sfreq_hz:g}Hz", channels=case.channels,
        samples=case.samples, sfreq_hz=case.model.sfreq_hz, windows=windows,
    )  # fmt: skip
    config = MaskedConfig(
        **{
            "deepspeed_config": str(ROOT / f"ds_configs/{deepspeed}.json"),
            "shards": str(shards),
            "run": str(setting.work / "run"),
            "preset": case.model.preset,
            "micro_batch": case.micro,
            "steps": 100_000,
            "workers": 1 if setting.small else 8,
            **changes,
        }
    )
    return make_plan(config, MaskedTask(config, case.model), setting.ranks.world)


class EngineRun:
    """A run's engine and loader, and the step of trainer/engine/loop.py; a context manager."""

    def __init__(
        self,
        plan: Plan,
        ranks: Ranks,
        prepare: Callable[[MaskedVAE], None] | None = None,
        requests: Sequence[Request] | None = None,
    ):
        """prepare: called with the model before the engine takes it. requests: micro-batches of
        one's own instead of the plan's."""
        import deepspeed

        self.plan, self.ranks, config = plan, ranks, plan.config
        model = plan.task.build_model(plan)
        if prepare:
            prepare(model)
        self.optimizer = make_optimizer(plan.task.parameter_groups(model, plan), config)
        self.engine, *_ = deepspeed.initialize(
            model=model, optimizer=self.optimizer, config=plan.deepspeed
        )
        check_gradients_together(self.engine)
        self.engine.train()
        self.feed = Feed(plan, ranks, 0, requests)
        names = self.feed.source.dataset_names
        self.meter = Meter(names, ranks.device)
        self.stopping = StopRequests(plan.run, ranks)
        self.applied = 0
        self.loss: torch.Tensor | None = None

    def step(self) -> int:
        """One optimizer step; returns how many windows it took."""
        config, windows = self.plan.config, 0
        set_lr(self.optimizer, config.peak_lr * lr_factor(self.applied, config))
        at = Progress(self.applied, self.applied, config.steps, config.seed)
        for batches in self.feed.micro_batches():
            losses = self.plan.task.loss(self.engine, batches, at)
            self.engine.backward(losses.total)
            self.engine.step()
            self.meter.add(losses, torch.cat([batch.dataset for batch in batches]))
            self.loss = losses.total.detach()
            windows += sum(map(len, batches))
        self.applied += bool(self.engine.was_step_applied())
        self.feed.fetch()
        self.stopping.agree(self.feed.trouble)
        return windows * self.ranks.world

    def __enter__(self) -> EngineRun:
        return self

    def __exit__(self, *_) -> None:
        """Let go of workers and memory, so that the next case finds the device as this one did."""
        self.stopping.close()
        self.engine.destroy()
        del self.engine, self.optimizer, self.feed, self.meter, self.loss
        release()


def release() -> None:
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def wait_for(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def reset_peak(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)


def peak_gib(device: torch.device) -> dict[str, float]:
    """The peak since `reset_peak`, for a row; nothing on a CPU."""
    cuda = device.type == "cuda"
    return {"peak_gib": torch.cuda.max_memory_allocated(device) / 2**30} if cuda else {}


@dataclass(frozen=True)
class Rate:
    """Windows a second: the median of three rounds, and their spread over it."""

    per_s: float
    spread: float
    step_s: float
    steps: int

    def row(self, micro: int) -> dict:
        return {"micro_batch": micro, "windows_per_s": self.per_s, "spread": self.spread,
                "step_ms": 1e3 * self.step_s, "steps": self.steps}  # fmt: skip


def timed(step: Callable[[], int], device: torch.device, seconds: float, warmup: int = 3) -> Rate:
    """Time `step`, which returns how many windows it did, for about `seconds` after a warm-up."""
    for _ in range(warmup):
        step()
    wait_for(device)
    begin = time.perf_counter()
    step()
    wait_for(device)
    steps = max(2, int(seconds / 3 / (time.perf_counter() - begin)))
    rates, times = [], []
    for _ in range(3):
        begin, windows = time.perf_counter(), 0
        for _ in range(steps):
            windows += step()
        wait_for(device)
        times.append((time.perf_counter() - begin) / steps)
        rates.append(windows / times[-1] / steps)
    middle = statistics.median(rates)
    return Rate(middle, (max(rates) - min(rates)) / middle, statistics.median(times), 3 * steps)


def with_stage(plan: Plan, stage: int) -> Plan:
    """The plan with another ZeRO stage. Stage 0 ships in no configuration: to compare with."""
    name = f"ds_configs/zero{stage or 1}.json"
    settings = json.loads((ROOT / name).read_text())
    if stage == 0:
        settings["zero_optimization"] = {"stage": 0}
    sizes = {
        key: plan.deepspeed[key]
        for key in ("train_micro_batch_size_per_gpu", "gradient_accumulation_steps")
    }
    return replace(plan, deepspeed={**settings, **sizes})


def in_fp32(plan: Plan) -> Plan:
    """The plan without bf16 anywhere."""
    settings = {k: v for k, v in plan.deepspeed.items() if k not in ("bf16", "data_types")}
    return replace(plan, deepspeed=settings)
