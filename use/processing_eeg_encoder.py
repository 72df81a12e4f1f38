"""The processor beside an encoder's weights: from volts to the encoder's input.

    processor = AutoProcessor.from_pretrained("encoder/", trust_remote_code=True)
    model = AutoModel.from_pretrained("encoder/", trust_remote_code=True)
    found = model(**processor(raw))

A folder of trainer/convert.py holds a copy of this file, which is only a door: filters, references
and scales are those of the project's own `data/`, so that no second version of them can come to
differ. It works where the project's checkout is on the path, first in PYTHONPATH.
"""

from __future__ import annotations

from transformers import BatchFeature
from transformers.feature_extraction_utils import FeatureExtractionMixin

try:
    from use.inputs import profile_of, signals_of, together
except ImportError as error:
    raise ImportError(
        "this processor makes EEG by the code that the encoder was trained with: put the folder of "
        f"that project first in PYTHONPATH ({error})"
    ) from None


class EegEncoderProcessor(FeatureExtractionMixin):
    """signal: how the EEG of training was made (a shard profile), as in the encoder's config.json.
    Raises InputError where that is not said."""

    model_input_names = ["eeg", "positions_m", "channel_mask"]  # noqa: RUF012  transformers' way

    def __init__(self, signal: dict | None = None, **kwargs):
        super().__init__(**kwargs)
        self.signal = signal or {}
        profile_of(self.signal, "preprocessor_config.json")

    @property
    def sampling_rate(self) -> float:
        """Of what it returns, hertz."""
        return profile_of(self.signal, "preprocessor_config.json").sfreq_hz

    def __call__(self, data, return_tensors: str | None = "pt", **settings) -> BatchFeature:
        """data: mne Raw, mne Epochs, an array `[B, C, T]` of volts with `ch_names=` and `sfreq=`,
        or a list of Raw or of Epochs. settings: of `signals_of` in use/inputs.py.

        eeg float32 `[B, C, T]` in robust units, positions_m float32 `[C, 3]` metres; of a list
        `[B, C, 3]`, and channel_mask bool `[B, C]`. return_tensors: "pt", "np". Raises InputError
        for input that cannot be used.
        """
        profile = profile_of(self.signal, "preprocessor_config.json")
        if isinstance(data, (list, tuple)):
            found = together([signals_of(one, profile, **settings) for one in data])
        else:
            signals = signals_of(data, profile, **settings)
            found = {"eeg": signals.eeg, "positions_m": signals.positions_m}
        return BatchFeature(found, tensor_type=return_tensors)


EegEncoderProcessor.register_for_auto_class("AutoProcessor")
