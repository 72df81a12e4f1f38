"""The model card of a shared translator: what it is, what it was trained on, what was measured."""

from __future__ import annotations

from huggingface_hub import EvalResult, ModelCard, ModelCardData

from trainer.reports.tables import headline_lines, interval

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
