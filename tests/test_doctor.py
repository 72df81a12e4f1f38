"""The doctor on this machine, and its parts."""

from __future__ import annotations

import os
import sys

import pytest
import torch
from commands import python
from tiny import tiny_shards

from data.errors import InputError
from model.config import preset
from model.transformer import attention
from trainer.engine.agreement import description, difference
from trainer.masked.config import MaskedConfig
from trainer.preflight import checkup
from trainer.preflight.hosts import compare, on_host, read_hostfile
from trainer.ranks import joining
from trainer.ranks.joining import join_seconds, meet


@pytest.mark.slow
def test_the_command(tmp_path):
    shards = tiny_shards(tmp_path / "shards")
    words = ("trainer/doctor.py", "--run", tmp_path / "runs/new", "--preset", "tiny")
    output = python(*words, "--shards", shards)
    assert "114 training windows" in output
    assert not (tmp_path / "runs").exists()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["shards"]
    assert "ZeRO stage 2, bf16, clipping at 1" in output
    settings = tmp_path / "ds.json"
    settings.write_text('{"gradient_cliping": 1.0, "zero_optimization": {"stage": 2}}')
    more = ("--shards", tmp_path / "none", "--deepspeed_config", settings)
    output = python(*words, *more, fails=True)
    assert "FAIL  shards" in output
    assert f"FAIL  DeepSpeed   {settings}: DeepSpeed knows no 'gradient_cliping'" in output
    assert "Did you mean gradient_clipping" in output
    assert "2 check(s) failed" in output


def test_attention_and_bf16_on_the_cpu():
    on = torch.device("cpu")
    assert checkup.attention_kernel(on).level == "ok"
    assert checkup.bf16(on).level in ("ok", "warn")


def test_memory_that_killed_ranks_left_is_told():
    left = joining.FOLDER / f"{joining.PREFIX}{os.getuid()}_of-a-test_{os.getpid()}"
    try:
        with open(left, "wb") as file:
            file.truncate(2**30)  # takes no memory
        checks = checkup.memory_limits(torch.device("cpu"), 1)
    finally:
        left.unlink()
    assert [check.remedy for check in checks if "left by killed" in check.found] == [
        "rm /dev/shm/deepspeed_allreduce_buffer_*"
    ]


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_on_a_gpu():
    on = torch.device("cuda", 0)
    assert checkup.attention_kernel(on).level == "ok"
    assert checkup.bf16(on).level == "ok"
    assert checkup.gpus(slots=1).level == "ok"
    assert checkup.gpus(slots=99).level == "FAIL"


def nan_output(q, k, v):
    return attention(q, k, v) * float("nan")


def nan_gradient_of_keys(q, k, v):
    k.register_hook(lambda gradient: gradient * float("nan"))
    return attention(q, k, v)


@pytest.mark.parametrize("wrong", [nan_output, nan_gradient_of_keys])
def test_an_attention_kernel_that_is_wrong_is_found(monkeypatch, wrong):
    monkeypatch.setattr(checkup, "attention", wrong)
    found = checkup.attention_kernel(torch.device("cpu"))
    assert found.level == "FAIL"
    assert "nan" in found.found


