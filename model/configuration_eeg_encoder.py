"""The name by which folders exported before model/eeg_encoder.py import EegEncoderConfig."""

from .eeg_encoder import EegEncoderConfig

__all__ = ["EegEncoderConfig"]
