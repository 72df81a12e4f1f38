"""One EEG-to-MEG run from its settings to its last step: what is checked, fitted, kept and told."""

from __future__ import annotations

import re
import subprocess
import sys
import warnings
from dataclasses import asdict
from pathlib import Path

import torch
import transformers

from data.batches.pairs import PairedMontage
from data.errors import InputError
from data.subjects.digests import digests_of
from trainer.checkpoints import run_folder
from trainer.checkpoints.run_folder import ROOT
from trainer.engine.agreement import check_agreement
from trainer.engine.deepspeed_json import read_deepspeed_config
from trainer.ranks.ranks import Ranks, broadcast_object, check_hostfile, start_ranks, together
from trainer.ranks.stopping import ORPHANED
from trainer.translation.build import Fitted, build_model, fit
from trainer.translation.callbacks import Keeper, Reporter
from trainer.translation.config import TranslationConfig
from trainer.translation.hf import Machine, TranslationTrainer, resolve_machine
from trainer.translation.keeping import (
    best_of,
    best_step,
    out_of_patience,
    step_of,
)
from trainer.translation.pieces import Collate
from trainer.translation.resume import FORMAT, find_checkpoint, open_run
from trainer.translation.start import (
    Data,
    open_data,
)


def train(config: TranslationConfig) -> None:
    """Everything; an InputError on any rank stops all."""
    check_hostfile()
    ranks = start_ranks()
    check_agreement(config, ranks)
    quiet()
    with together(ranks):
        machine = resolve_machine(config, read_deepspeed_config(config.deepspeed), ranks)
    folder = data_folder(config, ranks)
    with together(ranks):
        data = open_data(folder, config.split, config.sequence_length)
    with together(ranks):
        if ranks.first:
            run_folder.take(Path(config.run))
    checkpoint, history = find_checkpoint(config, ranks)
    fitted = broadcast_object(fit(config, data, ranks, checkpoint is None), ranks)
    with together(ranks):
        model = build_model(config, data, fitted.weights if checkpoint is None else None)
    description = describe(config, data, machine, fitted)
    with together(ranks):
        if ranks.first:
            open_run(config, description, checkpoint)
            run_folder.mark_begin(Path(config.run))
    announce(config, data, machine, model, fitted, checkpoint, ranks)
    if checkpoint and finished(config, *history):
        if ranks.first:
            run_folder.mark_end(Path(config.run), "finished")
        return conclude(config, folder, history[1], ranks, "finished already")
    trainer = make_trainer(config, machine, ranks, data, model, fitted, description, checkpoint)
    keeper = next(c for c in trainer.callback_handler.callbacks if isinstance(c, Keeper))
    trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
    step, log = trainer.state.global_step, trainer.state.log_history
    reason = f"stopped at step {step}: {keeper.asked}; start it again to go on"
    if not keeper.asked:
        early = step < config.last_step
        reason = f"stopped early at step {step}" if early else f"done, step {step}"
    if ranks.first and keeper.asked != ORPHANED:
        run_folder.mark_end(Path(config.run), keeper.asked or "finished")
    return conclude(config, folder, log, ranks, reason)


def quiet() -> None:
    """Our own lines say what happens; transformers tells errors only."""
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    warnings.filterwarnings("ignore", category=FutureWarning)


def data_folder(config: TranslationConfig, ranks: Ranks) -> Path:
    """`--data`, or simulated pairs that the first rank packs (once; it takes half a minute)."""
    if config.data:
        return Path(config.data)
    name = re.sub(r"[^A-Za-z0-9=+._-]+", "-", config.simulated)
    folder = Path("runs") / "pairs" / f"{name}-{config.sequence_length}"
    with together(ranks):
        if ranks.first:
            print(f"no --data: simulating pairs ({config.simulated}) into {folder}", flush=True)
            pack(config, folder)
    return folder


def pack(config: TranslationConfig, folder: Path) -> None:
    """`data/pack.py`, as a user would start it: its workers must not be forks of a rank."""
    seconds = config.sequence_length / 250.0
    words = ["--source", config.simulated, "--profile", "eeg2meg", "--out", str(folder)]
    words += ["--window_s", repr(seconds)] if config.sequence_length != 256 else []
    command = [sys.executable, str(ROOT / "data" / "pack.py"), *words]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise InputError(f"--simulated {config.simulated}: {done.stderr.strip()}")