def test_no_compiler(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(sys, "executable", str(tmp_path / "python"))
    found = checkup.compiler(torch.device("cpu"))
    assert found.level == "FAIL"
    assert "no c++" in found.found
    assert checkup.compiler(torch.device("cuda")).level == "warn"


def test_packages_against_requirements(monkeypatch, tmp_path):
    assert checkup.packages().level == "ok"
    (tmp_path / "requirements.txt").write_text(
        "# comment\n\nnumpy<1  # too old\nno-such-package-here\n"
    )
    monkeypatch.setattr(checkup, "ROOT", tmp_path)
    found = checkup.packages()
    assert found.level == "FAIL"
    assert "is not <1" in found.found
    assert "no-such-package-here is missing" in found.found


def test_a_run_folder_that_is_a_file(tmp_path):
    (tmp_path / "file").write_text("")
    found = checkup.run_folder(tmp_path / "file/run", preset("tiny"), 2)
    assert found.level == "ok"  # the folder above can be written; nothing of the trial stays
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file"]


def test_too_small_a_disk(tmp_path, monkeypatch):
    usage = checkup.shutil.disk_usage(tmp_path)._replace(free=1000)
    monkeypatch.setattr(checkup.shutil, "disk_usage", lambda path: usage)
    assert checkup.run_folder(tmp_path, preset("tiny"), 2).level == "FAIL"


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "names no node"),
        ("# only a comment\n", "names no node"),
        ("node1\n", "line 1"),
        ("node1 slots=4\n\nnode1 slots=2\n", "line 3"),
        ("node1 slots=0\n", "line 1"),
        ("-oProxyCommand=touch slots=4\n", "line 1"),
    ],
)
def test_wrong_hostfiles(tmp_path, text, says):
    path = tmp_path / "hosts"
    path.write_text(text)
    with pytest.raises(InputError, match=says):
        read_hostfile(path)


def test_the_hostfile_that_is_shipped(root):
    assert read_hostfile(root / "hostfiles/cc_2x4") == {"cc-node1": 4, "cc-node2": 4}
    with pytest.raises(InputError, match="No such file"):
        read_hostfile(root / "hostfiles/none")


def test_remote_words_are_quoted(monkeypatch):
    monkeypatch.delenv("SLURM_JOB_ID", raising=False)
    assert on_host("n", ["echo", "a b; rm"])[-1].endswith("exec echo 'a b; rm'")


def test_differences_between_nodes():
    one = description(MaskedConfig(preset="tiny"))
    assert difference(one, one, "a", "b") is None
    settings = description(MaskedConfig(preset="small"))
    error = difference(one, settings, "a", "b")
    assert "b has other settings than a: preset 'small' (there 'tiny')" in error.what
    assert "EEG_PRESET=" in error.remedy
    older = {**one, "versions": {**one["versions"], "torch": "1.0"}}
    assert "torch 1.0" in difference(one, older, "a", "b").what
    absent = {**one, "code": {**one["code"], "model/new.py": "0"}}
    assert "model/new.py" in difference(absent, one, "a", "b").what
    local = description(MaskedConfig(preset="tiny", shards="/elsewhere", workers=7))
    assert difference(one, local, "a", "b") is None


def test_comparing_answers():
    facts = {**description(MaskedConfig()), "manifest": {"sha256": "1"}}
    same = compare({"a": {"checks": [], "facts": facts}, "b": {"checks": [], "facts": facts}})
    assert [check.level for check in same] == ["ok"]
    other = {**facts, "manifest": {"sha256": "2"}}
    found = compare({"a": {"checks": [], "facts": facts}, "b": {"checks": [], "facts": other}})
    assert "b has other shards than a" in found[0].found
    assert compare({"a": {"checks": []}})[0].level == "FAIL"


def test_who_is_missing_is_named(monkeypatch):
    import socket

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    with pytest.raises(InputError, match="ranks 1-3 missing"):
        meet(0, 4, "127.0.0.1", port, 1.0)
    with pytest.raises(InputError, match="rank 1 missing"):
        meet(0, 2, "127.0.0.1", port, 1.0)
    with pytest.raises(InputError, match="cannot reach the first rank"):
        meet(1, 4, "127.0.0.1", port, 1.0)
    with socket.socket() as busy:
        busy.bind(("", 0))
        busy.listen()
        with pytest.raises(InputError, match="cannot listen"):
            meet(0, 2, "127.0.0.1", busy.getsockname()[1], 1.0)
    monkeypatch.setenv("EEG_JOIN_S", "soon")
    with pytest.raises(InputError, match="EEG_JOIN_S=soon"):
        join_seconds()
