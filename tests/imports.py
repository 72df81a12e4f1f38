"""Who imports whom in data/, model/ and trainer/, read with `ast`: imports in functions count."""

from __future__ import annotations

import ast
from functools import cache
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("data", "model", "trainer", "use")


def files() -> list[Path]:
    return sorted(path for package in PACKAGES for path in (ROOT / package).rglob("*.py"))


def name_of(path: Path) -> str:
    """`data.shards.tars` of data/shards/tars.py; a folder's __init__.py has the folder's name."""
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


@cache
def graph() -> dict[str, frozenset[str]]:
    """{module: the modules of ours that it imports}."""
    modules = {name_of(path): path for path in files()}
    return {name: frozenset(_imported(path, modules)) for name, path in modules.items()}


def _imported(path: Path, modules: dict[str, Path]) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                folder = path.parents[node.level - 1]
                base = ".".join([*folder.relative_to(ROOT).parts, *filter(None, [node.module])])
            names = {f"{base}.{alias.name}" for alias in node.names} & set(modules)
            found |= names or {base}
    return found & set(modules)


def reached(start: str) -> set[str]:
    """`start` and all that it imports, directly or not; empty __init__.py aside."""
    seen, left = set(), [start]
    while left:
        module = left.pop()
        if module not in seen:
            seen.add(module)
            left += graph()[module]
    return seen


def circle() -> list[str]:
    """Modules that import each other in a circle; empty where there is none."""
    done, path = set(), []

    def visit(module: str) -> list[str]:
        if module in path:
            return [*path[path.index(module) :], module]
        if module in done:
            return []
        path.append(module)
        for other in sorted(graph()[module]):
            if found := visit(other):
                return found
        path.pop()
        done.add(module)
        return []

    for module in graph():
        if found := visit(module):
            return found
    return []


@cache
def longest_chain(start: str) -> tuple[str, ...]:
    """The longest way down from `start`, itself included. There must be no circle."""
    below = (longest_chain(other) for other in sorted(graph()[start]))
    return (start, *max(below, key=len, default=()))
