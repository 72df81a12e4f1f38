"""What a frozen encoder's features are worth: labels decoded on people that it has never seen,
beside closed forms, its untrained twin and controls on the same folds.

    python trainer/decode.py --encoder runs/pretrain --shards shards/labelled --out decoding
    python trainer/decode.py --encoder encoder.safetensors --shards DIR --protocol loso --out DIR
    python trainer/decode.py --encoder 'runs/pretrain-{fold}' --shards DIR --protocol folds:4 \\
        --out DIR                         # an encoder for each fold, trained on the other people
    python trainer/decode.py --shards DIR --out DIR                 # the closed forms alone
    python trainer/decode.py --encoder runs/pretrain --shards DIR --out DIR --follow
                                          # each new checkpoint of a run, beside its training
    python trainer/decode.py --encoder runs/pretrain --shards DIR --out DIR --method finetune \\
        -- --steps 300                    # and fine-tuned on the same folds
    python trainer/decode.py --data moabb:BNCI2014_001 --out DIR --few 1,2,5,10

Labels come with the shards (label=, labels= or events= of a source of data/pack.py). Writes
decoding.json (every person's scores), decoding.md and decoding.png into --out; with --follow also
the encoder's scores into the run's TensorBoard.
"""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import replace
from pathlib import Path

sys.path[0] = str(Path(__file__).resolve().parents[1])

from data.errors import InputError, did_you_mean, run_command
from data.files import make_folder, write_atomic
from data.packing.apart import pack_apart
from data.shards.manifest import read_manifest
from model.pooling import COVARIANCE, POOLS
from trainer.decoding.protocols import RULES
from trainer.decoding.reporting.few_shot import counts_of
from trainer.decoding.reporting.follow import follow

POOL = COVARIANCE


def parse(argv: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    pools = ", ".join([f"{name}: {pool.meaning}" for name, pool in POOLS.items()])
    add("--encoder", help="run folder or converted weights; {fold} stands for a fold's name")
    add("--shards", type=Path, help="a folder of data/pack.py, with labels")
    add("--data", metavar="SOURCE", help="in place of --shards: a source that is packed into "
        "OUT/shards, as moabb:BNCI2014_001,subjects=1-4")  # fmt: skip
    add("--out", type=Path, required=True, help="the folder that is written")
    add("--protocol", default="folds:6", help=f"{RULES} [folds:6]")
    add("--pool", action="append", metavar="NAME", help=f"how tokens become features; the first is "
        f"what is claimed of [{POOL}]. {pools}; {COVARIANCE}: covariances between channels, "
        "along groups of the tokens' leading directions")  # fmt: skip
    add("--seeds", type=int, default=3, help="untrained twins [3]")
    add("--labels", help="LABEL,LABEL: those that are told apart [all]")
    add("--windows_per_subject", type=int, help="most windows of a person [all]")
    add("--adapted", action=argparse.BooleanOptionalAction, default=True,
        help="also scores with each person's unlabelled windows [yes]")  # fmt: skip
    add(
        "--method",
        default="probe",
        help="probe, or also finetune or lora on the same folds, "
        "beside the same network from scratch; flags of trainer/finetune.py follow after --",
    )
    add("flags", nargs="*", help=argparse.SUPPRESS)
    add("--few", help="also few-shot curves, each person alone: 1,2,5,10 windows of each class")
    add("--device", default="auto", help="auto, cpu or cuda[:N] [auto]")
    add("--follow", action="store_true", help="decode each new checkpoint, until the run ends")
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> None:
    arguments = parse(argv)
    pools = tuple(dict.fromkeys(arguments.pool or [POOL]))
    for pool in pools:
        if pool not in POOLS and pool != COVARIANCE:
            known = [*POOLS, COVARIANCE]
            raise InputError(f"--pool {pool}", did_you_mean(pool, known, ", ".join(known)))
    for name, least in (("seeds", 1), ("windows_per_subject", 2)):
        value = getattr(arguments, name)
        if value is not None and value < least:
            raise InputError(f"--{name} {value}", f"it must be at least {least}")
    if (arguments.shards is None) == (arguments.data is None):
        raise InputError("one of --shards and --data is needed", "a packed folder, or a source")
    arguments.few = counts_of(arguments.few) if arguments.few else []
    make_folder(arguments.out, "--out")
    if arguments.data:
        arguments.shards = pack_apart(arguments.data, arguments.out / "shards", "--data")
    if arguments.follow:
        follow(arguments.encoder, lambda: decode_once(arguments, pools))
    else:
        decode_once(arguments, pools)


def training_of(arguments: argparse.Namespace):
    """What --method asks for beside the probe; None: nothing."""
    from trainer.decoding.trained import METHODS, Training

    if arguments.method not in METHODS:
        raise InputError(f"--method {arguments.method}", did_you_mean(arguments.method, METHODS,
                         ", ".join(METHODS)))  # fmt: skip
    if arguments.method == "probe":
        return None
    if arguments.encoder is None:
        raise InputError(f"--method {arguments.method} without --encoder", "give the encoder")
    return Training(arguments.method, arguments.encoder, arguments.shards, arguments.out,
                    arguments.seeds, tuple(arguments.flags))  # fmt: skip


def decode_once(arguments: argparse.Namespace, pools: tuple[str, ...]) -> dict:
    """Decode, print and write the report, which is returned."""
    from trainer.decoding.decoding import Decoding, decode
    from trainer.decoding.reporting.decode_report import figure_of, markdown, terminal
    from trainer.decoding.reporting.few_shot import few_figure, few_markdown, few_shot
    from trainer.ranks.ranks import choose_device

    labels = tuple(filter(None, (arguments.labels or "").split(",")))
    config = Decoding(
        arguments.encoder, arguments.shards, arguments.protocol, pools, arguments.seeds, labels,
        arguments.windows_per_subject, arguments.adapted, choose_device(arguments.device),
        training_of(arguments),
    )  # fmt: skip
    manifest = read_manifest(arguments.shards)
    report = decode(config, manifest)
    print(terminal(report), flush=True)
    figure_of(report).savefig(arguments.out / "decoding.png")
    page = markdown(report, "decoding.png")
    if arguments.few:
        few = few_shot(lambda rule: decode(replace(config, protocol=rule), manifest), arguments.few)
        report["few_shot"] = few
        few_figure(few, report["chance"]).savefig(arguments.out / "few_shot.png")
        lines = few_markdown(few)
        print("\n".join(lines), flush=True)
        page += "\n".join(["", *lines, "![few-shot curves](few_shot.png)", ""])
    write_atomic(arguments.out / "decoding.md", page.encode())
    text = json.dumps(report, indent=1, allow_nan=True)
    write_atomic(arguments.out / "decoding.json", (text + "\n").encode())
    print(f"written: {arguments.out}/decoding.md, .png and .json", flush=True)
    return report


if __name__ == "__main__":
    run_command(main)
