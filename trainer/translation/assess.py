"""The evaluation from its flags to its report: model, split, baselines, scores, files."""

from __future__ import annotations

import argparse
import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from tqdm import tqdm

from data.batches.pairs import require_pairs
from data.errors import InputError
from data.files import write_atomic
from data.shards.manifest import Manifest, read_manifest
from data.subjects.digests import find_twins
from data.subjects.holdout import Part, Split, make_split
from data.subjects.trained_on import describe_twins, known_among, people_of, subjects_of
from model.brainformer import BrainformerForEEG2MEG, BrainformerProcessor
from trainer.checkpoints import lost
from trainer.checkpoints.run_folder import versions
from trainer.ranks.ranks import choose_device
from trainer.reports.tables import headline_lines
from trainer.scoring.scores import usable_bands
from trainer.translation import baselines as base
from trainer.translation.common import find_common
from trainer.translation.evaluation import Found, evaluate, model_methods
from trainer.translation.export import best_step, read_translator
from trainer.translation.fit import MEG_TYPES, TIME_FOLDS, montages_of, open_pieces
from trainer.translation.pieces import Pieces
from trainer.translation.report import markdown, save_figures, short_table
from trainer.translation.ridge import group_moments
from trainer.translation.scores import best_baseline, difference, summarise

DEFAULT_PIECE = 256
SHIFTED = "shifted EEG"


@dataclass(frozen=True)
class Loaded:
    model: BrainformerForEEG2MEG
    processor: BrainformerProcessor
    description: dict


def load(path: Path, device: torch.device) -> Loaded:
    """A run folder's best weights, or any folder that `save_pretrained` wrote."""
    model, processor, description, folder = read_translator(path)
    if (step := best_step(description)) is not None and folder != path:
        # The best by validation, not the last; a run may also have gone on since it was scored.
        reached = lost.reached(path)
        print(f"{folder}: weights of step {step}; the run has reached step {reached}", flush=True)
    return Loaded(model.eval().to(device), processor, description)


def assess(arguments: argparse.Namespace) -> int:
    device = choose_device(arguments.device)
    loaded = load(arguments.run, device)
    manifest = read_manifest(arguments.shards)
    require_pairs(manifest)
    told = loaded.description
    rule = arguments.holdout or told.get("split", {}).get("rule")
    if rule is None:
        raise InputError(
            "--holdout is missing: the model does not say who was left out", "give one"
        )
    split = make_split(rule, manifest.recordings)
    length = told.get("run", {}).get("sequence_length", DEFAULT_PIECE)
    test = open_pieces(manifest, split.test, length, "test")
    train = open_pieces(manifest, (*split.train, *split.validation), length, "training")
    scales = loaded.processor.scales
    check_types(test)

    methods, notes = model_methods(loaded.model, loaded.processor)
    print(f"fitting baselines to {len(train)} pieces", flush=True)
    common = find_common(montages_of(train), scales)
    moments, sums = moments_and_sum(train, common, arguments.lags)
    linear = base.linear_baselines(moments, sums, common, arguments.lags)
    entries = test.windows.recordings()
    oracle, oracle_notes = base.oracle_methods(entries, scales, test.sfreq_hz)
    left_out = {}
    physics, why = base.minimum_norm(entries, forwards(arguments), train, scales)
    if physics is None:
        left_out["minimum norm"] = why
    else:
        methods, notes = methods | {"minimum norm": physics}, notes | {"minimum norm": why}
    order = {**oracle, **methods, **linear.methods}
    notes = {**oracle_notes, **notes, **linear.notes}
    notes[SHIFTED] = "the model on the EEG of another time of the same recording: chance"

    profile = manifest.profile
    bands, dropped = usable_bands(test.sfreq_hz, length, profile["l_freq_hz"], profile["h_freq_hz"])
    found = evaluate(
        test, order, "model", scales, linear.mean, bands, arguments.windows_per_recording,
        lambda total: tqdm(total=total, desc="scoring", unit="piece", mininterval=5),
    )  # fmt: skip
    report = make_report(arguments, loaded, manifest, split, found, notes, left_out, bands, dropped)
    if arguments.leak_test:
        print("leak test", flush=True)
        report["leak_test"] = leak_test(manifest, split, length, scales, arguments)
    write(arguments.out, report, found, test.sfreq_hz)
    print(short_table(report), *headline_lines(report["headline"], "model"), sep="\n")
    print(f"{arguments.out / 'report.md'}")
    return 0


