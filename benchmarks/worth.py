"""What pretraining is worth on EEGMAT: an encoder for each fold, pretrained without its people, by
the real commands, and decoded beside closed forms and untrained twins.

    python benchmarks/worth.py --eegmat DIR --out worth --steps 600 -- --preset tiny \\
        --model patch_samples=200

What follows `--` goes to trainer/pretrain.py. Each part is skipped where it is finished, so the
same command continues. On two cores 600 steps of `tiny` with patches of 1 s take about ten minutes
a fold.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path[0] = str(ROOT)

from data.errors import run_command
from data.shards.manifest import read_manifest
from trainer.decoding.labelled import read_labelled
from trainer.decoding.protocols import make_folds

NAMES = r"label=_(\d)\.edf,dataset=EEGMAT"
WINDOW_S = "5"


def step(*words: object) -> None:
    print("$", *words, flush=True)
    subprocess.run([str(word) for word in words], cwd=ROOT, check=True)


def pack(out: Path, sources: list[str]) -> None:
    options = [word for source in sources for word in ("--source", source)]
    step(sys.executable, "data/pack.py", *options, "--window_s", WINDOW_S, "--out", out)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--eegmat", type=Path, required=True, help="folder of Subject*_*.edf")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--folds", type=int, default=4)
    parser.add_argument("--steps", type=int, default=600)
    parser.add_argument("--pool", action="append", help="of trainer/decode.py")
    parser.add_argument("pretrain", nargs="*", help="flags of trainer/pretrain.py, after --")
    arguments = parser.parse_args()
    files, out = arguments.eegmat.resolve(), arguments.out.resolve()
    pack(out / "shards", [rf"raw:{files}/Subject*_*.edf,subject=(Subject\d+),{NAMES}"])
    known = read_labelled(read_manifest(out / "shards"), str(out / "shards"))
    everybody = {known.rows.people[number][1] for number in known.rows.person.tolist()}
    for fold in make_folds(f"folds:{arguments.folds}", known.rows):
        tested = {known.rows.people[number][1] for number in known.rows.person[fold.test].tolist()}
        sources = [
            f"raw:{files}/{one}_*.edf,subject={one},{NAMES},"
            f"split={'test' if one in tested else 'train'}"
            for one in sorted(everybody)
        ]
        pack(out / f"shards-{fold.name}", sources)
        step(
            Path(sys.executable).with_name("deepspeed"), "--num_gpus", 1, "trainer/pretrain.py",
            "--deepspeed_config", "ds_configs/zero2.json", "--shards", out / f"shards-{fold.name}",
            "--run", out / f"run-{fold.name}", "--steps", arguments.steps, "--workers", 1,
            "--figure_every", 0, "--eval_every", 0, *arguments.pretrain,
        )  # fmt: skip
    pools = [word for pool in arguments.pool or [] for word in ("--pool", pool)]
    step(
        sys.executable, "trainer/decode.py", "--encoder", out / "run-{fold}", "--shards",
        out / "shards", "--protocol", f"folds:{arguments.folds}", *pools, "--out", out / "decoding",
    )  # fmt: skip


if __name__ == "__main__":
    run_command(main)
