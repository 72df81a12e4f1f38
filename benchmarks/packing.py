"""Where packing's time goes, how it scales to two workers, and the same steps in plain MNE calls.

    python benchmarks/packing.py --source simulated:biosemi64,subjects=6,minutes=4
    MNE_DATA=... python benchmarks/packing.py --source moabb:PhysionetMI,subjects=1-2

Rates are hours of signal a minute. Stages and MNE run in this process on one core; the runs with
one and two workers are the real command, and so are two runs at once of one worker each, which
share nothing: what the machine's two cores allow. CPU time is given beside the clock's, since on a
busy machine only it says what the work costs.
"""

from __future__ import annotations

import argparse
import functools
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from contextlib import contextmanager
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path[0] = str(ROOT)
ONE_THREAD = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")
os.environ.update(ONE_THREAD)
os.environ.setdefault("MNE_LOGGING_LEVEL", "ERROR")

import mne
import numpy as np

from data.packing.assemble import collect, write_shards
from data.packing.items import items as packing
from data.shards.manifest import read_manifest
from data.signals import eeg as preprocess
from data.signals.filtering import BandPass
from data.signals.profiles import Profile, get_profile
from data.signals.reading import SpanReader
from data.sources.spec import WorkItem, list_items, parse_spec

READING, FILTERING, WRITING, REST = "reading", "filtering, resampling", "shards", "all else"
STAGES = [
    (READING, packing, "_load"),
    (READING, preprocess, "source_hashes"),
    (READING, SpanReader, "read"),
    (FILTERING, BandPass, "of"),
    (FILTERING, preprocess, "filtered"),
]


class Stopwatch:
    """CPU seconds of each stage; a stage inside another counts for itself alone."""

    def __init__(self):
        self.seconds: dict[str, float] = defaultdict(float)
        self._stack, self._since = [REST], time.process_time()

    @contextmanager
    def stage(self, name: str):
        self._switch()
        self._stack.append(name)
        try:
            yield
        finally:
            self._switch()
            self._stack.pop()

    def _switch(self) -> None:
        now = time.process_time()
        self.seconds[self._stack[-1]] += now - self._since
        self._since = now

    def watch(self, name: str, owner, attribute: str) -> None:
        """Count the time in a function or (between its items) a generator for stage `name`."""
        plain = getattr(owner, attribute)

        @functools.wraps(plain)
        def watched(*arguments, **settings):
            with self.stage(name):
                result = plain(*arguments, **settings)
            return self._each(name, result) if hasattr(result, "__next__") else result

        setattr(owner, attribute, watched)

    def _each(self, name: str, results):
        while True:
            with self.stage(name):
                try:
                    result = next(results)
                except StopIteration:
                    return
            yield result


def profile_stages(items: list[WorkItem], profile: Profile, folder: Path) -> dict[str, float]:
    """Seconds of each stage of packing `items` in this process."""
    jobs = packing.make_jobs(items, profile, folder)
    clock = Stopwatch()
    for entry in STAGES:
        clock.watch(*entry)
    for job in jobs:
        packing.process_item(job)
    with clock.stage(WRITING):
        records = packing.finished_records(jobs)
        _, _, groups = collect(records, folder, ["train"] * len(records))
        write_shards(folder, groups, 0, 256.0)
    return dict(clock.seconds)


def plain_mne(raw: mne.io.BaseRaw, profile: Profile, mains_hz: float | None) -> np.ndarray:
    """What a script does with MNE's own methods, one after the other; float16 windows."""
    raw = raw.copy().load_data().pick("eeg")
    nyquist = raw.info["sfreq"] / 2
    h_freq = min(profile.h_freq_hz, 0.9 * nyquist)
    raw.filter(profile.l_freq_hz, h_freq)
    if mains_hz:
        raw.notch_filter(np.arange(mains_hz, min(1.25 * h_freq, nyquist - 1), mains_hz))
    raw.resample(profile.sfreq_hz)
    raw.set_eeg_reference("average")
    length_s = profile.window_samples / profile.sfreq_hz
    windows = mne.make_fixed_length_epochs(raw, length_s, preload=True).get_data()
    scale = 1.4826 * np.median(np.abs(windows))
    return np.clip(windows / scale, -profile.clip, profile.clip).astype(np.float16)


