"""EEG to MEG in the Hugging Face ecosystem. Importing this registers it with transformers' Auto
classes; a folder written by `save_pretrained` also holds the code, for `trust_remote_code=True`."""

from transformers import AutoConfig, AutoModel, AutoProcessor

from .configuration_brainformer import BrainformerConfig
from .modeling_brainformer import BrainformerForEEG2MEG, BrainformerModel
from .outputs_brainformer import BrainformerModelOutput, BrainformerOutput, BrainformerTranslation
from .processing_brainformer import BrainformerProcessor
from .quantizer_brainformer import MuLawQuantizer

AutoConfig.register(BrainformerConfig.model_type, BrainformerConfig)
AutoModel.register(BrainformerConfig, BrainformerForEEG2MEG)
AutoProcessor.register(BrainformerConfig, BrainformerProcessor)
BrainformerConfig.register_for_auto_class()
BrainformerForEEG2MEG.register_for_auto_class("AutoModel")
BrainformerProcessor.register_for_auto_class("AutoProcessor")

__all__ = [
    "BrainformerConfig",
    "BrainformerForEEG2MEG",
    "BrainformerModel",
    "BrainformerModelOutput",
    "BrainformerOutput",
    "BrainformerProcessor",
    "BrainformerTranslation",
    "MuLawQuantizer",
]
