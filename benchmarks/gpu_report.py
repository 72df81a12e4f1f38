"""What the GPU benchmark writes: rows from each section, one JSON file, one page of tables.

A section runs in a process of its own and appends one JSON line for each thing it has measured, so
a crash or a kill loses only what was not measured yet. The parent turns the lines into results.json
and results.md again and again while sections run.
"""

from __future__ import annotations

import json
import math
import platform
import time
import traceback
from collections.abc import Callable
from datetime import datetime, timezone
from pathlib import Path

import torch

from benchmarks.common import table
from data.files import write_atomic
from trainer.checkpoints.run_folder import versions


class Report:
    """A section's side: rows go to a file at once; `left_s` is what remains of its time.
    deadline_s: on the monotonic clock, which all processes of a machine share."""

    def __init__(self, path: Path, deadline_s: float):
        self.path, self.deadline_s = path, deadline_s

    @property
    def left_s(self) -> float:
        return self.deadline_s - time.monotonic()

    def row(self, table: str, **values) -> None:
        """One row of a table; floats that are not finite become None, which JSON can hold."""
        clean = {key: _plain(value) for key, value in values.items()}
        with open(self.path, "a") as file:
            file.write(json.dumps({"table": table, **clean}) + "\n")

    def measure(self, table: str, needs_s: float, take: Callable[[], dict], **names) -> dict | None:
        """The frame of every measurement: a row of `names` and of what `take` returns, which is
        returned too. Where less than `needs_s` is left, or it fails, the row says why instead, and
        the section goes on."""
        if self.left_s < needs_s:
            left = f"left out: {max(0.0, self.left_s):.0f} s left, needs {needs_s:.0f}"
            self.row(table, **names, failed=left)
            return None
        try:
            found = take()
        except Exception as error:
            traceback.print_exc()
            text = str(error).strip().split("\n")[0]
            self.row(table, **names, failed=f"{type(error).__name__}: {text}"[:200])
        else:
            self.row(table, **{**names, **found})
            return found
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        return None


def _plain(value):
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return value


def machine(device: torch.device, matmul_flops: float) -> dict:
    """Chip and versions, for the head of the page."""
    if device.type == "cuda":
        properties = torch.cuda.get_device_properties(device)
        chip = {
            "chip": properties.name,
            "memory_gib": properties.total_memory / 2**30,
            "cuda": torch.version.cuda,
            "cudnn": torch.backends.cudnn.version(),
        }
    else:
        chip = {"chip": f"CPU ({platform.machine()}, {torch.get_num_threads()} threads)"}
    return {**chip, "versions": versions(), "matmul_tflops": matmul_flops / 1e12}


def read_rows(path: Path) -> list[dict]:
    """The whole lines of a section's file; a line that a kill cut short is left out."""
    if not path.exists():
        return []
    return [json.loads(line) for line in path.read_text().split("\n")[:-1]]


def write_results(out: Path, results: dict) -> None:
    """results.json and results.md in `out`, each whole or absent."""
    write_atomic(out / "results.json", (json.dumps(results, indent=1) + "\n").encode())
    write_atomic(out / "results.md", page(results).encode())


def today() -> str:
    return datetime.now(timezone.utc).strftime("%Y-%m-%d %H:%M UTC")


def page(results: dict) -> str:
    """The results as Markdown: a head, then each section's state and tables."""
    lines = [f"# GPU benchmark, {results['date']}", ""]
    if results["cpu_mode"]:
        lines += ["CPU mode, tiny shapes: a check that the program works, not a result.", ""]
    if found := results["machine"]:
        names = ", ".join(f"{name} {version}" for name, version in found["versions"].items())
        lines += [
            f"{found['chip']}; measured bf16 matrix products: {found['matmul_tflops']:.4g} "
            f"TFLOP/s; commit {results['commit']}; {names}",
            "",
        ]
    for name, section in results["sections"].items():
        state = section["status"] + (f": {section['reason']}" if section["reason"] else "")
        missing = sum("failed" in row for row in section["rows"])
        state += f"; {missing} cases failed or left out" if missing else ""
        lines += [f"## {name} ({state}; {section['seconds']:.0f} s)", ""]
        tables: dict[str, list[dict]] = {}
        for row in section["rows"]:
            values = {key: value for key, value in row.items() if key != "table"}
            tables.setdefault(row["table"], []).append(values)
        for title, rows in tables.items():
            lines += [f"### {title}", "", table(rows), ""]
    return "\n".join(lines)
