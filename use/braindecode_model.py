"""The encoder as a braindecode model: for EEGClassifier, Open EEG Bench, and whatever speaks to
`braindecode.models`.

    model = MaskedVAEEncoder.from_encoder("encoder/", n_outputs=4, chs_info=info["chs"],
                                          n_times=1000, sfreq=250)
    EEGClassifier(MaskedVAEEncoder, module__encoder="encoder/", ...)   # fits mne.Epochs

Trials come in any unit and at any rate: they are resampled inside, referenced to their average and
divided by one robust scale for each, as the encoder was trained (but for the filter: give trials
that hold its band). Places come from `chs_info`; a channel without one is masked out.
"""

from __future__ import annotations

from math import gcd

import numpy as np
import torch
from braindecode.models.base import EEGModuleMixin
from torch import Tensor, nn

from data.electrodes.montages import TEMPLATE, place_of
from model.config import ModelConfig, from_dict, preset
from model.eeg_encoder import LEAST_RADIUS_M, MOST_RADIUS_M
from model.networks import Encoder
from model.tokens import tokens_of
from model.transformer import start_weights
from use.encoder import EEGEncoder

FEWEST_REFERENCED = 4
"""Below, an average reference is mostly the channels themselves."""
CLIP = 15.0
LEAST_SCALE = 1e-12
HALF_LENGTH = 32
"""Of the resampling kernel, in samples of the slower rate."""


class MaskedVAEEncoder(EEGModuleMixin, nn.Module):
    """Pretrained encoder and a linear head on its mean token.

    encoder: a folder or file of trainer/convert.py whose weights it starts from; None: untrained,
    or loaded afterwards. vae: the network's configuration, with `encoder` read from there.
    model_sfreq_hz: the rate that its weights are made for. Saved, the model holds the latter two
    and its own weights: the file at `encoder` is needed once.

    Raises ValueError for trials shorter than a patch, without places, and for joint tokens.
    """

    def __init__(
        self, n_outputs=None, n_chans=None, chs_info=None, n_times=None,
        input_window_seconds=None, sfreq=None, encoder=None, vae=None, model_sfreq_hz=200.0,
    ):  # fmt: skip
        super().__init__(
            n_outputs=n_outputs, n_chans=n_chans, chs_info=chs_info, n_times=n_times,
            input_window_seconds=input_window_seconds, sfreq=sfreq,
        )  # fmt: skip
        given = None if encoder is None else EEGEncoder.from_pretrained(encoder)
        config = given.config if given else from_dict(vae) if vae else preset("tiny")
        if tokens_of(config).one_row:
            raise ValueError("joint tokens need one montage: use an encoder of channel tokens")
        self.model_sfreq_hz = given.profile.sfreq_hz if given else float(model_sfreq_hz)
        self.vae_config: ModelConfig = config
        own = {"encoder": None, "vae": config.as_dict(), "model_sfreq_hz": self.model_sfreq_hz}
        for kept in (self._braindecode_init_kwargs, self._hub_mixin_config or {}):
            kept.update(own)  # what braindecode saves, and builds a model from
        self.encoder = Encoder(config)
        start_weights(self, seed=0)
        if given:
            self.encoder.load_state_dict(given.model.encoder.state_dict())
        # Not in a checkpoint: that would bind it to one montage and rate.
        places, known = places_of(self.chs_info)
        self.register_buffer("positions_m", places, persistent=False)
        self.register_buffer("known", known, persistent=False)
        self.register_buffer(
            "resampling", resampling(self.n_times, self.sfreq, self.model_sfreq_hz),
            persistent=False,
        )  # fmt: skip
        if (samples := self.resampling.shape[1]) < config.patch_samples:
            raise ValueError(
                f"n_times={self.n_times} at {self.sfreq:g} Hz are {samples} samples at "
                f"{self.model_sfreq_hz:g} Hz, and a patch has {config.patch_samples}"
            )
        self.final_layer = nn.Linear(config.width, self.n_outputs)

    @classmethod
    def from_encoder(cls, path: str, **signal) -> MaskedVAEEncoder:
        """With the weights of a converted encoder; signal: braindecode's six arguments."""
        given = EEGEncoder.from_pretrained(path)
        model = cls(vae=given.config.as_dict(), model_sfreq_hz=given.profile.sfreq_hz, **signal)
        model.encoder.load_state_dict(given.model.encoder.state_dict())
        return model

    @classmethod
    def _from_pretrained(cls, *, strict: bool = False, **settings):
        """braindecode loads what fits and starts the rest anew, without a word: here nothing but
        the head may differ."""
        model = super()._from_pretrained(strict=strict, **settings)
        if torch.isnan(next(model.encoder.parameters())).any():
            raise ValueError("the file holds values that are not finite")
        return model

    def load_state_dict(self, state_dict, *args, **kwargs):
        """Strict but for the head: ValueError names tensors that are missing or unknown."""
        own = {name for name in self.state_dict() if not name.startswith("final_layer.")}
        there = {name for name in state_dict if not name.startswith("final_layer.")}
        if wrong := sorted(own ^ there):
            raise ValueError(
                f"{len(own - there)} tensors are missing and {len(there - own)} unknown, "
                f"{wrong[0]} first: the file is of another model"
            )
        return super().load_state_dict(state_dict, *args, **kwargs)

    def reset_head(self, n_outputs: int) -> None:
        """A new linear head."""
        self._set_n_outputs(n_outputs)
        device = self.final_layer.weight.device
        self.final_layer = nn.Linear(self.vae_config.width, n_outputs).to(device)

    def forward(
        self, x: Tensor, channel_positions: Tensor | None = None, return_features: bool = False
    ):
        """x `[B, C, T]` in any unit, at `sfreq`; channel_positions `[B, C, 3]` metres, in place of
        chs_info. Logits `[B, n_outputs]`; return_features: {"features": tokens `[B, L, D]`,
        "cls_token": None}."""
        if x.shape[-1] != self.n_times:
            raise ValueError(f"trials of {x.shape[-1]} samples, where n_times={self.n_times}")
        places, known = self.positions_m, self.known.expand(len(x), -1)
        if channel_positions is not None:
            places, known = channel_positions, plausible(channel_positions)
            places = torch.where(known[..., None], places, 0.0)
        eeg = self._robust(x.float() @ self.resampling, known)
        patches = eeg.shape[-1] // self.vae_config.patch_samples
        cutter = tokens_of(self.vae_config)
        eeg, places = cutter.prepare(eeg, places)
        mask = known[..., None].expand(-1, -1, patches).flatten(1)
        tokens, _, _ = self.encoder(cutter.cut(eeg), places, patches, key_mask=mask)
        if return_features:
            return {"features": tokens, "cls_token": None}
        weight = mask[..., None].to(tokens.dtype)
        return self.final_layer((tokens * weight).sum(1) / weight.sum(1))

    def _robust(self, eeg: Tensor, known: Tensor) -> Tensor:
        """Referenced, scaled by 1.4826 x median |x| of each trial's known channels, clipped."""
        weight = known[..., None].float()
        eeg = eeg * weight
        if eeg.shape[1] >= FEWEST_REFERENCED:
            eeg = (eeg - eeg.sum(1, keepdim=True) / weight.sum(1, keepdim=True)) * weight
        size = torch.where(known[..., None], eeg.abs(), torch.nan).flatten(1)
        scale = 1.4826 * size.nanmedian(1).values
        return (eeg / scale.clamp_min(LEAST_SCALE)[:, None, None]).clamp(-CLIP, CLIP)


