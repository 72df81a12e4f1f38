"""Brainformer under transformers' own Trainer, as its users train it, without our loop."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from transformers import Trainer, TrainingArguments

from model.brainformer import BrainformerConfig, BrainformerForEEG2MEG, BrainformerProcessor

pytestmark = pytest.mark.slow

SMALL = {"d_model": 16, "n_heads": 2, "d_ff": 32, "skip_rank": 8, "skip_anchors": 48}
TYPES = ["mag", "grad", "grad", "mag"]


def recordings(count: int, seed: int = 0) -> list[dict]:
    """Windows whose MEG is a linear map of the EEG, of two montages in turn."""
    rng = np.random.default_rng(seed)
    found = []
    for number in range(count):
        channels = (6, 8)[number % 2]
        places = rng.standard_normal((channels, 3)) / 15
        eeg = 1e-5 * rng.standard_normal((channels, 64))
        found.append(
            {
                "eeg": eeg, "eeg_positions_m": places,
                "meg": 1e-8 * (places[:4] @ places.T) @ eeg * 15**2,
                "meg_positions_m": places[:4] * 2, "meg_orientations": np.tile(places[:4], 2) * 15,
            }
        )  # fmt: skip
    return found


class Collate:
    """Windows -> the model's arguments, padded and masked by the processor."""

    def __init__(self, processor: BrainformerProcessor):
        self.processor = processor

    def __call__(self, windows: list[dict]) -> dict[str, torch.Tensor]:
        each = {name: [window[name] for window in windows] for name in windows[0]}
        return dict(self.processor(meg_types=[TYPES] * len(windows), **each))


def trainer(folder, windows, steps: int, **arguments) -> Trainer:
    processor = BrainformerProcessor()
    eeg = [one["eeg"].reshape(1, -1) for one in windows]
    for kind in ("mag", "grad"):
        rows = np.array(TYPES) == kind
        processor.fit(eeg, [one["meg"][rows].reshape(1, -1) for one in windows], [kind])
    torch.manual_seed(0)
    return Trainer(
        BrainformerForEEG2MEG(BrainformerConfig(**SMALL)),
        TrainingArguments(
            output_dir=str(folder), max_steps=steps, per_device_train_batch_size=4,
            gradient_accumulation_steps=2, learning_rate=1e-2, logging_steps=1,
            report_to="none", disable_tqdm=True, use_cpu=True, remove_unused_columns=False,
            label_names=["labels"], **arguments,
        ),
        data_collator=Collate(processor),
        train_dataset=windows,
        eval_dataset=windows[:8],
    )  # fmt: skip


def test_trainer_trains_it_and_a_resumed_run_repeats_the_straight_one(tmp_path):
    """With dropout: Trainer keeps the generators' states in its checkpoints."""
    windows = recordings(32)
    straight = trainer(tmp_path / "straight", windows, 40, save_steps=20)
    before = straight.evaluate()["eval_loss"]
    straight.train()
    assert straight.evaluate()["eval_loss"] < before - 0.05
    losses = [line["loss"] for line in straight.state.log_history if "loss" in line]
    assert len(losses) == 40

    checkpoint = tmp_path / "straight" / "checkpoint-20"
    assert json.loads((checkpoint / "trainer_state.json").read_text())["global_step"] == 20
    resumed = trainer(tmp_path / "resumed", windows, 40, save_steps=20)
    resumed.train(resume_from_checkpoint=str(checkpoint))
    again = [line["loss"] for line in resumed.state.log_history if "loss" in line]
    assert again == losses
    wanted = straight.model.state_dict()
    for name, value in resumed.model.state_dict().items():
        assert torch.equal(value, wanted[name]), name


def test_a_checkpoint_of_trainer_is_a_translator(tmp_path):
    windows = recordings(8)
    run = trainer(tmp_path, windows, 2, save_steps=2)
    run.train()
    processor = run.data_collator.processor
    processor.save_pretrained(tmp_path / "checkpoint-2")
    model = BrainformerForEEG2MEG.from_pretrained(tmp_path / "checkpoint-2")
    again = BrainformerProcessor.from_pretrained(tmp_path / "checkpoint-2")
    batch = Collate(again)(windows[:2])
    assert torch.equal(
        model.translate(again, **batch).meg, run.model.translate(processor, **batch).meg
    )


def test_the_loss_is_a_mean_that_trainer_does_not_scale(tmp_path):
    """By accumulation and ranks it would, for a model that takes `num_items_in_batch`."""
    windows = recordings(8)
    run = trainer(tmp_path, windows, 1)
    assert run.model_accepts_loss_kwargs is False
    batch = run.data_collator(windows)
    run.model.eval()
    loss = run.model(**batch).loss
    halves = [run.model(**run.data_collator(windows[i::2])).loss for i in (0, 1)]
    torch.testing.assert_close(loss, torch.stack(halves).mean(), rtol=1e-5, atol=1e-6)
