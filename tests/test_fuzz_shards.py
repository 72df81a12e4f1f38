"""Whatever bytes lie in a shard folder: an InputError or the true data, and nothing outside it."""

from __future__ import annotations

import bz2
import gzip
import json
import lzma
import re
import shutil

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tiny import tiny_shards

from data.batches.streamed import ShardStream, _signal
from data.errors import InputError
from data.inspect_shards import facts
from data.shards.manifest import MANIFEST, read_manifest
from data.shards.summary import summarise
from data.shards.tars import ShardReader, verify_shard

fuzz = settings(
    max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
HUGE = [-1, 0, 1, 2**31, 2**63, 10**30, 10**400, 0.5, 1e308, float("inf"), float("nan")]
ODD = st.one_of(
    st.none(),
    st.booleans(),
    st.sampled_from(HUGE),
    st.integers(),
    st.text(max_size=20),
    st.sampled_from(["../x.tar", "/etc/passwd", "a/../../b.tar", "x.tar\0", "\ud800.tar", "."]),
    st.lists(st.integers(), max_size=3),
    st.dictionaries(st.text(max_size=3), st.integers(), max_size=2),
)


@pytest.fixture(scope="module", params=[0, 5], ids=["eeg", "pairs"])
def folder(tmp_path_factory, request):
    return tiny_shards(
        tmp_path_factory.mktemp("fuzz") / "shards",
        train=(3,),
        held_out=2,
        samples=20,
        meg=request.param,
    )


@pytest.fixture(scope="module")
def truth(folder):
    manifest = read_manifest(folder)
    return {shard.file: verified_signals(manifest, shard) for shard in manifest.shards}


def read_all(manifest, shard):
    reader = ShardReader(manifest, shard)
    return (
        np.array(reader.signals).tobytes()
        + (b"" if reader.megs is None else np.array(reader.megs).tobytes()),
        [reader.meta(i) for i in range(shard.samples)],
        [reader.key(i) for i in range(shard.samples)],
    )


def places(value, path=()):
    """Every place in a JSON value, as keys to follow."""
    yield path
    if isinstance(value, dict | list):
        for key in value if isinstance(value, dict) else range(len(value)):
            yield from places(value[key], (*path, key))


def check(folder, truth) -> None:
    """What is read is the truth or an InputError, and only from inside the folder."""
    manifest = attempt(folder.name, read_manifest, folder)
    if manifest is None:
        return
    assert len(manifest.sha256) == 64
    for shard in manifest.shards:
        assert manifest.path(shard).parent == folder
        if attempt(folder.name, verified_signals, manifest, shard) not in (None, truth[shard.file]):
            raise AssertionError(f"{shard.file}: other data, unnoticed")


def attempt(named, function, *arguments):
    """What the function returns; None where it raises an InputError, which must name `named`."""
    try:
        return function(*arguments)
    except InputError as error:
        text = str(error)
    assert named in text
    return None


def verified_signals(manifest, shard) -> bytes:
    verify_shard(manifest, shard)
    return read_all(manifest, shard)[0]


@fuzz
@given(st.data())
def test_a_changed_value_in_the_manifest(folder, truth, tmp_path, data):
    copy = fresh(folder, tmp_path)
    value = json.loads((folder / MANIFEST).read_text())
    path = data.draw(st.sampled_from(list(places(value))))
    odd = data.draw(ODD)
    if not path:
        value = odd
    else:
        parent = value
        for key in path[:-1]:
            parent = parent[key]
        kind = data.draw(st.sampled_from(["set", "remove", "add"]))
        if kind == "set":
            parent[path[-1]] = odd
        elif kind == "remove":
            del parent[path[-1]]
        elif isinstance(parent, dict):
            parent["added"] = odd
        else:
            parent.append(odd)
    (copy / MANIFEST).write_text(json.dumps(value))
    check(copy, truth)


@fuzz
@given(st.data())
def test_changed_bytes_in_the_manifest(folder, truth, tmp_path, data):
    copy = fresh(folder, tmp_path)
    (copy / MANIFEST).write_bytes(mutated((folder / MANIFEST).read_bytes(), data))
    check(copy, truth)


@pytest.mark.parametrize(
    "content",
    [b"", b"[" * 100_000, b'{"a":' * 100_000, b"\xff\xfe{", b"9" * 10_000, b"null", b'"format"'],
    ids=["empty", "deep list", "deep object", "utf-16", "long number", "null", "string"],
)
def test_hostile_manifests(folder, truth, tmp_path, content):
    copy = fresh(folder, tmp_path)
    (copy / MANIFEST).write_bytes(content)
    with pytest.raises(InputError):
        read_manifest(copy)


@pytest.mark.parametrize("number", ["1e999", "NaN", "-Infinity", "1e300", "9" * 400])
@pytest.mark.parametrize("place", ["profile", "montages", "recordings"])
def test_numbers_that_are_none(folder, tmp_path, number, place):
    """Infinity, NaN and what float32 or float64 cannot hold."""
    copy = fresh(folder, tmp_path)
    value = json.loads((folder / MANIFEST).read_text())
    if place == "profile":
        value["profile"]["sfreq_hz"] = "HERE"
    elif place == "montages":
        next(iter(value["montages"].values()))["positions_m"][0][0] = "HERE"
    else:
        value["recordings"][0]["hours"] = "HERE"
    (copy / MANIFEST).write_text(json.dumps(value).replace('"HERE"', number))
    if place == "recordings" and number not in ("1e999", "NaN", "-Infinity"):
        assert read_manifest(copy).recordings[0]["hours"] > 1e200
    else:
        with pytest.raises(InputError, match="damaged"):
            read_manifest(copy)


@fuzz
@given(st.data())
def test_changed_bytes_in_a_shard(folder, truth, tmp_path, data):
    """Found by the hash always; and without it, reading still ends in data or an InputError."""
    copy = fresh(folder, tmp_path)
    manifest = read_manifest(copy)
    shard = data.draw(st.sampled_from(manifest.shards))
    before = (folder / shard.file).read_bytes()
    after = mutated(before, data)
    (copy / shard.file).write_bytes(after)
    if after != before:
        with pytest.raises(InputError, match="SHA-256"):
            verify_shard(manifest, shard)
    attempt(shard.file, read_all, manifest, shard)


def test_every_reader_of_a_manifest_takes_the_smallest_valid_one(folder):
    manifest = read_manifest(folder)
    assert "total: " in summarise(manifest)
    assert "an epoch: " in facts(manifest)


def fresh(folder, tmp_path):
    copy = tmp_path / "copy"
    shutil.rmtree(copy, ignore_errors=True)
    shutil.copytree(folder, copy)
    return copy


def mutated(content: bytes, data) -> bytes:
    """Some bytes replaced, removed or put in; or the end cut off."""
    changed = bytearray(content)
    for _ in range(data.draw(st.integers(1, 3))):
        start = data.draw(st.integers(0, len(changed)))
        length = data.draw(st.sampled_from([0, 1, 4, 128, 512, 10**6]))
        changed[start : start + length] = data.draw(st.binary(max_size=8))
    return bytes(changed)


def streamed(manifest, shard, url) -> list[bytes]:
    """All that a rank alone trains of one shard."""
    stream = ShardStream(manifest, [shard], url, seed=0, rank=0, world=1, micro=1)
    epoch = range(stream.batches_per_epoch(0))
    return [batches[0].eeg.numpy().tobytes() for _, batches in zip(epoch, stream, strict=False)]


@fuzz
@given(
    st.lists(
        st.tuples(
            st.sampled_from(["flip", "cut", "insert", "repeat", "zero"]),
            st.floats(0, 1, exclude_max=True),
            st.binary(min_size=1, max_size=600),
        ),
        min_size=1,
        max_size=3,
    ),
    st.sampled_from([None, gzip.compress, bz2.compress, lzma.compress]),
)
def test_nothing_of_a_changed_stream_is_trained_on(folder, tmp_path, changes, packed):
    manifest = read_manifest(folder)
    shard = manifest.of_split("train")[0]
    true = manifest.path(shard).read_bytes()
    content = bytearray(true)
    for kind, where, new in changes:
        # Half of the places in the first sample's headers, where a tar can do most harm.
        place = int(where * 2 * len(content)) if where < 0.5 else int((where - 0.5) * 4096)
        place = min(place, len(content) - 1)
        if kind == "flip":
            content[place] ^= new[0]
        elif kind == "cut":
            del content[place:]
        elif kind == "insert":
            content[place:place] = new
        elif kind == "repeat":
            content[place:place] = content[: shard.stride]
        else:
            content[place : place + len(new)] = bytes(len(new))
        if not content:
            break
    changed = packed(bytes(content)) if packed else bytes(content)
    (tmp_path / shard.file).write_bytes(changed)
    if changed == true:
        assert streamed(manifest, shard, f"{tmp_path}/{{file}}")
        return
    with pytest.raises(InputError, match=re.escape(shard.file)):
        streamed(manifest, shard, f"{tmp_path}/{{file}}")


def test_a_sample_that_claims_a_huge_array_is_refused(folder):
    """Of a shard whose hash is right: the manifest itself is hostile."""
    header = b"{'descr': '<f2', 'fortran_order': False, 'shape': (1000000000000, 9), }"
    huge = b"\x93NUMPY\x01\x00" + (len(header) + 1).to_bytes(2, "little") + header + b"\n"
    with pytest.raises(InputError, match="not float16"):
        _signal({"eeg.npy": huge, "__url__": "u", "__key__": "k"}, (4, 100))
