"""What fine-tuning changed: masked scores, amplitudes and spectra, before and after.

Both models fill the same gaps of the same held-out windows, next to interpolation. For amplitudes
and spectra every patch of a window is reconstructed once, from a mask and from its complement, so
that both describe reconstructed samples alone; where the two passes meet, the reconstruction may
jump, and the spectrum shows it. A cautious prediction is weak, and one factor repairs that: so
spread and spectrum are given after one gain too, which validation people chose for each.
"""

from __future__ import annotations

from pathlib import Path

import torch

from data.errors import InputError
from data.files import write_atomic
from data.shards.manifest import Manifest
from data.subjects.trained_on import people_of, recordings_of, renamed_recordings
from model.autoencoder import MaskedVAE
from model.masks import typical_kind
from model.tokens import tokens_of
from trainer.checkpoints.weights import load_model
from trainer.engine.task import Plan
from trainer.reports.figures import adaptation_figure
from trainer.reports.report import short_table, write_json
from trainer.reports.report_figures import save_figure
from trainer.reports.tables import headline_lines, headline_table, interval, plural, table
from trainer.scoring.baselines import Fill, on_device
from trainer.scoring.calibration import WINDOWS, referenced_fill
from trainer.scoring.closed_forms import closed_forms, headline
from trainer.scoring.compare import ALL, Comparison, compare
from trainer.scoring.distributions import SIGNAL, Distributions
from trainer.scoring.held_out import HeldOutWindows, draw_masks, kinds_for, known_subjects
from trainer.scoring.scores import samples_of


def adaptation_report(
    before_model: MaskedVAE,
    after_model: MaskedVAE,
    manifest: Manifest,
    split: str,
    out: str | Path,
    *,
    trained_on: dict | None = None,
    weights: str | Path | None = None,
    windows_per_subject: int = 400,
    seed: int = 0,
    device: torch.device | str = "cpu",
    progress: bool = True,
) -> dict:
    """Write adaptation.json, adaptation.md and adaptation.png into `out`; returns the JSON's dict.

    Scores at most `windows_per_subject` windows of each subject of the split, under `after_model`'s
    mask ratio. trained_on: that model's people, as its description says; a report on any of them
    is marked. weights: the run beside which the fitted Gaussian is kept. Its
    "summary" is a short text for the terminal. Raises InputError where the models' tokens differ,
    the shards do not fit them or the split is empty.
    """
    config, out = after_model.config, Path(out)
    for name in ("tokens", "patch_samples", "sfreq_hz"):
        ours, theirs = getattr(config, name), getattr(before_model.config, name)
        if ours != theirs:
            raise InputError(
                f"{name} is {theirs} before and {ours} after fine-tuning",
                "compare models that cut the signal in the same way",
            )
    device = torch.device(device)
    models = {"before": before_model.to(device).eval(), "after": after_model.to(device).eval()}
    fills: dict[str, Fill] = {
        name: on_device(model.reconstruct, device) for name, model in models.items()
    }
    kinds = kinds_for(config, None)
    beside = closed_forms(
        fills, manifest, config, scored=split, kinds=kinds, mask_ratio=config.mask_ratio,
        seed=seed, weights=weights,
    )  # fmt: skip
    chosen = HeldOutWindows(manifest, split, config, windows_per_subject)
    comparison = compare(
        beside.fills,
        chosen.batches(),
        manifest,
        config,
        kinds=kinds,
        mask_ratio=config.mask_ratio,
        seed=seed,
        gains=beside.calibration.gains,
        total=len(chosen),
        progress=progress,
    )
    drawn = {n: f for n, f in beside.fills.items() if n in (*fills, "gauss", "spline")}
    distributions = _distributions(drawn, chosen, config, seed)
    gains = None
    if beside.calibration.people:
        val = HeldOutWindows(manifest, "val", config, total=WINDOWS)
        gains = _distributions(drawn, val, config, seed).gains()
    known = known_subjects(chosen.windows_of(), trained_on, people_of(manifest))
    copies = renamed_recordings(recordings_of(manifest, split), trained_on)
    report = _build(comparison, distributions, chosen, manifest, split, (known, copies), gains)
    report |= beside.about()
    report["headline"] = headline(comparison, ALL, "after", beside.baselines)
    report["notes"] = beside.notes(manifest, chosen.windows_of(), comparison)
    report["summary"] = _summary(report)
    out.mkdir(parents=True, exist_ok=True)
    save_figure(out / "adaptation.png", _figure(report, distributions))
    write_atomic(out / "adaptation.md", _markdown(report).encode())
    write_json(out / "adaptation.json", report)
    return report


