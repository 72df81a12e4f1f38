"""Open the test trials once: what runs of trainer/eeg2image.py retrieve, beside ridge, first
weights and, on simulated pictures, the best there is.

    python trainer/eval_eeg2image.py runs/image --out report/
    python trainer/eval_eeg2image.py runs/image runs/image-permuted runs/image-before \\
        --test_shards shards/things2-test --out report/

A run with --permute or --before_onset stands as a control. All runs must have one protocol. Writes
report.md, report.json and report.png into --out.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

sys.path[0] = str(Path(__file__).resolve().parents[1])

from data.errors import InputError, run_command
from data.files import make_folder, write_atomic


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("runs", nargs="+", type=Path, metavar="RUN", help="run folders; the first gives the ridge")
    add("--test_shards", type=Path, help="test trials; simulated ones are found by themselves")
    add("--out", type=Path, required=True, help="the folder that is written")
    arguments = parser.parse_args(argv)
    import torch

    from trainer.images.scoring.queries import (
        another_trial,
        candidates_of,
        embeddings_of,
        open_queries,
        other_pictures,
        refuse_what_was_trained_on,
    )
    from trainer.images.scoring.report import (
        compared,
        figure_of,
        is_control,
        markdown,
        missing,
        name_of,
        notes_of,
        saw_the_test,
        warnings_of,
    )
    from trainer.images.scoring.retrieval import Scored, row_of
    from trainer.images.scoring.rivals import oracle_score, ridge_score

    runs = [Scored(run) for run in arguments.runs]
    first = runs[0].about
    for run, one in zip(arguments.runs, runs, strict=True):
        if one.about["split"]["protocol"] != first["split"]["protocol"]:
            raise InputError(
                f"{run}: protocol {one.about['split']['protocol']}, {arguments.runs[0]} has "
                f"{first['split']['protocol']}",
                "score runs of one protocol together",
            )
        if one.about["model"]["montage"] != first["model"]["montage"]:
            raise InputError(
                f"{run} reads other channels than {arguments.runs[0]}",
                "score runs of one --channels together",
            )
    folder = arguments.test_shards or Path(first["run"]["shards"]).with_name("test")
    queries = open_queries(folder, first)
    embeddings = embeddings_of(first)
    for run, one in zip(arguments.runs, runs, strict=True):
        refuse_what_was_trained_on(run, one.about, queries, embeddings)
    make_folder(arguments.out, "--out")
    rows = []
    for run, one in zip(arguments.runs, runs, strict=True):
        layer = one.about["run"]["layer"]
        candidates = candidates_of(queries, embeddings, layer)
        control = is_control(one.about)
        row = row_of(name_of(run, one.about), _score(one, queries, candidates), queries, control)
        more = torch.cat([candidates, other_pictures(queries, embeddings, layer)])
        row["among"] = {"pictures": len(more), "top": one.among(queries, more, queries.truth)}
        row["saw"] = bool(saw_the_test(one.about, queries))
        rows.append(row)
    candidates = candidates_of(queries, embeddings, first["run"]["layer"])
    own = _score(runs[0], queries, candidates)
    rows.append(row_of("EEG of another picture", own, another_trial(queries), True))
    untrained = Scored(arguments.runs[0], untrained=True)
    rows.append(row_of("untrained", _score(untrained, queries, candidates), queries, True))
    ridge, penalties = ridge_score(first, queries, embeddings)
    rows.append(row_of("ridge", ridge, queries, False))
    if oracle := oracle_score(queries):
        rows.append(row_of("the best there is", oracle, queries, False))
    report = {
        "protocol": first["split"]["protocol"], "people": first["split"]["tested"],
        "candidates": len(queries.images), "repeats": queries.repeats,
        "warnings": warnings_of(runs, queries), "notes": notes_of(runs, queries),
        "ridge_penalties": penalties, "rows": rows, "comparisons": compared(rows),
        "missing": missing(runs),
    }  # fmt: skip
    figure_of(report).savefig(arguments.out / "report.png", dpi=120)
    text = markdown(report)
    write_atomic(arguments.out / "report.md", text.encode())
    write_atomic(arguments.out / "report.json", (json.dumps(report, indent=1) + "\n").encode())
    print(text, flush=True)
    print(f"written: {arguments.out}/report.md, .json and .png", flush=True)


def _score(one, queries, candidates):
    return lambda eeg, people: one.scores(queries, eeg, people, candidates)


if __name__ == "__main__":
    run_command(main)
