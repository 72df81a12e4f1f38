"""Decoding a run while it trains: each checkpoint that is the newest, into its TensorBoard."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from data.errors import InputError
from trainer.checkpoints.find import step_of, survey
from trainer.checkpoints.run_folder import ENDED

LOOK_EVERY_S = 20.0


def follow(encoder: str | None, decode: Callable[[], dict]) -> None:
    """Decode each checkpoint that is the newest, until the run `encoder` has ended. decode: gives
    the report of a decoding."""
    from torch.utils.tensorboard import SummaryWriter

    run, done = Path(encoder or ""), None
    if not (run / "config.json").is_file():
        raise InputError(f"--follow: {encoder} is no run folder", "give --encoder RUN")
    writer = SummaryWriter(str(run / "tensorboard" / "decoding"))
    while True:
        ended = (run / ENDED).is_file()  # before its last checkpoint is looked for
        tags, _ = survey(run)
        if tags and tags[-1] != done:
            report = decode()
            for name, scores in report["scores"].items():
                for score, people in scores.items():
                    writer.add_scalar(f"{score}/{name}", np.nanmean(people), step_of(tags[-1]))
            writer.flush()
            done = tags[-1]
        elif ended:
            return
        else:
            time.sleep(LOOK_EVERY_S)
