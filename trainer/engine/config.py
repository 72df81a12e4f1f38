"""What a run is: one frozen dataclass, filled from flags, environment and the DeepSpeed JSON.

A flag wins over the environment (`EEG_` + the field's name in capitals, e.g. `EEG_PRESET=tiny`),
which wins over the default. Everything is checked here, before a process group or a GPU is touched;
the resolved values go into the run's config.json.
"""

from __future__ import annotations

import argparse
import difflib
import json
import os
from dataclasses import Field, asdict, dataclass, field, fields
from typing import ClassVar

from data.errors import InputError


def option(default, help: str, **extra):
    return field(default=default, metadata={"help": help, **extra})


@dataclass(frozen=True)
class RunConfig:
    """One training run, whatever its objective, which adds fields of its own in a subclass. Fields
    are command-line flags of the same name."""

    environment: ClassVar[str] = "EEG_"
    """What the fields' names in the environment begin with."""
    without: ClassVar[tuple[str, ...]] = ()
    """Fields that are no flags, since this task has no use for them."""

    deepspeed_config: str = option("ds_configs/zero2.json", "DeepSpeed JSON")
    precision: str = option(
        "json", "json: as the DeepSpeed JSON says; bf16; fp32; auto: as it says on a GPU, fp32 on "
        "a CPU"
    )  # fmt: skip
    shards: str = option("shards/pretrain", "folder that data/pack.py wrote")
    shard_url: str | None = option(
        None,
        "stream shards from this template of a URL or pipe, with {file}; see "
        "data/batches/streamed.py",
    )
    reserve: str | None = option(
        None,
        "lists of data/reserve, e.g. neuralbench,cbramod, or a YAML file with a `reserve:` list; "
        "shards that train on any of it are refused",
    )
    run: str = option("runs/pretrain", "folder of this run: config, metrics, checkpoints")
    init: str | None = option(None, "start from these weights: a run folder, .safetensors or .pt")
    steps: int = option(100_000, "optimizer steps of the whole run")
    stop_at: int | None = option(
        None, "save and stop at this step; the schedule still spans --steps (chained jobs)"
    )
    micro_batch: int | None = option(None, "windows a rank takes at once; default: the JSON's")
    global_batch: int | None = option(None, "windows a step over all ranks; default: from the JSON")
    run_length: int | None = option(
        None, "windows of one montage in a row in the data order; default: the micro-batch"
    )
    lr: float | None = option(None, "peak learning rate; default: by the model")
    warmup: float = option(0.05, "share of the steps in which the learning rate rises")
    decay: float = option(0.2, "share of the steps at the end in which it falls (trapezoid)")
    schedule: str = option("cosine", "cosine or trapezoid")
    weight_decay: float = option(0.05, "decay of weight matrices (AdamW)")
    betas: tuple[float, float] = option((0.9, 0.95), "Adam's betas")
    temperature: float = option(
        1.0, "datasets are drawn by size ** temperature; 1: every window once an epoch"
    )
    seed: int = option(0, "of weights, order, masks and latent noise")
    workers: int = option(2, "loader processes a rank; 0 reads in the training process")
    eval_every: int = option(1000, "steps between validations on held-out subjects; 0: never")
    eval_windows: int = option(512, "windows of the validation split that are scored")
    figure_every: int = option(5000, "steps between reconstruction figures; 0: never")
    patience: int = option(0, "stop after this many validations without a better one; 0: never")
    save_every: int = option(1000, "steps between checkpoints")
    keep_last: int = option(2, "complete checkpoints that are kept")
    keep_every: int = option(0, "also keep those of every so many steps; 0: none of them")
    log_every: int = option(20, "steps between log lines")
    resume: str = option("auto", "auto: go on where the run stopped; never: the folder must be new")
    restart_lost: bool = option(
        False, "where all checkpoints of this run are lost, set it aside and begin at step 0"
    )
    elastic: bool = option(
        False, "go on from a checkpoint of another number of ranks, with its global batch"
    )
    timeout_s: float = option(
        600.0, "seconds without progress after which the rank that hangs is named; 0: never"
    )
    verify: str = option("hash", "check of the shards at the start: hash (every byte) or size")
    max_skips: int = option(5, "steps in a row whose data or gradients may be non-finite")
    spike: float = option(10.0, "tell of gradient norms above this many running medians; 0: never")
    compile: bool = option(False, "torch.compile the model")
    recompute: bool = option(False, "recompute activations in the backward pass: less memory")

    def __post_init__(self):
        def check(name: str, good: bool, remedy: str) -> None:
            if not good:
                raise InputError(f"--{name} {getattr(self, name)}", remedy)

        check("schedule", self.schedule in ("cosine", "trapezoid"), "use cosine or trapezoid")
        check("resume", self.resume in ("auto", "never"), "use auto or never")
        check(
            "precision",
            self.precision in ("json", "bf16", "fp32", "auto"),
            "use json, bf16, fp32 or auto",
        )
        check("verify", self.verify in ("hash", "size"), "use hash or size")
        for name in ("steps", "save_every", "log_every", "keep_last", "max_skips"):
            check(name, getattr(self, name) >= 1, "it must be at least 1")
        for name in (
            "eval_every",
            "eval_windows",
            "figure_every",
            "workers",
            "weight_decay",
            "patience",
        ):
            check(name, getattr(self, name) >= 0, "it must not be negative")
        for name in ("micro_batch", "global_batch", "run_length", "stop_at"):
            check(name, (getattr(self, name) or 1) >= 1, "it must be at least 1")
        for name in ("warmup", "decay", "temperature"):
            check(name, 0 <= getattr(self, name) <= 1, "it must lie between 0 and 1")
        check("lr", self.lr is None or self.lr > 0, "it must be > 0")
        check("betas", all(0 <= b < 1 for b in self.betas), "both must lie in [0, 1)")
        for name in ("keep_every", "timeout_s"):
            check(name, getattr(self, name) >= 0, "it must not be negative")
        check("spike", self.spike >= 0, "it must not be negative")
        check("seed", 0 <= self.seed < 2**63, "it must be a non-negative integer")
        if self.shard_url and self.elastic:
            raise InputError(
                "--elastic with --shard_url", "streamed shards are divided by rank: use local ones"
            )
        if self.shard_url and self.workers:
            raise InputError(
                f"--workers {self.workers} with --shard_url", "streams need --workers 0"
            )

    @property
    def last_step(self) -> int:
        return min(self.steps, self.stop_at or self.steps)

    @property
    def peak_lr(self) -> float:
        """Of the schedule; objectives that know better say their own default."""
        return self.lr if self.lr is not None else 1e-3

    def as_dict(self) -> dict:
        return asdict(self)