@torch.no_grad()
def _distributions(fills, chosen: HeldOutWindows, config, seed: int) -> Distributions:
    """Every patch of every window, reconstructed once."""
    kind = typical_kind(tokens_of(config).one_row)
    shortest = min(reader.shard.window_samples for reader in chosen.readers)
    result = Distributions(config.sfreq_hz, shortest // config.patch_samples * config.patch_samples)
    for batch in chosen.batches():
        mask = draw_masks(kind, batch, config, 0.5, seed)
        result.add(batch, SIGNAL, batch.eeg)
        for name, fill in fills.items():
            whole = torch.zeros_like(batch.eeg)
            for hidden in (mask, ~mask):
                filled = referenced_fill(fill, batch, hidden).float()
                whole = torch.where(samples_of(hidden, batch.eeg.shape[2]), filled, whole)
            result.add(batch, name, whole)
    return result


def _build(comparison: Comparison, distributions, chosen, manifest, split, seen, gains) -> dict:
    counts = chosen.windows_of()
    bands = {dataset: entry["hz"] for dataset, entry in comparison.bands.items()}
    return {
        "split": split,
        "trained_subjects": seen[0],
        "trained_recordings": seen[1],
        "shards": str(manifest.folder),
        "manifest_sha256": manifest.sha256,
        "windows": counts,
        "bands": comparison.bands,
        "masked": comparison.summary(ALL, "after"),
        "by_subject": {dataset: comparison.by_subject(dataset) for dataset in counts},
        "reconstruction": distributions.distances(bands),
        "reconstruction_gains": gains,
        "reconstruction_after_gain": distributions.distances(bands, gains) if gains else None,
    }


def _summary(report: dict) -> str:
    lines = [*report["notes"], "", short_table(report["masked"]), ""]
    lines += [*headline_lines(report["headline"], "after"), ""]
    for metric, label in (
        ("std_ratio", "amplitude, std ratio to the signal"),
        ("wasserstein_1", "amplitude, Wasserstein-1 (robust units)"),
        ("spectrum_db", "spectrum, mean difference over bands (dB)"),
    ):
        for when in ("", "_after_gain"):
            values = [
                f"{name} {interval(entry[metric])}"
                for name, entry in (report["reconstruction" + when] or {}).items()
                if metric in entry
            ]
            if values:
                lines.append(f"{label}{when.replace('_', ' ')}: {', '.join(values)}")
    return "\n".join([_whom(report), "", *lines])


def _whom(report: dict, names: bool = True) -> str:
    """The people of a report, and whether they were trained on; with or without all names."""
    subjects = sum(len(s) for s in report["windows"].values())
    total = sum(n for s in report["windows"].values() for n in s.values())
    text = f"{plural(total, 'window')} of {plural(subjects, 'subject')}, {report['split']} split"
    if copies := report["trained_recordings"]:
        return (
            f"TRAINED ON: {text}; {plural(len(copies), 'file')} under another name"
            f"{': ' * names}{'; '.join(copies) * names}; this says nothing about new people"
        )
    if report["trained_subjects"] is None:
        return f"{text}; it is not known which people the model was trained on"
    if report["trained_subjects"]:
        return f"TRAINED ON: {text}; this says nothing about new people"
    return f"{text}: people that the model was not trained on"


def _markdown(report: dict) -> str:
    masked, distances = report["masked"], report["reconstruction"]
    methods = list(next(iter(masked.values())))
    lines = ["# Adaptation: before and after fine-tuning", "", _whom(report), ""]
    lines += [*report["notes"], ""]
    for score, label in (("r", "r"), ("nmse", "NMSE")):
        rows = [[kind, *(interval(e[m][score]) for m in methods)] for kind, e in masked.items()]
        lines += table([f"{label}, hidden samples", *methods], rows)
    rows = [
        [kind, *(interval(e[m]["after_minus_this"]["r"]) for m in methods if m != "after")]
        for kind, e in masked.items()
    ]
    lines += table(["r after minus that of", *(m for m in methods if m != "after")], rows)
    lines += headline_table(report["headline"], masked, "after")
    lines += [
        "Every patch reconstructed once, from a mask and its complement, against the signal:",
        "",
        *_distance_table("distance", distances),
    ]
    if report["reconstruction_gains"]:
        named = ", ".join(f"{n} {g:.2f}" for n, g in report["reconstruction_gains"].items())
        lines += [
            f"The same after one gain each, which validation people chose ({named}):",
            "",
            *_distance_table("distance after the gain", report["reconstruction_after_gain"]),
        ]
    lines += ["![before and after](adaptation.png)", ""]
    return "\n".join(lines)


def _distance_table(label: str, distances: dict) -> list[str]:
    rows = []
    for metric in ("std_ratio", "wasserstein_1", "spectrum_db"):
        if all(metric in entry for entry in distances.values()):
            rows.append([metric, *(interval(entry[metric]) for entry in distances.values())])
    for band in next(iter(distances.values()))["band_db"]:
        cells = [interval(entry["band_db"][band]) for entry in distances.values()]
        rows.append([f"{band} (dB, signed)", *cells])
    return table([label, *distances], rows)


def _figure(report: dict, distributions: Distributions):
    shown = (SIGNAL, "before", "after")
    pooled = {name: distributions.pooled(name) for name in shown}
    masked = {
        kind: {m: entry["r"] for m, entry in methods.items() if m != "zero"}
        for kind, methods in report["masked"].items()
    }
    return adaptation_figure(
        {name: values for name, (values, _) in pooled.items()},
        {name: spectrum for name, (_, spectrum) in pooled.items()},
        distributions.frequencies_hz,
        masked,
        "robust units",
        f"Before and after fine-tuning ({_whom(report, names=False)})",
    )


def report_split(manifest: Manifest) -> str:
    """The split whose subjects were never trained on: test, else val; train where there is no
    other, which the report then says."""
    return next(split for split in ("test", "val", "train") if manifest.of_split(split))


def report_adaptation(plan: Plan, windows_per_subject: int, device: torch.device) -> None:
    """Scores before and after a finished fine-tuning, into RUN/adaptation/."""
    try:
        before, described = load_model(plan.config.init, need="encoder")
    except InputError as error:
        raise InputError(
            f"{plan.run} is trained and saved, but has no report of before and after: {error.what}",
            "restore --init and start the same command again: it will only write the report",
        ) from None
    if described["part"] == "encoder":
        print(f"{plan.config.init} holds no decoder: 'before' is its encoder with an untrained one")
    after, meta = load_model(plan.run)
    out = plan.run / "adaptation"
    result = adaptation_report(
        before,
        after,
        plan.manifest,
        report_split(plan.manifest),
        out,
        trained_on=meta["trained_on"],
        weights=plan.run,
        windows_per_subject=windows_per_subject,
        device=device,
    )
    print(result["summary"], flush=True)
