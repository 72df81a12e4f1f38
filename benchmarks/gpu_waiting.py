"""Section `waiting`: where the host waits in a step, and how long the GPU has nothing to do.

Host reads are operations that hand a value of a tensor to Python; they are seen on any device.
Synchronisations are what CUDA reports of itself (`set_sync_debug_mode`), copies from ordinary
memory included. The idle share comes from a profile of some steps with the real loader: the time in
which no kernel and no copy runs, over the time from the first to the last. The profiler slows the
host, so the share is an upper bound.
"""

from __future__ import annotations

import gzip
import json
import re
import time
import traceback
import warnings
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import torch
from torch.profiler import ProfilerActivity, profile, schedule
from torch.utils._python_dispatch import TorchDispatchMode

from benchmarks.common import ROOT
from benchmarks.gpu_cases import EngineRun, Setting, plan_of, usual_case, wait_for
from benchmarks.gpu_report import Report

DEVICE_EVENTS = ("kernel", "gpu_memcpy", "gpu_memset")
KINDS = {  # the first that matches a kernel's name
    "attention": r"flash|fmha|sdpa|attention",
    "matrix products": r"gemm|cutlass|nvjet|xmma|cublas|splitk|addmm|\bmm\b|\bbmm\b|linear",
    "optimizer": r"adam|multi_tensor",
    "norms": r"layer_norm|layernorm",
    "copies": r"memcpy|memset|copy|cat",
    "communication": r"nccl|all_reduce|allreduce|c10d",
}
STEPS = 4


class HostReads(TorchDispatchMode):
    """Counts the places at which a tensor's value goes to Python."""

    READS = (torch.ops.aten._local_scalar_dense.default, torch.ops.aten.nonzero.default)

    def __init__(self):
        super().__init__()
        self.found: Counter[str] = Counter()

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        if function in self.READS:
            self.found[place()] += 1
        return function(*args, **(kwargs or {}))


@contextmanager
def synchronisations(device: torch.device) -> Iterator[Counter[str]]:
    """Counts the places at which CUDA says that the host waited; empty on a CPU."""
    found: Counter[str] = Counter()
    if device.type != "cuda":
        yield found
        return

    def note(message, category, filename, line, file=None, text=None) -> None:
        if "called a synchronizing" in str(message):  # not that the mode is a prototype
            found[place()] += 1

    with warnings.catch_warnings():
        warnings.simplefilter("always")
        warnings.showwarning = note
        torch.cuda.set_sync_debug_mode("warn")
        try:
            yield found
        finally:
            torch.cuda.set_sync_debug_mode("default")


def place() -> str:
    """The innermost line of this project or of DeepSpeed that led here, as path:line function."""
    here = Path(__file__).name
    for frame in reversed(traceback.extract_stack()):
        path = Path(frame.filename)
        if path.name == here or not ("deepspeed" in path.parts or ROOT in path.parents):
            continue
        parts = path.parts
        start = parts.index("deepspeed") if "deepspeed" in parts else len(ROOT.parts)
        return f"{'/'.join(parts[start:])}:{frame.lineno} {frame.name}"
    return "elsewhere"


class Waits:
    """Batches, and the seconds that the loop stood still for each."""

    def __init__(self, batches: Iterator):
        self.batches, self.seconds = batches, []

    def __next__(self):
        begin = time.perf_counter()
        batch = next(self.batches)
        self.seconds.append(time.perf_counter() - begin)
        return batch


def read_trace(path: Path) -> tuple[float, float, dict[str, float]]:
    """(idle share, seconds spanned, seconds by kind) of a profile's device events; a profile from a
    CPU has none, and its operators are taken instead."""
    with gzip.open(path, "rt") as file:
        events = [e for e in json.load(file)["traceEvents"] if e.get("ph") == "X" and e.get("dur")]
    chosen = [e for e in events if e.get("cat") in DEVICE_EVENTS]
    chosen = chosen or [e for e in events if e.get("cat") == "cpu_op"]
    spans = [(float(e["ts"]), float(e["ts"]) + float(e["dur"])) for e in chosen]
    kinds: Counter[str] = Counter()
    for event in chosen:
        kinds[kind_of(event["name"])] += float(event["dur"]) / 1e6
    return idle_share(spans), (max(b for _, b in spans) - min(a for a, _ in spans)) / 1e6, kinds


def kind_of(name: str) -> str:
    """Which kind of work a kernel's name tells of."""
    for kind, pattern in KINDS.items():
        if re.search(pattern, name, re.IGNORECASE):
            return kind
    return "elementwise and the rest"


def idle_share(spans: list[tuple[float, float]]) -> float:
    """Share of the time from the first begin to the last end that no span covers."""
    spans = sorted(spans)
    covered, reached = 0.0, spans[0][0]
    for begin, end in spans:
        covered += max(0.0, end - max(begin, reached))
        reached = max(reached, end)
    return 1 - covered / (reached - spans[0][0])


def measure_waiting(setting: Setting, report: Report) -> None:
    def profiled(preset: str) -> dict:
        plan = plan_of(setting, usual_case(preset, setting.small))
        with EngineRun(plan, setting.ranks) as run:
            return watch(run, setting, report, preset)

    for preset in ("large", "brain2image"):
        report.measure("profile with the real loader", 12, partial(profiled, preset), preset=preset)


def watch(run: EngineRun, setting: Setting, report: Report, preset: str) -> dict:
    for _ in range(3):
        run.step()
    wait_for(setting.device)
    with synchronisations(setting.device) as synced:
        for _ in range(STEPS):
            run.step()
    reads = HostReads()
    with reads:
        for _ in range(STEPS):
            run.step()
    for title, found in (("host reads a step", reads.found), ("CUDA synchronisations", synced)):
        for where, count in found.most_common(12):
            report.row(title, preset=preset, where=where, a_step=count / STEPS)
    run.feed.batches = waits = Waits(run.feed.batches)
    cuda = setting.device.type == "cuda"  # its events alone: recording operators slows the host
    trace = setting.out / f"trace-{preset}.json.gz"
    with profile(
        activities=[ProfilerActivity.CUDA if cuda else ProfilerActivity.CPU],
        schedule=schedule(wait=0, warmup=3, active=STEPS, repeat=1),
        on_trace_ready=lambda profiler: profiler.export_chrome_trace(str(trace)),
    ) as profiler:  # fmt: skip
        for _ in range(3 + STEPS):
            run.step()
            if len(waits.seconds) >= 2 + STEPS:
                wait_for(setting.device)  # the last step's kernels belong to the profile
            profiler.step()
    idle, spanned_s, kinds = read_trace(trace)
    total = sum(kinds.values())
    for kind, seconds in sorted(kinds.items(), key=lambda item: -item[1]):
        report.row("where the device's time goes", preset=preset, kind=kind, share=seconds / total)
    return {
        "idle_share": idle, "step_ms": 1e3 * spanned_s / STEPS,
        "longest_loader_wait_ms": 1e3 * max(waits.seconds[1:]),
        "host_reads": sum(reads.found.values()) / STEPS,
        "synchronisations": sum(synced.values()) / STEPS, "trace": trace.name,
        "trace_mb": trace.stat().st_size / 1e6,
    }  # fmt: skip