def describe(config: TranslationConfig, data: Data, machine: Machine, fitted: Fitted) -> dict:
    """What a run and its best weights say of themselves: JSON."""
    manifest = data.train.windows.manifest
    return {
        "format": FORMAT,
        "format_version": 1,
        "run": config.as_dict(),
        "machine": asdict(machine),
        "data": {"folder": str(data.folder), "sha256": manifest.sha256},
        "signal": manifest.profile,
        "split": data.split.as_dict(),
        "trained_on": data.split.trained_on(),
        "trained_recordings": digests_of(
            r for r in manifest.recordings if r["id"] in set(data.split.trained_on())
        ),
        "pieces": {"training": len(data.train), "validation": len(data.validation)},
        "start": fitted.notes,
    }


def finished(config: TranslationConfig, step: int, log: list[dict]) -> bool:
    return step >= config.last_step or out_of_patience(log, config.patience)


def make_trainer(
    config, machine, ranks, data, model, fitted, description, checkpoint
) -> TranslationTrainer:
    collate = Collate(fitted.processor)
    step = step_of(checkpoint) if checkpoint else 0

    def draw(model) -> dict:
        return pictures(model, data, collate, ranks)

    return TranslationTrainer(
        config, machine, ranks, model=model, train=data.train, validation=data.validation,
        collate=collate, resuming=checkpoint is not None,
        callbacks=[
            Keeper(config, ranks, fitted.processor, description),
            Reporter(config, ranks, step, machine.global_batch, draw),
        ],
    )  # fmt: skip


@torch.no_grad()
def pictures(model, data: Data, collate: Collate, ranks: Ranks) -> dict:
    """Traces and topographies of the middle validation piece, measured and translated."""
    # Here, since matplotlib and MNE cost every rank seconds where no figure is asked for.
    from trainer.translation.figures import topographies_figure, traces_figure

    piece = data.validation[len(data.validation) // 2]
    batch = {name: value.to(ranks.device) for name, value in collate([piece]).items()}
    meg = model.translate(collate.processor, **batch).meg[0].cpu().numpy()
    if not ranks.first:
        return {}
    title = f"{piece.recording} from {piece.onset_s:.1f} s (validation)"
    drawn = (piece.meg, meg, piece.montage, data.validation.sfreq_hz, title)
    figures = {
        "traces": traces_figure(*drawn), "topographies": topographies_figure(*drawn)
    }  # fmt: skip
    return {f"validation/{name}": figure for name, figure in figures.items() if figure is not None}


def announce(config, data: Data, machine: Machine, model, fitted, checkpoint, ranks) -> None:
    if not ranks.first:
        return
    parts = sum(parameter.numel() for parameter in model.parameters())
    montage: PairedMontage = data.train.windows.montage(0)
    split, notes = data.split, fitted.notes
    ridge = notes.get("ridge")
    start = "zero" if ridge is None else (
        f"ridge, {2 * ridge['lags'] + 1} lag(s), held-out error "
        + ", ".join(f"{kind} {one['held_out_error']:.3f}" for kind, one in ridge["types"].items())
    )  # fmt: skip
    tested = sorted({part.group for part in split.test})
    print(
        f"model    {parts / 1e6:.2f} M parameters; linear map from {start}\n"
        f"data     {data.folder}: {len(data.train)} training pieces of {config.sequence_length} "
        f"samples ({config.sequence_length / data.train.sfreq_hz:g} s), "
        f"{len(montage.eeg_names)} EEG and {len(montage.meg_names)} MEG channels\n"
        f"split    {split.rule}: left out {split.group} {', '.join(tested)}; validation: "
        f"{split.validation_rule}\n"
        f"batch    {machine.micro} x {machine.accumulation} accumulation x {machine.world} ranks = "
        f"{machine.global_batch} pieces a step, {'bf16' if machine.bf16 else 'fp32'}; "
        f"{config.steps} steps = {config.steps * machine.global_batch / len(data.train):.1f} "
        f"passes\n"
        f"run      {config.run}: " + (f"going on from {checkpoint}" if checkpoint else "new"),
        flush=True,
    )


def conclude(config, folder: Path, log: list[dict], ranks: Ranks, reason: str) -> None:
    if not ranks.first:
        return
    best, kept = best_of(log), best_step(Path(config.run))
    told = f"; best validation error {best[1]:.4f} at step {best[0]}" if best else ""
    if best and kept not in (None, best[0]):
        told += f" (the folder holds step {kept}, from before it went back to an older checkpoint)"
    print(
        f"{reason}{told}: {config.run}/best\n"
        f"  tensorboard --logdir {Path(config.run).parent}\n"
        f"  python trainer/eval_eeg2meg.py --model {config.run} --data {folder} --out report/",
        flush=True,
    )
