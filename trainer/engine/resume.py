"""What differs between a run and its continuation: named exactly, and refused where the result
would be neither of the two experiments."""

from __future__ import annotations

import json
import shlex
from dataclasses import fields
from pathlib import Path

from data.errors import InputError
from data.files import write_atomic
from data.subjects.trained_on import union_of_records
from trainer.engine.config import RunConfig
from trainer.engine.optim import lr_factor

# Of config.json's entries, another value of these is another experiment.
FIXED = (
    "model", "profile", "manifest_sha256", "seed", "global_batch", "run_length", "temperature",
)  # fmt: skip
# DeepSpeed's checkpoints of another of these cannot be loaded.
FIXED_DEEPSPEED = ("zero_optimization.stage", "bf16.enabled")
RECORD = ("micro_batch", "accumulation", "deepspeed", "versions", "git")
SAID_ELSEWHERE = {  # of RunConfig: by FIXED and RECORD, in resolved form; or of no consequence
    "seed", "global_batch", "run_length", "temperature", "model", "preset", "micro_batch",
    "restart_lost",
}  # fmt: skip
IN_DEEPSPEED = ("train_micro_batch_size_per_gpu", "gradient_accumulation_steps")
Refusal = tuple[str, str]
"""What differs, and the words to type to go on as before."""


def compare(
    old: dict,
    new: dict,
    applied: int,
    ranks: tuple[int, int] = (1, 1),
    kind: type[RunConfig] = RunConfig,
) -> tuple[list[Refusal], list[str]]:
    """(what is refused, with the way back; what is printed) of two config.json contents.

    applied: the steps that the run has applied, at which its learning rate is compared; ranks: how
    many there were, and are; kind: the class of the task's settings.
    """
    if other := _other_task(_task_of(old), _task_of(new)):
        return other, []
    refused = _fixed_by_task(old, new)
    others = FIXED
    if ranks[0] != ranks[1] and not new["run"]["elastic"]:
        refused.append(_other_ranks(old, new, ranks))
        others = tuple(name for name in FIXED if name not in ("global_batch", "run_length"))
    for name in others:
        if old.get(name) != new.get(name):
            refused += _explained(name, old, new, ranks)
    refused += _other_groups(old["run"], new["run"])
    told = []
    # Settings that an earlier version did not have were what is now their default.
    defaults = {entry.name: entry.default for entry in fields(kind)}
    for name, before, now in changes(defaults | old["run"], new["run"]):
        if name not in SAID_ELSEWHERE:
            why = " (not read: the run goes on from its checkpoint)" if name == "init" else ""
            told.append(f"--{name} was {before}, is now {now}{why}")
    for section in RECORD:
        for name, before, now in changes(flat(section, old), flat(section, new)):
            key = name.removeprefix("deepspeed.")
            if key in FIXED_DEEPSPEED:
                refused.append(_other_deepspeed(key, before, now, old["run"], new["run"]))
            elif not name.endswith(IN_DEEPSPEED):
                told.append(f"{name} was {before}, is now {now}")
    if told and not refused and (change := _learning_rate(old["run"], new["run"], applied, kind)):
        told.append(change)
    return refused, told


def _task_of(config: dict) -> str:
    """Runs from before there were tasks are masked ones."""
    return config.get("task", {}).get("name", "masked")


def _other_task(before: str, now: str) -> list[Refusal]:
    if before == now:
        return []
    return [(f"another task: {before}, now {now}", "the command that began this run")]


def _fixed_by_task(old: dict, new: dict) -> list[Refusal]:
    """What the task fixes (`Task.fixed`) and is another now."""
    before, now, run = old.get("task", {}), new.get("task", {}), old["run"]
    return [
        (
            f"another {key}: {before.get(key)}, now {now.get(key)}",
            _as_words(key, run[key])
            if key in run
            else f"--init {run.get('init')} --shards {run.get('shards')}, both as they were",
        )
        for key in _unequal(before, now)
        if key != "name"
    ]


