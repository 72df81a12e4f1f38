"""A small SDXL with an IP-Adapter, trained here on simulated pictures: so that drawing from
embeddings is tested by what the pictures show, without a download."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file
from torch.nn import functional as F

SIDE, CROSS, TOKENS, POOLED = 32, 32, 4, 8
BATCH = 32


def train_generator(
    folder: Path, adapter: Path, pictures: np.ndarray, embeddings: np.ndarray, steps: tuple
) -> None:
    """pictures uint8 `[n, 32, 32, 3]`, embeddings `[n, E]`; steps: of the VAE, of the UNet with
    the adapter."""
    from diffusers import (
        AutoencoderKL,
        DDPMScheduler,
        EulerDiscreteScheduler,
        StableDiffusionXLPipeline,
        UNet2DConditionModel,
    )

    torch.manual_seed(0)
    images = torch.from_numpy(pictures).permute(0, 3, 1, 2).float() / 127.5 - 1
    given = torch.from_numpy(embeddings).float()
    vae = AutoencoderKL(
        block_out_channels=(16, 32), latent_channels=4, norm_num_groups=8, sample_size=SIDE,
        down_block_types=("DownEncoderBlock2D",) * 2, up_block_types=("UpDecoderBlock2D",) * 2,
    )  # fmt: skip
    optimizer = torch.optim.AdamW(vae.parameters(), 2e-3)
    for _ in range(steps[0]):
        x = images[torch.randint(len(images), (BATCH,))]
        moments = vae.encode(x).latent_dist
        loss = F.mse_loss(vae.decode(moments.sample()).sample, x) + 1e-4 * moments.kl().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    with torch.no_grad():
        latents = torch.cat([vae.encode(one).latent_dist.mean for one in images.split(256)])
    vae.register_to_config(scaling_factor=float(1 / latents.std()))
    latents = latents / latents.std()

    unet = UNet2DConditionModel(
        sample_size=SIDE // 2, block_out_channels=(32, 64), layers_per_block=1,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"), attention_head_dim=(2, 4),
        norm_num_groups=8, use_linear_projection=True, addition_embed_type="text_time",
        addition_time_embed_dim=8, transformer_layers_per_block=(1, 1), cross_attention_dim=CROSS,
        projection_class_embeddings_input_dim=6 * 8 + POOLED,
    )  # fmt: skip
    names = [name.removesuffix(".attn2") for name, _ in unet.named_modules() if
             name.endswith("attn2")]  # fmt: skip
    plain = set(unet.state_dict())
    how = {"prediction_type": "v_prediction", "beta_schedule": "scaled_linear"}
    scheduler = EulerDiscreteScheduler(timestep_spacing="trailing", **how)
    pipe = StableDiffusionXLPipeline(
        vae=vae, text_encoder=None, text_encoder_2=None, tokenizer=None, tokenizer_2=None,
        unet=unet, scheduler=scheduler, add_watermarker=False,
    )  # fmt: skip
    pipe.load_ip_adapter(
        _split(first_adapter(unet, given.shape[1])), subfolder="", weight_name="",
        image_encoder_folder=None,
    )  # fmt: skip
    pipe.set_ip_adapter_scale(1.0)
    noising = DDPMScheduler(**how)
    for parameter in unet.parameters():
        parameter.requires_grad_(True)
    optimizer = torch.optim.AdamW(unet.parameters(), 2e-3)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 2e-3, total_steps=steps[1])
    size = torch.tensor([[SIDE, SIDE, 0, 0, SIDE, SIDE]] * BATCH).float()
    for _ in range(steps[1]):
        rows = torch.randint(len(latents), (BATCH,))
        noise, times = torch.randn_like(latents[rows]), torch.randint(1000, (BATCH,))
        found = unet(
            noising.add_noise(latents[rows], noise, times), times, torch.zeros(BATCH, 77, CROSS),
            added_cond_kwargs={"text_embeds": torch.zeros(BATCH, POOLED), "time_ids": size,
                               "image_embeds": [given[rows][:, None]]},
        ).sample  # fmt: skip
        loss = F.mse_loss(found, noising.get_velocity(latents[rows], noise, times))
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(unet.parameters(), 1.0)
        optimizer.step()
        schedule.step()
    state = unet.state_dict()
    save_file(trained_adapter(state, names), adapter)
    bare = UNet2DConditionModel.from_config(
        {k: v for k, v in unet.config.items() if k != "encoder_hid_dim_type"}
    )
    bare.load_state_dict({name: state[name] for name in plain})
    bare.save_pretrained(folder / "unet")
    vae.save_pretrained(folder / "vae")
    scheduler.save_pretrained(folder / "scheduler")


def first_adapter(unet, embedding: int) -> dict[str, torch.Tensor]:
    """An IP-Adapter of pooled embeddings with first weights, as files of them are laid out."""
    cross = unet.config.cross_attention_dim
    tensors = {
        "image_proj.proj.weight": torch.randn(TOKENS * cross, embedding) * embedding**-0.5,
        "image_proj.proj.bias": torch.zeros(TOKENS * cross),
        "image_proj.norm.weight": torch.ones(cross), "image_proj.norm.bias": torch.zeros(cross),
    }  # fmt: skip
    layers = [one for name, one in unet.named_modules() if name.endswith("attn2")]
    for number, layer in enumerate(layers):
        for side in "kv":
            tensors[f"ip_adapter.{2 * number + 1}.to_{side}_ip.weight"] = (
                torch.randn(layer.to_k.out_features, cross) * cross**-0.5
            )
    return tensors


def trained_adapter(state: dict, names: list[str]) -> dict[str, torch.Tensor]:
    own = "encoder_hid_proj.image_projection_layers.0."
    tensors = {
        f"image_proj.{name}": state[own + there].clone()
        for name, there in (
            ("proj.weight", "image_embeds.weight"), ("proj.bias", "image_embeds.bias"),
            ("norm.weight", "norm.weight"), ("norm.bias", "norm.bias"),
        )
    }  # fmt: skip
    for number, name in enumerate(names):
        for side in "kv":
            tensors[f"ip_adapter.{2 * number + 1}.to_{side}_ip.weight"] = state[
                f"{name}.attn2.processor.to_{side}_ip.0.weight"
            ].clone()
    return tensors


def _split(tensors: dict[str, torch.Tensor]) -> dict[str, dict[str, torch.Tensor]]:
    found: dict[str, dict[str, torch.Tensor]] = {"image_proj": {}, "ip_adapter": {}}
    for name, value in tensors.items():
        part, _, rest = name.partition(".")
        found[part][rest] = value
    return found
