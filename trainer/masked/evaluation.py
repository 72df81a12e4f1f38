"""Reconstruction of hidden EEG beside the closed forms, on the people of one split."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch

from data.errors import InputError
from data.shards.manifest import Manifest
from data.subjects.trained_on import (
    names_only,
    people_of,
    recordings_of,
    renamed_recordings,
)
from model.autoencoder import MaskedVAE
from model.tokens import TOKENS
from trainer.reports.report import build_report
from trainer.reports.tables import plural
from trainer.scoring.baselines import on_device
from trainer.scoring.closed_forms import closed_forms
from trainer.scoring.compare import Comparison, compare
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
