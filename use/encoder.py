"""A pretrained encoder, from volts to features.

    encoder = EEGEncoder.from_pretrained("encoder/")           # of trainer/convert.py, or a run
    features = encoder.embed(raw)                              # mne Raw: one row for each window
    features = encoder.embed(epochs, filtered=True)            # mne Epochs: one row for each
    features = encoder.embed(array, ch_names=names, sfreq=250) # volts [B, C, T]

Loading is strict: a file that lacks a tensor is refused. A window's features depend on that window
alone, whatever else is in the call.
"""

from __future__ import annotations

import hashlib
from pathlib import Path

import mne
import numpy as np
import torch

from data.errors import InputError, did_you_mean
from data.signals.profiles import Profile
from model.autoencoder import MaskedVAE
from model.config import ModelConfig
from model.pooling import POOLS, by_channel
from trainer.checkpoints.weights import load_model
from use.health import refuse_trained_on, warn_of_collapse
from use.inputs import profile_of, signals_of
from use.signals import Signals, prepare_raw

TOKENS_AT_ONCE = 65_536
"""About 1 GB of activations with `base`."""


class EEGEncoder:
    """See the module. `config`: the network; `profile`: how its EEG is made; `trained_on`: people
    and recordings of pretraining, whom no score may include."""

    def __init__(self, model: MaskedVAE, profile: Profile, trained_on: dict, sha256: str):
        self.model, self.profile = model.eval(), profile
        self.trained_on, self.sha256 = trained_on, sha256

    @classmethod
    def from_pretrained(cls, path: str | Path, device: str = "cpu") -> EEGEncoder:
        """Of a folder or file of trainer/convert.py, or of a run folder. InputError where tensors
        are missing or unknown; a warning where its features are the same for all inputs."""
        path = Path(path)
        model, meta = load_model(path, need="encoder")
        profile = profile_of(meta["signal"], str(path))
        warn_of_collapse(model, str(path))
        return cls(model.to(device), profile, meta["trained_on"], _hash(model))

    @property
    def config(self) -> ModelConfig:
        return self.model.config

    @property
    def device(self) -> torch.device:
        return next(self.model.parameters()).device

    def refuse_trained_on(self, dataset: str, subjects, allowed: bool = False) -> None:
        """InputError where it was trained on people of `dataset`; call it before a score."""
        refuse_trained_on(self.trained_on, dataset, subjects, allowed)

    def prepare(self, data, **settings) -> Signals:
        """The encoder's input. data: mne Raw (its windows, or those at `onsets_s`), mne Epochs, or
        an array `[B, C, T]` with `ch_names` and `sfreq`. settings: see `signals_of` in
        use/inputs.py. InputError for input that cannot be used."""
        return signals_of(data, self.profile, **settings)

    def prepare_raw(self, raw: mne.io.BaseRaw, **settings) -> mne.io.RawArray:
        """A whole recording as packing would treat it; `use.signals.prepare_raw`."""
        return prepare_raw(raw, self.profile, **settings)

    def embed(self, data, pool: str = "mean", **prepare) -> np.ndarray:
        """float32 `[B, D]`: features of each window; pool: see model/pooling.py. Where `pool` keeps
        channels, columns are those of `prepare(...).names`, in their order."""
        return self.embed_signals(self.prepare(data, **prepare), pool)

    def embed_signals(self, signals: Signals, pool: str = "mean") -> np.ndarray:
        """float32 `[B, D]` of what `prepare` gave."""
        if pool not in POOLS:
            raise InputError(f"pool={pool}", did_you_mean(pool, POOLS, ", ".join(POOLS)))
        return torch.cat([POOLS[pool].columns(out) for out in self._outputs(signals)]).numpy()

    @torch.inference_mode()
    def _outputs(self, signals: Signals):
        eeg, positions_m = (torch.from_numpy(x) for x in (signals.eeg, signals.positions_m))
        tokens = self.config.token_count(*eeg.shape[1:])
        if tokens < 1:
            raise InputError(
                f"windows of {eeg.shape[-1]} samples at {self.profile.sfreq_hz:g} Hz are shorter "
                f"than a patch, {self.config.patch_samples} samples",
                "give longer windows",
            )
        rows = max(1, TOKENS_AT_ONCE // tokens)
        for start in range(0, len(eeg), rows):
            part = eeg[start : start + rows].to(self.device)
            yield by_channel(self.model.encoder, part, positions_m.to(self.device)).cpu()


def _hash(model: MaskedVAE) -> str:
    digest = hashlib.sha256()
    for name, value in sorted(model.encoder.state_dict().items()):
        digest.update(name.encode())
        digest.update(value.float().contiguous().numpy().tobytes())
    return digest.hexdigest()
