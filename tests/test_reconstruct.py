"""Pictures from EEG: conditions, judges and generators by hand-made tables, and the command."""

from __future__ import annotations

import json
import socket

import numpy as np
import pytest
import torch
from commands import python
from PIL import Image
from safetensors.torch import load_file, save_file
from tiny_generator import first_adapter, train_generator

from data.errors import InputError
from data.pack import main as pack
from data.simulate.images import World
from trainer import reconstruct
from trainer.images.pictures.conditions import CONDITIONS, make_conditions
from trainer.images.pictures.drawing import draw, seed_of
from trainer.images.pictures.embedding_head import fit_head
from trainer.images.pictures.judges import correlation, ssim, two_way
from trainer.images.pictures.linear import LinearGenerator
from trainer.images.pictures.sheet import shown

RNG = np.random.default_rng


def test_the_six_conditions():
    rng = RNG(0)
    eeg, truth, training = (rng.standard_normal((n, 5)) for n in (6, 6, 9))
    person = ["a", "a", "a", "b", "b", "b"]
    found = make_conditions(eeg, truth, training, person, seed=1)
    assert tuple(found.embeddings) == CONDITIONS
    for row in range(6):
        assert found.swapped[row] != row
        assert person[found.swapped[row]] == person[row]
    assert sorted(found.swapped) == list(range(6))
    np.testing.assert_array_equal(found.embeddings["mean"], np.repeat(training.mean(0)[None], 6, 0))
    near = make_conditions(training[:6] * 2 - training.mean(0), truth, training, person, 1).nearest
    assert near.tolist() == list(range(6))
    again = make_conditions(eeg, truth, training, person, seed=1)
    np.testing.assert_array_equal(again.embeddings["random"], found.embeddings["random"])
    with pytest.raises(ValueError, match="nothing to swap"):
        make_conditions(eeg[:1], truth[:1], training, ["a"], seed=1)


def test_two_way_identification():
    seen = np.array([[1.0, 0, 0], [0, 1, 0], [0, 0, 1]])
    drawn = np.array([[1.0, 0.5, 0], [0.5, 1, 1], [0, 0, 0], [0, 1, 0]])
    truth = np.array([0, 1, 2, 0])
    # Best of two; tied with one and better than one; all tied; one is better, one is tied.
    assert two_way(drawn, seen, truth).tolist() == pytest.approx([1, 0.75, 0.5, 0.25])


def test_judges_of_pixels():
    rng = RNG(0)
    pictures = rng.random((3, 32, 32, 3))
    flat = pictures.reshape(3, -1)
    assert correlation(flat, 2 * flat + 1) == pytest.approx(1)
    assert correlation(flat, -flat) == pytest.approx(-1)
    assert ssim(pictures, pictures) == pytest.approx(1)
    assert (ssim(pictures, rng.random((3, 32, 32, 3))) < 0.3).all()
    # Two constant pictures differ in light alone: (2ab + c1) / (a^2 + b^2 + c1).
    a, b = np.full((1, 32, 32, 3), 0.2), np.full((1, 32, 32, 3), 0.6)
    assert ssim(a, b)[0] == pytest.approx((2 * 0.12 + 1e-4) / (0.04 + 0.36 + 1e-4), rel=1e-3)


def test_the_head_finds_a_linear_map_and_restores_length():
    rng = RNG(1)
    z = rng.standard_normal((200, 6))
    embeddings = z @ rng.standard_normal((6, 10)) + 3
    concept = np.array([f"c{row // 5}" for row in range(200)])
    exact = fit_head(z, embeddings, concept)
    assert exact.correlation > 0.99
    np.testing.assert_allclose(exact.embed(z), embeddings, atol=0.2)
    noisy = fit_head(z + 2 * rng.standard_normal(z.shape), embeddings, concept)
    assert noisy.correlation < 0.8
    assert noisy.gain > exact.gain
    new = rng.standard_normal((2000, 6)) * 5**0.5
    length = np.square(noisy.embed(new) - noisy.mean).sum(1).mean()
    assert length == pytest.approx(
        np.square(embeddings - embeddings.mean(0)).sum(1).mean(), rel=0.3
    )