def model_changes(texts: tuple[str, ...]) -> dict:
    """`--model KEY=VALUE` flags as a dict; values are JSON, or text where they are not."""
    changes = {}
    for text in texts:
        name, equals, value = text.partition("=")
        if not equals:
            raise InputError(f"--model {text}", "write key=value, e.g. --model mask_ratio=0.6")
        try:
            changes[name] = json.loads(value)
        except json.JSONDecodeError:
            changes[name] = value
    return changes


def flags_of(kind: type[RunConfig]) -> list[Field]:
    """The fields of a dataclass of settings that are flags."""
    return [entry for entry in fields(kind) if entry.name not in kind.without]


def add_flags(
    parser: argparse.ArgumentParser, changes: dict | None = None, kind: type = RunConfig
) -> None:
    """One flag for each field of the dataclass `kind`, with `changes` to the defaults."""
    for entry in flags_of(kind):
        default = (changes or {}).get(entry.name, entry.default)
        extra: dict = {"type": _kind(entry)}
        if _kind(entry) is bool:
            extra = {"action": argparse.BooleanOptionalAction}
        elif entry.name == "model":
            extra = {"action": "append", "metavar": "KEY=VALUE"}
        elif entry.type.startswith("tuple"):
            extra["nargs"] = 2
        shown = "" if default in (None, ()) else f" [{default}]"
        parser.add_argument(
            f"--{entry.name}", default=None, help=entry.metadata["help"] + shown, **extra
        )
    parser.add_argument("--local_rank", type=int, help=argparse.SUPPRESS)  # the launcher's


def _kind(entry) -> type:
    """The Python type of a field's value (of its items, for a tuple)."""
    name = entry.type.removeprefix("tuple[").split(",")[0].split(" ")[0]
    return {"int": int, "float": float, "str": str, "bool": bool}[name]


def resolve(arguments: argparse.Namespace, changes: dict | None = None, kind: type = RunConfig):
    """A `kind` (RunConfig) from flags, then environment, then `changes`, then the defaults."""
    values = dict(changes or {})
    _tell_of_misspelt(kind)
    for entry in flags_of(kind):
        given = getattr(arguments, entry.name)
        name = kind.environment + entry.name.upper()
        if given is None and name in os.environ:
            given = _parse(entry, name)
        if given is not None:
            values[entry.name] = tuple(given) if isinstance(given, list) else given
    return kind(**values)


def _tell_of_misspelt(kind: type) -> None:
    """Say, on the first rank, which variables look like a misspelt setting. They are not refused:
    the prefix is not ours alone."""
    known = [kind.environment + entry.name.upper() for entry in flags_of(kind)]
    for name in sorted(set(os.environ) - {*known, "EEG_ATTENTION", "EEG_JOIN_S"}):
        near = difflib.get_close_matches(name, known, n=1, cutoff=0.85)
        if name.startswith(kind.environment) and near and os.environ.get("RANK", "0") == "0":
            print(f"the variable {name} sets nothing here: did you mean {near[0]}?", flush=True)


def _parse(entry, name: str):
    """The value of a field that the environment variable `name` holds."""
    kind, text = _kind(entry), os.environ[name]
    try:
        if kind is bool:
            return {"1": True, "true": True, "0": False, "false": False}[text.lower()]
        if entry.type.startswith("tuple"):
            return tuple(kind(word) for word in text.split())
        return kind(text)
    except (ValueError, KeyError):
        raise InputError(
            f"{name}={text}: not a value for {entry.name} ({entry.type})",
            "mend or unset this environment variable",
        ) from None
