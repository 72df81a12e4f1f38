"""Embeddings of pictures by a CLIP-like model in a local folder of transformers, offline.

`projected` is what the model compares with texts (get_image_features), or the pooled output of a
model without texts; `layer_LL` are class tokens after blocks, or token means where there is no
class token. Nothing is downloaded and nothing unpickled: weights are safetensors.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from safetensors import SafetensorError

from data.errors import InputError
from data.files import hash_file
from trainer.images.embedding.picture_files import PIXELS, pixels_of

PIXELS_ENCODER = "pixels"
SETTINGS, PREPROCESSOR = "config.json", "preprocessor_config.json"


class PixelsEncoder:
    """The picture itself, shrunk: an embedding without a model, for a baseline."""

    layers = ("projected",)

    def about(self) -> dict:
        return {"kind": PIXELS_ENCODER, "side": PIXELS}

    def embed(self, pictures: Sequence[Image.Image]) -> dict[str, np.ndarray]:
        return {"projected": pixels_of(pictures) - 0.5}


class FolderEncoder:
    """layers: numbers of blocks whose output is kept beside `projected`, from 1; -1: the last."""

    def __init__(self, folder: Path, layers: Sequence[int], device: torch.device):
        self.folder, self.device = folder, device
        for name in (SETTINGS, PREPROCESSOR):
            if not (folder / name).is_file():
                raise InputError(
                    f"--encoder {folder}: no {name}",
                    "give a whole folder of a transformers image model, downloaded beforehand",
                )
        self.files = sorted(folder.glob("*.safetensors"))
        if not self.files:
            raise InputError(
                f"--encoder {folder}: no *.safetensors",
                "pickled weights are not read: download the safetensors, or convert them",
            )
        self.model, self.processor = _load(folder)
        self.model.eval().to(device)
        self.vision = getattr(self.model, "vision_model", self.model)
        count = _blocks(self.model)
        if bad := [one for one in layers if not (1 <= one <= count or -count <= one <= -1)]:
            raise InputError(f"--layers {bad[0]}: the model has {count} blocks", "give 1 to that")
        self.kept = sorted({one if one > 0 else count + 1 + one for one in layers})
        self.layers = ("projected", *(f"layer_{one:02d}" for one in self.kept))

    def about(self) -> dict:
        return {
            "kind": "transformers", "class": type(self.model).__name__, "name": self.folder.name,
            "sha256": {file.name: hash_file(file)[0] for file in self.files},
            "preprocessing": json.loads((self.folder / PREPROCESSOR).read_text()),
        }  # fmt: skip

    @torch.inference_mode()
    def embed(self, pictures: Sequence[Image.Image]) -> dict[str, np.ndarray]:
        """float32 `[n, D]` by layer."""
        inputs = self.processor(images=list(pictures), return_tensors="pt").to(self.device)
        pixels = inputs["pixel_values"]
        seen = self.vision(pixel_values=pixels, output_hidden_states=bool(self.kept))
        if hasattr(self.model, "get_image_features"):
            projected = self.model.get_image_features(pixel_values=pixels)
            # Before transformers 5 the tensor itself.
            projected = getattr(projected, "pooler_output", projected)
        else:
            projected = getattr(seen, "image_embeds", None)
            projected = seen.pooler_output if projected is None else projected
        found = {"projected": projected}
        classed = hasattr(getattr(self.vision, "embeddings", None), "class_embedding") or hasattr(
            getattr(self.vision, "embeddings", None), "cls_token"
        )
        for number in self.kept:
            states = seen.hidden_states[number]
            found[f"layer_{number:02d}"] = states[:, 0] if classed else states.mean(1)
        return {name: one.float().cpu().numpy() for name, one in found.items()}


def _load(folder: Path):
    """(model, image processor) of a folder. InputError for one that takes no pictures."""
    from transformers import AutoImageProcessor, AutoModel
    from transformers.utils import logging

    logging.set_verbosity_error()
    try:
        model, report = AutoModel.from_pretrained(
            folder, local_files_only=True, use_safetensors=True, trust_remote_code=False,
            output_loading_info=True,
        )  # fmt: skip
        processor = AutoImageProcessor.from_pretrained(folder, local_files_only=True)
    except (OSError, ValueError, KeyError, ImportError, RuntimeError, SafetensorError) as error:
        first = str(error).strip().splitlines()[0]
        raise InputError(
            f"--encoder {folder}: {first}", "give a folder of a CLIP-like model"
        ) from None
    names = getattr(model, "main_input_name", "")
    if names != "pixel_values" and not hasattr(model, "vision_model"):
        raise InputError(
            f"--encoder {folder}: {type(model).__name__} takes no pictures", "give an image model"
        )
    if missing := sorted(report["missing_keys"]):
        raise InputError(
            f"--encoder {folder}: its weights lack {len(missing)} tensors, as {missing[0]}",
            "download the folder again",
        )
    return model, processor


def _blocks(model) -> int:
    config = getattr(model.config, "vision_config", model.config)
    return int(config.num_hidden_layers)
