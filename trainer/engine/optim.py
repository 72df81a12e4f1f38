"""AdamW's parameter groups and the learning-rate schedule, as pure functions.

The schedule is a function of the number of applied steps, so a skipped step does not move it and a
resumed run needs no scheduler state.
"""

from __future__ import annotations

import math

import torch
from torch import nn

from trainer.engine.config import RunConfig


def lr_factor(step: int, config: RunConfig) -> float:
    """Learning rate at 0-based `step` over its peak: linear warm-up, then cosine to 5 %, or flat
    and a linear fall to 0 (`trapezoid`, which can be extended)."""
    warmup = max(1, round(config.warmup * config.steps))
    if step < warmup:
        return (step + 1) / warmup
    if config.schedule == "trapezoid":
        falling = max(1, round(config.decay * config.steps))
        return min(1.0, max(0.0, (config.steps - step) / falling))
    progress = (step - warmup) / max(1, config.steps - warmup)
    return 0.05 + 0.95 * 0.5 * (1 + math.cos(math.pi * min(1.0, progress)))


def kl_weight(step: int, beta: float, config: RunConfig) -> float:
    """The KL weight at `step`: a linear rise to `beta`."""
    return beta * min(1.0, (step + 1) / max(1, round(config.beta_warmup * config.steps)))


def layer_of(name: str, depth: int) -> int:
    """How deep a parameter sits: 0 embedding, 1..depth encoder blocks, depth + 1 the rest."""
    if name.startswith("encoder.stack.blocks."):
        return int(name.split(".")[3]) + 1
    if name.startswith(("encoder.embed.", "encoder.positions.")):
        return 0
    return depth + 1


def parameter_groups(model: nn.Module, config: RunConfig, depth: int) -> list[dict]:
    """Groups by decay and layer. Matrices decay; biases, norms and single tokens do not. With
    `layer_decay` d, layer l learns at d ** (depth + 1 - l) of the rate (Clark et al. 2020)."""
    groups: dict[tuple[float, float], dict] = {}
    for name, parameter in model.named_parameters():
        decay = config.weight_decay if parameter.ndim >= 2 else 0.0
        scale = config.layer_decay ** (depth + 1 - layer_of(name, depth))
        group = groups.setdefault(
            (decay, scale), {"params": [], "weight_decay": decay, "lr_scale": scale}
        )
        group["params"].append(parameter)
    return [groups[key] for key in sorted(groups)]


def make_optimizer(model: nn.Module, config: RunConfig, depth: int) -> torch.optim.AdamW:
    """Torch's fused AdamW: DeepSpeed's own would compile a CUDA extension at the start."""
    groups = parameter_groups(model, config, depth)
    return torch.optim.AdamW(groups, lr=config.peak_lr, betas=config.betas, fused=True)


def set_lr(optimizer: torch.optim.Optimizer, lr: float) -> None:
    for group in optimizer.param_groups:
        group["lr"] = lr * group["lr_scale"]


def settings_of(optimizer: torch.optim.Optimizer) -> list[dict]:
    """A copy of what each group says beside its parameters: decay, betas, rates."""
    return [
        {name: value for name, value in group.items() if name != "params"}
        for group in optimizer.param_groups
    ]


def restore_settings(optimizer: torch.optim.Optimizer, settings: list[dict]) -> None:
    """Write back what `settings_of` copied. A checkpoint brings its own settings along, under
    which a changed flag would have no effect; converted for ZeRO-3, the first group's for all."""
    for group, own in zip(optimizer.param_groups, settings, strict=True):
        group.update(own)


def own_steps(optimizer: torch.optim.Optimizer) -> None:
    """Give every parameter a step counter of its own, in fp32, beside it.

    A converted checkpoint leaves one counter on the CPU for all: fused AdamW refuses it on a GPU,
    and counts it up once for each parameter.
    """
    for parameter, state in optimizer.state.items():
        if "step" in state:
            step = torch.as_tensor(state["step"]).detach()
            state["step"] = step.to(parameter.device, torch.float32, copy=True)
