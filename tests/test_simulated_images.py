"""Simulated people who look at pictures, their oracle, and networks that read their trials."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from data.errors import InputError
from data.pack import main as pack
from data.shards.manifest import read_manifest
from data.shards.readers import Readers
from data.signals.profiles import get_profile
from data.simulate.images import CHANNELS, Shown, World
from data.simulate.images_oracle import oracle_of
from data.sources.simulated_images import list_items, world_of
from data.sources.spec import parse_spec
from model.images.alignment import Alignment
from model.images.head import Retriever, centred
from model.images.trunks import ConvTrunk, FlatTrunk
from model.transformer import start_weights

SMALL = "subjects=2,concepts=12,pictures=2,repeats=2,test_concepts=20,test_repeats=2"


@pytest.fixture(scope="module")
def test_part(tmp_path_factory):
    """(manifest, EEG float16 [n, C, T], meta of each) of the packed test trials."""
    folder = tmp_path_factory.mktemp("images") / "test"
    source = f"simulated-images,part=test,split=test,{SMALL}"
    pack(["--source", source, "--out", str(folder), "--workers", "1"])
    manifest = read_manifest(folder)
    (reader,) = Readers(manifest, manifest.shards)
    metas = [reader.meta(row) for row in range(reader.shard.samples)]
    return manifest, np.array(reader.signals), metas


def test_every_trial_names_its_concept_and_picture(test_part):
    manifest, eeg, metas = test_part
    world = world_of(manifest.recordings[0]["notes"]["simulated_images"])
    assert eeg.shape == (2 * 20 * 2, len(CHANNELS), 200)
    assert {(one["label"], one["image"]) for one in metas} == set(world.names("test"))
    assert {entry["run"] for entry in manifest.recordings} == {"test"}


def test_the_oracle_finds_the_picture_and_no_other_persons_does(test_part):
    manifest, eeg, metas = test_part
    entry = manifest.recordings[0]
    world = world_of(entry["notes"]["simulated_images"])
    place = {image: number for number, (_, image) in enumerate(world.names("test"))}
    rows = [row for row, one in enumerate(metas) if one["recording"] == entry["id"]]
    truth = np.array([place[metas[row]["image"]] for row in rows])
    codes, hits = world.codes("test"), {}
    for person in (1, 2):
        oracle = oracle_of(world, person, get_profile("default"), entry["scale_uv"])
        found = oracle.log_likelihood(eeg[rows], codes)
        hits[person] = (found.argmax(1) == truth).mean()
        order = np.random.default_rng(0).permutation(len(codes))
        again = oracle.log_likelihood(eeg[rows], codes[order])
        np.testing.assert_allclose(again, found[:, order])
    assert hits[1] > 0.9  # of 20 pictures
    assert hits[2] < hits[1] - 0.1


def test_parts_share_no_concept_and_pictures_follow_their_codes():
    world = World(3, Shown(12, 2, 2), Shown(20, 1, 2))
    concepts = {part: {c for c, _ in world.names(part)} for part in ("training", "test")}
    assert not concepts["training"] & concepts["test"]
    again = World(3, Shown(12, 2, 2), Shown(20, 1, 2))
    assert np.array_equal(world.pictures("test"), again.pictures("test"))
    assert not np.array_equal(world.codes("test"), World(4, *_parts(world)).codes("test"))
    codes, light = world.codes("training"), world.pictures("training").reshape(24, -1).astype(float)
    near = np.corrcoef(codes)[np.triu_indices(24, 1)]
    alike = np.corrcoef(light)[np.triu_indices(24, 1)]
    assert np.corrcoef(near, alike)[0, 1] > 0.5


def _parts(world: World) -> tuple[Shown, Shown]:
    return world.training, world.test


@pytest.mark.parametrize("words", ["", ",part=both", ",part=test,repeats=0", ":x,part=test"])
def test_a_wrong_option_is_one_message(words):
    with pytest.raises(InputError):
        list_items(parse_spec(f"simulated-images{words}"), get_profile("default"))


@pytest.mark.parametrize("kind", ["flat", "conv", "aligned"])
def test_trunks_know_people_only_once_they_have_learnt_them(kind):
    trunk = {
        "flat": FlatTrunk(17, 3, 40, 200),
        "conv": ConvTrunk(17, 3, 40, 200, 200.0, aligned=False),
        "aligned": ConvTrunk(17, 3, 40, 200, 200.0, aligned=True),
    }[kind]
    model = Retriever(trunk, embedding=8, hidden=16, projected=4).eval()
    start_weights(model, 0)
    eeg, places = torch.randn(5, 17, 200), torch.zeros(17, 3)
    person = torch.tensor([0, 1, 2, 3, 0])
    nobody = model(eeg, places, torch.zeros(5, dtype=torch.int64))
    assert torch.equal(model(eeg, places, person), nobody)
    with torch.no_grad():
        trunk.whitened.person.maps[1] += 0.1
    changed = (model(eeg, places, person) - nobody).abs().sum(1) > 0
    assert changed.tolist() == [False, False, True, False, False]
    table = centred(torch.randn(7, 8), torch.zeros(8))
    assert model.logits(nobody, table).shape == (5, 7)
    assert torch.allclose(nobody.norm(dim=1), torch.ones(5))


def test_an_alignment_reads_a_late_response_as_an_early_one():
    """A response of 10 steps that comes at one of 7 delays: where the template knows its first
    step, all delays give the same window."""
    align = Alignment(16, 3, step_s=0.02)
    assert (align.length, align.stride) == (10, 1)
    with torch.no_grad():
        align.match.weight.zero_()
        align.match.weight[0, 0] = 100.0
        align.match.bias.zero_()
    response = torch.randn(10, 3)
    response[:, 0] = torch.eye(10)[0]  # the first feature marks the beginning
    x = torch.zeros(7, 16, 3)
    for delay in range(7):
        x[delay, delay : delay + 10] = response
    found = align(x)
    torch.testing.assert_close(found, response.expand(7, -1, -1))


@pytest.mark.parametrize(
    ("steps", "step_s", "delays", "length"),
    [(73, 0.01, 7, 61), (37, 0.02, 7, 31), (10, 0.02, 5, 6), (3, 0.1, 2, 2), (1, 0.02, 1, 1)],
)
def test_few_steps_have_few_delays(steps, step_s, delays, length):
    align = Alignment(steps, 4, step_s)
    assert align.length == length
    x = torch.randn(2, steps, 4)
    assert align(x).shape == (2, length, 4)
    assert x.unfold(1, align.length, align.stride).shape[1] == delays
