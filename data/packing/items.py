"""Work items -> windows on disk, by worker processes, continuing where an earlier run stopped.

Each item's windows go to OUT/.packing as .npy files, and its record (written last, atomically)
says that they are whole and for which content, settings and code. So a killed run loses only the
items in hand; the price is that OUT's disk holds the windows twice until the shards are written.
"""

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import numpy as np
from tqdm import tqdm

from data.diskspace import Need, disk_full, is_full, machine_trouble, require_free
from data.errors import InputError
from data.files import dump_json, hash_once, named, write_atomic
from data.packing.jobs import Job, finished_records, read_record
from data.packing.parts import Part
from data.shards.remarks import kept_warnings, tidy, without_folders
from data.signals.recording import Recording, Windows, make_windows
from data.workers import RESUME, in_workers


def process_item(job: Job) -> tuple[float, int]:
    """Load, preprocess and store one item (in a worker). Returns (hours kept, bytes stored).

    Raises InputError naming the item for what the user can mend, OSError for a full disk,
    RuntimeError with the item's name for anything else.
    """
    recordings, skipped = [], []
    try:
        for recording in _load(job, skipped):
            with _skipping(job, skipped, recording.id):
                with kept_warnings(recording.remarks):
                    windows = make_windows(recording, job.profile)
                windows.info["remarks"] = tidy(recording.remarks)
                name = f"{job.item.key}.{len(recordings)}.npy"
                entry = {
                    "id": recording.id,
                    "dataset": recording.dataset,
                    "subject": recording.subject,
                    "session": recording.session,
                    "run": recording.run,
                    "label": recording.label,
                    "labels": recording.labels,
                }
                size = _write_array(job.folder / name, windows.data)
                entry |= {"file": name, "bytes": size} | _describe(windows)
                if windows.meg is not None:
                    name = f"{job.item.key}.{len(recordings)}.meg.npy"
                    size = _write_array(job.folder / name, windows.meg)
                    entry["meg"] = {"file": name, "bytes": size} | windows.sensors.as_dict()
                recordings.append(entry)
        record = {
            "fingerprint": job.fingerprint,
            "signature": job.signature,
            "files": {
                name: [path.stat().st_size, hash_once(path)]
                for name, path in named(job.item.source_files()).items()
            },
            "recordings": recordings,
            "skipped": skipped,
        }
        write_atomic(job.record_path, dump_json(record).encode())
    except Exception as error:
        trouble = machine_trouble(error)
        if is_full(trouble):
            remove_partials([job])
            raise OSError(trouble.errno, os.strerror(trouble.errno)) from error
        if isinstance(trouble, MemoryError):
            raise InputError(
                f"{job.item.key}: not enough memory", f"use fewer --workers. {RESUME}"
            ) from None
        if isinstance(trouble, OSError):
            raise InputError(
                f"{job.item.key}: the machine failed, not the recording: {trouble}",
                f"wait until it works again. {RESUME}",
            ) from error
        if isinstance(error, InputError):
            raise InputError(f"{job.item.key}: {error.what}", error.remedy) from error
        raise RuntimeError(f"while packing {job.item.key}: {error}") from error
    size = sum(r["bytes"] + r.get("meg", {}).get("bytes", 0) for r in recordings)
    return sum(r["info"]["hours"] for r in recordings), size


def run_jobs(jobs: list[Job], workers: int) -> list[dict]:
    """Make sure that every job has its record; returns the records in the jobs' order.

    Stops at the first failure, after which everything finished so far stays finished. Raises
    InputError for a failed item, a full disk (also one that the rest would fill) or a killed
    worker.
    """
    todo = [job for job in jobs if read_record(job) is None]
    need = Need((job.item.dataset for job in jobs), (job.item.dataset for job in todo))
    with tqdm(
        total=len(jobs), initial=len(jobs) - len(todo), desc="packing", unit="item", smoothing=0
    ) as bar:
        hours, start = 0.0, time.monotonic()
        results = in_workers(process_item, todo, workers)
        while True:
            try:
                job, (kept_hours, size) = next(results)
            except StopIteration:
                break
            except OSError as error:
                if not is_full(error):
                    raise
                raise disk_full(jobs[0].folder, need.bytes()) from None
            hours += kept_hours
            need.finish(job.item.dataset, size)
            rate = hours / (time.monotonic() - start)
            bar.set_postfix_str(f"{hours:.3g} h of signal, {rate:.3g} h/s", refresh=False)
            bar.update()
            require_free(jobs[0].folder, need.bytes())
    return finished_records(jobs)


