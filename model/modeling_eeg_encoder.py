"""The name by which folders exported before model/eeg_encoder.py import EegEncoderModel."""

from .eeg_encoder import EegEncoderModel

__all__ = ["EegEncoderModel"]
