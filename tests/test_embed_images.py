"""Embeddings of pictures: the command, on tiny models made here."""

import numpy as np
import pytest
from commands import python
from PIL import Image
from safetensors.numpy import load_file, save_file

from data.errors import InputError
from trainer import embed_images
from trainer.images.embedding.picture_files import concept_of, list_pictures
from trainer.images.embeddings import ImageEmbeddings, read_embeddings, write_embeddings

SIDE = 32


@pytest.fixture
def pictures(tmp_path):
    rng = np.random.default_rng(0)
    for number in range(6):
        folder = tmp_path / "pictures" / f"{number // 2:05d}_concept{number // 2}"
        folder.mkdir(parents=True, exist_ok=True)
        values = rng.integers(0, 255, (40, 50, 3), np.uint8)
        Image.fromarray(values).save(folder / f"picture{number}.png")
    return tmp_path / "pictures"


def save_clip(folder, seed=0):
    import torch
    from transformers import CLIPConfig, CLIPImageProcessor, CLIPModel

    torch.manual_seed(seed)
    small = {"hidden_size": 16, "intermediate_size": 32, "num_attention_heads": 2}
    config = CLIPConfig(
        text_config={**small, "num_hidden_layers": 1, "vocab_size": 50},
        vision_config={**small, "num_hidden_layers": 3, "image_size": SIDE, "patch_size": 8},
        projection_dim=12,
    )
    CLIPModel(config).save_pretrained(folder)
    CLIPImageProcessor(
        size={"shortest_edge": SIDE}, crop_size={"height": SIDE, "width": SIDE}
    ).save_pretrained(folder)
    return folder


def save_dino(folder):
    from transformers import BitImageProcessor, Dinov2Config, Dinov2Model

    Dinov2Model(
        Dinov2Config(hidden_size=16, num_hidden_layers=2, num_attention_heads=2,
                     image_size=SIDE, patch_size=8)
    ).save_pretrained(folder)  # fmt: skip
    BitImageProcessor(
        size={"shortest_edge": SIDE}, crop_size={"height": SIDE, "width": SIDE}
    ).save_pretrained(folder)
    return folder


def embed(pictures, encoder, out, *more):
    embed_images.main(
        ["--images", str(pictures), "--encoder", str(encoder), "--out", str(out), *more]
    )
    return read_embeddings(out)


def test_a_clip_gives_its_own_features(pictures, tmp_path):
    import torch
    from transformers import CLIPImageProcessor, CLIPModel

    folder = save_clip(tmp_path / "clip")
    found = embed(pictures, folder, tmp_path / "out" / "clip", "--layers", "2,-1", "--batch", "4")
    assert found.images == tuple(f"picture{n}.png" for n in range(6))
    assert found.concepts == ("concept0",) * 2 + ("concept1",) * 2 + ("concept2",) * 2
    assert sorted(found.layers) == ["layer_02", "layer_03", "projected"]
    model, processor = CLIPModel.from_pretrained(folder), CLIPImageProcessor.from_pretrained(folder)
    with Image.open(next(pictures.rglob("picture3.png"))) as opened:
        pixels = processor(images=[opened.convert("RGB")], return_tensors="pt")["pixel_values"]
    with torch.no_grad():
        expected = model.vision_model(pixels)
        projected = model.visual_projection(expected.pooler_output)[0]
        last = expected.last_hidden_state[0, 0]
    assert np.allclose(found.layers["projected"][3], projected, atol=2e-3)
    assert np.allclose(found.layers["layer_03"][3], last, atol=5e-3)
    assert found.about["encoder"]["class"] == "CLIPModel"
    assert len(found.about["encoder"]["sha256"]["model.safetensors"]) == 64


def test_a_model_without_texts(pictures, tmp_path):
    found = embed(pictures, save_dino(tmp_path / "dino"), tmp_path / "dino-out")
    assert found.layer().shape == (6, 16)


def test_pixels(pictures, tmp_path):
    assert embed(pictures, "pixels", tmp_path / "pixels").layer().shape == (6, 3 * 32 * 32)


