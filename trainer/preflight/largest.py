"""The largest micro-batch that this device can train, found by trying.

Each try is an engine of its own and two real optimizer steps on windows of noise, of the folder's
largest shape; the next size follows from the last two peaks, since memory grows nearly linearly
with the batch, so about six tries are enough. The result is for one rank: ZeRO divides optimizer
state (and gradients, weights) over more, which leaves more room.
"""

from __future__ import annotations

import gc
from collections.abc import Callable
from dataclasses import replace

import torch

from data.batches.batch import Batch
from data.errors import InputError
from data.files import readable
from model.config import ModelConfig
from model.tokens import grid_positions
from trainer.engine.optim import make_optimizer
from trainer.engine.plan import make_plan
from trainer.engine.task import Plan
from trainer.masked.config import MaskedConfig
from trainer.masked.task import MaskedTask
from trainer.ranks.ranks import Ranks, start_ranks

MOST = 1 << 16
HEADROOM = 0.97
"""Share of the memory that a predicted size may fill: what lies above goes to fragmentation."""


def search(peak_of: Callable[[int], int | None], capacity: int, most: int = MOST) -> int:
    """The largest size that fits, to within 3 % or one; 0 if none does.

    peak_of: bytes that a size takes at its peak, or None if it does not fit. capacity: bytes there
    are. Sizes 1 and 2 are tried first, then what a straight line through the last two peaks
    predicts, never more than 16 times what fitted.
    """
    fitting: list[tuple[int, int]] = []
    fails = most + 1
    size = 1
    while True:
        peak = peak_of(size)
        if peak is None:
            fails = size
        else:
            fitting.append((size, peak))
        if not fitting:
            return 0
        low = fitting[-1][0]
        if fails - low <= max(1, low // 32):
            return low
        size = 2 if low == 1 else predicted(fitting[-2], fitting[-1], capacity)
        size = min(max(size, low + 1), 16 * low, most)
        if size >= fails:
            size = (low + fails) // 2
        elif fails > most and low > 2 and size - low <= low // 32:
            return low


def predicted(first: tuple[int, int], second: tuple[int, int], capacity: int) -> int:
    """The size whose peak is HEADROOM of the capacity, by the line through two (size, peak)."""
    growth = max(1.0, (second[1] - first[1]) / (second[0] - first[0]))
    return int(second[0] + (HEADROOM * capacity - second[1]) / growth)


def noise_batch(model: ModelConfig, channels: int, samples: int, micro: int, device) -> Batch:
    """A batch of `micro` windows as the loader gives it, with the same hidden tokens in each."""
    tokens = model.token_count(channels, samples)
    order = torch.arange(tokens, device=device).expand(micro, -1)
    kept = tokens - model.hidden_count(tokens)
    eeg = torch.randn(micro, channels, samples, device=device)
    places = grid_positions(channels).to(device)
    return Batch.of(eeg, places, keep=order[:, :kept], hide=order[:, kept:])


def largest_shape(plan: Plan) -> tuple[int, int]:
    """(channels, samples) of the training windows with the most tokens."""
    return max(
        ((shard.channels, shard.window_samples) for shard in plan.manifest.of_split("train")),
        key=lambda shape: (plan.task.model.token_count(*shape), shape[0] * shape[1]),
    )


def peak_bytes(plan: Plan, micro: int, ranks: Ranks) -> int | None:
    """Peak memory of two optimizer steps at a micro-batch, or None if they do not fit."""
    import deepspeed

    engine = None
    torch.cuda.reset_peak_memory_stats(ranks.device)
    try:
        model = plan.task.build_model(plan)
        engine, *_ = deepspeed.initialize(
            model=model, optimizer=make_optimizer(
                plan.task.parameter_groups(model, plan), plan.config
            ),
            config={**plan.deepspeed, "train_micro_batch_size_per_gpu": micro,
                    "gradient_accumulation_steps": 1},
        )  # fmt: skip
        engine.train()
        for _ in range(2):  # the optimizer's state is there from the first step on
            batch = noise_batch(plan.task.model, *largest_shape(plan), micro, ranks.device)
            engine.backward(engine([batch], plan.task.model.beta, plan.config.seed).total)
            engine.step()
        torch.cuda.synchronize(ranks.device)
        return torch.cuda.max_memory_allocated(ranks.device)
    except torch.cuda.OutOfMemoryError:
        return None
    finally:
        if engine is not None:
            engine.destroy()
        model = engine = batch = None
        gc.collect()
        torch.cuda.empty_cache()


def largest_micro_batch(
    plan: Plan, ranks: Ranks, tell: Callable[[str], None] = print
) -> tuple[int, int]:
    """(micro-batch, its peak bytes) on this rank's GPU; (0, 0) if not even one window fits."""
    capacity = torch.cuda.get_device_properties(ranks.device).total_memory
    peaks: dict[int, int] = {}

    def peak_of(micro: int) -> int | None:
        peak = peak_bytes(plan, micro, ranks)
        tell(f"  {micro:>6} windows: " + ("too many" if peak is None else readable(peak)))
        if peak is not None:
            peaks[micro] = peak
        return peak

    micro = search(peak_of, capacity)
    return micro, peaks.get(micro, 0)


def measure(config: MaskedConfig) -> str:
    """The largest micro-batch of `config`'s model on this GPU, in words."""
    task = MaskedTask(config, config.model_config())
    if not torch.cuda.is_available():
        raise InputError("no CUDA device is visible", "run this on the GPU that will train")
    ranks = start_ranks()
    plan = make_plan(replace(config, micro_batch=1, global_batch=None), task, ranks.world)
    channels, samples = largest_shape(plan)
    print(f"{config.preset}, windows of {channels} channels x {samples} samples, one rank:")
    micro, peak = largest_micro_batch(plan, ranks)
    if not micro:
        raise InputError("not even one window fits", "take a smaller --preset, or --recompute")
    return f"largest micro-batch: {micro} (--micro_batch {micro}), {readable(peak)} at the peak"
