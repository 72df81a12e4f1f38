"""The examples of docs/extending.md, run as they stand there."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys

import numpy as np
import pytest
from imports import ROOT
from tiny import electrode_places

from data.shards.manifest import read_manifest
from model import masks
from model.masks import MASKS, Sheet, draw_mask, generator

PAGE = (ROOT / "docs/extending.md").read_text()
OTHER_TABLES = {
    "CHOSEN_BY_SUBJECT": "data/sources/kinds.py",
    "FROM_FILES": "data/sources/kinds.py",
    "ONE_FILE": "data/sources/labels/choose.py",
}
NAMES = ["Fp1", "Fp2", "F3", "F4", "C3", "C4", "P3", "P4", "O1", "O2", "F7", "F8"]


def blocks() -> list[str]:
    return re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)


def block(start: str) -> str:
    (found,) = [text for text in blocks() if text.startswith(start)]
    return found


def test_the_mask_of_the_page(monkeypatch):
    piece, entry = block("# model/masks.py").split("# ... and its entry in MASKS\n")
    scope = dict(vars(masks))
    exec(piece, scope)
    for name, kind in eval(f"{{{entry}}}", scope).items():
        monkeypatch.setitem(MASKS, name, kind)
    positions_m = electrode_places("biosemi32", 32)[1]
    hidden = draw_mask("left", Sheet(positions_m, 10, 10.0), 100, generator(0, 0))
    assert hidden.sum() == 100
    assert positions_m[hidden.any(1), 0].max() <= np.median(positions_m[:, 0])


@pytest.fixture
def checkout(tmp_path):
    """A copy of data/ with the page's source in it."""
    shutil.copytree(ROOT / "data", tmp_path / "data", ignore=shutil.ignore_patterns("__pycache__"))
    sources = tmp_path / "data/sources"
    (sources / "from_text.py").write_text(block('"""`text:FOLDER`'))
    table = (sources / "kinds.py").read_text()
    assert table.count("\nKINDS = {\n") == 1
    entry = block('"text": Kind(')
    table = table.replace("\nKINDS = {\n", f"\nKINDS = {{\n{entry}")
    (sources / "kinds.py").write_text(table)
    for name, path in OTHER_TABLES.items():
        text, begin = (tmp_path / path).read_text(), f"\n{name} = ("
        assert text.count(begin) == 1
        (tmp_path / path).write_text(text.replace(begin, f'{begin}"text", '))
    return tmp_path


def pack(checkout, source: str) -> subprocess.CompletedProcess:
    command = [sys.executable, "data/pack.py", "--source", source, "--out", "shards", "--workers=1"]
    return subprocess.run(command, cwd=checkout, capture_output=True, text=True, check=False)


def test_the_source_of_the_page(checkout):
    folder = checkout / "mine"
    folder.mkdir()
    rng = np.random.default_rng(0)
    for person in ("P1", "P2", "P3", "P4"):
        signal_uv = 20 * rng.standard_normal((250 * 30, len(NAMES)))
        np.savetxt(folder / f"{person}_1.txt", signal_uv, "%.3f", "\t", header="\t".join(NAMES),
                   comments="")  # fmt: skip
    people = r"subjects=P1+P2+P3,label=(P\d)_1\.txt"
    done = pack(checkout, f"text:mine,sfreq_hz=250,montage=standard_1020,{people}")
    assert done.returncode == 0, done.stdout + done.stderr
    manifest = read_manifest(checkout / "shards")
    assert [r["subject"] for r in manifest.recordings] == ["P1", "P2", "P3"]
    assert {r["source_sfreq_hz"] for r in manifest.recordings} == {250.0}
    for recording in manifest.recordings:
        assert 1 < recording["scale_uv"] < 40  # microvolts, whatever the filters took
        assert set(manifest.montages[recording["montage"]].channels) == set(NAMES)
    scope: dict = {}
    exec(block("# what a pack holds").replace("shards/mine", str(checkout / "shards")), scope)
    assert scope["window_uv"].shape == (len(NAMES), 800)
    assert scope["meta"]["label"] == scope["record"]["label"] == scope["record"]["subject"]
    assert 5 < scope["window_uv"].std() < 25  # 20 uV, less what the filters took


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("text:none,sfreq_hz=250", "no such folder"),
        ("text:mine", "add sfreq_hz=RATE"),
        ("text:mine,sfreq_hz=fast", "sfreq_hz=250"),
        ("text:mine,sfreq_hz=250", "call it SUBJECT_SESSION.txt"),
        ("text:mine,sfreqhz=250", "Did you mean sfreq_hz"),
    ],
)
def test_its_messages(checkout, source, message):
    (checkout / "mine").mkdir()
    (checkout / "mine/noname.txt").write_text("Fz\tCz\n1\t2\n")
    done = pack(checkout, source)
    assert done.returncode != 0
    assert message in done.stderr
    assert "Traceback" not in done.stderr
