"""Starts this project's commands from a process that has torch and DeepSpeed imported already.

    {"start": [ARGUMENTS], "environment": {...}, "log": FILE}  ->  {"pid": 123}
    {"poll": 123}                                              ->  {"code": null} while it runs

One JSON a line, on stdin and stdout. Every command still is a process of its own, with its own
arguments, environment, output and exit code; what it shares are the imports of other people's
packages, which are 4 of the 5 seconds that such a command takes. This process has one thread only,
so that forking is safe. tests/commands.py is its client.
"""

from __future__ import annotations

import json
import os
import runpy
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


def import_packages() -> None:
    import accelerate
    import deepspeed
    import deepspeed.runtime.zero.muon.original_muon  # what its engine imports by itself
    import matplotlib.pyplot
    import mne
    import torch._dynamo
    import torch.utils.tensorboard
    import transformers

    assert len(os.listdir("/proc/self/task")) == 1, "a forked copy would lack the other threads"
    del accelerate, deepspeed, matplotlib, mne, torch, transformers


def become(words: list[str], environment: dict[str, str], log: str) -> None:
    """Run a script as `python SCRIPT ARGUMENTS` would, in this (forked) process, to its end."""
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(ROOT)
    output = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(output, 1)
    os.dup2(output, 2)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    os.closerange(3, 100)
    sys.argv = words
    sys.path[0] = str((ROOT / words[0]).parent)
    runpy.run_path(words[0], run_name="__main__")


def main() -> None:
    import_packages()
    for line in sys.stdin:
        request = json.loads(line)
        if "start" in request:
            pid = os.fork()
            if pid == 0:
                become(request["start"], request["environment"], request["log"])
                return
            answer = {"pid": pid}
        else:
            ended, status = os.waitpid(request["poll"], os.WNOHANG)
            answer = {"code": os.waitstatus_to_exitcode(status) if ended else None}
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    main()
