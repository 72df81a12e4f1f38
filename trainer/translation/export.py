"""A translator as a folder that transformers loads: written, read back, described by a card, sent
to the Hub. RUN/best is such a folder."""

from __future__ import annotations

import json
from pathlib import Path

import torch
import transformers
from huggingface_hub import CommitOperationAdd, EvalResult, HfApi, ModelCard, ModelCardData
from safetensors import SafetensorError

from data.errors import InputError
from data.files import write_atomic
from model.brainformer import BrainformerConfig, BrainformerForEEG2MEG, BrainformerProcessor
from trainer.checkpoints.weights import last_state
from trainer.reports.tables import headline_lines, interval

DESCRIPTION = "eeg2meg.json"
"""In such a folder: what the run says of itself."""
LIBRARY = "transformers"
ROWS = ("oracle", "oracle linear", "model", "ridge", "ridge lags", "reduced rank", "minimum norm",
        "mean", "shifted EEG")  # fmt: skip
USE = """```python
from transformers import AutoModel, AutoProcessor

translator = AutoModel.from_pretrained(folder, trust_remote_code=True)
processor = AutoProcessor.from_pretrained(folder, trust_remote_code=True)
batch = processor(eeg_volts, eeg_positions_m, meg_positions_m, meg_orientations, meg_types)
meg = translator.translate(processor, **batch).meg  # tesla and tesla/metre
```"""


def write_translator(
    folder: Path, config: BrainformerConfig, weights: dict[str, torch.Tensor],
    processor: BrainformerProcessor, description: dict,
) -> None:  # fmt: skip
    """`save_pretrained` of model and processor, fp32, and the description last. weights: fp32, by
    the names of the model's state dict."""
    transformers.logging.disable_progress_bar()
    with torch.device("meta"):  # configuration and code are taken from it, not its weights
        model = BrainformerForEEG2MEG(config)
    model.save_pretrained(folder, state_dict=dict(weights))  # which it empties
    processor.save_pretrained(folder)
    text = json.dumps(description, indent=1) + "\n"
    write_atomic(folder / DESCRIPTION, text.encode())


def read_description(folder: Path) -> dict:
    """What a folder says of its translator; {} where it says nothing. ValueError where that is
    damaged."""
    path = folder / DESCRIPTION
    return json.loads(path.read_text()) if path.is_file() else {}


def read_translator(
    path: Path,
) -> tuple[BrainformerForEEG2MEG, BrainformerProcessor, dict, Path]:
    """(model, processor, description, folder) of a run's best weights, or of any folder that
    `save_pretrained` wrote; InputError where it is none, or damaged."""
    folder = path / "best" if (path / "best").is_dir() else path
    if not (folder / "model.safetensors").is_file():
        raise InputError(
            f"{path}: no model.safetensors in it", "give a run folder of trainer/eeg2meg.py"
        )
    transformers.logging.disable_progress_bar()
    try:
        model, told = BrainformerForEEG2MEG.from_pretrained(folder, output_loading_info=True)
        if missing := sorted([*told["missing_keys"], *told["unexpected_keys"]]):
            raise ValueError(f"{missing[0]} and {len(missing) - 1} more weights do not fit")
        processor = BrainformerProcessor.from_pretrained(folder)
        description = read_description(folder)
    except (OSError, ValueError, RuntimeError, SafetensorError) as error:
        raise InputError(f"{path}: {error}", "train or convert it again") from None
    return model, processor, description, folder


def best_step(description: dict) -> int | None:
    """The step whose weights a folder holds, as its description says."""
    try:
        return int(description["validation"]["step"])
    except (KeyError, TypeError, ValueError):
        return None


def read_report(path: Path, run: Path) -> dict:
    """report.json; InputError where it is none, or of another model."""
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


def export(
    run: Path, out: Path, checkpoint: str = "best", report: Path | None = None, name: str = ""
) -> None:
    """Write the run's weights ("best", or those of its "last" checkpoint) with their card into the
    new folder `out`, and read them back. `report`: report.json of trainer/eval_eeg2meg.py."""
    scores = read_report(report, run) if report else None
    if not (run / "best" / DESCRIPTION).is_file():
        raise InputError(
            f"{run}: no best/{DESCRIPTION}", "give the --run folder of trainer/eeg2meg.py"
        )
    if out.exists() and any(out.iterdir()):
        raise InputError(f"--out {out}: not empty", "choose a new folder")
    model, processor, description, _ = read_translator(run)
    weights = model.state_dict()
    if checkpoint == "last":
        weights, _, folder = last_state(run)
        description["validation"] = {"step": int(folder.name.rpartition("_")[2])}
    write_translator(out, model.config, weights, processor, description)
    card = make_card(name or out.name, description, scores)
    write_atomic(out / "README.md", str(card).encode())
    again = BrainformerForEEG2MEG.from_pretrained(out).state_dict()
    for key, value in weights.items():
        if not again[key].equal(value):
            raise InputError(f"{out}: {key} reads back differently", "check the disk")


