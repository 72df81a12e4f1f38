"""Make a folder that others can load with transformers, from an EEG-to-MEG run.

    python trainer/share.py runs/eeg2meg --out translator/ --report report/report.json
    python trainer/share.py runs/eeg2meg --out translator/ --checkpoint last   # instead of best
    python trainer/share.py runs/eeg2meg --out translator/ --push USER/NAME    # needs a token

The folder holds safetensors, configuration, processor, the model's code (for trust_remote_code) and
a model card with the scores of the report. `--checkpoint last` reads DeepSpeed's own files, which
are pickles: only convert runs of your own.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

sys.path[0] = str(Path(__file__).resolve().parents[1])

from data.errors import InputError, run_command


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("run", type=Path, help="run folder of trainer/eeg2meg.py")
    parser.add_argument("--out", type=Path, required=True, help="folder to write")
    parser.add_argument("--report", type=Path, help="report.json of trainer/eval_eeg2meg.py")
    parser.add_argument(
        "--checkpoint", choices=("best", "last"), default="best", help="which weights [best]"
    )
    parser.add_argument("--name", help="of the model in its card [the folder's]")
    parser.add_argument("--push", metavar="USER/NAME", help="also upload it to the Hub")
    parser.add_argument("--private", action="store_true", help="make the new repository private")
    arguments = parser.parse_args(argv)
    # Here, since --help and a wrong flag should not wait for transformers.
    from trainer.translation.export import export, push

    report = read_report(arguments.report, arguments.run) if arguments.report else None
    export(arguments.run, arguments.out, arguments.checkpoint, report, arguments.name)
    print(f"{arguments.out}: AutoModel.from_pretrained({str(arguments.out)!r})")
    if arguments.push:
        print(push(arguments.out, arguments.push, arguments.private))
    return 0


def read_report(path: Path, run: Path) -> dict:
    try:
        report = json.loads(path.read_text())
        model = Path(report["model_path"]).resolve()
    except (OSError, ValueError, KeyError) as error:
        raise InputError(
            f"--report {path}: {error}", "give report.json of eval_eeg2meg.py"
        ) from None
    if model not in (run.resolve(), (run / "best").resolve()):
        raise InputError(f"--report {path} is of {report['model_path']}", "score this run first")
    return report


if __name__ == "__main__":
    run_command(main)
