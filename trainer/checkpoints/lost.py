"""What a run folder says about its checkpoints: none was ever written, or they are gone.

Scratch disks are purged file by file, and folders are copied in part. A run whose checkpoints are
lost must not quietly begin at step 0 over its old logs; one that was killed before its first
checkpoint must begin there without a human. RUN/saved.json tells the two apart: it is made with the
run, and after each save it lists the steps whose checkpoints are kept.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from data.errors import InputError
from data.files import write_atomic
from trainer.checkpoints.find import COMPLETE, checkpoint_folder

RECORD = "saved.json"
ENDED = "ENDED"
# What a run writes beside its checkpoints; the record last, since it says what the rest is.
OWN = (
    "config.json", "code.diff", "history.jsonl", "metrics.jsonl", "tensorboard", "best",
    "best.partial", "adaptation", ENDED, RECORD,
)  # fmt: skip
FLAG = "--restart_lost"


def record(run: Path, steps: list[int]) -> None:
    """Write down which steps' checkpoints are kept; an empty list makes a new run's record."""
    write_atomic(run / RECORD, json.dumps({"steps": sorted(steps)}).encode())


def recorded(run: Path) -> list[int] | None:
    """The steps whose checkpoints were kept when the last was written; None where nothing says."""
    try:
        return [int(step) for step in json.loads((run / RECORD).read_text())["steps"]]
    except (OSError, ValueError, KeyError, TypeError):
        return None


def reached(run: Path) -> int:
    """The last training step that metrics.jsonl holds; 0 where there is none."""
    steps = [0]
    try:
        lines = (run / "metrics.jsonl").read_text().splitlines()
    except OSError:
        return 0
    for line in lines:
        try:
            entry = json.loads(line)
            steps += [int(entry["step"])] if entry["group"] == "train" else []
        except (ValueError, KeyError, TypeError):  # cut by a kill or a full disk
            continue
    return max(steps)


def lost(run: Path, passed: Mapping[str, str], name_of: Callable[[int], str]) -> list[str]:
    """A line for each checkpoint that is lost; empty where none was ever whole.

    passed: {folder's name: why it cannot be gone on from}; name_of: a step's folder.
    """
    was_whole = {
        name: why
        for name, why in passed.items()
        if (checkpoint_folder(run) / name / COMPLETE).exists()
    }
    kept = recorded(run)
    if kept is not None:
        names = [name_of(step) for step in sorted(kept)]
        return [f"{name}: {passed.get(name, 'it is gone')}" for name in names] or [
            f"{name}: {why}" for name, why in sorted(was_whole.items())
        ]
    lines = [f"{name}: {why}" for name, why in sorted(was_whole.items())]
    if not lines and _had_saved(run):
        lines = [f"{checkpoint_folder(run)} holds no whole checkpoint"]
    return lines


def _had_saved(run: Path) -> bool:
    """Whether a run without a record (an older one, or a purged one) must have saved: it went on
    after its first checkpoint, was continued, or came to its end."""
    step = reached(run)
    try:
        every = json.loads((run / "config.json").read_text())["run"]["save_every"]
    except (OSError, ValueError, KeyError, TypeError):
        every = 0
    return step > every or (run / "history.jsonl").exists() or (run / ENDED).exists()


def told_of_later(run: Path, step: int, passed: Mapping[str, str], name_of) -> list[str]:
    """What to say where a run goes on from `step` although later checkpoints had been written."""
    later = [one for one in recorded(run) or [] if one > step]
    if not later:
        return []
    gone = [one for one in later if name_of(one) not in passed]
    lines = [f"checkpoint {checkpoint_folder(run) / name_of(one)} is gone" for one in gone]
    last = max(reached(run), *later)
    return [*lines, f"steps {step + 1} to {last} are done again, and their log lines replaced"]


def find_start(
    run: Path,
    found: int | None,
    passed: Mapping[str, str],
    name_of: Callable[[int], str],
    *,
    resume: str,
    restart_lost: bool,
    needs: Sequence[str] = ("config.json",),
) -> bool:
    """Whether the run goes on from the checkpoint of step `found` (False: begins at step 0).

    To be called on the first rank, with the run locked. `needs`: files of the run folder without
    which no checkpoint can be gone on from. Prints what is passed over and what is lost after
    `found`. Raises InputError where there was a run and `resume` is "never", and where checkpoints
    are lost unless `restart_lost`: the old run is then set aside.
    """
    if resume == "never" and (found is not None or (run / "config.json").exists() or reached(run)):
        raise InputError(
            f"--run {run}: there is a run already", "choose another folder, or --resume auto"
        )
    missing = [name for name in needs if not (run / name).exists()]
    if found is not None and not missing:
        lines = told_of_later(run, found, passed, name_of)
        say_passed_over(run, passed)
        if not (run / "metrics.jsonl").exists():
            lines.append(f"metrics.jsonl is gone: the log begins after step {found}")
        for line in lines:
            print(f"resume: {line}", flush=True)
        return True
    lines = lost(run, passed, name_of)
    if found is not None:
        lines = [f"{name_of(found)}: without {missing[0]}, which is gone, it is of no use"]
    if not lines:
        say_passed_over(run, passed)
        return False
    if not restart_lost:
        raise _lost_error(run, lines)
    say_passed_over(run, passed)
    print(f"{FLAG}: begins at step 0; the old run is kept in {set_aside(run)}", flush=True)
    return False


def say_passed_over(run: Path, passed: Mapping[str, str]) -> None:
    """Print why each of these checkpoints is not taken."""
    for name, why in sorted(passed.items()):
        print(f"checkpoint {checkpoint_folder(run) / name} is passed over: {why}", flush=True)


def _lost_error(run: Path, lines: list[str]) -> InputError:
    step = reached(run)
    told = f"it reached step {step} (metrics.jsonl)" if step else "it had been trained"
    best = run / "best"
    use = f" ({best} holds its best weights)" if best.is_dir() else ""
    return InputError(
        f"--run {run}: {told}, but no checkpoint is left to go on from{use}:\n"
        + "\n".join(f"     {line}" for line in lines),
        f"restore {run} from a copy and start the same command again; or add {FLAG}, to begin at "
        f"step 0 (the old logs are kept in {_free_name(run)}); or give another --run",
    )


def _free_name(run: Path) -> Path:
    number = 1
    while (run / f"before-{number}").exists() or (
        checkpoint_folder(run) / f"before-{number}"
    ).exists():
        number += 1
    return run / f"before-{number}"


def set_aside(run: Path) -> Path:
    """Move what the old run wrote into RUN/before-N, its checkpoints, which may lie on another disk
    by a link, into RUN/checkpoints/before-N; returns the former."""
    folder, checkpoints = _free_name(run), checkpoint_folder(run)
    if checkpoints.is_symlink() and not checkpoints.exists():
        Path(os.path.realpath(checkpoints)).mkdir(parents=True)  # what the link names was purged
    if checkpoints.is_dir():
        entries = [path for path in checkpoints.iterdir() if not path.name.startswith("before-")]
        if entries:
            (checkpoints / folder.name).mkdir()
        for path in entries:
            path.rename(checkpoints / folder.name / path.name)
    folder.mkdir()
    for name in OWN:
        if (run / name).exists():
            (run / name).rename(folder / name)
    return folder
