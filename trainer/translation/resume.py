"""Where a translation run begins: at its newest whole checkpoint, as what it was, or anew."""

from __future__ import annotations

import json
from dataclasses import fields
from pathlib import Path

from data.errors import InputError
from trainer.checkpoints import lost
from trainer.checkpoints.run_folder import write_run_files
from trainer.engine.resume import (
    FIXED_DEEPSPEED,
    IN_DEEPSPEED,
    Refusal,
    changes,
    flat,
    other_in_json,
    refusal,
)
from trainer.ranks.ranks import Ranks, broadcast_object, together
from trainer.translation.config import TranslationConfig
from trainer.translation.keeping import (
    best_of,
    best_step,
    check_world,
    last_complete,
    name_of,
    read_history,
    step_of,
)

FORMAT = "eeg2meg-run"
# What a resume reads beside the checkpoint; best/ holds the scales of the signals.
NEEDED = ("config.json", "best/model.safetensors", "best/preprocessor_config.json")
MAY_CHANGE = {"restart_lost", "stop_at", "workers", "keep_last", "log_every", "figure_every",
              "resume", "patience", "save_every"}  # fmt: skip
# Compared by what they come to: the shards' hash, the machine.
RESOLVED = {"data", "deepspeed", "precision", "micro_batch", "global_batch"}


def find_checkpoint(config: TranslationConfig, ranks: Ranks) -> tuple[Path | None, tuple | None]:
    """(newest whole checkpoint, (step, log)) of this run, decided by the first rank; (None, None)
    where it begins at step 0."""
    found, history = None, None
    with together(ranks):
        if ranks.first:
            run = Path(config.run)
            if (run / "config.json").exists():
                read_description(run)  # whether it is a run of this command
            found, passed = last_complete(run)
            goes_on = lost.find_start(
                run, found and step_of(found), passed, name_of,
                resume=config.resume, restart_lost=config.restart_lost, needs=NEEDED,
            )  # fmt: skip
            found = found if goes_on else None
            if found is not None:
                check_world(found, ranks.world)
                history = read_history(found)
                tell_of_best(run, history[1])
    return broadcast_object((found, history), ranks)


def tell_of_best(run: Path, log: list[dict]) -> None:
    """Say so where best/ is not of the history that the run goes on from."""
    best, kept = best_of(log), best_step(run)
    if best and kept not in (None, best[0]):
        print(
            f"resume: {run / 'best'} holds step {kept}, the best so far here is step {best[0]}: it "
            "is replaced by the next better one",
            flush=True,
        )


def read_description(run: Path) -> dict:
    """config.json of a run of this command; InputError where it is damaged or another's."""
    path = run / "config.json"
    try:
        found = json.loads(path.read_text())
        if found["format"] == FORMAT and {"run", "data", "machine", "start"} <= found.keys():
            return found
    except (OSError, ValueError) as error:
        remedy = "restore it, or give another --run"
        raise InputError(f"{path}: damaged ({error})", remedy) from None
    except (KeyError, TypeError, AttributeError):
        pass
    raise InputError(f"--run {run}: not a run of trainer/eeg2meg.py", "give another --run")


def open_run(config: TranslationConfig, description: dict, checkpoint: Path | None) -> None:
    """Write a new run's files; refuse to continue a run as something else."""
    run = Path(config.run)
    if checkpoint is None:
        write_run_files(run, description)
        lost.record(run, [])
        return
    refused, told = compare(read_description(run), description)
    if refused:
        raise refusal(run, refused)
    for line in told:
        print(f"resume: {line}", flush=True)


def compare(old: dict, new: dict) -> tuple[list[Refusal], list[str]]:
    """(what is refused, with the way back; what is told) of two descriptions of a run."""
    refused: list[Refusal] = []
    for entry in fields(TranslationConfig):
        before, now = old["run"].get(entry.name), new["run"][entry.name]
        if entry.name in MAY_CHANGE | RESOLVED or _tuple(before) == _tuple(now):
            continue
        words = f"--{entry.name} {before}"
        if before is None or before in ([], ()):
            words = f"no --{entry.name}"
        elif isinstance(before, bool):
            words = f"--{entry.name}" if before else f"--no-{entry.name}"
        elif isinstance(before, list):
            words = " ".join(f"--{entry.name} {one}" for one in before)
        refused.append((f"it was trained with --{entry.name} {before}, not {now}", words))
    if old["data"]["sha256"] != new["data"]["sha256"]:
        folders = old["data"]["folder"], new["data"]["folder"]
        same = folders[0] == folders[1]
        what = f"packed anew since in {folders[0]}" if same else f"{folders[0]}, now {folders[1]}"
        refused.append((f"other data: {what}", f"--data {folders[0]} as it was"))
    for key, flag in (("micro", "micro_batch"), ("accumulation", "global_batch")):
        before, now = old["machine"][key], new["machine"][key]
        if before != now:
            count = "micro-batch" if key == "micro" else key
            value = before if key == "micro" else _global_batch(old["machine"])
            refused.append((f"another {count}: {before}, now {now}", f"--{flag} {value}"))
    if old["machine"]["bf16"] != new["machine"]["bf16"]:
        names = {True: "bf16", False: "fp32"}
        before, now = names[old["machine"]["bf16"]], names[new["machine"]["bf16"]]
        refused.append((f"another precision: {before}, now {now}", f"--precision {before}"))
    told = []
    pair = flat("deepspeed", old["machine"]), flat("deepspeed", new["machine"])
    for name, before, now in changes(*pair):
        key = name.removeprefix("deepspeed.")
        if key == "zero_optimization.stage":
            refused.append(other_in_json(key, before, now, old["run"].get("deepspeed")))
        elif key not in FIXED_DEEPSPEED and not name.endswith(IN_DEEPSPEED):
            told.append(f"{name} was {before}, is now {now}")
    return refused, told


def _global_batch(machine: dict) -> int:
    return machine["micro"] * machine["accumulation"] * machine["world"]


def _tuple(value):
    return tuple(value) if isinstance(value, list) else value
