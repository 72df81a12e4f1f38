"""What a checkpoint must not decide of the optimizer, and what it must not share."""

from __future__ import annotations

import torch


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
