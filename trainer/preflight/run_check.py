"""What a run folder says of its checkpoints, before a job that would go on from them is queued."""

from __future__ import annotations

from pathlib import Path

from trainer.checkpoints import find, lost, weights
from trainer.preflight.checkup import Check


def run_state(run: Path) -> Check:
    """From which step a run would go on; FAIL where its checkpoints are lost. By names and sizes:
    their bytes are read when a run starts."""
    if not (run / "config.json").exists() and lost.recorded(run) is None and not lost.reached(run):
        return Check("ok", "run", f"{run}: none yet, begins at step 0")
    if problem := weights.of_an_earlier_version(run):
        return Check("FAIL", "run", problem.what, problem.remedy)
    tags, passed = find.survey(run)
    step = find.step_of(tags[-1]) if tags else None
    if step is not None and (run / "config.json").exists():
        told = lost.told_of_later(run, step, passed, find.tag_of)
        found = "; ".join([f"{run}: goes on from step {step}", *told])
        return Check("warn" if told else "ok", "run", found)
    gone = lost.lost(run, passed, find.tag_of)
    if step is not None:
        gone = [f"{find.tag_of(step)}: without config.json, which is gone, it is of no use"]
    if gone:
        return Check("FAIL", "run", f"{run}: no checkpoint is left to go on from: "
                     + "; ".join(gone), f"restore {run} from a copy, or begin at step 0 with "
                     f"{lost.FLAG} (the old logs are kept)")  # fmt: skip
    return Check("ok", "run", f"{run}: no checkpoint was saved yet, begins at step 0")
