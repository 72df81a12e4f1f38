"""Score a model's reconstruction of hidden EEG, next to what costs nothing.

    python trainer/evaluate.py runs/NAME --shards shards/pretrain --out report/

For every kind of mask the same patches are hidden from the model and from zero, linear, cubic and
spherical-spline interpolation and from a Gaussian fitted on the training split, on subjects that
the model was never trained on; hidden samples alone are scored. Writes report.json, report.md and
figures, and the Gaussian beside the weights.
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path[0] = str(Path(__file__).resolve().parents[1])

import argparse
from collections.abc import Sequence

from data.errors import InputError, run_command
from data.files import write_atomic
from data.flags import Renamed, present
from data.shards.manifest import SPLITS, read_manifest
from data.subjects.trained_on import recordings_of, refuse_renamed
from model.masks import MASKS, spelled
from trainer.checkpoints.weights import load_model
from trainer.masked.evaluation import WINDOWS_PER_SUBJECT, evaluate
from trainer.ranks.ranks import choose_device
from trainer.reports.report import markdown, short_table, write_json
from trainer.reports.report_figures import write_figures
from trainer.reports.tables import headline_lines
from trainer.scoring.compare import ALL

RENAMED = (Renamed("kinds", "masks"),)


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="trainer/evaluate.py",
        description="Score a model's reconstruction of hidden EEG next to interpolation, on "
        "subjects it was not trained on. Writes report.json, report.md and figures.",
        epilog="example:  python trainer/evaluate.py runs/demo --shards shards/demo --out report/",
    )
    add = parser.add_argument
    add("model", help="a run folder (its last complete checkpoint), or a converted .safetensors "
        "or .pt file with its .json beside it")  # fmt: skip
    add("--shards", required=True, help="folder that data/pack.py wrote")
    add("--out", default="report", help="folder for the report (default: %(default)s)")
    add("--split", default="test", choices=SPLITS, help="whose windows (default: %(default)s)")
    add("--mask_ratio", type=float, help="share of the patches to hide (default: the model's)")
    add("--masks", help=f"kinds of mask, comma-separated, of {spelled(tuple(MASKS))} (default: all "
        "that the model takes and that need no NUMBER)")  # fmt: skip
    add("--windows_per_subject", type=int, default=WINDOWS_PER_SUBJECT,
        help="spread evenly over the subject's recordings (default: %(default)s)")  # fmt: skip
    add("--allow_trained_on", action="store_true", help="score recordings although they were "
        "trained on under another name, and mark the report")  # fmt: skip
    add("--seed", type=int, default=0, help="of the masks (default: %(default)s)")
    add("--device", default="auto", help="auto, cpu, cuda, cuda:1 ... (default: %(default)s)")
    return parser.parse_args(present(argv, RENAMED))


def main(argv: Sequence[str] | None = None) -> int:
    args = parse(argv)
    device = choose_device(args.device)
    manifest = read_manifest(args.shards)
    model, meta = load_model(args.model)
    if not args.allow_trained_on:
        refuse_renamed(recordings_of(manifest, args.split), meta.get("trained_on"))
    kinds = [kind.strip() for kind in args.masks.split(",")] if args.masks else None
    print(f"model   {args.model}: {model.config.preset}, {model.config.tokens} tokens, on {device}")
    print(f"shards  {args.shards}: split {args.split}", flush=True)
    report, comparison = evaluate(
        model,
        manifest,
        split=args.split,
        kinds=kinds,
        mask_ratio=args.mask_ratio,
        windows_per_subject=args.windows_per_subject,
        seed=args.seed,
        device=device,
        trained_on=meta.get("trained_on"),
        model_path=args.model,
        weights=args.model,
    )
    out = Path(args.out)
    try:
        out.mkdir(parents=True, exist_ok=True)
        figures = write_figures(out, report, comparison)
        write_json(out / "report.json", report)
        write_atomic(out / "report.md", markdown(report, figures).encode())
    except OSError as error:
        raise InputError(f"--out {out}: {error.strerror}", "give a folder to write to") from None
    print("\n".join(report["notes"]), "", short_table(report[ALL]), "", sep="\n")
    print("\n".join(headline_lines(report["headline"], "model")), "", sep="\n")
    for path in (out / "report.md", out / "report.json", *figures):
        print(f"wrote {path}")
    return 0


if __name__ == "__main__":
    run_command(main)
