"""transformers' Trainer with this project's data order, optimizer groups and validation.

What is replaced, and why: the loaders (Trainer shards an iterable again and repeats samples to fill
a batch), the optimizer's groups (the linear map starts at the ridge solution and must move slowly),
and the evaluation (sums over sensors, every piece once, the same numbers on any number of ranks).
The model sets `accepts_loss_kwargs = False`: Trainer would else scale the loss by the ranks.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch.utils.data import DataLoader
from transformers import PrinterCallback, Trainer, TrainingArguments

from data.batches.local import start_worker, worker_context
from trainer.ranks.ranks import Ranks
from trainer.translation.config import TranslationConfig, batch_sizes
from trainer.translation.pieces import BatchPlan, Collate, Pieces
from trainer.translation.validate import validate

PRETRAINED = "brainformer.pretrained.encoder."


@dataclass(frozen=True)
class Machine:
    """How the run meets its hardware: resolved from flags, DeepSpeed JSON and ranks."""

    micro: int
    accumulation: int
    world: int
    bf16: bool
    deepspeed: dict

    @property
    def global_batch(self) -> int:
        return self.micro * self.accumulation * self.world


def resolve_machine(config: TranslationConfig, settings: dict, ranks: Ranks) -> Machine:
    """The DeepSpeed JSON with this run's batch and precision in it, so that Trainer, which compares
    them with its own arguments, finds them equal."""
    micro, accumulation = batch_sizes(config, settings, ranks.world)
    asked = settings.get("bf16", {}).get("enabled", False)
    bf16 = config.precision == "bf16" or (
        config.precision == "auto" and bool(asked) and ranks.device.type == "cuda"
    )
    deepspeed = copy.deepcopy(settings)
    deepspeed["train_micro_batch_size_per_gpu"] = micro
    deepspeed["gradient_accumulation_steps"] = accumulation
    deepspeed["bf16"] = (
        {**settings.get("bf16", {}), "enabled": True} if bf16 else {"enabled": False}
    )
    deepspeed.setdefault("gradient_clipping", 1.0)
    return Machine(micro, accumulation, ranks.world, bf16, deepspeed)


def training_arguments(
    config: TranslationConfig, machine: Machine, ranks: Ranks, resuming: bool
) -> TrainingArguments:
    return TrainingArguments(
        output_dir=str(Path(config.run) / "checkpoints"),
        max_steps=config.steps,
        per_device_train_batch_size=machine.micro,
        gradient_accumulation_steps=machine.accumulation,
        learning_rate=config.lr,
        weight_decay=config.weight_decay,
        max_grad_norm=machine.deepspeed["gradient_clipping"],
        lr_scheduler_type="cosine",
        warmup_steps=round(config.warmup * config.steps),
        logging_steps=config.log_every,
        logging_nan_inf_filter=False,
        eval_strategy="steps",
        eval_steps=config.eval_every,
        eval_on_start=not resuming,
        save_strategy="steps",
        save_steps=config.save_every,
        save_total_limit=None,  # it would drop the last whole one first: `Keeper` does it
        # Trainer copies the dictionary's values into its own object and changes them there.
        deepspeed=copy.deepcopy(machine.deepspeed),
        bf16=machine.bf16,
        use_cpu=ranks.device.type == "cpu",
        seed=config.seed,
        report_to="none",
        disable_tqdm=True,
        remove_unused_columns=False,
        label_names=["labels"],
        dataloader_num_workers=config.workers,
    )


class TranslationTrainer(Trainer):
    """See the module's docstring."""

    def __init__(
        self, config: TranslationConfig, machine: Machine, ranks: Ranks, *, model,
        train: Pieces, validation: Pieces, collate: Collate, resuming: bool, callbacks,
    ):  # fmt: skip
        self.config, self.ranks = config, ranks
        self.machine, self.validation = machine, validation
        super().__init__(
            model=model,
            args=training_arguments(config, machine, ranks, resuming),
            data_collator=collate,
            train_dataset=train,
            eval_dataset=validation,
            callbacks=callbacks,
        )
        self.remove_callback(PrinterCallback)  # `Reporter` prints

    def get_train_dataloader(self) -> DataLoader:
        """This rank's micro-batches of the whole run; not handed to accelerate, which would shard
        them again. Trainer skips those that a resumed run has seen."""
        plan = BatchPlan(
            len(self.train_dataset), self.machine.micro, self.machine.accumulation,
            self.ranks.rank, self.ranks.world, self.config.steps, self.config.seed,
        )  # fmt: skip
        return DataLoader(
            self.train_dataset,
            batch_sampler=plan,
            collate_fn=self.data_collator,
            num_workers=self.config.workers,
            multiprocessing_context=worker_context(self.config.workers),
            worker_init_fn=start_worker if self.config.workers else None,
            pin_memory=self.ranks.device.type == "cuda",
        )

    def training_step(self, model, inputs, num_items_in_batch=None):
        sensors = inputs["meg_types"].shape[1]
        if 0 < self.config.meg_sensors < sensors:
            # The same for all ranks: so a step means the same on any number of them.
            place = [self.config.seed, self.state.global_step]
            rows = np.random.default_rng(place).permutation(sensors)[: self.config.meg_sensors]
            inputs = with_sensors(inputs, torch.from_numpy(np.sort(rows)))
        return super().training_step(model, inputs, num_items_in_batch)

    def create_optimizer(self, model=None) -> torch.optim.Optimizer:
        if self.optimizer is None:
            groups = parameter_groups(model or self.model, self.config)
            self.optimizer = torch.optim.AdamW(groups, lr=self.config.lr, betas=(0.9, 0.98))
        return self.optimizer

    def evaluate(self, eval_dataset=None, ignore_keys=None, metric_key_prefix="eval"):
        found = validate(
            self.model, eval_dataset or self.validation, self.data_collator,
            limit=self.config.eval_pieces, micro=self.machine.micro, rank=self.ranks.rank,
            world=self.ranks.world, device=self.ranks.device,
        )  # fmt: skip
        metrics = {f"{metric_key_prefix}_{name}": value for name, value in found.items()}
        self.log(metrics)
        self.control = self.callback_handler.on_evaluate(
            self.args, self.state, self.control, metrics
        )
        return metrics


def with_sensors(batch: dict, rows: torch.Tensor) -> dict:
    """A batch with some of its MEG sensors."""
    names = ("meg_positions_m", "meg_orientations", "meg_types", "meg_mask", "labels")
    chosen = {name: batch[name][:, rows] for name in names if name in batch}
    if "meg_mask" in chosen and not chosen["meg_mask"].any(1).all():
        return batch  # a recording with few sensors, none of which was drawn
    return {**batch, **chosen}


def parameter_groups(model: torch.nn.Module, config: TranslationConfig) -> list[dict]:
    """The linear map, the states and a pretrained encoder at their own rates, without decay; the
    rest: matrices with weight decay."""
    groups: dict[str, list] = {"decay": [], "plain": [], "skip": [], "states": [], "encoder": []}
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            continue
        part = name.partition(".")[0]
        if part in ("skip", "states"):
            groups[part].append(parameter)
        elif name.startswith(PRETRAINED):
            groups["encoder"].append(parameter)
        else:
            groups["decay" if parameter.ndim > 1 else "plain"].append(parameter)
    shares = {"skip": config.skip_lr, "states": config.states_lr, "encoder": config.encoder_lr}
    return [
        {
            "params": found,
            "lr": config.lr * shares.get(name, 1.0),
            "weight_decay": config.weight_decay if name == "decay" else 0.0,
            "name": name,
        }
        for name, found in groups.items()
        if found
    ]