def compare_with_mne(items: list[WorkItem], profile: Profile) -> tuple[float, float, float]:
    """(hours of signal, our seconds, plain MNE's) from recording to windows; CPU time.

    Recordings are loaded first, for both, but not their signals; each recording is done by both.
    """
    hours = ours = plain = 0.0
    for item in items:
        for recording in item.load():
            raw = recording.raw
            mains_hz = recording.mains_hz or raw.info["line_freq"]
            hours += raw.n_times / raw.info["sfreq"] / 3600
            begin = time.process_time()
            preprocess.make_windows(recording, profile)
            middle = time.process_time()
            plain_mne(raw, profile, mains_hz)
            plain += time.process_time() - middle
            ours += middle - begin
    return hours, ours, plain


def run_command(source: str, workers: int, *outs: Path) -> tuple[float, float]:
    """(clock, CPU) seconds of the real command; with several `outs`, of as many at once."""
    command = [sys.executable, str(ROOT / "data/pack.py"), "--source", source, "--workers",
               str(workers), "--out"]  # fmt: skip
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    begin = time.perf_counter()
    running = [
        subprocess.Popen([*command, str(out)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        for out in outs
    ]
    for process in running:
        if process.wait():
            raise SystemExit(f"failed: {' '.join(process.args)}")
    took = time.perf_counter() - begin
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return took, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--source", default="simulated:biosemi64,subjects=6,minutes=4")
    parser.add_argument("--rounds", type=int, default=3, help="of the runs with 1 and 2 workers")
    arguments = parser.parse_args()
    profile = get_profile("default")
    items = list_items(parse_spec(arguments.source), profile)
    with tempfile.TemporaryDirectory() as temporary:
        hours, ours, plain = compare_with_mne(items, profile)
        print(f"{arguments.source}: {len(items)} items, {hours:.3g} h of signal\n")
        print("from recording to windows, CPU seconds on one core: ours "
              f"{ours:.1f} ({60 * hours / ours:.2f} h a minute), plain MNE {plain:.1f} "
              f"({60 * hours / plain:.2f} h a minute), {plain / ours:.2f}x\n")  # fmt: skip
        timed: dict[int, list[tuple[float, float]]] = {1: [], 2: []}
        apart: list[float] = []
        for number in range(arguments.rounds):
            for workers, found in timed.items():
                out = Path(temporary) / f"{workers}-{number}"
                found.append(run_command(arguments.source, workers, out))
            twice = [Path(temporary) / f"apart{k}-{number}" for k in range(2)]
            apart.append(run_command(arguments.source, 1, *twice)[0])
        size = sum(shard.bytes for shard in read_manifest(out).shards)
        print("| data/pack.py | seconds | CPU seconds | h of signal a minute |\n|---|---|---|---|")
        for workers, found in timed.items():
            clock, cpu = (statistics.median(column) for column in zip(*found, strict=True))
            print(f"| {workers} worker{'s' * (workers > 1)} | {clock:.1f} | {cpu:.1f} | "
                  f"{60 * hours / clock:.2f} |")  # fmt: skip
        ratio = statistics.median(a / b for (a, _), (b, _) in zip(*timed.values(), strict=True))
        limit = statistics.median(2 * a / b for (a, _), b in zip(timed[1], apart, strict=True))
        print(
            f"\ntwo workers: {ratio:.2f}x (two separate commands, each with one: {limit:.2f}x of "
            f"the signal in the same time); {size / hours / 1e6:.1f} MB of shards an hour\n"
        )
        folder = Path(temporary) / "stages"
        folder.mkdir()
        seconds = profile_stages(items, profile, folder)
    total = sum(seconds.values())
    print("| stage | CPU seconds | share |\n|---|---|---|")
    for name in (READING, FILTERING, REST, WRITING):
        print(f"| {name} | {seconds.get(name, 0):.2f} | {seconds.get(name, 0) / total:.1%} |")
    useful = seconds[READING] + seconds[FILTERING]
    print(f"\nreading, filtering and resampling: {useful / total:.1%}")


if __name__ == "__main__":
    main()
