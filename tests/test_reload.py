"""What a resume takes from a checkpoint's optimizer, and what from this run's flags."""

from __future__ import annotations

import json

import pytest
import torch
from commands import python

from trainer.checkpoints.load import own_steps, restore_settings, settings_of


@pytest.mark.slow
@pytest.mark.parametrize("world", [1, 2])
@pytest.mark.parametrize("stage", [1, 2, 3])
def test_settings_are_the_flags_and_steps_the_checkpoints(tmp_path, stage, world):
    """world 2: the checkpoint is converted first, as with --elastic."""
    output = python("tests/reload_optimizer.py", tmp_path / "run", stage, world)
    assert ("converting" in output) == (world == 2)
    line = next(line for line in output.splitlines() if line.startswith("FOUND "))
    found = json.loads(line.removeprefix("FOUND "))
    assert found["state"] == {"step": 2}
    assert {tuple(group[2]) for group in found["wanted"]} == {(0.8, 0.9)}
    assert {group[0] for group in found["wanted"]} == {0.0, 0.2}
    assert len({group[1] for group in found["wanted"]}) == 4
    assert found["groups"] == found["wanted"]
    assert found["clip_grad"] == 0.25
    assert set(found["steps"]) == {2}
    assert found["counters"] == len(found["steps"]) > 4
    assert found["beside"]
    assert set(found["then"]) == {3}


def shared_step() -> torch.optim.AdamW:
    """AdamW as a converted checkpoint leaves it: one counter, one group's settings."""
    first, second = (torch.nn.Parameter(torch.ones(3)) for _ in range(2))
    groups = [
        {"params": [first], "weight_decay": 0.0, "lr_scale": 0.5},
        {"params": [second], "weight_decay": 0.2, "lr_scale": 1.0},
    ]
    optimizer = torch.optim.AdamW(groups, lr=0.1, fused=True)
    step = torch.tensor(7.0)
    for parameter in (first, second):
        moments = {name: torch.zeros(3) for name in ("exp_avg", "exp_avg_sq")}
        optimizer.state[parameter] = {"step": step, **moments}
    return optimizer


def test_every_parameter_counts_its_own_steps():
    optimizer = shared_step()
    own_steps(optimizer)
    for parameter in optimizer.state:
        parameter.grad = torch.ones(3)
    optimizer.step()
    assert [state["step"].item() for state in optimizer.state.values()] == [8.0, 8.0]


def test_settings_are_restored_without_touching_parameters():
    optimizer = shared_step()
    own = settings_of(optimizer)
    parameters = [group["params"] for group in optimizer.param_groups]
    for group in optimizer.param_groups:
        group.update(weight_decay=9.0, betas=(0.1, 0.2), lr_scale=3.0)
    restore_settings(optimizer, own)
    assert settings_of(optimizer) == own
    assert [group["weight_decay"] for group in optimizer.param_groups] == [0.0, 0.2]
    assert all(a is b["params"] for a, b in zip(parameters, optimizer.param_groups, strict=True))
