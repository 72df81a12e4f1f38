"""Score a translation of EEG to MEG on recordings that it was not trained on, beside baselines.

    python trainer/eval_eeg2meg.py runs/eeg2meg --shards shards/pairs --out report/
    python trainer/eval_eeg2meg.py runs/eeg2meg --shards shards/pairs --holdout loso:05 \\
        --out report/ --leak_test

Writes report.json, report.md and figures. Who is left out is as in the run without --holdout. See
docs/brainformer.md.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

sys.path[0] = str(Path(__file__).resolve().parents[1])

from data.errors import InputError, run_command
from data.flags import Renamed, present

RENAMED = (
    Renamed("model", ""),
    Renamed("data", "shards"),
    Renamed("split", "holdout"),
    Renamed("limit", "windows_per_recording"),
)


def parse(argv: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("run", type=Path, help="run folder, or a folder of save_pretrained")
    add("--shards", type=Path, required=True, help="folder of paired shards")
    add(
        "--holdout",
        metavar="RULE",
        help="who was left out of training: loso:SUBJECT[,..], loro:RUN[,..] or time:SHARE [that "
        "of the run]",
    )
    add("--out", type=Path, required=True, help="folder for the report")
    add("--lags", type=int, default=5, help="of `ridge lags`: samples before and after [5]")
    add(
        "--windows_per_recording",
        type=int,
        default=0,
        metavar="N",
        help="most that are scored of each test recording; 0: all [0]",
    )
    add("--forward", action="append", default=[], metavar="SUBJECT=FILE-fwd.fif",
        help="MNE forward solution on a cortical surface, for the minimum-norm baseline; repeatable"
        )  # fmt: skip
    add(
        "--leak_test",
        action="store_true",
        help="also measure what shuffling the windows would claim",
    )
    add("--seed", type=int, default=0, help="of the leak test [0]")
    add("--device", default="auto", help="auto, cpu, cuda, cuda:1 ... [auto]")
    arguments = parser.parse_args(present(argv, RENAMED))
    for name in ("lags", "windows_per_recording", "seed"):
        if getattr(arguments, name) < 0:
            raise InputError(f"--{name} {getattr(arguments, name)}", "it must not be negative")
    return arguments


def main(argv: list[str] | None = None) -> int:
    arguments = parse(argv)
    # Here, since --help and a wrong flag should not wait for transformers.
    from trainer.translation.assess import assess

    return assess(arguments)


if __name__ == "__main__":
    run_command(main)
