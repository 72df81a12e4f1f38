"""What there is to do for each item, and whether its record says that it was done already.

A job's fingerprint covers the item's settings, the sizes and times of all its files, the profile
and the code. A record with another one is of another content: it is made again, and said to be.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

from data.files import dump_json
from data.packing.listing import name_of
from data.packing.parts import incomplete
from data.signals.profiles import Profile
from data.sources.spec import WorkItem

ROOT = Path(__file__).parents[1]
"""The package data/."""


@dataclass(frozen=True)
class Job:
    """What a worker gets: one item, and where its windows go."""

    item: WorkItem
    profile: Profile
    folder: Path
    fingerprint: str
    skip_bad: bool
    signature: dict
    """The item's, when it was listed."""

    @property
    def record_path(self) -> Path:
        return self.folder / f"{self.item.key}.json"


MAKES_BYTES = (
    "electrodes", "signals", "simulate", "sources", "subjects", "files.py", "spacing.py",
    "packing/assemble.py", "packing/items.py", "packing/writing.py", "shards/manifest.py",
    "shards/remarks.py", "shards/sensors.py", "shards/tars.py",
)  # fmt: skip
"""Folders and files of data/ that decide what shards and manifest hold."""


def code_version() -> str:
    """Hash of the code that makes the bytes and of the libraries that touch signals: windows that
    another version left behind are not mixed with this one's. Commands, pictures, reports and
    readers are not in it: a pack goes on after they were edited."""
    digest = hashlib.sha256()
    for path in code_that_makes_bytes():
        digest.update(path.relative_to(ROOT).as_posix().encode() + path.read_bytes())
    for library in ("mne", "moabb", "numpy", "scipy"):
        digest.update(version(library).encode())
    return digest.hexdigest()


def code_that_makes_bytes() -> list[Path]:
    """The files that `code_version` covers, sorted; simulated sensors' table among them."""
    found = []
    for name in MAKES_BYTES:
        path = ROOT / name
        if path.is_dir():
            found += [p for p in path.rglob("*") if p.suffix in (".py", ".csv")]
        else:
            found.append(path)
    return sorted(found)


def make_jobs(
    items: list[WorkItem], profile: Profile, folder: Path, skip_bad: bool = False
) -> list[Job]:
    """One job for each item, in the items' order."""
    code = code_version()
    jobs = []
    for item in items:
        signature = json.loads(dump_json(item.signature))
        content = [item.key, item.dataset, item.subject, signature, profile.as_dict(), code]
        fingerprint = hashlib.sha256(dump_json(content).encode()).hexdigest()
        jobs.append(Job(item, profile, folder, fingerprint, skip_bad, signature))
    return jobs


def read_record(job: Job) -> dict | None:
    """The record of a finished job, or None where it is missing, cut or of another content."""
    record = _state(job)
    return record if isinstance(record, dict) else None


def finished_records(jobs: list[Job]) -> list[dict]:
    """The records of all jobs, in their order; InputError where one is missing or does not fit."""
    states = [_state(job) for job in jobs]
    missing = {
        place: f"{jobs[place].item.key}: {state}"
        for place, state in enumerate(states)
        if isinstance(state, str)
    }
    if missing:
        raise incomplete(jobs[0].folder, missing, len(jobs))
    return states


def _state(job: Job) -> dict | str:
    """A job's record, or what is wrong with it."""
    try:
        record = json.loads(job.record_path.read_bytes())
    except (FileNotFoundError, ValueError):
        return "not made yet"
    if record["fingerprint"] != job.fingerprint:
        return _since(record, job)
    if record["skipped"] and not job.skip_bad:
        return "left out as unreadable (accept that with --skip_bad)"
    for entry in record["recordings"]:
        files = [entry, *([entry["meg"]] if "meg" in entry else [])]
        for part in files:
            path = job.folder / part["file"]
            if not path.is_file() or path.stat().st_size != part["bytes"]:
                return f"{part['file']} is missing or cut"
    return record


def changed_jobs(jobs: list[Job]) -> list[str]:
    """What was packed of items that have changed since, each in a line: it is made again."""
    lines = []
    for job in jobs:
        try:
            record = json.loads(job.record_path.read_bytes())
            if record["fingerprint"] != job.fingerprint:
                lines.append(f"{name_of(job.item)}: {_since(record, job)}")
        except (FileNotFoundError, ValueError, KeyError, TypeError):
            continue
    return lines


def _since(record: dict, job: Job) -> str:
    """In which way a record is of another content than the job's."""
    left = "it was left out as unreadable, and " if record.get("skipped") else ""
    was, now = record.get("signature", {}), job.signature
    files = [{entry[0]: entry for entry in side.get("files", ())} for side in (was, now)]
    differ = [f"{name} is new" for name in files[1].keys() - files[0]]
    differ += [f"{name} is gone" for name in files[0].keys() - files[1]]
    differ += [f"{n} has changed" for n in files[0].keys() & files[1] if files[0][n] != files[1][n]]
    for key in sorted({*was, *now} - {"files"}):
        if was.get(key) != now.get(key):
            differ.append(f"{key} was {was.get(key)}, is {now.get(key)}")
    return f"{left}since then " + (", ".join(sorted(differ)) or "settings or code have changed")
