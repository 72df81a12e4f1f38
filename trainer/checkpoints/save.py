"""Writing a checkpoint: whole and on the disk, or not there at all.

Every rank writes its files through a handle that counts bytes and takes their CRC-32 on the way
(1 GB/s on one core), and flushes them to the disk. What goes wrong on one rank is kept until all
are out of DeepSpeed's collectives; then all stop with one message, the unfinished folder is removed
and the earlier checkpoints are untouched. COMPLETE.json, written last, makes a checkpoint one.
"""

from __future__ import annotations

import json
import os
import shutil
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol

import torch
import torch.distributed as dist
from deepspeed.runtime.checkpoint_engine.torch_checkpoint_engine import TorchCheckpointEngine

from data.errors import InputError
from data.files import is_full, readable, write_atomic
from trainer.checkpoints import lost
from trainer.checkpoints.find import (
    COMPLETE,
    checkpoint_folder,
    complete_tags,
    step_of,
    superseded,
    tag_of,
)
from trainer.ranks.ranks import Ranks, together


class Kept(Protocol):
    """Which checkpoints stay, as a run's settings have it (trainer/engine/config.py)."""

    steps: int
    keep_last: int
    keep_every: int


def save(engine, run: Path, step: int, state: dict, keep: Kept, ranks: Ranks) -> None:
    """Write the checkpoint of `step` from all ranks, mark it complete, drop old ones.

    state: JSON-able, the same on all ranks; it is also readable in COMPLETE.json without torch.
    """
    folder = checkpoint_folder(run) / tag_of(step)
    try:
        with together(ranks), told(folder):
            if ranks.first:
                if folder.exists():
                    shutil.rmtree(folder)  # an incomplete one: complete ones are resumed from
                folder.mkdir(parents=True)
                require_space(run)
        writer = _write(engine, folder, state)
        with together(ranks), told(folder):
            if writer.error is not None:
                raise writer.error
        everyone: list = [None] * ranks.world
        dist.all_gather_object(everyone, writer.files)
        with together(ranks), told(folder):
            if ranks.first:
                files = {name: found for written in everyone for name, found in written.items()}
                _mark(folder, ranks.world, state, files)
                write_atomic(folder.parent / "latest", folder.name.encode())  # for its own tools
                _drop_superseded(run, step, keep)
                lost.record(run, [s for s in map(step_of, complete_tags(run)) if s <= step])
    except InputError:
        if ranks.first and not (folder / COMPLETE).exists():
            shutil.rmtree(folder, ignore_errors=True)
        raise


@contextmanager
def told(folder: Path) -> Iterator[None]:
    """Turns what a disk can do to a save (in torch's own clothes too) into an InputError."""
    try:
        yield
    except Exception as error:
        cause: BaseException | None = error
        while cause is not None and not isinstance(cause, OSError):
            cause = cause.__cause__ or cause.__context__
        if cause is None or isinstance(error, InputError):
            raise
        remedy = "see that the run folder can be written, then start the same command again"
        if is_full(cause):
            remedy = "free some space (or --keep_last 1), then start the same command again"
        raise InputError(
            f"{folder}: this checkpoint could not be written ({cause.strerror}); those before it "
            "are whole",
            remedy,
        ) from error


def _write(engine, folder: Path, state: dict) -> _Writer:
    """DeepSpeed's files of this rank."""
    before = engine.checkpoint_engine
    engine.checkpoint_engine = writer = _Writer(before)
    try:
        engine.save_checkpoint(
            str(folder.parent), tag=folder.name, client_state=state, save_latest=False
        )
    except OSError as error:
        # Past the writer only the first rank writes, its recovery scripts, before a last barrier.
        writer.error = writer.error or error
        dist.barrier()
    finally:
        engine.checkpoint_engine = before
    return writer


class _Writer(TorchCheckpointEngine):
    """DeepSpeed's writer, which keeps its error; `files`: {name: [bytes, CRC-32]}."""

    def __init__(self, like: TorchCheckpointEngine):
        self.name, self.zipfile_serialization = like.name, like.zipfile_serialization
        self.files: dict[str, list[int]] = {}
        self.error: Exception | None = None

    def save(self, state_dict, path: str) -> None:
        try:
            with open(path, "wb") as file:
                counted = _Counted(file)
                torch.save(
                    state_dict, counted, _use_new_zipfile_serialization=self.zipfile_serialization
                )
                file.flush()
                os.fsync(file.fileno())
            self.files[Path(path).name] = [counted.bytes, counted.crc32]
        except Exception as error:  # raised when all ranks are out of DeepSpeed's collectives
            self.error = error


class _Counted:
    """A file that is written front to back; knows what it was given."""

    def __init__(self, file):
        self.file, self.bytes, self.crc32 = file, 0, 0

    def write(self, content) -> int:
        self.bytes += len(content)
        self.crc32 = zlib.crc32(content, self.crc32)
        return self.file.write(content)

    def flush(self) -> None:
        self.file.flush()


def _mark(folder: Path, world: int, state: dict, files: dict[str, list[int]]) -> None:
    marker = {
        "world": world,
        "state": state,
        "files": {name: size for name, (size, _) in sorted(files.items())},
        "crc32": {name: crc for name, (_, crc) in sorted(files.items())},
    }
    write_atomic(folder / COMPLETE, json.dumps(marker, indent=1).encode())


def _drop_superseded(run: Path, saved: int, keep: Kept) -> None:
    """Drop what the checkpoint of step `saved` makes superfluous. Later ones do not count: the run
    has passed them over for their content, so they are none to go back to."""
    steps = [step for step in map(step_of, complete_tags(run)) if step <= saved]
    for step in superseded(steps, keep.keep_last, keep.keep_every):
        folder = checkpoint_folder(run) / tag_of(step)
        # Its marker goes first: a half-deleted checkpoint must not look whole.
        (folder / COMPLETE).unlink()
        shutil.rmtree(folder)


def checkpoint_bytes(parameters: int, bf16: bool) -> int:
    """Size of one checkpoint: fp32 weights, Adam's two moments, and the weights as trained."""
    return parameters * (12 + (2 if bf16 else 4))


def require_space(run: Path, needed: int | None = None) -> None:
    """InputError unless the next checkpoint fits: `needed` bytes, or as many as the largest has."""
    folders = [checkpoint_folder(run) / tag for tag in complete_tags(run, quiet=True)]
    sizes = [sum(file.stat().st_size for file in folder.iterdir()) for folder in folders]
    needed = max([needed or 0, *sizes])
    free = shutil.disk_usage(_existing(run)).free
    if free < needed:
        raise InputError(
            f"{run}: a checkpoint takes {readable(needed)}, {readable(free)} are free on this disk",
            "free some space (or --keep_last 1, or another --run), then start the same command "
            "again",
        )


def disk_use(run: Path, keep: Kept, each: int) -> str:
    """What the checkpoints will take, in words."""
    kept = keep.keep_last
    often = ""
    if keep.keep_every:
        kept += keep.steps // keep.keep_every
        often = f" (the last {keep.keep_last}, and one every {keep.keep_every} steps)"
    free = shutil.disk_usage(_existing(run)).free
    text = (
        f"checkpoints of {readable(each)} each, up to {kept} kept{often} and one being written: "
        f"{readable(each * (kept + 1))}; {readable(free)} free"
    )
    return text + (" - NOT ENOUGH FOR ALL" if free < each * (kept + 1) else "")


def _existing(path: Path) -> Path:
    """The path, or its nearest parent that is there."""
    path = path.absolute()
    while not path.exists():
        path = path.parent
    return path
