"""Pictures by SDXL or SDXL-turbo with an IP-Adapter, from local folders, without a prompt.

The image embedding is all that the generator is given: text embeddings are zeros, so the folder
needs no text encoders. Nothing is downloaded, and only safetensors are read. Noise is drawn on the
CPU from each picture's own seed, so that a picture is the same in any batch.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

from data.errors import InputError
from data.files import hash_file

PARTS = ("unet", "vae", "scheduler")
TOKENS = 77
"""Of a prompt, as text encoders of SDXL give it."""


class DiffusionGenerator:
    """embedding: the width that the adapter reads."""

    name = "diffusion"

    def __init__(
        self, folder: Path, adapter: Path, embedding: int, steps: int, guidance: float,
        side: int | None, device: torch.device,
    ):  # fmt: skip
        self.folder, self.adapter, self.embedding = folder, adapter, embedding
        self.steps, self.guidance, self.device = steps, guidance, device
        weights = _adapter_weights(adapter, embedding)
        _check_folder(folder)
        _check_width(folder, adapter, weights)
        self.pipe = _load(folder, weights, device)
        self.side = side or self.pipe.unet.config.sample_size * self.pipe.vae_scale_factor

    def about(self) -> dict:
        files = sorted(p for part in PARTS for p in (self.folder / part).glob("*.safetensors"))
        return {
            "generator": self.folder.name, "adapter": self.adapter.name, "steps": self.steps,
            "guidance": self.guidance, "side": self.side,
            "sha256": {f"{p.parent.name}/{p.name}": hash_file(p)[0] for p in files}
            | {self.adapter.name: hash_file(self.adapter)[0]},
        }  # fmt: skip

    @torch.inference_mode()
    def draw(self, embeddings: np.ndarray, seeds: list[int]) -> np.ndarray:
        """uint8 `[n, side, side, 3]`."""
        unet, dtype, count = self.pipe.unet, self.pipe.unet.dtype, len(embeddings)
        given = torch.from_numpy(np.asarray(embeddings, np.float32))[:, None].to(self.device, dtype)
        guided = self.guidance > 1
        pooled = unet.config.projection_class_embeddings_input_dim - 6 * (
            unet.config.addition_time_embed_dim
        )
        text = torch.zeros(
            count, TOKENS, unet.config.cross_attention_dim, device=self.device, dtype=dtype
        )
        pooled_text = torch.zeros(count, pooled, device=self.device, dtype=dtype)
        more = {}
        if guided:
            given = torch.cat([torch.zeros_like(given), given])
            more = {"negative_prompt_embeds": text, "negative_pooled_prompt_embeds": pooled_text}
        generators = [torch.Generator("cpu").manual_seed(seed) for seed in seeds]
        found = self.pipe(
            prompt_embeds=text, pooled_prompt_embeds=pooled_text, ip_adapter_image_embeds=[given],
            num_inference_steps=self.steps, guidance_scale=self.guidance, generator=generators,
            height=self.side, width=self.side, output_type="np", **more,
        ).images  # fmt: skip
        return np.clip(np.rint(255 * found), 0, 255).astype(np.uint8)


def _check_folder(folder: Path) -> None:
    """InputError for a folder that lacks a part, or holds pickles in place of safetensors."""
    if not folder.is_dir():
        raise InputError(f"--generator {folder}: no such folder", "give an SDXL folder, or linear")
    for part in PARTS:
        if not (folder / part).is_dir():
            raise InputError(
                f"--generator {folder}: no folder {part}", "download the whole generator"
            )
    for part in ("unet", "vae"):
        if not list((folder / part).glob("*.safetensors")):
            raise InputError(
                f"--generator {folder}: no safetensors in {part}",
                "pickled weights are not read: download the safetensors",
            )


def _adapter_weights(adapter: Path, embedding: int) -> dict[str, dict[str, torch.Tensor]]:
    """What diffusers wants of an IP-Adapter. InputError for another kind or width."""
    if not adapter.is_file() or adapter.suffix != ".safetensors":
        raise InputError(f"--adapter {adapter}: no safetensors file", "download the adapter's")
    try:
        tensors = load_file(adapter)
    except SafetensorError as error:
        raise InputError(f"--adapter {adapter}: damaged ({error})", "download it again") from None
    found: dict[str, dict[str, torch.Tensor]] = {"image_proj": {}, "ip_adapter": {}}
    for name, value in tensors.items():
        part, _, rest = name.partition(".")
        if part in found:
            found[part][rest] = value
    into = found["image_proj"].get("proj.weight")
    if into is None or not found["ip_adapter"]:
        raise InputError(
            f"--adapter {adapter}: no IP-Adapter of pooled embeddings",
            "take the plain adapter, not one of plus or face",
        )
    if into.shape[1] != embedding:
        raise InputError(
            f"--adapter {adapter} reads embeddings of {into.shape[1]} numbers, the run's have "
            f"{embedding}",
            "train on --images of the encoder that the adapter was made for",
        )
    return found


def _check_width(folder: Path, adapter: Path, weights: dict) -> None:
    try:
        unet = json.loads((folder / "unet" / "config.json").read_text())
        width = unet["cross_attention_dim"]
    except (OSError, ValueError, KeyError) as error:
        raise InputError(
            f"--generator {folder}: unet/config.json cannot be read ({error})", "download it again"
        ) from None
    if unet.get("addition_embed_type") != "text_time":
        raise InputError(f"--generator {folder}: its unet is not SDXL's", "give an SDXL folder")
    own = next(iter(weights["ip_adapter"].values())).shape[1]
    if own != width:
        raise InputError(
            f"--adapter {adapter} writes {own} numbers a token, {folder} reads {width}",
            "take the adapter that was made for this generator (sdxl, not sd15)",
        )


def _load(folder: Path, weights: dict, device: torch.device):
    try:
        import diffusers
        from diffusers import AutoencoderKL, StableDiffusionXLPipeline, UNet2DConditionModel
    except ImportError:
        raise InputError(
            "diffusers is missing", "pip install -r requirements-images.txt, or --generator linear"
        ) from None
    diffusers.logging.set_verbosity_error()
    diffusers.logging.disable_progress_bar()

    class OneEmbeddingEach(StableDiffusionXLPipeline):
        """Of B embeddings each picture gets its own: the pipeline would give all to all
        (https://github.com/huggingface/diffusers/issues/9813)."""

        def prepare_ip_adapter_image_embeds(self, image, embeds, device, count, guided):
            return super().prepare_ip_adapter_image_embeds(image, embeds, device, 1, guided)

    half = torch.float16 if device.type == "cuda" else torch.float32
    only = {"local_files_only": True, "use_safetensors": True, "torch_dtype": half}
    try:
        unet = UNet2DConditionModel.from_pretrained(folder / "unet", **only)
        # In half precision the decoder of SDXL overflows.
        vae = AutoencoderKL.from_pretrained(
            folder / "vae", **{**only, "torch_dtype": torch.float32}
        )
        name = json.loads((folder / "scheduler/scheduler_config.json").read_text())["_class_name"]
        scheduler = getattr(diffusers, name).from_pretrained(
            folder / "scheduler", local_files_only=True
        )
    except (OSError, ValueError, KeyError, AttributeError, RuntimeError, SafetensorError) as error:
        first = str(error).strip().splitlines()[0]
        raise InputError(f"--generator {folder}: {first}", "download the generator again") from None
    pipe = OneEmbeddingEach(
        vae=vae, text_encoder=None, text_encoder_2=None, tokenizer=None, tokenizer_2=None,
        unet=unet, scheduler=scheduler, add_watermarker=False,
    )  # fmt: skip
    pipe.load_ip_adapter(weights, subfolder="", weight_name="", image_encoder_folder=None)
    pipe.set_progress_bar_config(disable=True)
    return pipe.to(device)