def check_types(pieces: Pieces) -> None:
    """InputError for a sensor type that the model does not know."""
    for montage in montages_of(pieces):
        if unknown := sorted(set(montage.meg_types) - set(MEG_TYPES)):
            raise InputError(
                f"unknown sensor type {unknown[0]!r} in the data", f"known: {', '.join(MEG_TYPES)}"
            )


def forwards(arguments: argparse.Namespace) -> dict[str, Path]:
    found = {}
    for text in arguments.forward:
        subject, equals, path = text.partition("=")
        if not equals or not Path(path).is_file():
            raise InputError(f"--forward {text}", "write SUBJECT=FILE-fwd.fif, a file that exists")
        found[subject] = Path(path)
    return found


def moments_and_sum(pieces: Pieces, common, lags: int):
    """(moments of each training group, (sum of each MEG sensor, samples)), one pass. With one group
    only, of blocks of its time."""
    total, count = np.zeros(len(common.meg_names)), 0
    blocks = None
    if len(set(pieces.groups.values())) < 2:
        blocks = np.arange(len(pieces)) * TIME_FOLDS // len(pieces)

    def samples():
        nonlocal total, count
        for number in range(len(pieces)):
            piece = pieces[number]
            meg = common.meg(piece)
            total, count = total + meg.sum(1), count + meg.shape[1]
            group = piece.group if blocks is None else f"block {blocks[number]}"
            yield group, common.eeg(piece), meg

    return group_moments(samples(), lags), (total, count)


def leak_test(manifest: Manifest, split: Split, length: int, scales: dict, arguments) -> dict:
    """Ridge regression on all recordings, predicted fold by fold: folds of whole groups, and as
    many folds of shuffled pieces. What the second has more is memory of the recording."""
    everything = (*split.train, *split.validation, *split.test)
    whole = {part.recording: Part(part.recording, part.group) for part in everything}
    parts = tuple(whole.values())
    pieces = open_pieces(manifest, parts, length, "all")
    common = find_common(montages_of(pieces), scales)
    by_group, _ = moments_and_sum(pieces, common, 0)
    names = sorted(by_group)
    folds = np.random.default_rng(arguments.seed).permutation(len(pieces)) % len(names)
    shuffled = group_moments(
        (
            (f"fold {folds[number]}", common.eeg(pieces[number]), common.meg(pieces[number]))
            for number in range(len(pieces))
        ),
        0,
    )
    unit = split.group if len(set(pieces.groups.values())) > 1 else "block of time"
    found = {"unit": unit, "folds": len(names), "pieces": len(pieces)}
    if len(names) < 3:
        return found | {"note": "fewer than three groups: nothing to compare"}
    return found | {
        "proper": base.correlation_by_fold(by_group, common.meg_types, 0),
        "random": base.correlation_by_fold(shuffled, common.meg_types, 0),
    }


