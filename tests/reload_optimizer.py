"""Save with one optimizer's settings, load with another's; prints what is then in force as JSON.

python tests/reload_optimizer.py FOLDER STAGE WORLD   (WORLD: how many ranks the marker names)
"""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path

sys.path[0] = str(Path(__file__).resolve().parents[1])

import deepspeed
import torch

from model.autoencoder import MaskedVAE
from model.config import ModelConfig, preset
from trainer.checkpoints import load
from trainer.checkpoints.save import save
from trainer.engine.deepspeed_json import read_deepspeed_config
from trainer.engine.optim import layered_groups, make_optimizer
from trainer.masked.config import MaskedConfig
from trainer.masked.initial import parity_batch
from trainer.ranks.ranks import Ranks, run_ranks, start_ranks

SMALL = {"width": 32, "depth": 2, "heads": 2, "decoder_width": 16, "decoder_heads": 2,
         "decoder_depth": 1, "latent_dim": 8}  # fmt: skip


def build(config: MaskedConfig, model: ModelConfig, settings: dict):
    torch.manual_seed(0)
    module = MaskedVAE(model)
    optimizer = make_optimizer(layered_groups(module, config, model.depth), config)
    return deepspeed.initialize(model=module, optimizer=optimizer, config=settings)[0]


def take_step(engine, model: ModelConfig, ranks: Ranks) -> None:
    batches = [batch.to(ranks.device) for batch in parity_batch(model)]
    losses = engine(batches, torch.tensor(0.0), 0)
    engine.backward(losses.total)
    engine.step()


def steps(engine) -> list[torch.Tensor]:
    return [state["step"] for state in engine.basic_optimizer.state.values()]


def groups(engine) -> list[list]:
    names = ("weight_decay", "lr_scale", "betas")
    return [[group[name] for name in names] for group in engine.basic_optimizer.param_groups]


def main() -> None:
    folder, stage, world = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
    ranks = start_ranks()
    settings = read_deepspeed_config(f"ds_configs/zero{stage}.json")
    settings["train_micro_batch_size_per_gpu"] = 4
    model = preset("tiny", **SMALL)
    before = MaskedConfig(run=str(folder), weight_decay=0.05, layer_decay=0.9, betas=(0.9, 0.95))
    now = replace(before, weight_decay=0.2, layer_decay=0.8, betas=(0.8, 0.9))

    engine = build(before, model, settings)
    for _ in range(2):
        take_step(engine, model, ranks)
    save(engine, folder, 2, {"step": 2}, before, ranks)

    marker = {"world": world, "state": {"step": 2}}
    changed = {**settings, "gradient_clipping": 0.25}
    found = ("step_00000002", marker)
    engine = build(now, model, load.engine_settings(changed, found, ranks))
    wanted = groups(engine)
    state = load.load(engine, folder, *found, ranks)
    loaded = {
        "state": state,
        "wanted": wanted,
        "groups": groups(engine),
        "clip_grad": engine.optimizer.clip_grad,
        "steps": [step.item() for step in steps(engine)],
        "counters": len({step.data_ptr() for step in steps(engine)}),
        "beside": all(
            step.device == parameter.device and step.dtype == torch.float32
            for parameter, step in zip(engine.basic_optimizer.state, steps(engine), strict=True)
        ),
    }
    take_step(engine, model, ranks)
    loaded["then"] = [step.item() for step in steps(engine)]
    print("FOUND " + json.dumps(loaded))


if __name__ == "__main__":
    run_ranks(main)
