"""Configuration of the pretrained EEG encoder as a Hugging Face model."""

from __future__ import annotations

from transformers import PretrainedConfig

from .config import ModelConfig, from_dict, preset


class EegEncoderConfig(PretrainedConfig):
    """Args:
    vae: the masked autoencoder's configuration, `ModelConfig.as_dict()`.
    signal: how the EEG must be made: rate, band, reference, scale (a shard profile).
    trained_on: the subjects of pretraining, by data set: whom not to be scored on.
    trained_recordings: their recordings' digests, by data set and subject; None: not known.
    benchmarks_seen: how many people of public benchmarks they are, by list; "unknown".

    Raises ValueError for an unknown field of `vae`.
    """

    model_type = "eeg_masked_vae_encoder"

    def __init__(
        self,
        vae: dict | None = None,
        signal=None,
        trained_on=None,
        trained_recordings=None,
        benchmarks_seen="unknown",
        **kwargs,
    ):
        self.vae = preset("tiny").as_dict() if vae is None else vae
        self.signal = signal or {}
        self.trained_on = trained_on or {}
        self.trained_recordings = trained_recordings
        self.benchmarks_seen = benchmarks_seen
        from_dict(self.vae)
        super().__init__(**kwargs)

    @property
    def vae_config(self) -> ModelConfig:
        return from_dict(self.vae)

    @property
    def hidden_size(self) -> int:
        return self.vae["width"]
