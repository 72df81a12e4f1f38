"""Copying shards to a local disk: verified, resumable, atomic, and clear about what is wrong."""

from __future__ import annotations

import json
import os
import resource
import shutil
import subprocess
import sys

import pytest
from tiny import tiny_shards

import data.diskspace
from data.errors import InputError
from data.shards.copying import VERIFIED, copy_shards
from data.shards.manifest import MANIFEST, read_manifest
from data.shards.tars import ShardReader, verify_shard
from data.stage import main


@pytest.fixture
def source(tmp_path):
    return tiny_shards(tmp_path / "source")


def changed(path, edit) -> None:
    content = bytearray(path.read_bytes())
    edit(content)
    path.write_bytes(content)


def test_the_copy_is_the_source_and_a_second_call_copies_nothing(source, tmp_path, capsys):
    target = tmp_path / "local" / "shards"
    main(["--shards", str(source), "--to", str(target)])
    assert f"--shards {target} --verify size" in capsys.readouterr().out
    manifest = read_manifest(target)
    assert manifest.sha256 == read_manifest(source).sha256
    for shard in manifest.shards:
        verify_shard(manifest, shard)
    before = {path: path.stat().st_mtime_ns for path in target.glob("*.tar")}
    main(["--shards", str(source), "--to", str(target)])
    assert "already staged" in capsys.readouterr().out
    assert before == {path: path.stat().st_mtime_ns for path in target.glob("*.tar")}


@pytest.mark.parametrize("with_list", [True, False])
def test_an_interrupted_copy_is_continued(source, tmp_path, with_list):
    """Some shards whole, one half copied, one of the right size but damaged, one from elsewhere."""
    target = tmp_path / "local"
    copy_shards(source, target, 2)
    shards = read_manifest(source).shards
    (target / MANIFEST).unlink()
    whole, cut, flipped = (target / shard.file for shard in shards[:3])
    kept = whole.stat().st_mtime_ns
    cut.rename(f"{cut}.partial")
    changed(flipped, lambda content: content.__setitem__(3000, content[3000] ^ 1))
    if not with_list:
        (target / VERIFIED).unlink()
    done = copy_shards(source, target, 2)
    assert (done.copied, done.kept) == (2, len(shards) - 2)
    assert whole.stat().st_mtime_ns == kept
    assert not list(target.glob("*.partial"))
    manifest = read_manifest(target)
    for shard in manifest.shards:
        verify_shard(manifest, shard)


def truncate(path):
    path.write_bytes(path.read_bytes()[:-700])


def flip(path):
    changed(path, lambda content: content.__setitem__(len(content) // 2, 0x55))


def garbage_header(path):
    changed(path, lambda content: content.__setitem__(slice(0, 512), b"\xff" * 512))


@pytest.mark.parametrize(
    ("damage", "says"),
    [
        (truncate, "the manifest says"),
        (flip, "SHA-256"),
        (garbage_header, "SHA-256"),
        (os.remove, "is missing"),
    ],
)
def test_damaged_shards_are_all_named_and_nothing_looks_whole(source, tmp_path, damage, says):
    shards = read_manifest(source).shards
    for shard in shards[1:3]:
        damage(source / shard.file)
    with pytest.raises(InputError, match=says) as caught:
        copy_shards(source, tmp_path / "local", 2)
    for shard in shards[1:3]:
        assert shard.file in str(caught.value)
    assert "2 of 8 shards are damaged" in str(caught.value)
    assert not (tmp_path / "local" / MANIFEST).exists()
    assert not list((tmp_path / "local").glob("*.partial"))


@pytest.mark.parametrize("change", [-1, 1])
def test_a_wrong_count_is_found_at_the_first_read(source, change):
    path = source / MANIFEST
    value = json.loads(path.read_text())
    value["shards"][0]["samples"] += change
    value["shards"][0]["bytes"] += max(0, change) * 10240  # room for one more
    path.write_text(json.dumps(value))
    content = (source / value["shards"][0]["file"]).read_bytes()
    (source / value["shards"][0]["file"]).write_bytes(
        content.ljust(value["shards"][0]["bytes"], b"\0")
    )
    manifest = read_manifest(source)
    with pytest.raises(InputError, match=manifest.shards[0].file):
        ShardReader(manifest, manifest.shards[0])


def test_a_small_disk_is_refused_and_says_by_how_much(source, tmp_path, monkeypatch):
    size = sum(shard.bytes for shard in read_manifest(source).shards)
    size += (source / MANIFEST).stat().st_size
    usage = shutil.disk_usage(tmp_path)._replace(free=size - 1500)
    monkeypatch.setattr(data.diskspace.shutil, "disk_usage", lambda _: usage)
    with pytest.raises(InputError, match=r"this disk is 1\.5 kB too small"):
        copy_shards(source, tmp_path / "local", 1)
    assert not list((tmp_path / "local").glob("*.tar"))


@pytest.mark.slow
def test_a_disk_that_fills_up_meanwhile(root, source, tmp_path):
    """A file-size limit stands for it: one message, no rubbish, and the next call goes on."""
    largest = max(shard.bytes for shard in read_manifest(source).shards)

    def limited() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (largest - 1, largest - 1))

    command = [sys.executable, str(root / "data/stage.py"), "--shards", str(source)]
    command += ["--to", str(tmp_path / "local")]
    done = subprocess.run(command, capture_output=True, text=True, preexec_fn=limited)
    assert done.returncode == 2, done.stderr
    assert "not enough room" in done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "local" / MANIFEST).exists()
    assert not list((tmp_path / "local").glob("*.partial"))
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "were there already" in done.stdout


@pytest.mark.slow
def test_two_ranks_of_a_node_may_call_it_at_once(root, source, tmp_path):
    command = [sys.executable, str(root / "data/stage.py"), "--shards", str(source)]
    command += ["--to", str(tmp_path / "local")]
    calls = [subprocess.Popen(command, stderr=subprocess.PIPE, text=True) for _ in range(3)]
    for call in calls:
        _, errors = call.communicate()
        assert call.returncode == 0, errors
    manifest = read_manifest(tmp_path / "local")
    for shard in manifest.shards:
        verify_shard(manifest, shard)


def test_a_target_that_holds_other_shards_is_left_alone(source, tmp_path):
    other = tiny_shards(tmp_path / "other", seed=1)
    before = sorted(path.name for path in other.iterdir())
    with pytest.raises(InputError, match="holds other shards"):
        copy_shards(source, other, 1)
    assert before == sorted(p.name for p in other.iterdir() if not p.name.startswith("."))
    with pytest.raises(InputError, match="the folder of --shards"):
        copy_shards(source, source, 1)


@pytest.mark.parametrize("extra", [["--workers", "0"], ["--to", "{file}/below"]])
def test_wrong_arguments(source, tmp_path, extra):
    (tmp_path / "file").write_text("")
    extra = [word.format(file=tmp_path / "file") for word in extra]
    with pytest.raises(InputError, match="--"):
        main(["--shards", str(source), "--to", str(tmp_path / "local"), *extra])