def push(folder: Path, name: str, private: bool) -> str:
    """Upload the folder; returns its address."""
    files = [path for path in sorted(folder.rglob("*")) if path.is_file()]
    operations = [CommitOperationAdd(str(path.relative_to(folder)), path) for path in files]
    api = HfApi()
    try:
        address = api.create_repo(name, private=private, exist_ok=True)
        api.create_commit(name, operations, commit_message=f"Upload {name}")
    except Exception as error:  # network, rights, names: the Hub's client raises many kinds
        raise InputError(f"--push {name}: {error}", "log in with  hf auth login") from error
    return str(address)


# ---- the card ------------------------------------------------------------------------------------


def make_card(name: str, description: dict, report: dict | None) -> ModelCard:
    """`description` is the run's (eeg2meg.json), `report` that of trainer/eval_eeg2meg.py."""
    results = [] if report is None else evaluation_results(report)
    data = ModelCardData(
        library_name=LIBRARY, tags=["eeg", "meg", "brainformer", "eeg-to-meg"], model_name=name,
        eval_results=results or None,
    )  # fmt: skip
    text = "\n".join([f"---\n{data.to_yaml()}\n---", *body(name, description, report)])
    return ModelCard(text)


def body(name: str, description: dict, report: dict | None) -> list[str]:
    split, signal = description.get("split", {}), description.get("signal", {})
    trained = description.get("trained_on", [])
    lines = [
        f"# {name}", "",
        "Brainformer: from EEG to the magnetoencephalogram (MEG) of the same moments.", "",
        "## Use", "", USE, "",
        "EEG as it was in training: average reference, "
        f"{signal.get('l_freq_hz', '?')}-{signal.get('h_freq_hz', '?')} Hz at "
        f"{signal.get('sfreq_hz', '?')} Hz; electrode and sensor places in the head frame, metres.",
        "", "## Training", "",
        f"{len(trained)} recordings; split {split.get('rule', 'unknown')}, early stopping on "
        f"{split.get('validation_rule', 'unknown')}. Settings and fitted scales are in "
        "eeg2meg.json.", "", "## Measured", "",
    ]  # fmt: skip
    if report is None:
        return [*lines, "Nothing was measured yet: score it with trainer/eval_eeg2meg.py."]
    lines += [f"> **{text}**" for text in report["warnings"]]
    unit = next(iter(next(iter(report["types"].values())).values()))["unit"]
    lines += [
        f"On {len(report['tested'])} recordings left out ({report['split']['rule']}): r is the "
        "Pearson correlation of a sensor over time (median over sensors), R2 against the training "
        f"mean; means over {unit}s, with 95 % intervals (Student's t) where there are three.",
        "",
        "| | " + " | ".join(f"{kind} {score}" for kind in report["types"] for score in ("r", "R2"))
        + " |",
        "|---|" + "---:|" * (2 * len(report["types"])),
    ]  # fmt: skip
    for row in ROWS:
        if all(row in rows for rows in report["types"].values()):
            cells = [
                interval(rows[row][score])
                for rows in report["types"].values()
                for score in ("r", "r2")
            ]
            lines.append(f"| {row} | {' | '.join(cells)} |")
    lines += ["", *(f"{line}." for line in headline_lines(report.get("headline", {}), "model"))]
    lines += ["", "`shifted EEG` is the model on EEG of another time: chance."]
    return lines


def evaluation_results(report: dict) -> list[EvalResult]:
    """The model's scores in the form that the Hub shows."""
    return [
        EvalResult(
            task_type="eeg-to-meg", dataset_type="paired-eeg-meg",
            dataset_name=f"left out: {report['split']['rule']}",
            metric_type="pearsonr" if score == "r" else "r_squared",
            metric_name=f"{kind}: {'Pearson r' if score == 'r' else 'R2'}",
            metric_value=round(rows["model"][score]["mean"], 4),
        )
        for kind, rows in report["types"].items()
        for score in ("r", "r2")
        if rows["model"][score]["mean"] is not None
    ]  # fmt: skip
