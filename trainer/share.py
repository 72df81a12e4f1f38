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
import contextlib
import io
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
    share(arguments)
    print(f"{arguments.out}: AutoModel.from_pretrained({str(arguments.out)!r})")
    if arguments.push:
        print(push(arguments.out, arguments.push, arguments.private))
    return 0


def share(arguments: argparse.Namespace) -> None:
    """Write the folder."""
    from trainer.translation.card import make_card
    from trainer.translation.keeping import DESCRIPTION, write_folder

    best = arguments.run / "best"
    if not (best / DESCRIPTION).is_file():
        raise InputError(
            f"{arguments.run}: no best/{DESCRIPTION}", "give the --run folder of trainer/eeg2meg.py"
        )
    if arguments.out.exists() and any(arguments.out.iterdir()):
        raise InputError(f"--out {arguments.out}: not empty", "choose a new folder")
    report = None
    if arguments.report is not None:
        report = read_report(arguments.report, arguments.run)
    from model.brainformer import BrainformerForEEG2MEG, BrainformerProcessor

    model = BrainformerForEEG2MEG.from_pretrained(best)
    processor = BrainformerProcessor.from_pretrained(best)
    description = json.loads((best / DESCRIPTION).read_text())
    if arguments.checkpoint == "last":
        weights, step = last_weights(arguments.run)
        model.load_state_dict(weights)
        description["validation"] = {"step": step}
    write_folder(arguments.out, model, dict(model.state_dict()), processor, description)
    card = make_card(arguments.name or arguments.out.name, description, report)
    (arguments.out / "README.md").write_text(str(card))
    again = BrainformerForEEG2MEG.from_pretrained(arguments.out)
    for name, value in model.state_dict().items():
        if not again.state_dict()[name].equal(value.float()):
            raise InputError(f"{arguments.out}: {name} reads back differently", "check the disk")


def last_weights(run: Path) -> tuple[dict, int]:
    """(fp32 weights, step) of the run's last whole DeepSpeed checkpoint."""
    from trainer.translation.keeping import last_complete, read_history

    folder, passed = last_complete(run)
    for name, why in passed.items():
        print(f"checkpoint {run / 'checkpoints' / name} is passed over: {why}", flush=True)
    if folder is None:
        raise InputError(
            f"{run}: no complete checkpoint", "train further, or use --checkpoint best"
        )
    # It prints its progress; a user sees ours.
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        from deepspeed.utils.zero_to_fp32 import get_fp32_state_dict_from_zero_checkpoint

        state = get_fp32_state_dict_from_zero_checkpoint(str(folder))
    plain = {name: tensor.detach().clone().float() for name, tensor in state.items()}
    return plain, read_history(folder)[0]


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


def push(folder: Path, name: str, private: bool) -> str:
    """Upload the folder; returns its address."""
    from huggingface_hub import CommitOperationAdd, HfApi

    files = [path for path in sorted(folder.rglob("*")) if path.is_file()]
    operations = [CommitOperationAdd(str(path.relative_to(folder)), path) for path in files]
    api = HfApi()
    try:
        address = api.create_repo(name, private=private, exist_ok=True)
        api.create_commit(name, operations, commit_message=f"Upload {name}")
    except Exception as error:  # network, rights, names: the Hub's client raises many kinds
        raise InputError(f"--push {name}: {error}", "log in with  hf auth login") from error
    return str(address)


if __name__ == "__main__":
    run_command(main)