def places_of(chs_info) -> tuple[Tensor, Tensor]:
    """(fp32 `[C, 3]` metres, bool `[C]` known) of braindecode's chs_info: MNE's dicts, dicts with
    `loc` as a list, or names alone, which are looked up in the 10-05 system. ValueError where no
    channel has a place."""
    rows = []
    for channel in chs_info:
        loc = np.asarray(channel.get("loc", np.full(3, np.nan)), float)[:3]
        if not np.isfinite(loc).all() or not loc.any():
            found = place_of(channel["ch_name"], TEMPLATE)
            loc = np.asarray(found[1]) if found else np.full(3, np.nan)
        rows.append(loc)
    places = torch.tensor(np.array(rows), dtype=torch.float32)
    known = plausible(places)
    if not known.any():
        raise ValueError("chs_info: no channel has a place: give names of the 10-05 system, or loc")
    return torch.where(known[:, None], places, 0.0), known


def plausible(places: Tensor) -> Tensor:
    """bool `[..., C]`: whether a place is a head's, in metres. NeuralBench marks the unknown by
    (-.1, -.1, -.1)."""
    radius = places.norm(dim=-1)
    marked = (places == -0.1).all(-1)
    return (radius >= LEAST_RADIUS_M) & (radius <= MOST_RADIUS_M) & ~marked


def resampling(n_times: int, sfreq: float, target_hz: float) -> Tensor:
    """fp32 `[n_times, n]`: x @ this is x at `target_hz`, by a windowed sinc (Hamming) that passes
    what the slower rate holds. A matrix, so that it runs on a device and exports."""
    if float(sfreq) == float(target_hz):
        return torch.eye(n_times)
    up, down = round(target_hz * 1000), round(sfreq * 1000)
    up, down = up // gcd(up, down), down // gcd(up, down)
    count = n_times * up // down
    at = torch.arange(count, dtype=torch.float64) * down / up
    distance = torch.arange(n_times, dtype=torch.float64)[:, None] - at
    slower = min(1.0, up / down)
    window = 0.54 + 0.46 * torch.cos(torch.pi * distance * slower / HALF_LENGTH)
    window = window * (distance.abs() * slower <= HALF_LENGTH)
    kernel = slower * torch.sinc(distance * slower) * window
    return (kernel / kernel.sum(0)).float()
