"""Packing on behalf of another command, in a process of its own: its workers, its signals."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from data.errors import InputError
from data.shards.manifest import MANIFEST

PACK = Path(__file__).resolve().parents[1] / "pack.py"
SHOWN = 6
"""Lines of what packing says, at most."""


def pack_apart(source: str, out: Path, option: str) -> Path:
    """Pack a source into `out`, or go on where that stopped; a folder that is packed is compared
    with the source. InputError, which names the `option`, with packing's own reason."""
    if not (out / MANIFEST).is_file():
        print(f"packing {source} into {out}", flush=True)
    command = [sys.executable, str(PACK), "--source", source, "--out", str(out)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        lines = [line for line in done.stderr.strip().splitlines() if "it/s" not in line]
        reason = "\n".join(line.removeprefix("error: ") for line in lines[-SHOWN:])
        raise InputError(f"{option} {source}: {reason}")
    return out
