"""The masked variational autoencoder: visible patches -> latents -> all patches.

A ViT encoder sees the visible tokens only (He et al. 2022), each of its outputs becomes the mean
and log-variance of a latent, and a smaller decoder reconstructs the hidden tokens from a sample of
those latents. The decoder sees the latents and the tokens' positions, nothing else: what it knows
of a window has passed the bottleneck. With `baseline: spline` its output is added to what
closed-form interpolation gives, so it predicts the rest: its output layer starts at zero, so the
network starts exactly at the interpolation.

Encoder and decoder own all parameters and are called as modules, so that ZeRO-3's hooks see them.

Shapes: B batch, C channels, T samples, N patches in time, P samples in a patch, L = all tokens
(C x N; `joint`: N), K visible tokens, M hidden ones, D encoder width, E decoder width, Z latent.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import nn

from .config import ModelConfig
from .losses import LossTerms, objective
from .networks import Decoder, Encoder
from .tokens import take, tokens_of
from .transformer import start_weights

_32_BITS = 0xFFFFFFFF


class Windows(Protocol):
    """What `MaskedVAE.forward` reads of a batch."""

    eeg: torch.Tensor
    """`[B, C, T]`, robust units, any float."""
    positions_m: torch.Tensor
    """`[C, 3]` metres."""
    keep: torch.Tensor
    """int64 `[B, K]`, token indices."""
    hide: torch.Tensor
    """int64 `[B, M]`, token indices."""
    order_index: torch.Tensor
    """int64 `[B]`, place in the training order: with the seed, the key of the latent noise."""


@dataclass(frozen=True)
class Encoded:
    """tokens `[B, L, Z]`: the latent means of all tokens. pooled `[B, D]`: the mean token before
    the bottleneck, for probes and fine-tuning. Both fp32."""

    tokens: torch.Tensor
    pooled: torch.Tensor


class MaskedVAE(nn.Module):
    """See the module's docstring. `forward` trains; `encode` and `reconstruct` are for use.

    seed: of the first weights (model/transformer.py).
    """

    def __init__(self, config: ModelConfig, seed: int = 0):
        super().__init__()
        self.config = config
        self.tokens = tokens_of(config)
        self.encoder = Encoder(config)
        self.decoder = Decoder(config)
        start_weights(self, seed)

    def _apply(self, fn, recurse=True):
        super()._apply(fn, recurse)
        # Not a buffer, since some versions of DeepSpeed cast buffers to bf16; it follows the
        # weights, since a copy in each step would wait.
        self.tokens = self.tokens.to(self.decoder.hidden_token.device)
        return self

    def recompute_activations(self, on: bool) -> None:
        """Trade a second forward pass of each block for its activations' memory."""
        self.encoder.stack.recompute = self.decoder.stack.recompute = on

    def forward(
        self,
        batches: Sequence[Windows],
        beta: torch.Tensor | float,
        seed: int,
        other_latents: bool = False,
    ) -> LossTerms:
        """The objective of a micro-batch: a list of `Windows`, one montage and length each.

        beta: the KL weight now; a tensor on the CPU where the model is compiled, for a number that
        changes is compiled in twice. Every sample weighs the same. In evaluation mode the decoder
        sees the latents' means.
        other_latents: give the decoder the latents of another window of the batch, half of it away,
        under this window's mask. What is lost by that is what the latents carry.
        """
        terms = [self._terms(batch, seed, other_latents) for batch in batches]
        return objective(terms, self.config, beta)

    def _terms(self, batch: Windows, seed: int, other_latents: bool) -> dict:
        eeg, positions_m = self.tokens.prepare(batch.eeg, batch.positions_m)
        keep_BK, hide_BM = batch.keep, batch.hide
        target_BLP = self.tokens.cut(eeg)
        filled_BLP = self._filled(eeg, positions_m, hide_BM)
        n_patches = self._n_patches(eeg)
        read_BLP = target_BLP.roll(max(1, len(eeg) // 2), 0) if other_latents else target_BLP
        _, mean, logvar = self.encoder(take(read_BLP, keep_BK), positions_m, n_patches, keep_BK)
        latent = mean
        if logvar is not None and self.training:
            noise = normal_noise(seed, batch.order_index, tuple(mean.shape[1:]))
            latent = mean + (0.5 * logvar).exp() * noise
        visible, predicted = self.decoder(
            latent, keep_BK, hide_BM, positions_m, n_patches, filled_BLP
        )
        if filled_BLP is not None:
            predicted = predicted + take(filled_BLP, hide_BM)
        terms = {
            "predicted": predicted,
            "target": take(target_BLP, hide_BM),
            "mean": mean,
            "logvar": logvar,
        }
        if visible is not None:
            terms |= {"visible": visible, "visible_target": take(target_BLP, keep_BK)}
        if self.config.spectral_weight:
            index = hide_BM[..., None].expand_as(predicted)
            completed = target_BLP.scatter(1, index, predicted)
            terms |= {
                "completed": self.tokens.join(completed, n_patches),
                "window": self.tokens.join(target_BLP, n_patches),
            }
        return terms

    def encode(self, eeg: torch.Tensor, positions_m: torch.Tensor) -> Encoded:
        """Latent means of all tokens and a pooled embedding, nothing hidden. Gradients flow: who
        only reads calls it within `torch.inference_mode()`.

        eeg `[B, C, T]` in robust units (a recording divided by its `scale_uv`), T at least one
        patch (an incomplete last patch is cut); positions_m `[C, 3]` metres. See `Encoded`.
        """
        eeg, positions_m = self.tokens.prepare(eeg, positions_m)
        tokens, mean, _ = self.encoder(self.tokens.cut(eeg), positions_m, self._n_patches(eeg))
        return Encoded(mean, tokens.float().mean(1))

    @torch.no_grad()
    def reconstruct(
        self, eeg: torch.Tensor, positions_m: torch.Tensor, hidden: torch.Tensor
    ) -> torch.Tensor:
        """Fill the hidden patches from the visible ones, with the latents' means.

        eeg `[B, C, T]`, positions_m `[C, 3]`, hidden bool `[B, C, N]` with as many True in each
        sample, N = T // patch_samples. Returns fp32 `[B, C, N * patch_samples]`: visible samples as
        given. `joint` tokens: a patch must be hidden on all channels or none (ValueError).
        """
        native = eeg[..., : hidden.shape[2] * self.config.patch_samples].float()
        grid, grid_positions_m = self.tokens.prepare(eeg, positions_m)
        keep, hide = self.tokens.indices(hidden)
        patches = self.tokens.cut(grid)
        filled = self._filled(grid, grid_positions_m, hide)
        n_patches = hidden.shape[2]
        _, mean, _ = self.encoder(take(patches, keep), grid_positions_m, n_patches, keep)
        _, values = self.decoder(mean, keep, hide, grid_positions_m, n_patches, filled)
        if filled is not None:
            values = values + take(filled, hide)
        index = hide[..., None].expand(-1, -1, patches.shape[-1])
        return self._blend(native, positions_m, hidden, patches.scatter(1, index, values))

    @torch.no_grad()
    def baseline_fill(
        self, eeg: torch.Tensor, positions_m: torch.Tensor, hidden: torch.Tensor
    ) -> torch.Tensor:
        """What the untrained network starts from; arguments and result as `reconstruct`."""
        native = eeg[..., : hidden.shape[2] * self.config.patch_samples].float()
        if self.config.baseline == "none":
            return native * ~hidden.repeat_interleave(self.config.patch_samples, dim=2)
        grid, grid_positions_m = self.tokens.prepare(eeg, positions_m)
        _, hide = self.tokens.indices(hidden)
        return self._blend(native, positions_m, hidden, self._filled(grid, grid_positions_m, hide))

    def _n_patches(self, eeg: torch.Tensor) -> int:
        return eeg.shape[-1] // self.config.patch_samples

    def _filled(self, eeg, positions_m, hide_BM):
        """All patches `[B, L, P]`, hidden ones as the configured fill has them; None without."""
        if self.config.baseline == "none":
            return None
        hidden = self.tokens.hidden(hide_BM, eeg.shape[1], self._n_patches(eeg))
        with torch.autocast(eeg.device.type, enabled=False):
            return self.tokens.cut(self.tokens.fill(eeg, positions_m, hidden))

    def _blend(self, native, positions_m, hidden, patches):
        """Put predicted patches under the mask, mapped back from the grid if there is one."""
        values = self.tokens.back(self.tokens.join(patches, hidden.shape[2]), positions_m)
        hidden_T = hidden.repeat_interleave(self.config.patch_samples, dim=2)
        return torch.where(hidden_T, values, native)


def _hash32(x: torch.Tensor) -> torch.Tensor:
    """A 32-bit integer hash with low bias (constants: Wellons, "hash prospector", 2018)."""
    x = (x ^ (x >> 16)) & _32_BITS
    x = (x * 0x7FEB352D) & _32_BITS
    x = (x ^ (x >> 15)) * 0x846CA68B & _32_BITS
    return x ^ (x >> 16)


def normal_noise(seed: int, order_index: torch.Tensor, shape: tuple[int, ...]) -> torch.Tensor:
    """Standard normal noise from counters, `[B, *shape]` fp32: the same numbers on every device,
    rank, world size and torch version.

    The latent of a window must be drawn the same way wherever it is trained, or a run that is
    resumed on other hardware changes. A hash costs some twenty elementwise operations, which vanish
    beside a transformer; torch's generators would tie the noise to the rank and the device.

    order_index: int64 `[B]`, each window's place in the training order. Element e of window p is a
    function of (seed, p, e) alone (Box-Muller on two hashes).
    """
    count = math.prod(shape)
    element = _hash32(torch.arange(count, device=order_index.device) + (seed & 0xFFFF) * 0x9E3779B1)
    low, high = order_index & _32_BITS, order_index >> 32
    window = _hash32(_hash32(low + (seed & _32_BITS)) ^ (_hash32(high + (seed >> 32)) + 0x85EBCA6B))
    first = _hash32(window[:, None] ^ element)
    second = _hash32((first + 0x9E3779B9) & _32_BITS)
    radius = (-2.0 * torch.log((first.float() + 0.5) / 2.0**32).clamp_max(0.0)).sqrt()
    noise = radius * torch.cos(second.float() * (2 * math.pi / 2.0**32))
    return noise.view(len(order_index), *shape)
