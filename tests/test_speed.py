"""The check of all gradients at once finds what DeepSpeed's own finds; compile options exist."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from commands import environment

from trainer.engine.optim import compile_options

ROOT = Path(__file__).resolve().parents[1]
COMPARE = """
import json, math
import deepspeed, torch
from deepspeed.runtime.zero.stage_1_and_2 import DeepSpeedZeroOptimizer
from torch import nn
from trainer.ranks.ranks import start_ranks
from trainer.engine.optim import any_not_finite, check_gradients_together

start_ranks()
settings = json.loads(open("ds_configs/zero2.json").read())
model = nn.Sequential(nn.Linear(4, 3), nn.Linear(3, 2))
optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
settings["zero_allow_untested_optimizer"] = True
engine, *_ = deepspeed.initialize(model=model, optimizer=optimizer, config=settings)
check_gradients_together(engine)
own = DeepSpeedZeroOptimizer.has_overflow_partitioned_grads_serial
# The largest fp32 values are finite, and their squares are not.
for value in (0.5, 3e38, -3e38, math.inf, -math.inf, math.nan):
    loss = engine(torch.ones(16, 4, dtype=torch.bfloat16)).float().sum()
    engine.backward(loss)
    gradients = [g for g in engine.optimizer.averaged_gradients[0] if g is not None]
    gradients[-1].view(-1)[0] = value
    wanted = not math.isfinite(value)
    found = any_not_finite(engine.optimizer)
    assert found.shape == (1,) and found.dtype == torch.bool
    assert bool(found) == wanted == bool(own(engine.optimizer)), value
    before = [p.detach().clone() for p in model.parameters()]
    engine.step()
    if wanted:
        assert not engine.was_step_applied()
        assert all(map(torch.equal, before, model.parameters()))
    if value == 0.5:
        assert engine.was_step_applied()
        assert not all(map(torch.equal, before, model.parameters()))
"""


@pytest.mark.slow
def test_gradients_that_are_not_finite_are_found_as_deepspeed_finds_them():
    words = [sys.executable, "-c", COMPARE]
    done = subprocess.run(words, cwd=ROOT, env=environment(), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]


def test_the_compiler_knows_its_options():
    compiled = torch.compile(torch.nn.Linear(2, 2), options=compile_options())
    assert callable(compiled)
