"""The masked variational autoencoder: visible patches -> latents -> all patches.

A ViT encoder sees the visible tokens only (He et al. 2022), each of its outputs becomes the mean
and log-variance of a latent, and a smaller decoder reconstructs the hidden tokens from a sample of
those latents. The decoder sees the latents and the tokens' places, nothing else: what it knows of a
window has passed the bottleneck. With `baseline: spline` its output is added to what closed-form
interpolation gives, so it predicts the rest: its output layer starts at zero, so the network starts
exactly at the interpolation.

Encoder and decoder own all parameters and are called as modules, so that ZeRO-3's hooks see them.

Shapes: B batch, C channels, T samples, N patches in time, P samples in a patch, L = all tokens
(C x N; `joint`: N), K visible tokens, M hidden ones, D encoder width, E decoder width, Z latent.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import nn

from .config import GRID_CHANNELS, ModelConfig
from .decoder import Decoder, take
from .encoder import Encoder
from .fills import fill_of
from .initial import start_weights
from .interpolation import head_directions, spline_matrix
from .losses import Losses, objective
from .noise import normal_noise
from .positions import grid_positions


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

    seed: of the first weights (model/initial.py).
    """

    def __init__(self, config: ModelConfig, seed: int = 0):
        super().__init__()
        self.config = config
        joint = config.tokens == "joint"
        values = config.patch_samples * (GRID_CHANNELS if joint else 1)
        self.encoder = Encoder(config, values)
        self.decoder = Decoder(config, values)
        # Not a buffer: some versions of DeepSpeed cast buffers to bf16.
        self._grid_m = grid_positions(GRID_CHANNELS) if joint else None
        start_weights(self, seed)

    def _apply(self, fn, recurse=True):
        super()._apply(fn, recurse)
        if self._grid_m is not None:  # follows the weights: a copy in each step would wait
            self._grid_m = self._grid_m.to(self.decoder.hidden_token.device)
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
    ) -> Losses:
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
        eeg, positions_m = self._prepare(batch.eeg, batch.positions_m)
        keep_BK, hide_BM = batch.keep, batch.hide
        target_BLP = self.patchify(eeg)
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
                "completed": self.unpatchify(completed, n_patches),
                "window": self.unpatchify(target_BLP, n_patches),
            }
        return terms

    @torch.no_grad()
    def encode(self, eeg: torch.Tensor, positions_m: torch.Tensor) -> Encoded:
        """Latent means of all tokens and a pooled embedding, nothing hidden.

        eeg `[B, C, T]` in robust units (a recording divided by its `scale_uv`), T at least one
        patch (an incomplete last patch is cut); positions_m `[C, 3]` metres. See `Encoded`.
        """
        eeg, positions_m = self._prepare(eeg, positions_m)
        tokens, mean, _ = self.encoder(self.patchify(eeg), positions_m, self._n_patches(eeg))
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
        grid, grid_positions_m = self._prepare(eeg, positions_m)
        keep, hide = self._token_indices(hidden)
        patches = self.patchify(grid)
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
        grid, grid_positions_m = self._prepare(eeg, positions_m)
        _, hide = self._token_indices(hidden)
        return self._blend(native, positions_m, hidden, self._filled(grid, grid_positions_m, hide))

    def patchify(self, eeg: torch.Tensor) -> torch.Tensor:
        """`[B, C, T]` -> `[B, L, P]`; token = channel * N + patch (`joint`: `[B, N, C * P]`)."""
        patches_BCNP = eeg.unflatten(-1, (-1, self.config.patch_samples))
        if self.config.tokens == "joint":
            return patches_BCNP.transpose(1, 2).flatten(2)
        return patches_BCNP.flatten(1, 2)

    def unpatchify(self, patches: torch.Tensor, n_patches: int) -> torch.Tensor:
        """The inverse of `patchify`."""
        if self.config.tokens == "joint":
            unfolded = patches.unflatten(-1, (-1, self.config.patch_samples))
            return unfolded.transpose(1, 2).flatten(2)
        return patches.unflatten(1, (-1, n_patches)).flatten(2)

    def _n_patches(self, eeg: torch.Tensor) -> int:
        return eeg.shape[-1] // self.config.patch_samples

    def _prepare(self, eeg, positions_m):
        """fp32, whole patches; for `joint` tokens the canonical grid and its places."""
        eeg = eeg[..., : self._n_patches(eeg) * self.config.patch_samples].float()
        if self.config.tokens == "channel":
            return eeg, positions_m
        places = self._grid_m
        return spline_matrix(head_directions(places), head_directions(positions_m)) @ eeg, places

    def _token_indices(self, hidden: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        if self.config.tokens == "joint":
            if not (hidden == hidden[:, :1]).all():
                raise ValueError("joint tokens: a patch is hidden on all channels or on none")
            hidden = hidden[:, :1]
        flat = hidden.flatten(1)
        count = int(flat[0].sum())
        if not (flat.sum(1) == count).all() or not 0 < count < flat.shape[1]:
            raise ValueError("every sample must hide the same number of patches: some, not all")
        order = flat.int().argsort(dim=1, stable=True)
        return order[:, :-count], order[:, -count:]

    def _filled(self, eeg, positions_m, hide_BM):
        """All patches `[B, L, P]`, hidden ones as the configured fill has them; None without."""
        fill = fill_of(self.config)
        if fill is None:
            return None
        n_patches = self._n_patches(eeg)
        rows = 1 if self.config.tokens == "joint" else eeg.shape[1]
        hidden = torch.zeros(len(eeg), rows * n_patches, dtype=torch.bool, device=eeg.device)
        hidden = hidden.scatter(1, hide_BM, True).unflatten(1, (rows, n_patches))
        with torch.autocast(eeg.device.type, enabled=False):
            return self.patchify(fill(eeg, positions_m, hidden.expand(-1, eeg.shape[1], -1)))

    def _blend(self, native, positions_m, hidden, patches):
        """Put predicted patches under the mask, mapped back from the grid if there is one."""
        values = self.unpatchify(patches, hidden.shape[2])
        if self.config.tokens == "joint":
            to, at = head_directions(positions_m), head_directions(self._grid_m)
            values = spline_matrix(to, at) @ values
        hidden_T = hidden.repeat_interleave(self.config.patch_samples, dim=2)
        return torch.where(hidden_T, values, native)
