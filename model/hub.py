"""Makes transformers' Auto classes know the pretrained EEG encoder."""

from transformers import AutoConfig, AutoModel

from model.configuration_eeg_encoder import EegEncoderConfig
from model.modeling_eeg_encoder import EegEncoderModel, EegEncoderOutput

AutoConfig.register(EegEncoderConfig.model_type, EegEncoderConfig)
AutoModel.register(EegEncoderConfig, EegEncoderModel)
EegEncoderConfig.register_for_auto_class()
EegEncoderModel.register_for_auto_class("AutoModel")

__all__ = ["EegEncoderConfig", "EegEncoderModel", "EegEncoderOutput"]
