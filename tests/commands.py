"""Running the real commands, as a user would type them."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
TINY = [
    "--preset", "tiny", "--model", "width=32", "--model", "heads=2", "--model", "depth=2",
    "--model", "decoder_width=16", "--model", "decoder_heads=2", "--model", "decoder_depth=1",
    "--model", "latent_dim=8", "--log_every", "1", "--workers", "1", "--figure_every", "0",
]  # fmt: skip

PATIENCE_S = 120.0
"""How long ranks may take to end after the first one has."""
_SERVER: list[subprocess.Popen] = []
_LOCK = threading.Lock()


def environment() -> dict[str, str]:
    """The environment of a training command on the CPU."""
    own = {k: v for k, v in os.environ.items() if k not in ("RANK", "WORLD_SIZE")}
    return {**own, "DS_ACCELERATOR": "cpu", "OMP_NUM_THREADS": "1"}


def random_port() -> int:
    """A port for one launch: below the range that the kernel gives to outgoing connections."""
    return random.Random(os.urandom(8)).randint(20_000, 32_000)


def run(*words: object, fails: bool = False) -> str:
    """Output of a command; its exit code must be 0, or for `fails` anything else."""
    done = subprocess.run(
        [str(word) for word in words], cwd=ROOT, env=environment(), capture_output=True, text=True
    )
    output = done.stdout + done.stderr
    assert (done.returncode != 0) == fails, output
    return output


def deepspeed(ranks: int, *words: object, fails: bool = False) -> str:
    """`deepspeed --num_gpus RANKS ...` (ranks on the CPU), on a port of its own."""
    launcher = Path(sys.executable).with_name("deepspeed")
    words = ("--num_gpus", ranks, "--master_port", random_port(), *words)
    return run(launcher, *words, fails=fails)


def python(*words: object, fails: bool = False) -> str:
    """Output of `python ...`; its exit code must be 0, or for `fails` anything else."""
    [code], output = start([environment()], words)
    assert (code != 0) == fails, f"{code}\n{output}"
    return output


def ranks(count: int, *words: object, fails: bool = False) -> str:
    """Output of `count` ranks of a command without DeepSpeed's launcher, which takes 6 seconds
    more. Nothing ends a rank here when another fails: all must end, all alike."""
    codes, output = start_ranks(count, *words)
    assert all((code != 0) == fails for code in codes), f"{codes}\n{output}"
    return output


def start_ranks(count: int, *words: object, log: Path | None = None) -> tuple[list[int], str]:
    """(exit code of each rank, their output together); ranks left behind by others are killed.
    `log`: a file that takes the output, as a scheduler's would; else a pipe, which is never full.
    """
    common = {
        **environment(), "WORLD_SIZE": str(count), "LOCAL_SIZE": str(count),
        "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(random_port()),
    }  # fmt: skip
    numbers = [{"RANK": str(rank), "LOCAL_RANK": str(rank)} for rank in range(count)]
    return start([{**common, **number} for number in numbers], words, log)


def start(
    environments: list[dict[str, str]], words: tuple, log: Path | None = None
) -> tuple[list[int], str]:
    """Run one script in some environments at once; (exit codes, output of all together)."""
    with tempfile.TemporaryDirectory() as folder, ThreadPoolExecutor(1) as pool:
        pipe = Path(folder) / "output"
        os.mkfifo(pipe)
        keeper = os.open(pipe, os.O_RDWR)  # so that neither end waits for the other to open
        text = pool.submit(pipe.read_text)
        words = tuple(map(str, words))
        pids = [
            _warm({"start": words, "environment": one, "log": str(log or pipe)})["pid"]
            for one in environments
        ]
        codes: dict[int, int] = {}
        patience_until = None
        while len(codes) < len(pids):
            time.sleep(0.02)
            for pid in set(pids) - set(codes):
                if (code := _warm({"poll": pid})["code"]) is not None:
                    codes[pid] = code
                    patience_until = patience_until or time.monotonic() + PATIENCE_S
            if patience_until and time.monotonic() > patience_until:
                for pid in set(pids) - set(codes):
                    os.kill(pid, signal.SIGKILL)
        os.close(keeper)
        return [codes[pid] for pid in pids], text.result()


def _warm(request: dict) -> dict:
    """The answer of tests/warm.py, which is started at the first request."""
    with _LOCK:
        if not _SERVER:
            command = [sys.executable, str(ROOT / "tests/warm.py")]
            _SERVER.append(
                subprocess.Popen(
                    command, cwd=ROOT, env=environment(), text=True,
                    stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                )
            )  # fmt: skip
        server = _SERVER[0]
        server.stdin.write(json.dumps(request) + "\n")
        server.stdin.flush()
        return json.loads(server.stdout.readline())


def launch(ranks: int, *words: object) -> tuple[int, str]:
    """(exit code, output) of `deepspeed --num_gpus RANKS ...`, however it ends."""
    launcher = Path(sys.executable).with_name("deepspeed")
    words = (launcher, "--num_gpus", ranks, "--master_port", random_port(), *words)
    done = subprocess.run(
        [str(word) for word in words], cwd=ROOT, env=environment(), capture_output=True, text=True
    )
    return done.returncode, done.stdout + done.stderr


def metrics(run_folder: Path, group: str = "train") -> list[dict]:
    lines = (run_folder / "metrics.jsonl").read_text().splitlines()
    return [line for line in map(json.loads, lines) if line["group"] == group]


def losses(run_folder: Path) -> list[tuple]:
    """What a resumed run must repeat exactly."""
    keys = ("step", "loss", "error", "kl", "r", "lr", "beta", "grad_norm", "samples")
    return [tuple(line[key] for key in keys) for line in metrics(run_folder)]
