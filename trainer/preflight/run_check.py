"""What a run folder says of its checkpoints, before a job that would go on from them is queued."""

from __future__ import annotations

import json
from pathlib import Path

from trainer.checkpoints import find, lost
from trainer.preflight.checkup import Check
from trainer.translation import keeping
from trainer.translation.resume import FORMAT


def run_state(run: Path) -> Check:
    """From which step a run would go on; FAIL where its checkpoints are lost. By names and sizes:
    their bytes are read when a run starts."""
    if not (run / "config.json").exists() and lost.recorded(run) is None and not lost.reached(run):
        return Check("ok", "run", f"{run}: none yet, begins at step 0")
    if _is_translation(run):
        folders = find.checkpoint_folder(run).glob("checkpoint-*")
        why = {folder: find.unfinished(folder) for folder in folders}
        passed = {folder.name: problem for folder, problem in why.items() if problem}
        whole = [keeping.step_of(folder) for folder, problem in why.items() if not problem]
        step, name_of = max(whole, default=None), keeping.name_of
    else:
        tags, passed = find.survey(run)
        step, name_of = find.step_of(tags[-1]) if tags else None, find.tag_of
    if step is not None and (run / "config.json").exists():
        told = lost.told_of_later(run, step, passed, name_of)
        found = "; ".join([f"{run}: goes on from step {step}", *told])
        return Check("warn" if told else "ok", "run", found)
    gone = lost.lost(run, passed, name_of)
    if step is not None:
        gone = [f"{name_of(step)}: without config.json, which is gone, it is of no use"]
    if gone:
        return Check("FAIL", "run", f"{run}: no checkpoint is left to go on from: "
                     + "; ".join(gone), f"restore {run} from a copy, or begin at step 0 with "
                     f"{lost.FLAG} (the old logs are kept)")  # fmt: skip
    return Check("ok", "run", f"{run}: no checkpoint was saved yet, begins at step 0")


def _is_translation(run: Path) -> bool:
    try:
        return json.loads((run / "config.json").read_text()).get("format") == FORMAT
    except (OSError, ValueError, AttributeError):
        return False
