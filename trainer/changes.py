"""What differs between a run and its continuation: told exactly, and refused where the result would
be neither of the two experiments."""

from __future__ import annotations

import json
from pathlib import Path

from data.errors import InputError
from data.files import write_atomic
from trainer.config import RunConfig
from trainer.known import union_of_records
from trainer.optim import lr_factor

# Another value of these is another experiment.
FIXED = ("model", "profile", "manifest_sha256", "seed", "global_batch", "run_length", "temperature")
# DeepSpeed's checkpoints of another of these cannot be loaded.
FIXED_DEEPSPEED = ("zero_optimization.stage", "bf16.enabled")
RECORD = ("micro_batch", "accumulation", "deepspeed", "versions", "git")
SAID_ELSEWHERE = {  # of RunConfig: by FIXED and RECORD, in resolved form
    "seed", "global_batch", "run_length", "temperature", "model", "preset", "micro_batch"
}  # fmt: skip
IN_DEEPSPEED = ("train_micro_batch_size_per_gpu", "gradient_accumulation_steps")


def compare(old: dict, new: dict, applied: int) -> tuple[list[str], list[str]]:
    """(what is refused, what is told) of two config.json contents, a line each.

    applied: the steps that the run has applied, at which its learning rate is compared.
    """
    refused = [
        f"another {name}: {_difference(old.get(name), new.get(name))}"
        for name in FIXED
        if old.get(name) != new.get(name)
    ]
    refused += _other_groups(old["run"], new["run"])
    told = []
    for name, before, now in _changes(old["run"], new["run"]):
        if name not in SAID_ELSEWHERE:
            why = " (not read: the run goes on from its checkpoint)" if name == "init" else ""
            told.append(f"--{name} was {before}, is now {now}{why}")
    for section in RECORD:
        for name, before, now in _changes(_flat(section, old), _flat(section, new)):
            if name.removeprefix("deepspeed.") in FIXED_DEEPSPEED:
                refused.append(f"another {name}: {before} -> {now}")
            elif not name.endswith(IN_DEEPSPEED):
                told.append(f"{name} was {before}, is now {now}")
    if told and not refused and (change := _learning_rate(old["run"], new["run"], applied)):
        told.append(change)
    return refused, told


def check_resume(run: Path, old: dict, new: dict, tag: str, marker: dict, world: int) -> None:
    """InputError where the run of `old` must not go on as `new`; else print what differs and write
    it, with everything resolved, into RUN/history.jsonl."""
    refused, told = compare(old, new, marker["state"]["applied"])
    if refused:
        raise InputError(
            f"{run} was trained with {'; '.join(refused)}",
            "give the old setting to go on with this run, or another --run for a new one",
        )
    if marker["world"] != world:
        if not new["run"]["elastic"]:
            raise InputError(
                f"{run}/checkpoints/{tag} was written by {marker['world']} ranks, this run has "
                f"{world}",
                f"start {marker['world']} ranks; or add --elastic, to convert it for {world}",
            )
        told.append(f"ranks were {marker['world']}, are now {world}")
    for line in told:
        print(f"resume: {line}", flush=True)
    new = with_earlier_subjects(old, new)
    entry = {"step": marker["state"]["step"], "changes": told, "resolved": new}
    with open(run / "history.jsonl", "a") as file:
        file.write(json.dumps(entry) + "\n")
    write_atomic(run / "config.json", (json.dumps(new, indent=1) + "\n").encode())


def with_earlier_subjects(old: dict, new: dict) -> dict:
    """The record `new`, which also names whom and what `old` says the weights were trained on:
    `--init` need not be repeated at a resume, and its people stay in the weights."""
    if "trained_on" not in old or "trained_on" not in new:
        return new
    return {**new, "trained_on": union_of_records(new["trained_on"], old["trained_on"])}


def _other_groups(old: dict, new: dict) -> list[str]:
    """Flags whose change divides the parameters into other groups, by which a checkpoint's
    moments are stored."""
    told = []
    for name, together in (("layer_decay", 1), ("weight_decay", 0)):
        before, now = old.get(name), new.get(name)
        if None not in (before, now) and (before == together) != (now == together):
            why = f"{together:g} or not is another number of the optimizer's parameter groups"
            told.append(f"another {name}: {before:g} -> {now:g} ({why})")
    return told


def _learning_rate(old: dict, new: dict, applied: int) -> str | None:
    known = set(RunConfig.__dataclass_fields__)
    before, now = (
        RunConfig(**{key: _tuples(value) for key, value in run.items() if key in known})
        for run in (old, new)
    )
    rates = [config.peak_lr * lr_factor(applied, config) for config in (before, now)]
    if abs(rates[0] - rates[1]) <= 1e-9 * rates[0]:
        return None
    return f"the learning rate at this step was to be {rates[0]:.4g}, is now {rates[1]:.4g}"


def _flat(name: str, section: dict) -> dict:
    """{'deepspeed.bf16.enabled': True, ...} of one entry of config.json."""
    found: dict = {}

    def walk(prefix: str, value) -> None:
        if isinstance(value, dict):
            for key, inner in value.items():
                walk(f"{prefix}.{key}", inner)
        else:
            found[prefix] = value

    walk(name, section.get(name, {}))
    return found


def _changes(old: dict, new: dict) -> list[tuple]:
    pairs = [(key, old.get(key), new.get(key)) for key in dict.fromkeys([*old, *new])]
    return [pair for pair in pairs if _tuples(pair[1]) != _tuples(pair[2])]


def _tuples(value):
    return tuple(value) if isinstance(value, list) else value


def _difference(old, new) -> str:
    if isinstance(old, dict) and isinstance(new, dict):
        keys = sorted(key for key in {*old, *new} if old.get(key) != new.get(key))
        return ", ".join(f"{key} {old.get(key)} -> {new.get(key)}" for key in keys)
    return f"{old} -> {new}"