def _as_words(name: str, value) -> str:
    """What to type for a setting to have this value."""
    if isinstance(value, bool):
        return f"--{name}" if value else f"--no-{name}"
    return f"no --{name}" if value is None else f"--{name} {value}"


def _batch(config: dict, ranks: int) -> str:
    return (
        f"{ranks} rank(s) x micro-batch {config['micro_batch']} x accumulation "
        f"{config['accumulation']} = {config['global_batch']} windows a step"
    )


def _other_ranks(old: dict, new: dict, ranks: tuple[int, int]) -> Refusal:
    before, now = ranks
    return (
        f"another number of ranks: its checkpoint was written by {before}, this run has {now} "
        f"({_batch(old, before)}; now {_batch(new, now)})",
        f"--elastic to convert it for {now} (it keeps {old['global_batch']} windows a step), or "
        f"{before} ranks",
    )


def _explained(name: str, old: dict, new: dict, ranks: tuple[int, int]) -> list[Refusal]:
    """A difference of config.json in words that a user can see and change."""
    before, now = old.get(name), new.get(name)
    if name == "global_batch":
        what = f"another batch: {_batch(old, ranks[0])}; now {_batch(new, ranks[1])}"
        return [(what, f"--global_batch {before}")]
    if name == "run_length":
        given = new["run"].get("micro_batch") or new.get("micro_batch")
        why = f" (by default the micro-batch, which is now {given})" if now == given else ""
        return [(f"another run_length: {before}, now {now}{why}", f"--run_length {before}")]
    if name == "model":
        found = [_other_model(key, before, now) for key in _unequal(before, now)]
        if before.get("preset") != now.get("preset"):  # most fields differ
            found = [_other_model("preset", before, now)]
        init, other = old["run"].get("init"), new["run"].get("init")
        if init and init != other:  # fine-tuning takes its model from there
            found.append((f"another --init: {init}, now {other}", f"--init {init}"))
        return found
    if name == "profile":
        what = ", ".join(f"{k} {before.get(k)}, now {now.get(k)}" for k in _unequal(before, now))
        return [(f"shards of another profile: {what}", f"--shards {old['run'].get('shards')}")]
    if name == "manifest_sha256":
        if old.get("profile") != new.get("profile"):
            return []  # said already
        folder, other = old["run"].get("shards"), new["run"].get("shards")
        if folder == other:
            what = f"other shards: those in {folder} have been packed anew since (the manifest's"
            words = f"the shards that it was trained on in {folder}"
        else:
            what = f"other shards: {folder}, now {other} (the manifest's"
            words = f"--shards {folder}"
        return [(f"{what} SHA-256 was {str(before)[:12]}, is {str(now)[:12]})", words)]
    return [(f"another {name}: {before}, now {now}", f"--{name} {before}")]


def _unequal(before: dict, now: dict) -> list[str]:
    return sorted(key for key in {*before, *now} if before.get(key) != now.get(key))


def _other_model(key: str, before: dict, now: dict) -> Refusal:
    if key not in before or key not in now:
        which = "has no" if key not in before else "alone has a"
        return (
            f"another version of the model: the run {which} field {key}",
            "the version of this project that it was trained with (git.commit in its config.json)",
        )
    words = f"--preset {before[key]}" if key == "preset" else _as_flag(key, before[key])
    return f"another model: {key} {before[key]}, now {now[key]}", words


def _as_flag(key: str, value) -> str:
    text = value if isinstance(value, str) else json.dumps(value, separators=(",", ":"))
    return f"--model {shlex.quote(f'{key}={text}')}"


