"""Speed, memory and numerics of training on one GPU, in one command of under nine minutes.

    python benchmarks/gpu.py --out runs/gpu                 # everything, on the GPU
    python benchmarks/gpu.py --only attention --only step   # some sections
    python benchmarks/gpu.py --cpu --out /tmp/check         # tiny shapes: does the program work?

Each section is a process of its own with a time budget: one that fails, hangs or runs out of memory
is reported with the reason, and the rest goes on; what a section leaves of its budget goes to the
next. It costs about ten seconds of imports a section. results.json and results.md are rewritten
while sections run; log.txt has what they printed, trace.json.gz the profile that `waiting` read.
The program makes its own shards, in the real format, in a temporary folder.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

sys.path[0] = str(Path(__file__).resolve().parents[1])

import torch

from benchmarks.gpu_report import Report, machine, read_rows, today, write_results
from data.errors import InputError, run_command
from trainer.checkpoints.run_folder import git_state

# Module, and seconds on a GPU: together under nine minutes. What matters most comes first.
SECTIONS = {
    "step": ("gpu_step", 122), "attention": ("gpu_attention", 28), "compile": ("gpu_step", 112),
    "waiting": ("gpu_waiting", 50), "memory": ("gpu_numerics", 95), "zero": ("gpu_step", 45),
    "numerics": ("gpu_numerics", 45), "packed": ("gpu_packed", 42),
}  # fmt: skip
NO_GPU = {"CUDA_VISIBLE_DEVICES": "", "DS_ACCELERATOR": "cpu"}
CPU_SECONDS = 300  # for each section in CPU mode, imports on a busy machine included


def parse(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--out", type=Path, default=Path("runs/gpu"), help="folder of the results [runs/gpu]")
    add("--only", action="append", choices=SECTIONS, help="run this section; repeatable")
    add("--budget_scale", type=float, default=1.0, help="multiply the sections' seconds [1]")
    add("--cpu", action="store_true", help="tiny shapes on the CPU, to check the program")
    add("--section", choices=SECTIONS, help=argparse.SUPPRESS)  # a child's flags
    add("--work", type=Path, help=argparse.SUPPRESS)
    add("--deadline_s", type=float, help=argparse.SUPPRESS)  # on the monotonic clock
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> int:
    arguments = parse(argv)
    if arguments.section:
        run_section(arguments)
        return 0
    if not arguments.cpu and not torch.cuda.is_available():
        raise InputError("no CUDA device is visible", "use --cpu to check the program without one")
    results = {
        "date": today(),
        "cpu_mode": arguments.cpu,
        "commit": git_state()["commit"].split()[0][:12],
        "machine": None,
        "sections": {},
    }
    with tempfile.TemporaryDirectory(prefix="gpu-benchmark-") as work:
        supervise(arguments, Path(work), results)
    print((arguments.out / "results.md").read_text())
    return 1 if any(s["status"] != "done" for s in results["sections"].values()) else 0


def supervise(arguments: argparse.Namespace, work: Path, results: dict) -> None:
    """Run the sections one after another; keep the results on disk up to date."""
    deadline = time.monotonic()
    arguments.out.mkdir(parents=True, exist_ok=True)
    log = arguments.out / "log.txt"
    for old in (log, arguments.out / "results.json"):
        old.unlink(missing_ok=True)
    for name in arguments.only or SECTIONS:
        deadline = max(deadline, time.monotonic()) if arguments.cpu else deadline
        deadline += CPU_SECONDS if arguments.cpu else arguments.budget_scale * SECTIONS[name][1]
        section = {"status": "running", "reason": "", "seconds": 0.0, "rows": []}
        results["sections"][name] = section
        rows, begin = work / f"{name}.jsonl", time.monotonic()
        command = [
            sys.executable, str(Path(__file__).resolve()), "--section", name, "--work", str(work),
            "--out", str(arguments.out), "--deadline_s", str(deadline - 3),
            *(["--cpu"] if arguments.cpu else []),
        ]  # fmt: skip
        with open(log, "ab") as file:
            file.write(f"\n==== {name}\n".encode())
            file.flush()
            child = subprocess.Popen(
                command, stdout=file, stderr=subprocess.STDOUT, start_new_session=True,
                env={**os.environ, **(NO_GPU if arguments.cpu else {})},
            )  # fmt: skip
            code = None
            try:
                while code is None and time.monotonic() < deadline:
                    with contextlib.suppress(subprocess.TimeoutExpired):
                        code = child.wait(timeout=1.0)
                    update(results, section, rows, time.monotonic() - begin, arguments.out)
            finally:
                end(child)  # a section's loader workers are in its process group
        if code is None:
            section |= {"status": "stopped", "reason": "its time was up"}
        elif code == 0:
            section["status"] = "done"
        else:
            section |= {"status": "failed", "reason": last_line(log)}
        update(results, section, rows, time.monotonic() - begin, arguments.out)
        print(f"{name}: {section['status']} {section['reason']}".rstrip(), flush=True)


def end(child: subprocess.Popen) -> None:
    """Kill what is left of a section: its process group, which is its own session."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(child.pid, signal.SIGKILL)
    child.wait()


def update(results: dict, section: dict, rows: Path, seconds: float, out: Path) -> None:
    """Take up what the section has measured until now, and write the results."""
    found = read_rows(rows)
    section["rows"] = [row for row in found if row["table"] != "machine"]
    section["seconds"] = seconds
    for head in (row for row in found if row["table"] == "machine"):
        del head["table"]
        results["machine"] = results["machine"] or head
        section["matmul_tflops"] = head["matmul_tflops"]
    write_results(out, results)


def last_line(log: Path) -> str:
    lines = [line for line in log.read_text(errors="replace").split("\n") if line.strip()]
    return lines[-1].strip()[:200]


def run_section(arguments: argparse.Namespace) -> None:
    """In the child: join a group of one rank, measure the chip, run the section."""
    from benchmarks.gpu_cases import Setting
    from trainer.engine.log import measured_peak_flops
    from trainer.ranks.ranks import start_ranks

    report = Report(arguments.work / f"{arguments.section}.jsonl", arguments.deadline_s)
    ranks = start_ranks()
    # Without bf16 units a CPU would take a minute for this.
    peak = measured_peak_flops(ranks.device, torch.float32 if arguments.cpu else torch.bfloat16)
    report.row("machine", **machine(ranks.device, peak))
    setting = Setting(arguments.cpu, arguments.work, arguments.out.resolve(), ranks, peak)
    module = importlib.import_module(f"benchmarks.{SECTIONS[arguments.section][0]}")
    getattr(module, f"measure_{arguments.section}")(setting, report)


if __name__ == "__main__":
    # So that a scheduler's or a timeout's signal also ends the section that runs.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    run_command(main)
