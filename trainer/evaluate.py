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

import torch

from data.errors import InputError, run_command
from data.files import write_atomic
from data.shards.manifest import SPLITS, Manifest, read_manifest
from data.subjects.trained_on import (
    names_only,
    people_of,
    recordings_of,
    refuse_renamed,
    renamed_recordings,
)
from model.autoencoder import MaskedVAE
from model.masks import MASKS, spelled
from model.tokens import TOKENS
from trainer.checkpoints.weights import load_model
from trainer.reports.report import build_report, markdown, short_table, write_json
from trainer.reports.report_figures import write_figures
from trainer.reports.tables import headline_lines, plural
from trainer.scoring.baselines import on_device
from trainer.scoring.closed_forms import closed_forms
from trainer.scoring.compare import ALL, Comparison, compare
from trainer.scoring.held_out import HeldOutWindows, kinds_for, known_subjects

WINDOWS_PER_SUBJECT = 32


def evaluate(
    model: MaskedVAE,
    manifest: Manifest,
    *,
    split: str = "test",
    kinds: Sequence[str] | None = None,
    mask_ratio: float | None = None,
    windows_per_subject: int = WINDOWS_PER_SUBJECT,
    seed: int = 0,
    device: torch.device | str = "cpu",
    trained_on: dict | None = None,
    model_path: str = "model",
    weights: str | Path | None = None,
    progress: bool = True,
) -> tuple[dict, Comparison]:
    """(the report, the comparison it was made from).

    kinds, mask_ratio: None takes the model's own. trained_on: as a run records it
    (data/subjects/trained_on.py); people and recordings that are in it are named in the
    report. weights: the run folder or file beside which the fitted Gaussian is kept (None:
    nowhere). InputError: rates differ, the split is empty, a kind of mask that the model cannot
    take.
    """
    config, device = model.config, torch.device(device)
    kinds = kinds_for(config, kinds)
    ratio = config.mask_ratio if mask_ratio is None else mask_ratio
    if not 0 < ratio < 1:
        raise InputError(f"--mask_ratio {ratio}: not a share", "give a number between 0 and 1")
    if windows_per_subject < 1:
        raise InputError(f"--windows_per_subject {windows_per_subject}", "give at least 1")
    windows = HeldOutWindows(manifest, split, config, windows_per_subject)
    model = model.to(device).eval()
    models = {
        "model": on_device(model.reconstruct, device),
        "start": on_device(model.baseline_fill, device),
    }
    beside = closed_forms(
        models, manifest, config, scored=split, kinds=kinds, mask_ratio=ratio, seed=seed,
        weights=weights,
    )  # fmt: skip
    comparison = compare(
        beside.fills,
        windows.batches(),
        manifest,
        config,
        kinds=kinds,
        mask_ratio=ratio,
        seed=seed,
        gains=beside.calibration.gains,
        example_of="model",
        total=len(windows),
        progress=progress,
    )
    counts = windows.windows_of()
    settings = {
        "model_path": model_path,
        "model": config.as_dict(),
        "shards": str(manifest.folder),
        "manifest_sha256": manifest.sha256,
        "profile": manifest.profile,
        "sfreq_hz": config.sfreq_hz,
        "split": split,
        "kinds": list(kinds),
        "mask_ratio": ratio,
        "windows_per_subject": windows_per_subject,
        "seed": seed,
        "trained_subjects": known_subjects(counts, trained_on, people_of(manifest)),
        "trained_recordings": renamed_recordings(recordings_of(manifest, split), trained_on),
        **beside.about(),
    }
    by_name = names_only(trained_on, recordings_of(manifest, split))
    notes = _notes(settings, counts, by_name, comparison)
    notes += beside.notes(manifest, counts, comparison)
    return build_report(comparison, counts, settings, notes, beside.baselines), comparison


def _notes(settings: dict, counts: dict, by_name: str, comparison) -> list[str]:
    seen, subjects = settings["trained_subjects"], sum(len(s) for s in counts.values())
    notes = []
    if copies := settings["trained_recordings"]:
        notes.append(
            f"TRAINED ON: {plural(len(copies), 'file')} that the model was trained on under "
            f"another name: {'; '.join(copies)}. These scores say nothing about new people."
        )
    if seen:
        names = "; ".join(f"{d}: {', '.join(s)}" for d, s in seen.items())
        notes.append(
            f"TRAINED ON: {sum(map(len, seen.values()))} of these {subjects} subjects are, or "
            f"under another dataset's name may be, ones that the model was trained on ({names}). "
            "These scores say nothing about new people."
        )
    elif settings["split"] == "train":
        notes.append("TRAINED ON: this is the training split.")
    elif seen is None:
        notes.append("The model does not record which people it was trained on: that these "
                     "subjects are new to it is not known.")  # fmt: skip
    elif not copies:
        notes.append("None of these subjects was trained on.")
    if by_name:
        notes.append(f"Compared by name alone, not by their files: {by_name}.")
    notes.append(
        f"Split `{settings['split']}` of {settings['shards']}: {plural(subjects, 'subject')}, "
        f"up to {plural(settings['windows_per_subject'], 'window')} of each; "
        f"{settings['model']['patch_samples'] / settings['sfreq_hz'] * 1000:g} ms patches, "
        f"{settings['mask_ratio']:.0%} hidden, seed {settings['seed']}."
    )
    if TOKENS[settings["model"]["tokens"]].one_row:
        notes.append("A joint token is one moment of all channels, so only masks that hide all "
                     "channels at once can be scored, and `spline` equals `linear`.")  # fmt: skip
    for dataset, kind in sorted(comparison.impossible):
        notes.append(f"{dataset}: `{kind}` masks are impossible with its channels or patches.")
    return notes


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
    add("--kinds", help=f"kinds of mask, comma-separated, of {spelled(tuple(MASKS))} (default: all "
        "that the model takes and that need no NUMBER)")  # fmt: skip
    add("--windows_per_subject", type=int, default=WINDOWS_PER_SUBJECT,
        help="spread evenly over the subject's recordings (default: %(default)s)")  # fmt: skip
    add("--allow_trained_on", action="store_true", help="score recordings although they were "
        "trained on under another name, and mark the report")  # fmt: skip
    add("--seed", type=int, default=0, help="of the masks (default: %(default)s)")
    add("--device", default="auto", help="auto, cpu, cuda, cuda:1 ... (default: %(default)s)")
    return parser.parse_args(argv)


def choose_device(name: str) -> torch.device:
    """The device called `name`; InputError if there is none."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise InputError(f"--device {name}: {reason}", "use auto, cpu or cuda") from None
    return device


def main(argv: Sequence[str] | None = None) -> int:
    args = parse(argv)
    device = choose_device(args.device)
    manifest = read_manifest(args.shards)
    model, meta = load_model(args.model)
    if not args.allow_trained_on:
        refuse_renamed(recordings_of(manifest, args.split), meta.get("trained_on"))
    kinds = [kind.strip() for kind in args.kinds.split(",")] if args.kinds else None
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
