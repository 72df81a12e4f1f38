"""trainer/pretrain.py with one fault planted in it:

    deepspeed ... tests/planted.py WHERE STEP RANK ACTION [ARGUMENT] -- FLAGS OF pretrain.py

Rank RANK (or `all`) does ACTION when it comes to WHERE (forward, save, validation) of step STEP for
the first time. Everything else is the real command.
"""

from __future__ import annotations

import os
import resource
import signal
import sys
import time
from pathlib import Path

sys.path[0] = str(Path(__file__).resolve().parents[1])

import psutil
import torch

from model.autoencoder import MaskedVAE
from trainer import pretrain
from trainer.masked.validation import Validation
from trainer.ranks.ranks import run_ranks


def kill() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def kill_all_ranks() -> None:
    for rank in psutil.Process().parent().children():
        rank.kill()


def kill_launcher() -> None:
    psutil.Process().parent().kill()


def stop() -> None:
    os.kill(os.getpid(), signal.SIGSTOP)


def hang() -> None:
    time.sleep(10_000)


def cut(path: str) -> None:
    os.truncate(path, os.path.getsize(path) // 2)


def alter(path: str) -> None:
    with open(path, "r+b") as file:
        file.seek(4096)
        file.write(b"\xff" * 64)


def fill() -> None:
    """No file of this process may grow from here on: what a full disk does."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, resource.RLIM_INFINITY))


def nan_gradient() -> None:
    """The gradient of this step's loss becomes NaN; the loss itself stays finite."""
    forward = MaskedVAE.forward

    def poisoned(self, *arguments, **named):
        losses = forward(self, *arguments, **named)
        losses.loss.register_hook(lambda gradient: gradient * float("nan"))
        MaskedVAE.forward = forward
        return losses

    MaskedVAE.forward = poisoned


ACTIONS = {
    f.__name__: f
    for f in (
        kill,
        kill_all_ranks,
        kill_launcher,
        stop,
        hang,
        cut,
        alter,
        os.remove,
        fill,
        nan_gradient,
    )
}


def plant(where: str, step: int, ranks: str, action: str, *argument: str) -> None:
    if ranks not in ("all", os.environ["RANK"]):
        return
    done = []

    def act() -> None:
        if not done:
            done.append(True)
            ACTIONS[action](*argument)

    if where == "forward":
        forward = MaskedVAE.forward
        steps = [0]

        def counted(self, *arguments, **named):
            steps[0] += self.training
            if steps[0] == step and self.training:
                MaskedVAE.forward = forward
                act()
                return MaskedVAE.forward(self, *arguments, **named)
            return forward(self, *arguments, **named)

        MaskedVAE.forward = counted
    elif where == "save":
        save = torch.save

        def half(state, file, **named):
            name = getattr(getattr(file, "file", None), "name", "")
            if f"step_{step:08d}" in str(name):
                file.write(b"half a file")
                file.flush()
                act()
            return save(state, file, **named)

        torch.save = half
    elif where == "validation":
        run = Validation.run

        def started(self, *arguments):
            if done_steps() >= step:
                act()
            return run(self, *arguments)

        rounds = [0]

        def done_steps() -> int:
            rounds[0] += 1
            return rounds[0] - 1  # the first one is before the first step

        Validation.run = started
    else:
        raise SystemExit(f"{where}: forward, save or validation")


if __name__ == "__main__":
    words = [word for word in sys.argv[1:] if not word.startswith("--local_rank=")]
    rank = [word for word in sys.argv[1:] if word.startswith("--local_rank=")]
    cut_at = words.index("--")
    where, step, ranks, action, *argument = words[:cut_at]
    plant(where, int(step), ranks, action, *argument)
    sys.argv[1:] = rank + words[cut_at + 1 :]
    run_ranks(pretrain.main)