@contextmanager
def locked(folder: Path, part: Part | None = None) -> Iterator[None]:
    """Hold a packing folder: all of it, or one part of it beside other parts. InputError where
    another process holds that. Released on death."""
    with ExitStack() as files:
        wanted = [("lock", fcntl.LOCK_SH if part else fcntl.LOCK_EX)]
        if part:
            wanted.append((f"{part.name}.lock", fcntl.LOCK_EX))
        for name, kind in wanted:
            try:
                folder.mkdir(parents=True, exist_ok=True)
                file = files.enter_context(open(folder / name, "w"))
            except OSError as error:
                raise InputError(
                    f"{folder.parent}: nothing can be written there ({error.strerror})",
                    "choose another --out",
                ) from None
            try:
                fcntl.flock(file, kind | fcntl.LOCK_NB)
            except BlockingIOError:
                raise InputError(
                    f"{folder.parent}: another process is packing into this folder"
                    + (f" (wanted: part {part.index} of {part.count})" if part else ""),
                    "wait for it, or choose another --out",
                ) from None
            except OSError:
                pass  # Some network file systems have no locks: packing works there without one.
        yield


def remove_partials(jobs: list[Job]) -> None:
    """Remove what killed workers left of these jobs; other parts' files are left alone."""
    keys = {job.item.key for job in jobs}
    for path in jobs[0].folder.glob("*.partial") if jobs else ():
        if path.name.split(".", 1)[0] in keys:
            path.unlink(missing_ok=True)


def _load(job: Job, skipped: list[dict]) -> Iterator[Recording]:
    """The item's recordings; with `skip_bad`, one that cannot be read ends the item."""
    recordings = iter(job.item.load())
    while True:
        recording, warned = None, []
        with _skipping(job, skipped, job.item.key), kept_warnings(warned):
            recording = next(recordings, None)
        if recording is None:
            return
        recording.remarks += warned
        yield recording


@contextmanager
def _skipping(job: Job, skipped: list[dict], name: str) -> Iterator[None]:
    """With `skip_bad`, note a failure under `name` in place of raising it."""
    try:
        yield
    except Exception as error:
        if not job.skip_bad or machine_trouble(error):
            raise
        text = error.what if isinstance(error, InputError) else f"{type(error).__name__}: {error}"
        skipped.append({"name": name, "reason": without_folders(text)})


def _describe(windows: Windows) -> dict:
    return {
        "windows": len(windows.data),
        "shape": list(windows.data.shape[1:]),
        "meta": windows.meta,
        "channels": list(windows.channels),
        "positions_m": np.asarray(windows.positions_m, dtype=np.float64).tolist(),
        "info": windows.info,
        **({"amplitudes": windows.amplitudes} if windows.amplitudes else {}),
    }


def _write_array(path: Path, array: np.ndarray) -> int:
    """Write .npy under a temporary name and rename it; returns its bytes. Unlike np.save, a full
    disk gives an OSError with its number."""
    temporary = path.with_name(path.name + ".partial")
    with open(temporary, "wb") as file:
        header = np.lib.format.header_data_from_array_1_0(array)
        np.lib.format.write_array_header_1_0(file, header)
        file.write(np.ascontiguousarray(array).data)
        file.flush()
        os.fsync(file.fileno())
        size = file.tell()
    os.replace(temporary, path)
    return size
