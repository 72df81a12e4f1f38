"""Turn a run into plain fp32 weights, or into a folder that transformers loads.

    python trainer/convert.py runs/NAME --out encoder.safetensors     # the encoder
    python trainer/convert.py runs/NAME --out model.pt --keep whole   # everything, a torch file
    python trainer/convert.py runs/NAME --out encoder/                # for transformers' AutoModel
    python trainer/convert.py runs/NAME --out encoder.onnx            # for ONNX runtimes
    python trainer/convert.py runs/NAME --out encoder/ --report report/report.json   # with scores

Writes the weights and, beside them, a .json with the model's and the signal's configuration, the
people it was trained on, and how many of them public benchmarks test on (data/reserve). Before it
reports success it reads the file back, computes the loss of a fixed batch and compares it with the
one that the training engine computed when it saved the checkpoint.

Of a run of trainer/eeg2meg.py, a folder with the best weights, the processor, the model's code (for
trust_remote_code) and a model card:

    python trainer/convert.py runs/eeg2meg --out translator/ --report report/report.json
    python trainer/convert.py runs/eeg2meg --out translator/ --checkpoint last   # instead of best
    python trainer/convert.py runs/eeg2meg --out translator/ --push USER/NAME    # needs a token

DeepSpeed's checkpoints are pickles: only convert runs of your own.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

sys.path[0] = str(Path(__file__).resolve().parents[1])

from data.errors import InputError, run_command
from data.flags import Renamed, present
from data.subjects.trained_on import describe_benchmarks
from trainer.reports.tables import headline_lines

RENAMED = (Renamed("part", "keep"),)
OF_TRANSLATORS = ("checkpoint", "name", "push", "private")


def parse(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("run", type=Path, help="run folder, e.g. runs/pretrain")
    add(
        "--out",
        type=Path,
        required=True,
        help="NAME.safetensors, NAME.pt, NAME.onnx, or a new folder",
    )
    add("--keep", choices=("encoder", "whole"), help="what is written [encoder; of a run of "
        "eeg2meg.py whole]")  # fmt: skip
    add("--report", type=Path, help="report.json of trainer/evaluate.py or trainer/eval_eeg2meg.py "
        "on this run: its headline goes along")  # fmt: skip
    own = parser.add_argument_group("of a run of trainer/eeg2meg.py")
    own.add_argument("--checkpoint", choices=("best", "last"), help="which weights [best]")
    own.add_argument("--name", help="of the model in its card [the folder's]")
    own.add_argument("--push", metavar="USER/NAME", help="also upload it to the Hub")
    own.add_argument(
        "--private", action="store_true", default=None, help="make the new repository private"
    )
    return parser.parse_args(present(argv, RENAMED))


def main(argv: list[str] | None = None) -> int:
    arguments = parse(argv)
    if (arguments.run / "best" / "eeg2meg.json").is_file():
        convert_translator(arguments)
        return 0
    for name in OF_TRANSLATORS:
        if getattr(arguments, name) is not None:
            raise InputError(f"--{name}: {arguments.run} is no run of trainer/eeg2meg.py")
    convert_masked(arguments)
    return 0


def convert_masked(arguments: argparse.Namespace) -> None:
    """A masked autoencoder: its last checkpoint."""
    from trainer.masked.export import convert

    kept = arguments.keep or "encoder"
    done = convert(arguments.run, arguments.out, kept, arguments.report)
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
    if "onnx_difference" in done:
        print(f"onnxruntime differs from PyTorch by {done['onnx_difference']:.1e} at most")
    if done["scores"]:
        print(*headline_lines(done["scores"]["headline"], "model"), sep="\n")


def convert_translator(arguments: argparse.Namespace) -> None:
    """A translator of EEG to MEG: its best weights."""
    # Here, since transformers costs seconds where plain weights are asked for.
    from trainer.translation.export import export, push

    if arguments.keep == "encoder" or arguments.out.suffix:
        raise InputError(
            f"{arguments.run}: a run of trainer/eeg2meg.py is written whole, into a folder",
            "give a new folder as --out, without --keep",
        )
    checkpoint = arguments.checkpoint or "best"
    export(arguments.run, arguments.out, checkpoint, arguments.report, arguments.name or "")
    print(f"{arguments.out}: AutoModel.from_pretrained({str(arguments.out)!r})")
    if arguments.push:
        print(push(arguments.out, arguments.push, bool(arguments.private)))


if __name__ == "__main__":
    run_command(main)