def test_the_linear_generator():
    rng = RNG(2)
    embeddings = rng.standard_normal((300, 4))
    fields = rng.standard_normal((4, 12)) / 20
    generator = LinearGenerator(embeddings, embeddings @ fields + 0.5)
    drawn = generator.draw(embeddings[:3], [0, 1, 2])
    assert drawn.shape == (3, 2, 2, 3)
    assert drawn.dtype == np.uint8
    np.testing.assert_allclose(drawn.reshape(3, -1) / 255, embeddings[:3] @ fields + 0.5, atol=0.02)


def test_what_is_shown_is_chosen_by_name():
    names = [f"picture{n}" for n in range(50)]
    found = {names[row] for row in shown(names, 5)}
    assert len(found) == 5
    assert found == {names[::-1][row] for row in shown(names[::-1], 5)}


def test_noise_is_a_pictures_own():
    assert seed_of(0, "a.png") == seed_of(0, "a.png")
    assert len({seed_of(0, "a.png"), seed_of(1, "a.png"), seed_of(0, "b.png")}) == 3


def test_what_is_drawn_is_not_drawn_again(tmp_path):
    class Counting:
        calls = 0

        def draw(self, embeddings, seeds):
            Counting.calls += len(embeddings)
            return np.full((len(embeddings), 4, 4, 3), 7, np.uint8)

    names = ["a/1.jpg", "b/1.jpg", "a/2.jpg"]
    first = draw(Counting(), np.zeros((3, 2)), names, tmp_path, 0, batch=2)
    (tmp_path / "b/1.jpg.png").unlink()
    again = draw(Counting(), np.zeros((3, 2)), names, tmp_path, 0, batch=2)
    assert Counting.calls == 4
    np.testing.assert_array_equal(first, again)


# ---- the command ---------------------------------------------------------------------------------

WORLD = (
    "simulated-images,subjects=2,concepts=24,pictures=2,repeats=2,test_concepts=12,test_repeats=2"
)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    from trainer.images.embeddings import write_embeddings
    from trainer.images.simulated import simulated_embeddings

    folder = tmp_path_factory.mktemp("world")
    for part, split in (("training", "train"), ("test", "test")):
        source = f"{WORLD},part={part},split={split}"
        pack(["--source", source, "--out", str(folder / part), "--workers", "1"])
    write_embeddings(folder / "embeddings", simulated_embeddings(folder / "training"))
    python(
        "trainer/eeg2image.py", "--shards", folder / "training", "--images", folder / "embeddings",
        "--run", folder / "run", "--steps", 2, "--global_batch", 16, "--eval_every", 2, "--hidden",
        16, "--val_concepts", 6, "--workers", 1,
    )  # fmt: skip
    return folder / "run"


def test_the_command_without_weights(run, tmp_path):
    output = python("trainer/reconstruct.py", run, "--out", tmp_path / "drawn", "--rows", 3)
    report = json.loads((tmp_path / "drawn/report.json").read_text())
    assert set(report["judges"]) == {
        "two-way, embedding", "two-way, pixels", "pixel correlation", "SSIM"
    }  # fmt: skip
    for judge in report["judges"].values():
        assert set(judge) == set(CONDITIONS)
    assert report["judges"]["two-way, pixels"]["truth"]["mean"] > 0.9
    assert report["judges"]["two-way, embedding"]["truth"]["mean"] == 1
    assert "Not computed, for want of their weights: AlexNet 2" in output
    assert len(list((tmp_path / "drawn/pictures").rglob("*.png"))) == 6 * 2 * 12
    with Image.open(tmp_path / "drawn/sheet.png") as sheet:
        assert sheet.width > 600
    before = (tmp_path / "drawn/report.json").read_bytes()
    reconstruct.main([str(run), "--out", str(tmp_path / "drawn"), "--rows", "3"])
    assert (tmp_path / "drawn/report.json").read_bytes() == before
    with pytest.raises(InputError, match="another run, generator or seed"):
        reconstruct.main([str(run), "--out", str(tmp_path / "drawn"), "--seed", "1"])


