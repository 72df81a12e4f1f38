"""What a report of trainer/evaluate.py says of a model in few lines, for those who get its weights:
r of hidden samples beside the best baseline, with the difference and what it allows to say."""

from __future__ import annotations

import json
from pathlib import Path

from data.errors import InputError
from trainer.reports.tables import headline_table
from trainer.scoring.compare import ALL


def read_scores(path: Path, run: Path) -> dict:
    """The headline of report.json, JSON-able; InputError where it is of another model or none."""
    try:
        report = json.loads(path.read_text())
        settings, found = report["settings"], report["headline"]
        model = Path(settings["model_path"]).resolve()
        kept = {
            "split": settings["split"],
            "manifest_sha256": settings["manifest_sha256"],
            "notes": report["notes"],
            "headline": found,
            "r": {
                kind: {
                    name: {"r": report[ALL][kind][name]["r"]}
                    for name in ("model", entry["baseline"])
                }
                for kind, entry in found.items()
            },
        }
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(f"--report {path}: {error}", "give report.json of evaluate.py") from None
    if model != run.resolve():
        raise InputError(f"--report {path} is of {settings['model_path']}", "score this run first")
    return kept


def describe_scores(scores: dict | None) -> str:
    """For a model card, Markdown."""
    if scores is None:
        return (
            "Its reconstructions were not scored, or not with this card: trainer/evaluate.py does "
            "so, beside the best closed form."
        )
    marked = [f"> **{n}**\n" for n in scores["notes"] if n.startswith(("TRAINED", "GAUSS"))]
    table = headline_table(scores["headline"], scores["r"], "model")
    return "\n".join(
        [
            *marked,
            f"Pearson r of hidden samples, split `{scores['split']}`, mean over people with the 95 "
            "% interval of Student's t; the best baseline is the best of these people:\n",
            *table,
        ]
    )
