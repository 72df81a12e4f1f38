"""Do all ranks run the same code and packages with the same settings?

Nodes have their own disks, environments and checkouts; over ssh most environment variables do not
travel. Without this check a difference shows up as a hang, or as a run that nobody can repeat.
"""

from __future__ import annotations

import hashlib
import socket
from pathlib import Path

import torch.distributed as dist

from data.errors import InputError
from trainer.checkpoints.run_folder import ROOT, versions
from trainer.engine.config import RunConfig
from trainer.ranks.ranks import Ranks, SharedError

MAY_DIFFER = ("shards", "workers")  # staged to local disks; the manifests are compared later


def code_digests() -> dict[str, str]:
    """Hash of every Python file of this checkout that training can import, by relative path."""
    return {
        str(path.relative_to(ROOT)): _digest(path)
        for folder in ("data", "model", "trainer")
        for path in sorted((ROOT / folder).rglob("*.py"))
    }


def _digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()[:16]


def description(config: RunConfig) -> dict:
    """What must be the same on all ranks."""
    path = Path(config.deepspeed_config)
    settings = {key: value for key, value in config.as_dict().items() if key not in MAY_DIFFER}
    return {
        "code": code_digests(),
        "deepspeed_config": {str(path): _digest(path) if path.is_file() else "missing"},
        "versions": versions(),
        "settings": settings,
    }


def difference(
    first: dict, other: dict, first_host: str, host: str, environment: str = "EEG_"
) -> InputError | None:
    """How `other` (a description, of node `host`) differs from the first rank's, or None.
    `environment`: what the settings' names begin with there."""
    names = {
        key: sorted(
            name
            for name in {*first[key], *other[key]}
            if first[key].get(name) != other[key].get(name)
        )
        for key in first
    }
    if files := names["code"] + names["deepspeed_config"]:
        more = f" and {len(files) - 3} more files" if len(files) > 3 else ""
        return InputError(
            f"{host} runs other code than {first_host}: {', '.join(files[:3])}{more}",
            "give all nodes the same checkout (a shared file system, or the same commit)",
        )
    if packages := names["versions"]:
        what = ", ".join(
            f"{name} {other['versions'].get(name)} (there {first['versions'].get(name)})"
            for name in packages
        )
        return InputError(
            f"{host} has other packages than {first_host}: {what}",
            "install the same requirements on all nodes",
        )
    if settings := names["settings"]:
        what = ", ".join(
            f"{name} {other['settings'][name]!r} (there {first['settings'][name]!r})"
            for name in settings
        )
        return InputError(
            f"{host} has other settings than {first_host}: {what}",
            "give them as flags; or, as ssh passes on few environment variables, write lines like "
            f"{environment}{settings[0].upper()}=VALUE into .deepspeed_env, where `deepspeed` is "
            "started",
        )
    return None


def check_agreement(config: RunConfig, ranks: Ranks) -> None:
    """SharedError on all ranks if any of them differs from the first."""
    everyone: list = [None] * ranks.world
    dist.all_gather_object(everyone, (socket.gethostname(), description(config)))
    first_host, first = everyone[0]
    for rank, (host, other) in enumerate(everyone):
        where = f"{host} (rank {rank})"
        if error := difference(first, other, first_host, where, config.environment):
            raise SharedError(error.what, error.remedy)
