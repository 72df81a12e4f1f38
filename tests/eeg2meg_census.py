"""`trainer/eeg2meg.py` that also writes which samples each rank was trained on: RUN/census-RANK."""

from __future__ import annotations

import os
import sys
from pathlib import Path

sys.path[0] = str(Path(__file__).resolve().parents[1])

import torch

from trainer import eeg2meg
from trainer.ranks.ranks import run_ranks
from trainer.translation.pieces import Collate

collate = Collate.__call__


def noted(self, pieces):
    if torch.is_grad_enabled():  # validation reads without
        run = Path(sys.argv[sys.argv.index("--run") + 1])
        run.mkdir(parents=True, exist_ok=True)
        with open(run / f"census-{os.environ.get('RANK', '0')}", "a") as file:
            file.writelines(f"{piece.recording} {piece.onset_s:.4f}\n" for piece in pieces)
    return collate(self, pieces)


Collate.__call__ = noted

if __name__ == "__main__":
    run_ranks(eeg2meg.main)
