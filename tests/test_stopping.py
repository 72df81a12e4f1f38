"""Stopping a real run of two ranks from outside, and going on: the numbers must not notice."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
from commands import ROOT, TINY, environment, losses, random_port, ranks
from tiny import tiny_shards

pytestmark = pytest.mark.slow
STEPS = 150


@pytest.fixture(scope="module")
def shards(tmp_path_factory):
    return tiny_shards(tmp_path_factory.mktemp("data") / "shards")


def words(shards: Path, run: Path) -> list[str]:
    settings = {
        "shards": shards, "run": run, "steps": STEPS, "global_batch": 8, "run_length": 4,
        "eval_every": 0, "save_every": 60,
    }  # fmt: skip
    flags = (word for key, value in settings.items() for word in (f"--{key}", str(value)))
    return ["trainer/pretrain.py", *TINY, *flags]


@pytest.fixture(scope="module")
def straight(shards, tmp_path_factory):
    run = tmp_path_factory.mktemp("runs") / "straight"
    ranks(2, *words(shards, run))
    return run


def ask_by_file(run: Path, launcher: psutil.Process, children: list[psutil.Process]) -> str:
    (run / "STOP").touch()
    return str(run / "STOP")


def usr1_to_one_rank(run: Path, launcher: psutil.Process, children: list[psutil.Process]) -> str:
    children[1].send_signal(signal.SIGUSR1)
    return "SIGUSR1"


def term_to_launcher(run: Path, launcher: psutil.Process, children: list[psutil.Process]) -> str:
    """DeepSpeed's per-node launcher signals the ranks' loader processes with them."""
    launcher.send_signal(signal.SIGTERM)
    return "SIGTERM"


@pytest.mark.parametrize("ask", [ask_by_file, usr1_to_one_rank, term_to_launcher])
def test_a_stopped_run_goes_on_as_if_nothing_had_been(shards, straight, tmp_path, ask):
    run = tmp_path / "run"
    command = [Path(sys.executable).with_name("deepspeed"), "--num_gpus", "2",
               "--master_port", str(random_port()), *words(shards, run)]  # fmt: skip
    with open(tmp_path / "output", "w") as output, subprocess.Popen(
        command, cwd=ROOT, env=environment(), stdout=output, stderr=output
    ) as process:  # fmt: skip
        while not ((run / "metrics.jsonl").exists() and len(losses(run)) >= 3):
            assert process.poll() is None, (tmp_path / "output").read_text()
            time.sleep(0.05)
        launcher = psutil.Process(process.pid).children()[0]
        children = sorted(launcher.children(), key=lambda child: child.pid)
        by = ask(run, launcher, children)
        code = process.wait()
    text = (tmp_path / "output").read_text()
    assert f"asked by {by}" in text
    assert "Traceback" not in text
    # DeepSpeed's launcher answers a SIGTERM of its own with 1, however well its ranks ended.
    assert code == (1 if ask is term_to_launcher else 0), text
    stopped = losses(run)
    assert 3 <= len(stopped) < STEPS
    assert not (run / "STOP").exists()
    output = ranks(2, *words(shards, run))
    assert f"going on from step_{len(stopped):08d}" in output
    assert losses(run) == losses(straight)


def test_a_stale_request_is_not_obeyed(shards, straight, tmp_path):
    run = tmp_path / "run"
    run.mkdir()
    (run / "STOP").touch()
    ranks(2, *words(shards, run))
    assert losses(run) == losses(straight)
