"""The layout's rules: layers, sizes, and what each part may know. For readers: docs/extending.md.

Limits that are numbers only ever fall.
"""

from __future__ import annotations

import ast
import re
import sys
from collections import Counter

import pytest
from imports import PACKAGES, ROOT, circle, files, graph, longest_chain, name_of, reached

LAYERS = (
    # Lowest first. A module imports its own folder and lower rows only.
    ("data.errors", "data.files", "data.flags", "data.spacing", "data.workers"),
    ("data.electrodes",),
    ("data.shards",),
    ("data.subjects",),
    ("data.signals", "data.batches"),
    ("data.simulate",),
    ("data.sources",),
    ("data.packing", "data.inspection"),
    ("data",),
    ("model",),
    ("trainer.ranks", "trainer.scoring"),
    ("trainer.reports",),
    ("trainer.checkpoints",),
    ("trainer.engine",),
    ("trainer.masked", "trainer.translation", "trainer.decoding", "trainer.images"),
    ("trainer.preflight",),
    ("trainer",),
    ("use",),
)
GROUND = 0
"""The row whose modules may import each other."""
MODULES_A_FOLDER = 13
FOLDERS_ABOVE = {"trainer"}  # its modules are the commands that users type
LINES_A_FILE = 300
LINES_A_COMMAND = 150
REACH = {"trainer.pretrain": (57, 10), "trainer.engine.loop": (28, 8)}
"""(files, longest chain) at most, the module itself included."""
TASKS = ("trainer.masked", "trainer.translation", "trainer.decoding", "trainer.images")
KNOWN = {"trainer": {"data", "model", "trainer"}, "use": set(PACKAGES)}
"""Packages that those of a package may import; others know themselves alone."""
MODEL_OF_ENGINE = {"model.losses", "model.transformer"}
ARITHMETIC = ("profiles", "bad_channels", "filtering")
"""Of data.signals: what a processor outside packing shares; they know each other at most."""
THIRD_PARTY = {"torch", "numpy", "scipy", "mne", "moabb", "deepspeed", "webdataset", "tensorboard",
               "matplotlib", "safetensors", "yaml", "tqdm", "transformers"}  # fmt: skip


def layer(module: str) -> tuple[int, str]:
    """(row, entry) of a module in LAYERS, by its longest match."""
    matches = [
        (len(entry), row, entry)
        for row, entries in enumerate(LAYERS)
        for entry in entries
        if module == entry or module.startswith(f"{entry}.")
    ]
    _, row, entry = max(matches)
    return row, entry


def test_there_is_no_circle():
    assert circle() == []


@pytest.mark.parametrize("module", graph())
def test_imports_point_downwards(module):
    row, entry = layer(module)
    for other in graph()[module]:
        below, name = layer(other)
        assert below < row or name == entry or below == row == GROUND, f"{module} -> {other}"


def test_data_and_model_do_not_know_each_other():
    for module, others in graph().items():
        package = module.split(".")[0]
        known = {other.split(".")[0] for other in others}
        assert known <= KNOWN.get(package, {package}), module


def test_model_is_one_folder_that_can_be_copied():
    """transformers copies the folder of a model's code: its own imports are relative."""
    for path in sorted((ROOT / "model").rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ImportFrom) and not node.level:
                # A copied Brainformer folder reads its EEG encoder from this project.
                own = node.module.split(".")[0] in PACKAGES
                assert not own or path.name == "pretrained_brainformer.py", path.name


def test_the_engine_knows_no_objective():
    for module, others in graph().items():
        if module.startswith("trainer.engine"):
            assert not [o for o in others if o.startswith(TASKS)], module
            assert {o for o in others if o.startswith("model")} <= MODEL_OF_ENGINE, module


def test_no_objective_knows_another():
    for module, others in graph().items():
        for task in TASKS:
            if module.startswith(task):
                strangers = tuple(other for other in TASKS if other != task)
                assert not [o for o in others if o.startswith(strangers)], module


@pytest.mark.parametrize("name", ARITHMETIC)
def test_the_arithmetic_of_signals_stands_alone(name):
    own = {f"data.signals.{other}" for other in ARITHMETIC}
    assert graph()[f"data.signals.{name}"] <= {"data.errors", *own}


@pytest.mark.parametrize("start", REACH)
def test_little_is_imported(start):
    most, deepest = REACH[start]
    found = {m for m in reached(start) if not (ROOT / m.replace(".", "/")).is_dir()}
    assert len(found) <= most, sorted(found)
    chain = longest_chain(start)
    assert len(chain) <= deepest, " > ".join(chain)


def test_folders_are_small():
    counts = Counter(path.parent for path in files() if path.name != "__init__.py")
    above = {str(folder.relative_to(ROOT)) for folder, n in counts.items() if n > MODULES_A_FOLDER}
    assert above <= FOLDERS_ABOVE


def test_files_are_short():
    lines = {str(p.relative_to(ROOT)): len(p.read_text().splitlines()) for p in files()}
    assert {name: n for name, n in lines.items() if n > LINES_A_FILE} == {}
    commands = {n for n in lines if re.fullmatch(r"trainer/\w+\.py", n)}
    assert [n for n in commands if lines[n] > LINES_A_COMMAND] == []


@pytest.mark.parametrize("package", PACKAGES)
def test_no_module_shadows_another(package):
    names = {path.stem for path in (ROOT / package).glob("*.py")} - {"__init__"}
    assert not names & (set(sys.stdlib_module_names) | THIRD_PARTY)


# ---- who may say what ----------------------------------------------------------------------------


def test_kinds_of_tokens_are_told_apart_in_one_place():
    for path in files():
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Compare):
                sides = [node.left, *node.comparators]
                joint = any(isinstance(s, ast.Constant) and s.value == "joint" for s in sides)
                assert not joint or name_of(path) == "model.tokens", path.name


def named_paths() -> list[tuple[str, str]]:
    """(where, path): every file of ours that a text of the project names."""
    texts = [*files(), *(ROOT / "docs").glob("*.md"), ROOT / "README.md"]
    texts += [*(ROOT / "benchmarks").glob("*.py"), *(ROOT / "tests").glob("test_[!s]*.py")]
    pattern = re.compile(r"(?<![\w/.{}*-])((?:data|model|trainer|benchmarks|docs|ds_configs|tests)/"
                         r"[\w/]+\.(?:py|md|json|yaml|csv))\b")  # fmt: skip
    return sorted(
        {(str(t.relative_to(ROOT)), name) for t in texts for name in pattern.findall(t.read_text())}
    )


MADE_UP = {
    # (where, path): examples in messages and tests.
    ("data/subjects/benchmarks.py", "data/reserve/NAME.yaml"),
    ("tests/test_doctor.py", "model/new.py"),
    ("tests/test_train.py", "ds_configs/none.json"),
}


def test_paths_in_texts_exist():
    gone = {(where, path) for where, path in named_paths() if not (ROOT / path).exists()}
    assert gone == MADE_UP