def test_wrong_words(run, tmp_path):
    for words, message in (
        (["--generator", "somewhere"], "without --adapter"),
        (["--adapter", "a.safetensors"], "with --adapter"),
        (["--rows", "0"], "at least 1"),
        (["--count", "1"], "at least 2"),
        (["--images_folder", str(tmp_path)], "no pictures below"),
        (["--test_shards", str(tmp_path / "none")], "none"),
    ):
        with pytest.raises(InputError, match=message):
            reconstruct.main([str(run), "--out", str(tmp_path / "drawn"), *words])
    with pytest.raises(InputError, match="no whole retriever"):
        reconstruct.main([str(tmp_path), "--out", str(tmp_path / "drawn")])
    assert not (tmp_path / "drawn").exists()


# ---- diffusion -----------------------------------------------------------------------------------

CROSS, EMBEDDING, SIDE = 16, 64, 32


def save_sdxl(folder, adapter, embedding=EMBEDDING, cross=CROSS):
    """A tiny SDXL of random weights, with an IP-Adapter of pooled embeddings."""
    from diffusers import AutoencoderKL, EulerDiscreteScheduler, UNet2DConditionModel

    torch.manual_seed(0)
    unet = UNet2DConditionModel(
        sample_size=16, in_channels=4, out_channels=4, block_out_channels=(16, 32),
        layers_per_block=1, down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"), attention_head_dim=(2, 4),
        norm_num_groups=8, use_linear_projection=True, addition_embed_type="text_time",
        addition_time_embed_dim=8, transformer_layers_per_block=(1, 1),
        projection_class_embeddings_input_dim=6 * 8 + 8, cross_attention_dim=cross,
    )  # fmt: skip
    vae = AutoencoderKL(
        block_out_channels=(8, 16), in_channels=3, out_channels=3, latent_channels=4,
        down_block_types=("DownEncoderBlock2D",) * 2, up_block_types=("UpDecoderBlock2D",) * 2,
        norm_num_groups=4, sample_size=SIDE,
    )  # fmt: skip
    unet.save_pretrained(folder / "unet")
    vae.save_pretrained(folder / "vae")
    EulerDiscreteScheduler(timestep_spacing="trailing").save_pretrained(folder / "scheduler")
    save_file(first_adapter(unet, embedding), adapter)


@pytest.fixture(scope="module")
def sdxl(tmp_path_factory):
    pytest.importorskip("diffusers", reason="diffusers is optional (requirements-images.txt)")
    folder = tmp_path_factory.mktemp("sdxl")
    save_sdxl(folder / "sdxl", folder / "adapter.safetensors")
    return folder


def generator_of(where, **changes):
    from trainer.images.pictures.diffusion import DiffusionGenerator

    settings = {
        "folder": where / "sdxl", "adapter": where / "adapter.safetensors",
        "embedding": EMBEDDING, "steps": 2, "guidance": 0.0, "side": None,
        "device": torch.device("cpu"), **changes,
    }  # fmt: skip
    return DiffusionGenerator(**settings)


@pytest.mark.slow
@pytest.mark.parametrize("guidance", [0.0, 5.0])
def test_a_picture_is_the_same_in_any_batch(sdxl, guidance, monkeypatch):
    def closed(*words, **more):
        raise AssertionError("a connection was opened")

    monkeypatch.setattr(socket.socket, "connect", closed)
    generator = generator_of(sdxl, guidance=guidance)
    embeddings = RNG(0).standard_normal((3, EMBEDDING))
    together = generator.draw(embeddings, [5, 6, 7])
    assert together.shape == (3, SIDE, SIDE, 3)
    for row in range(3):
        alone = generator.draw(embeddings[row : row + 1], [5 + row])[0]
        assert np.abs(alone.astype(int) - together[row]).max() <= 1
    np.testing.assert_array_equal(together, generator.draw(embeddings, [5, 6, 7]))
    # The embedding counts, and so does the noise.
    assert (generator.draw(embeddings[[1, 1, 1]], [5, 6, 7])[0] != together[0]).any()
    assert (generator.draw(embeddings, [8, 6, 7])[0] != together[0]).any()