def make_report(
    arguments, loaded: Loaded, manifest: Manifest, split: Split, found: Found, notes: dict,
    left_out: dict, bands: dict, dropped: dict,
) -> dict:  # fmt: skip
    """report.json."""
    told = loaded.description
    tested = sorted({part.recording for part in split.test})
    kinds = sorted(
        {kind for one in found.scores["model"].values() for kind in one.types}, reverse=True
    )
    tables = {}
    for kind in kinds:
        rows = {}
        for name, recordings in found.scores.items():
            rows[name] = summarise(recordings, kind)
            if name != "model":
                gap = difference(found.scores["model"], recordings, kind)
                rows[name]["model_minus_this"] = gap
        tables[kind] = rows
    return {
        "model_path": str(arguments.run),
        "data": {"folder": str(arguments.shards), "sha256": manifest.sha256},
        "split": split.as_dict(),
        "tested": tested,
        "subjects": sorted({part.group for part in split.test}),
        "warnings": warn(told, manifest, split, tested, loaded.model.config),
        "windows_per_recording": arguments.windows_per_recording,
        "pieces": {name: int(one.sums.count[0]) for name, one in found.scores["model"].items()},
        "sfreq_hz": manifest.profile["sfreq_hz"],
        "bands_hz": {name: list(edges) for name, edges in bands.items()},
        "bands_left_out": dropped,
        "methods": notes,
        "left_out": left_out,
        "types": tables,
        "headline": {kind: best_baseline(rows) for kind, rows in tables.items()},
        "evoked": evoked_table(found, kinds),
        "versions": versions(),
        "training": {key: told.get(key) for key in ("run", "start", "validation", "split")},
    }


def warn(told: dict, manifest: Manifest, split: Split, tested: list[str], config) -> list[str]:
    found = []
    pretrained = subjects_of((config.eeg_encoder or {}).get("trained_on"))
    entries = [entry for entry in manifest.recordings if entry["id"] in tested]
    people = [(entry["dataset"], str(entry["subject"])) for entry in entries]
    if known_among(people, pretrained, people_of(manifest)):
        found.append("The EEG encoder was pretrained on EEG of test subjects.")
    encoder = (config.eeg_encoder or {}).get("trained_recordings") or {}
    trained = told.get("trained_recordings") or {}
    for who, digests in (("The EEG encoder was", encoder), ("The model was", trained)):
        renamed = [twin for twin in find_twins(entries, digests) if twin.renamed]
        if renamed:
            found.append(
                f"{who} TRAINED ON test recordings under other names: {describe_twins(renamed)}."
            )
    same = told.get("data", {}).get("sha256") == manifest.sha256
    seen = sorted(set(told.get("trained_on", ())) & set(tested))
    if split.group == "time":
        found.append(
            "Split in time: training and test are of the same recordings. This says little about "
            "another recording, nothing about another person."
        )
    elif seen and same:
        found.append(f"TRAINED ON {len(seen)} of the test recordings: no score below is honest.")
    elif seen:
        found.append(
            f"{len(seen)} of the test recordings have the names of recordings that the model was "
            "TRAINED ON, in a folder packed otherwise: if they are the same, no score below is "
            "honest."
        )
    if not told:
        found.append("The model does not say what it was trained on.")
    elif not same:
        found.append("The model was trained on other data than this folder.")
    return found


def evoked_table(found: Found, kinds: list[str]) -> dict:
    """Median r over sensors of the averages over trials: {kind: {method: mean over recordings}}."""
    table: dict = {}
    for kind in kinds:
        for name in found.scores:
            values = []
            for recording, evoked in found.evoked.items():
                r = evoked.r(name)
                if r is not None:
                    rows = found.scores[name][recording].rows(kind)
                    values.append(float(np.nanmedian(r[rows])))
            if values:
                table.setdefault(kind, {})[name] = float(np.mean(values))
    trials = {name: one.trials for name, one in found.evoked.items()}
    return {"r": table, "trials": trials} if table else {}


def write(out: Path, report: dict, found: Found, sfreq_hz: float) -> None:
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"--out {out}: {error.strerror}", "choose another --out") from None
    figures = save_figures(out, report, found, sfreq_hz)
    write_atomic(out / "report.md", markdown(report, figures).encode())
    text = json.dumps(report, indent=1, allow_nan=True) + "\n"
    write_atomic(out / "report.json", text.encode())
