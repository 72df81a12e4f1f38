"""`trainer/eeg2meg.py` that also writes which samples each rank was trained on: RUN/census-RANK."""

from __future__ import annotations

import os
import sys
from pathlib import Path

sys.path[0] = str(Path(__file__).resolve().parents[1])

from trainer import eeg2meg
from trainer.ranks.ranks import run_ranks
from trainer.translation.task import TranslationTask

loss = TranslationTask.loss


def noted(self, engine, batches, at):
    pieces = [self.data.train[number] for batch in batches for number in batch.window.tolist()]
    with open(Path(self.config.run) / f"census-{os.environ.get('RANK', '0')}", "a") as file:
        file.writelines(f"{piece.recording} {piece.onset_s:.4f}\n" for piece in pieces)
    return loss(self, engine, batches, at)


TranslationTask.loss = noted

if __name__ == "__main__":
    run_ranks(eeg2meg.main)
