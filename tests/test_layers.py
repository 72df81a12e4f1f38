"""The layout's rules: who may import whom, and no name that shadows another module."""

from __future__ import annotations

import ast
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
ALLOWED = {"data": {"data"}, "model": {"model"}, "trainer": {"data", "model", "trainer"}}
THIRD_PARTY = {"torch", "numpy", "scipy", "mne", "moabb", "deepspeed", "webdataset", "tensorboard",
               "matplotlib", "safetensors", "yaml", "tqdm", "transformers"}  # fmt: skip
FILES = [path for package in ALLOWED for path in sorted((ROOT / package).rglob("*.py"))]


def imported(path: Path) -> set[str]:
    """First parts of every absolute import in a file."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            found.add(node.module.split(".")[0])
    return found


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_point_one_way(path):
    package = path.relative_to(ROOT).parts[0]
    assert imported(path) & set(ALLOWED) <= ALLOWED[package]


@pytest.mark.parametrize("package", ALLOWED)
def test_no_module_shadows_another(package):
    names = {path.stem for path in (ROOT / package).glob("*.py")} - {"__init__"}
    assert not names & (set(sys.stdlib_module_names) | THIRD_PARTY)
