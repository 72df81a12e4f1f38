"""What happens between the steps of a run: logs, figures, the best weights, stopping."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from transformers import TrainerCallback

from trainer.checkpoints import lost
from trainer.engine.log import Log
from trainer.ranks.ranks import Ranks, together
from trainer.ranks.stopping import StopRequests
from trainer.translation.config import TranslationConfig
from trainer.translation.keeping import (
    best_of,
    drop_superseded,
    full_weights,
    mark_complete,
    out_of_patience,
    write_folder,
)


class Keeper(TrainerCallback):
    """Keeps the best weights, stops early or when asked, marks whole checkpoints."""

    def __init__(self, config: TranslationConfig, ranks: Ranks, processor, description: dict):
        self.config, self.ranks, self.processor = config, ranks, processor
        self.description = description
        self.run = Path(config.run)
        self.stopping: StopRequests | None = None
        self.asked: str | None = None

    def on_train_begin(self, args, state, control, **kwargs):
        self.stopping = StopRequests(self.run, self.ranks)

    def on_step_end(self, args, state, control, **kwargs):
        if state.global_step >= self.config.last_step:
            control.should_training_stop = control.should_save = True
            control.should_evaluate = True
        self.asked, _ = self.stopping.agree()
        if self.asked:
            control.should_training_stop = control.should_save = True
        return control

    def on_evaluate(self, args, state, control, metrics, model, **kwargs):
        best = best_of(state.log_history)
        if best is not None and best[0] == state.global_step:
            weights = full_weights(model)
            if self.ranks.first:
                reached = {"step": best[0], **metrics}
                description = {**self.description, "validation": reached}
                write_folder(self.run / "best", model, weights, self.processor, description)
        if out_of_patience(state.log_history, self.config.patience):
            control.should_training_stop = control.should_save = True
        return control

    def on_save(self, args, state, control, **kwargs):
        folder = Path(args.output_dir) / f"checkpoint-{state.global_step}"
        mark_complete(folder, state.global_step, self.ranks)
        with together(self.ranks):
            if self.ranks.first:
                keep = self.config.keep_last
                kept = drop_superseded(folder.parent, state.global_step, keep)
                lost.record(self.run, kept)

    def on_train_end(self, args, state, control, **kwargs):
        self.stopping.close()


class Reporter(TrainerCallback):
    """metrics.jsonl, TensorBoard and one printed line for each evaluation.

    draw: `(model) -> {name: figure}`; every rank calls it (ZeRO-3 gathers weights).
    """

    def __init__(
        self, config: TranslationConfig, ranks: Ranks, step: int, global_batch: int,
        draw: Callable[..., dict],
    ):  # fmt: skip
        self.config, self.ranks, self.draw = config, ranks, draw
        self.global_batch = global_batch
        self.log = Log(Path(config.run), step, ranks)
        self.drawn = -1

    def on_log(self, args, state, control, logs, **kwargs):
        if "train_runtime" in logs:
            return
        evaluated = any(name.startswith("eval_") for name in logs)
        values = {
            name.removeprefix("eval_"): float(value)
            for name, value in logs.items()
            if isinstance(value, (int, float)) and name != "epoch"
        }
        if not evaluated:
            values["samples"] = state.global_step * self.global_batch
        self.log.scalars("validation" if evaluated else "train", state.global_step, values)
        if evaluated and self.ranks.first:
            shown = "  ".join(f"{name} {value:.4f}" for name, value in values.items())
            print(f"step {state.global_step:5d}  validation  {shown}", flush=True)

    def on_step_end(self, args, state, control, model, **kwargs):
        every = self.config.figure_every
        if every and (state.global_step % every == 0 or state.global_step >= self.config.last_step):
            self._figures(state.global_step, model)

    def on_train_begin(self, args, state, control, model, **kwargs):
        if self.config.figure_every and state.global_step == 0:
            self._figures(0, model)

    def _figures(self, step: int, model) -> None:
        for name, figure in self.draw(model).items():
            self.log.figure(name, step, figure)

    def on_train_end(self, args, state, control, **kwargs):
        self.log.close()
