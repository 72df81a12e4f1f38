"""What a run was: versions, code state, settings - written into its folder before the first
step."""

from __future__ import annotations

import importlib.metadata
import json
import platform
import subprocess
from pathlib import Path

from data.files import write_atomic
from data.shards.manifest import Manifest

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = (
    "torch", "deepspeed", "transformers", "accelerate", "numpy", "scipy", "mne", "webdataset",
    "flash-attn",
)  # fmt: skip


def versions() -> dict[str, str]:
    """Versions of Python and of the packages that decide a run's numbers."""
    found = {"python": platform.python_version()}
    for name in PACKAGES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            found[name] = "not installed"
    return found


def git_state() -> dict[str, str]:
    """Commit and uncommitted changes of the code, or why they are not known."""
    try:
        commit, diff = (
            subprocess.run(
                ["git", "-C", str(ROOT), *arguments], capture_output=True, text=True, check=True
            ).stdout
            for arguments in (["rev-parse", "HEAD"], ["diff", "HEAD"])
        )
    except (OSError, subprocess.CalledProcessError) as error:
        return {"commit": f"unknown ({error})", "diff": ""}
    return {"commit": commit.strip(), "diff": diff}


def trained_subjects(manifest: Manifest) -> dict[str, list[str]]:
    """Subjects of the training split, by dataset: whom a score must not be computed on."""
    found: dict[str, set[str]] = {}
    for recording in manifest.recordings:
        if recording["split"] == "train":
            found.setdefault(recording["dataset"], set()).add(recording["subject"])
    return {dataset: sorted(subjects) for dataset, subjects in sorted(found.items())}


def with_provenance(run: Path, config: dict) -> dict:
    """`config` with versions and git state; the code's uncommitted changes go into code.diff."""
    git = git_state()
    write_atomic(run / "code.diff", git.pop("diff").encode())
    return {**config, "versions": versions(), "git": git}


def write_run_files(run: Path, config: dict) -> None:
    """config.json, and the code's uncommitted changes as code.diff."""
    run.mkdir(parents=True, exist_ok=True)
    text = json.dumps(with_provenance(run, config), indent=1) + "\n"
    write_atomic(run / "config.json", text.encode())
