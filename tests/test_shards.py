"""The shard format: bytes, offsets, and every way in which a folder can be wrong."""

from __future__ import annotations

import json
from collections import Counter

import numpy as np
import pytest
import webdataset as wds
from tiny import tiny_shards

from data.errors import InputError
from data.packing.assemble import Source, write_shards
from data.packing.writing import Group
from data.shards.manifest import read_manifest
from data.shards.tars import ShardReader, verify_shard, write_shard


@pytest.fixture
def folder(tmp_path):
    return tiny_shards(tmp_path / "shards")


def test_reader_equals_webdataset(folder):
    manifest = read_manifest(folder)
    for shard in manifest.shards:
        reader = ShardReader(manifest, shard)
        samples = list(wds.WebDataset(str(manifest.path(shard)), shardshuffle=False).decode())
        assert len(samples) == shard.samples
        for index, sample in enumerate(samples):
            assert sample["__key__"] == reader.key(index)
            assert sample["json"] == reader.meta(index)
            np.testing.assert_array_equal(sample["eeg.npy"], reader.signals[index])


def test_same_input_same_bytes(tmp_path):
    first, second = (tiny_shards(tmp_path / name) for name in ("one", "two"))
    names = sorted(path.name for path in first.iterdir())
    assert names == sorted(path.name for path in second.iterdir())
    for name in names:
        assert (first / name).read_bytes() == (second / name).read_bytes()


@pytest.mark.parametrize(
    ("signal", "key"),
    [
        (np.zeros((2, 4), np.float32), "a"),
        (np.full((2, 4), np.nan, np.float16), "a"),
        (np.zeros((2, 4), np.float16), "sub-01.run-2"),
        (np.zeros((2, 4), np.float16), "../a"),
    ],
    ids=["dtype", "nan", "dot in key", "path in key"],
)
def test_writer_refuses(tmp_path, signal, key):
    names = {"dataset": "A", "split": "train", "montage": "m"}
    with pytest.raises(ValueError):
        write_shard(tmp_path / "a.tar", [key], [signal], [{}], **names)
    assert not (tmp_path / "a.tar").exists()


def change(folder, edit):
    path = folder / "manifest.json"
    value = json.loads(path.read_text())
    edit(value)
    path.write_text(json.dumps(value))


@pytest.mark.parametrize(
    ("edit", "says"),
    [
        (lambda v: v.update(format_version=2), "format version 2"),
        (lambda v: v.update(format="other"), "not a manifest"),
        (lambda v: v["shards"][0].update(file="../../etc/passwd"), "file name"),
        (lambda v: v["shards"][0].update(file="/abs.tar"), "file name"),
        (lambda v: v["shards"][0].update(samples=10**9), "cannot hold"),
        (lambda v: v["shards"][0].update(samples=-1), "counts"),
        (lambda v: v["shards"][0].update(samples="37"), "not int"),
        (lambda v: v["shards"][0].update(montage="nowhere"), "damaged"),
        (lambda v: v["shards"][0].pop("sha256"), "shard fields"),
        (lambda v: v["profile"].update(sfreq_hz=0), "sfreq_hz"),
        (lambda v: next(iter(v["montages"].values()))["positions_m"].pop(), "positions"),
    ],
)  # fmt: skip
def test_bad_manifest_is_named(folder, edit, says):
    change(folder, edit)
    with pytest.raises(InputError, match=says) as error:
        read_manifest(folder)
    assert str(folder) in str(error.value)


def test_no_manifest(tmp_path):
    with pytest.raises(InputError, match="not packed to the end"):
        read_manifest(tmp_path)
    with pytest.raises(InputError, match="no such folder"):
        read_manifest(tmp_path / "nowhere")


def test_damaged_shards_are_found(folder):
    manifest = read_manifest(folder)
    cut, flipped, missing, garbage = manifest.shards[:4]
    content = manifest.path(cut).read_bytes()
    manifest.path(cut).write_bytes(content[: len(content) // 2])
    with pytest.raises(InputError, match="the manifest says"):
        ShardReader(manifest, cut)

    content = bytearray(manifest.path(flipped).read_bytes())
    content[len(content) // 2] ^= 1
    manifest.path(flipped).write_bytes(content)
    ShardReader(manifest, flipped)  # a flipped bit in the signal shows in the hash alone
    with pytest.raises(InputError, match="SHA-256"):
        verify_shard(manifest, flipped)

    manifest.path(missing).unlink()
    with pytest.raises(InputError, match="missing"):
        ShardReader(manifest, missing)

    content = bytearray(manifest.path(garbage).read_bytes())
    content[:512] = b"\xff" * 512
    manifest.path(garbage).write_bytes(content)
    with pytest.raises(InputError, match="not where the manifest says"):
        ShardReader(manifest, garbage)


def test_a_recording_is_opened_once_for_all_shards(tmp_path, monkeypatch):
    """Opening takes longer than reading a window, and a shard takes windows of all recordings."""
    sources = []
    for number in range(300):
        file = tmp_path / f"{number}.npy"
        np.save(file, np.full((3, 4, 8), number, np.float16))
        metas = [{"onset_s": float(row)} for row in range(3)]
        sources.append(Source(number, f"r{number}", file, metas))
    opened, load = Counter(), np.load
    monkeypatch.setattr(np, "load", lambda path, **k: opened.update([path]) or load(path, **k))
    out = tmp_path / "out"
    out.mkdir()
    shards = write_shards(out, {Group("d", "train", "m", 8): sources}, seed=0, shard_mb=0.2)
    assert len(shards) > 5
    assert sum(shard.samples for shard in shards) == 900
    assert set(opened) == {source.file for source in sources}
    assert set(opened.values()) == {1}
