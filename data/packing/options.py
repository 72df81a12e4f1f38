"""The packer's command line: its flags, and what they make of a recipe."""

from __future__ import annotations

import argparse
import os
from dataclasses import replace
from pathlib import Path

from data.errors import InputError
from data.packing.recipe import ORIGINAL, Recipe, check, read_recipe
from data.signals.profiles import PROFILES, SCALES
from data.sources.kinds import KINDS
from data.sources.kinds import PROFILES as OWN_PROFILES
from data.sources.spec import parse_spec
from data.subjects.benchmarks import benchmark_names

DEFAULT_OUT = Path("shards/pretrain")
OVER_RECIPE = ("profile", "window_s", "scale", "seed", "shard_mb")
"""Flags that are settings of a recipe."""


def parse_arguments(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python data/pack.py",
        description="Pack EEG recordings into WebDataset shards with a manifest.",
        epilog="sources: "
        + ", ".join(KINDS)
        + ". Options follow the name, e.g. moabb:PhysionetMI,subjects=1-3 or "
        "simulated:biosemi32,subjects=6,minutes=2. A wrong option prints the right ones.",
    )
    add = parser.add_argument
    add("--source", action="append", metavar="SPEC", help="what to pack; may be repeated")
    add("--recipe", type=Path, metavar="FILE", help="a YAML file of sources (default: the original"
        " datasets, data/recipes/original.yaml)")  # fmt: skip
    add("--out", type=Path, default=DEFAULT_OUT, help=f"folder for the shards ({DEFAULT_OUT})")
    add("--profile", help=f"preprocessing: {', '.join(PROFILES)} (default); those called eeg2meg "
        "keep MEG beside the EEG")  # fmt: skip
    add("--window_s", type=float, metavar="S", help="length of continuous windows in seconds")
    add("--reserve", action="append", metavar="NAME", help="keep this out of training: a list, "
        f"{', '.join(benchmark_names())}, or a dataset; may be repeated; adds to the recipe's "
        "(docs/reserve.md)")  # fmt: skip
    add("--scale", choices=SCALES, help="one robust scale for each recording (default), or one "
        "for all of a person's session, which keeps how their amplitudes differ")  # fmt: skip
    add("--workers", type=int, metavar="N", help="worker processes (one per core)")
    add("--seed", type=int, metavar="N", help="seed of the split and of the order of windows (0)")
    add("--shard_mb", type=float, metavar="M", help="size of a shard in megabytes (256)")
    add("--skip_bad", action="store_true", help="leave out recordings that cannot be read")
    add("--overwrite", action="store_true", help="pack anew over a folder of other settings")
    add("--list", action="store_true", help="only list what would be packed; downloads what is "
        "absent, so run it where there is a network before an array of parts")  # fmt: skip
    add("--part", metavar="I/N", help="make only the I-th of N shares of the recordings, e.g. as a "
        "Slurm array task (slurm/pack_array.sbatch); the same --out for all")  # fmt: skip
    add("--merge", action="store_true", help="check that all parts are there and write the shards")
    return parser.parse_args(argv)


def resolve(args: argparse.Namespace) -> Recipe:
    """What to pack: --source or a recipe, with the command line's settings over it."""
    if args.source and args.recipe:
        raise InputError("--source and --recipe are both given", "give one of them")
    recipe = Recipe(tuple(args.source)) if args.source else read_recipe(args.recipe or ORIGINAL)
    given = {key: getattr(args, key) for key in OVER_RECIPE}
    usual = {OWN_PROFILES.get(parse_spec(source).kind) for source in args.source or ()}
    if len(usual) == 1:
        given["profile"] = given["profile"] or usual.pop()
    given["reserve"] = tuple(dict.fromkeys((*recipe.reserve, *(args.reserve or ()))))
    return check(replace(recipe, **{key: v for key, v in given.items() if v is not None}))


def cores() -> int:
    """CPU cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
