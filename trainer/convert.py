"""Turn a run's DeepSpeed checkpoint into plain fp32 weights.

    python trainer/convert.py runs/NAME --out encoder.safetensors     # the encoder
    python trainer/convert.py runs/NAME --out model.pt --keep whole   # everything, a torch file
    python trainer/convert.py runs/NAME --out encoder/                # for transformers' AutoModel
    python trainer/convert.py runs/NAME --out encoder/ --report report/report.json   # with scores

Writes the weights and, beside them, a .json with the model's and the signal's configuration, the
people it was trained on, and how many of them public benchmarks test on (data/reserve). Before it
reports success it reads the file back, computes the loss of a fixed batch and compares it with the
one that the training engine computed when it saved the checkpoint.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

sys.path[0] = str(Path(__file__).resolve().parents[1])

from data.errors import run_command
from data.flags import Renamed, present
from data.subjects.trained_on import describe_benchmarks
from trainer.masked.export import convert
from trainer.reports.tables import headline_lines

RENAMED = (Renamed("part", "keep"),)


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("run", type=Path, help="run folder, e.g. runs/pretrain")
    parser.add_argument(
        "--out", type=Path, required=True, help="NAME.safetensors, NAME.pt, or a new folder"
    )
    parser.add_argument(
        "--keep", choices=("encoder", "whole"), default="encoder", help="what is written [encoder]"
    )
    parser.add_argument(
        "--report", type=Path, help="report.json of trainer/evaluate.py: its headline goes along"
    )
    arguments = parser.parse_args(present(argv, RENAMED))
    done = convert(arguments.run, arguments.out, arguments.keep, arguments.report)
    parity = done["parity"]
    described = arguments.out.with_suffix(".json") if arguments.out.suffix else arguments.out
    print(
        f"{arguments.out}: {done['part']} of {done['model']['preset']}, step {done['steps']}, "
        f"{done['parameters'] / 1e6:.2f} M parameters, fp32\n"
        f"{described}: model and signal configuration\n"
        f"parity on the fixed batch ({parity['dtype']}): engine {parity['engine_loss']:.6f}, "
        f"converted {parity['converted_loss']:.6f}\n"
        f"{describe_benchmarks(done['benchmarks_seen'])}"
    )
    if done["scores"]:
        print(*headline_lines(done["scores"]["headline"], "model"), sep="\n")
    return 0


if __name__ == "__main__":
    run_command(main)