def test_it_goes_on_where_it_stopped(pictures, tmp_path, monkeypatch, capsys):
    from trainer.images.embedding import embedding_run

    monkeypatch.setattr(embedding_run, "PART", 2)
    whole = embed(pictures, "pixels", tmp_path / "whole")
    bad = next(pictures.rglob("picture5.png"))
    content = bad.read_bytes()
    bad.write_bytes(content[: len(content) // 2])
    with pytest.raises(InputError, match=r"picture5\.png: no whole picture"):
        embed(pictures, "pixels", tmp_path / "cut")
    parts = tmp_path / "cut.parts"
    assert len(list(parts.glob("*.safetensors"))) == 2
    assert not (tmp_path / "cut.json").exists()
    bad.write_bytes(content)
    capsys.readouterr()
    found = embed(pictures, "pixels", tmp_path / "cut")
    assert "2 of 3 parts are there already" in capsys.readouterr().out
    assert not parts.exists()
    assert np.array_equal(found.layer(), whole.layer())
    assert (tmp_path / "cut.safetensors").read_bytes() == (
        tmp_path / "whole.safetensors"
    ).read_bytes()


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda f: (f / "config.json").unlink(), "no config.json"),
        (lambda f: (f / "model.safetensors").rename(f / "pytorch_model.bin"), "pickled"),
        (lambda f: (f / "preprocessor_config.json").unlink(), "no preprocessor_config.json"),
        (lambda f: drop_tensor(f / "model.safetensors"), "its weights lack"),
        (lambda f: (f / "model.safetensors").write_bytes(b"no"), "give a folder of a CLIP-like"),
        (lambda f: save_bert(f), "BertModel takes no pictures"),
    ],
)
def test_folders_that_are_no_image_model(pictures, tmp_path, damage, message):
    folder = save_clip(tmp_path / "clip")
    damage(folder)
    with pytest.raises(InputError, match=message):
        embed(pictures, folder, tmp_path / "out")
    assert not list(tmp_path.glob("out*"))


def drop_tensor(path):
    tensors = load_file(path)
    tensors.pop("visual_projection.weight")
    save_file(tensors, path, metadata={"format": "pt"})


def save_bert(folder):
    from transformers import BertConfig, BertModel

    BertModel(
        BertConfig(hidden_size=16, num_hidden_layers=1, num_attention_heads=2, vocab_size=20)
    ).save_pretrained(folder)


def test_bad_flags(pictures, tmp_path):
    folder = save_clip(tmp_path / "clip")
    for flags, message in (
        (("--layers", "9"), "the model has 3 blocks"), (("--layers", "a"), "write numbers"),
        (("--batch", "0"), "at least 1"), (("--device", "cuda:9"), "--device cuda:9"),
    ):  # fmt: skip
        with pytest.raises(InputError, match=message):
            embed(pictures, folder, tmp_path / "out", *flags)


def test_pictures_of_one_name(pictures):
    first = next(pictures.rglob("picture0.png"))
    (pictures / "again").mkdir()
    (pictures / "again" / first.name).write_bytes(first.read_bytes())
    assert len(list_pictures(pictures)) == 6
    Image.new("RGB", (9, 9)).save(pictures / "again" / first.name)
    with pytest.raises(InputError, match="different pictures of one name"):
        list_pictures(pictures)


def test_no_pictures(tmp_path):
    with pytest.raises(InputError, match="no such folder"):
        list_pictures(tmp_path / "none")
    with pytest.raises(InputError, match="no pictures below"):
        list_pictures(tmp_path)


def test_concepts_are_named_without_numbers():
    assert concept_of("00001_aardvark") == "aardvark"
    assert concept_of("bat1") == "bat1"
    assert concept_of("camera_2") == "camera_2"


def some(**changes):
    content = {
        "images": ("a.png", "b.png"), "concepts": ("a", "b"), "sha256": ("0", "1"),
        "layers": {"projected": np.arange(6, dtype=np.float16).reshape(2, 3)}, "about": {},
    }  # fmt: skip
    return ImageEmbeddings(**{**content, **changes})


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"layers": {}}, "no layer"),
        ({"images": ("a.png", "a.png")}, "names are of several"),
        ({"layers": {"projected": np.ones((3, 3))}}, "shape"),
        ({"layers": {"projected": np.ones((2, 3))}}, "constant"),
        ({"layers": {"projected": np.array([[0, np.nan], [0, 1]])}}, "not finite"),
    ],
)
def test_embeddings_that_say_nothing(tmp_path, changes, message):
    with pytest.raises(InputError, match=message):
        write_embeddings(tmp_path / "bad", some(**changes))
    assert not list(tmp_path.iterdir())


def test_a_pair_that_is_not_whole(tmp_path):
    write_embeddings(tmp_path / "pair", some())
    assert read_embeddings(tmp_path).rows_of(("b.png",), "here").tolist() == [1]
    with pytest.raises(InputError, match=r"1 of 2 pictures of here have no embedding: c\.png"):
        read_embeddings(tmp_path).rows_of(("a.png", "c.png"), "here")
    (tmp_path / "pair.json").write_text("{}")
    with pytest.raises(InputError, match="damaged"):
        read_embeddings(tmp_path)
    (tmp_path / "pair.json").unlink()
    with pytest.raises(InputError, match="no such file"):
        read_embeddings(tmp_path / "pair")


def test_the_command(pictures, tmp_path):
    words = ("trainer/embed_images.py", "--encoder", "pixels", "--images")
    output = python(*words, pictures, "--out", tmp_path / "pixels")
    assert "6 pictures of 3 concepts" in output
    output = python(*words, tmp_path / "no", "--out", tmp_path / "other", fails=True)
    assert "no such folder" in output
    assert "Traceback" not in output