def _other_deepspeed(key: str, before, now, old: dict, new: dict) -> Refusal:
    """Another value of the DeepSpeed settings; `old`, `new`: the runs' own."""
    if key == "bf16.enabled" and {old.get("precision"), new["precision"]} - {"json", None}:
        names = {True: "bf16"}
        before, now = names.get(before, "fp32"), names.get(now, "fp32")
        return f"another precision: {before}, now {now}", f"--precision {before}"
    return (
        f"another {key} in the DeepSpeed JSON: {before}, now {now}",
        f"a DeepSpeed JSON that says so, as {old.get('deepspeed_config')} did",
    )


def refusal(run: Path, refused: list[Refusal]) -> InputError:
    """One message for all that is refused."""
    lines = "".join(f"\n     {what}" for what, _ in refused)
    words = "; ".join(dict.fromkeys(words for _, words in refused))
    return InputError(
        f"{run} cannot go on as another experiment:{lines}",
        f"to go on with it give: {words}. For a new run give another --run",
    )


def check_task(run: Path, old: dict, name: str) -> None:
    """InputError where the run of `old` is one of another task than that of this name."""
    if other := _other_task(_task_of(old), name):
        raise refusal(run, other)


def check_resume(
    run: Path,
    old: dict,
    new: dict,
    tag: str,
    marker: dict,
    world: int,
    kind: type[RunConfig] = RunConfig,
) -> None:
    """InputError where the run of `old` must not go on as `new`; else print what differs and write
    it, with everything resolved, into RUN/history.jsonl."""
    refused, told = compare(old, new, marker["state"]["applied"], (marker["world"], world), kind)
    if refused:
        raise refusal(run, refused)
    if marker["world"] != world:
        told.append(f"ranks were {marker['world']}, are now {world}")
    for line in told:
        print(f"resume: {line}", flush=True)
    new = with_earlier_subjects(old, new)
    entry = {"step": marker["state"]["step"], "changes": told, "resolved": new}
    with open(run / "history.jsonl", "a") as file:
        file.write(json.dumps(entry) + "\n")
    write_atomic(run / "config.json", (json.dumps(new, indent=1) + "\n").encode())


def with_earlier_subjects(old: dict, new: dict) -> dict:
    """The record `new`, with the people and recordings that the weights of `old` were trained on:
    `--init` need not be repeated at a resume, and its people stay in the weights."""
    if "trained_on" not in old or "trained_on" not in new:
        return new
    return {**new, "trained_on": union_of_records(new["trained_on"], old["trained_on"])}


def _other_groups(old: dict, new: dict) -> list[Refusal]:
    """Flags whose change divides the parameters into other groups, by which a checkpoint's
    moments are stored."""
    told = []
    for name, together in (("layer_decay", 1), ("weight_decay", 0)):
        before, now = old.get(name), new.get(name)
        if None not in (before, now) and (before == together) != (now == together):
            why = f"{together:g} or not is another number of the optimizer's parameter groups"
            what = f"another {name}: {before:g}, now {now:g} ({why})"
            told.append((what, f"--{name} {before:g}"))
    return told


def _learning_rate(old: dict, new: dict, applied: int, kind: type[RunConfig]) -> str | None:
    known = set(kind.__dataclass_fields__)
    before, now = (
        kind(**{key: _tuples(value) for key, value in run.items() if key in known})
        for run in (old, new)
    )
    rates = [config.peak_lr * lr_factor(applied, config) for config in (before, now)]
    if abs(rates[0] - rates[1]) <= 1e-9 * rates[0]:
        return None
    return f"the learning rate at this step was to be {rates[0]:.4g}, is now {rates[1]:.4g}"


def flat(name: str, section: dict) -> dict:
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


def changes(old: dict, new: dict) -> list[tuple]:
    """(key, before, now) of every entry that differs."""
    pairs = [(key, old.get(key), new.get(key)) for key in dict.fromkeys([*old, *new])]
    return [pair for pair in pairs if _tuples(pair[1]) != _tuples(pair[2])]


def _tuples(value):
    return tuple(value) if isinstance(value, list) else value