@pytest.mark.slow
def test_the_command_with_a_generator(run, sdxl, tmp_path):
    output = python(
        "trainer/reconstruct.py", run, "--out", tmp_path / "drawn", "--generator", sdxl / "sdxl",
        "--adapter", sdxl / "adapter.safetensors", "--count", 3, "--rows", 2,
    )  # fmt: skip
    assert "written" in output
    for condition in CONDITIONS:
        found = list((tmp_path / "drawn/pictures" / condition).rglob("*.png"))
        assert len(found) == 2 * 3
    report = json.loads((tmp_path / "drawn/report.json").read_text())
    assert len(report["about"]["sha256"]["adapter.safetensors"]) == 64


@pytest.mark.slow
def test_a_trained_generator_draws_what_was_seen(run, tmp_path):
    """The whole path: how a simulated picture follows from its embedding is the same in all worlds
    of a seed, so a generator that was trained on one draws another's."""
    pytest.importorskip("diffusers", reason="diffusers is optional (requirements-images.txt)")
    world, adapter = World(), tmp_path / "adapter.safetensors"
    train_generator(
        tmp_path / "sdxl", adapter, world.pictures("training"), world.embeddings("training"),
        (80, 200),
    )  # fmt: skip
    python(
        "trainer/reconstruct.py", run, "--out", tmp_path / "drawn", "--generator",
        tmp_path / "sdxl", "--adapter", adapter, "--inference_steps", 8, "--rows", 3,
    )  # fmt: skip
    report = json.loads((tmp_path / "drawn/report.json").read_text())
    found = {name: one["mean"] for name, one in report["judges"]["two-way, pixels"].items()}
    assert found["truth"] > 0.9
    # A network that has learnt nothing draws no better than chance.
    assert all(0.3 < found[name] < 0.7 for name in ("mean", "swapped", "random", "eeg"))


@pytest.mark.slow
def test_generators_that_do_not_fit(sdxl, tmp_path):
    import shutil

    with pytest.raises(InputError, match="reads embeddings of 64 numbers, the run's have 32"):
        generator_of(sdxl, embedding=32)
    with pytest.raises(InputError, match="no such folder"):
        generator_of(sdxl, folder=tmp_path / "none")
    save_sdxl(tmp_path / "other", tmp_path / "wide.safetensors", cross=24)
    with pytest.raises(InputError, match=r"writes 24 numbers a token, .* reads 16"):
        generator_of(sdxl, adapter=tmp_path / "wide.safetensors")
    plus = load_file(sdxl / "adapter.safetensors")
    plus["image_proj.latents"] = plus.pop("image_proj.proj.weight")
    save_file(plus, tmp_path / "plus.safetensors")
    with pytest.raises(InputError, match="not one of plus or face"):
        generator_of(sdxl, adapter=tmp_path / "plus.safetensors")
    for damage, message in (
        (lambda f: shutil.rmtree(f / "vae"), "no folder vae"),
        (lambda f: next((f / "unet").glob("*.safetensors")).rename(f / "unet/weights.bin"),
         "pickled weights are not read"),
        (lambda f: next((f / "vae").glob("*.safetensors")).write_bytes(b"no"), "download"),
    ):  # fmt: skip
        shutil.rmtree(tmp_path / "copy", ignore_errors=True)
        shutil.copytree(sdxl / "sdxl", tmp_path / "copy")
        damage(tmp_path / "copy")
        with pytest.raises(InputError, match=message):
            generator_of(sdxl, folder=tmp_path / "copy")
