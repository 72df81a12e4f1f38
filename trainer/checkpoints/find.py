"""Finding checkpoints that are known to be whole.

DeepSpeed writes several files from several ranks and a `latest` that says nothing about them. After
all ranks have written, the first rank writes COMPLETE.json with every file's size and CRC-32; only
such a checkpoint is ever resumed from or converted. A checkpoint holds the run's place in two
integers: steps done and steps applied (randomness and data order are functions of them).
"""

from __future__ import annotations

import json
import re
import zlib
from collections.abc import Sequence
from pathlib import Path

import torch.distributed as dist

from trainer.ranks.ranks import Ranks, broadcast_object, together

COMPLETE = "COMPLETE.json"
TAG = re.compile(r"step_(\d{8,})")


def checkpoint_folder(run: Path) -> Path:
    return run / "checkpoints"


def tag_of(step: int) -> str:
    return f"step_{step:08d}"


def step_of(tag: str) -> int:
    return int(TAG.fullmatch(tag)[1])


def superseded(steps: Sequence[int], keep_last: int, keep_every: int) -> list[int]:
    """The steps whose checkpoints may go: all but the last `keep_last` and every multiple of
    `keep_every` (0: none)."""
    return [s for s in sorted(steps)[:-keep_last] if not (keep_every and s % keep_every == 0)]


def complete_tags(run: Path, quiet: bool = False) -> list[str]:
    """Tags of the complete checkpoints, oldest first; says so where one is not whole."""
    found, passed = survey(run)
    for name, problem in () if quiet else sorted(passed.items()):
        print(f"checkpoint {checkpoint_folder(run) / name} is passed over: {problem}", flush=True)
    return found


def survey(run: Path) -> tuple[list[str], dict[str, str]]:
    """(tags of the complete checkpoints, oldest first; {name: why it is none} of the others)."""
    found, passed = [], {}
    for folder in checkpoint_folder(run).glob("step_*"):
        if problem := incomplete(folder):
            passed[folder.name] = problem
        else:
            found.append(folder.name)
    return sorted(found, key=step_of), passed


def incomplete(folder: Path) -> str | None:
    """Why a checkpoint is not whole, or None. Looks at names and sizes only."""
    if not TAG.fullmatch(folder.name):
        return "its name is not that of a checkpoint"
    if problem := unfinished(folder):
        return problem
    step = read_complete(folder)["state"]["step"]
    return None if step_of(folder.name) == step else f"it holds step {step}: renamed by hand?"


def unfinished(folder: Path) -> str | None:
    """Why the files of a folder are not those that its marker names, or None."""
    try:
        marker = json.loads((folder / COMPLETE).read_text())
        files, _ = marker["files"], marker["state"]["step"]
    except FileNotFoundError:
        return f"no {COMPLETE}: its save was interrupted"
    except (OSError, ValueError, KeyError, TypeError) as error:
        return f"{COMPLETE} is damaged ({error})"
    for name, size in files.items():
        path = folder / name
        if not path.is_file() or path.stat().st_size != size:
            return f"{name} is missing or was cut"
    return None


def damaged(folder: Path, part: int = 0, parts: int = 1) -> str | None:
    """Which file's content is not what was written, or None; of the files, those of one part."""
    for name, wanted in sorted(read_complete(folder).get("crc32", {}).items())[part::parts]:
        try:
            found = crc32(folder / name)
        except OSError as error:
            return f"{name} cannot be read ({error.strerror})"
        if found != wanted:
            return f"{name} is not what was written (its CRC-32 differs)"
    return None


def crc32(path: Path) -> int:
    """CRC-32 of a file's bytes."""
    found = 0
    with open(path, "rb") as file:
        while chunk := file.read(1 << 20):
            found = zlib.crc32(chunk, found)
    return found


def read_complete(folder: Path) -> dict:
    """The content of a complete checkpoint's marker."""
    return json.loads((folder / COMPLETE).read_text())


def last_complete(run: Path, ranks: Ranks) -> tuple[tuple[str, dict] | None, dict[str, str]]:
    """(tag, marker) of the newest complete checkpoint, every byte of it read, or None; and {name:
    why} of those that were passed over. The ranks share the work and agree."""
    tags: list[str] = []
    passed: dict[str, str] = {}
    with together(ranks):
        if ranks.first:
            tags, passed = survey(run)
    tags, passed = broadcast_object((tags, passed), ranks)
    for tag in reversed(tags):
        folder = checkpoint_folder(run) / tag
        everyone: list = [None] * ranks.world
        with together(ranks):
            problem = damaged(folder, ranks.rank, ranks.world)
        dist.all_gather_object(everyone, problem)
        problem = next(filter(None, everyone), None)
        if problem is None:
            with together(ranks):
                marker = read_complete(folder) if ranks.first else None
            return (tag, broadcast_object(marker, ranks)), passed
        passed[tag] = problem
    return None, passed
