"""Running the real commands, as a user would type them."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
TINY = [
    "--preset", "tiny", "--model", "width=32", "--model", "heads=2", "--model", "depth=2",
    "--model", "decoder_width=16", "--model", "decoder_heads=2", "--model", "decoder_depth=1",
    "--model", "latent_dim=8", "--log_every", "1", "--workers", "1", "--figure_every", "0",
]  # fmt: skip


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


def python(*words: object, fails: bool = False) -> str:
    return run(sys.executable, *words, fails=fails)


def deepspeed(ranks: int, *words: object, fails: bool = False) -> str:
    """`deepspeed --num_gpus RANKS ...` (ranks on the CPU), on a port of its own."""
    launcher = Path(sys.executable).with_name("deepspeed")
    words = ("--num_gpus", ranks, "--master_port", random_port(), *words)
    return run(launcher, *words, fails=fails)


def ranks(count: int, *words: object, fails: bool = False) -> str:
    """Output of `count` ranks of a command without DeepSpeed's launcher, which costs two more
    imports of torch. Nothing ends a rank here when another fails: all must end, all alike."""
    codes, output = start_ranks(count, *words)
    assert all((code != 0) == fails for code in codes), f"{codes}\n{output}"
    return output


def start_ranks(
    count: int, *words: object, log: Path | None = None, patience_s: float = 120.0
) -> tuple[list[int], str]:
    """(exit code of each rank, their output together); ranks left behind by others are killed.
    `log`: a file that takes the output, as a scheduler's would; else a pipe, which is never full.
    """
    common = {
        **environment(), "WORLD_SIZE": str(count), "LOCAL_SIZE": str(count),
        "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(random_port()),
    }  # fmt: skip
    command = [sys.executable, *map(str, words)]
    read_end, write_end = os.pipe()
    with open(read_end) as reader, ThreadPoolExecutor(1) as pool:
        text = pool.submit(reader.read)
        with open(write_end, "wb") as pipe, open(log or os.devnull, "wb") as file:
            output = file if log else pipe
            started = [
                subprocess.Popen(
                    command, cwd=ROOT, env={**common, "RANK": str(rank), "LOCAL_RANK": str(rank)},
                    stdout=output, stderr=output,
                )
                for rank in range(count)
            ]  # fmt: skip
        first_end = None
        while any(process.poll() is None for process in started):
            time.sleep(0.02)
            if first_end is None and any(process.poll() is not None for process in started):
                first_end = time.monotonic()
            if first_end is not None and time.monotonic() - first_end > patience_s:
                for process in started:
                    process.kill()
        return [process.wait() for process in started], text.result()


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
