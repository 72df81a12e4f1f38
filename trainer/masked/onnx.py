"""The encoder as an ONNX file: any batch, montage and length, with a mask of channels.

Inputs eeg `[B, C, T]` float32 robust units, positions_m `[B, C, 3]` metres, channel_mask bool
`[B, C]`; outputs tokens `[B, L, D]`, latents `[B, L, Z]`, pooled `[B, D]`. Checked by onnxruntime
against PyTorch on shapes other than the traced one; the differences are of 1e-6.
"""

from __future__ import annotations

import contextlib
import io
import warnings
from pathlib import Path

import numpy as np
import torch
from torch import nn

from data.errors import InputError

OPSET = 20
INPUTS = ("eeg", "positions_m", "channel_mask")
OUTPUTS = ("tokens", "latents", "pooled")
SHAPES = ((2, 12, 3), (3, 19, 5), (1, 64, 8))
"""Windows, channels and patches that are compared; the first is traced."""
TOLERANCE = 1e-4
HEAD_M = 0.09


def write_onnx(state: dict[str, torch.Tensor], meta: dict, out: Path) -> float:
    """Write the encoder of `state` (`encoder.*`) to `out`; returns the largest difference from
    PyTorch. InputError for joint tokens, without the packages, or where the file computes other
    numbers."""
    try:
        import onnxruntime
        import onnxscript  # noqa: F401  (torch.onnx needs it)
    except ImportError as error:
        raise InputError(
            f"--out {out}: {error.name} is missing", "pip install -r requirements-use.txt"
        ) from None
    from model.eeg_encoder import EegEncoderConfig, EegEncoderModel

    if meta["model"]["tokens"] != "channel":
        raise InputError(
            f"--out {out}: joint tokens map each montage by a matrix of its own",
            "use .safetensors or a folder",
        )
    model = EegEncoderModel(EegEncoderConfig(meta["model"], meta["signal"])).eval()
    model.load_state_dict(state)
    plain, samples = _Plain(model), meta["model"]["patch_samples"]
    batch, channels, length = (torch.export.Dim(name) for name in ("batch", "channels", "samples"))
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        program = torch.onnx.export(
            plain, _example(*SHAPES[0], samples), dynamo=True, opset_version=OPSET, verbose=False,
            input_names=list(INPUTS), output_names=list(OUTPUTS),
            dynamic_shapes={
                "eeg": {0: batch, 1: channels, 2: length},
                "positions_m": {0: batch, 1: channels},
                "channel_mask": {0: batch, 1: channels},
            },
        )  # fmt: skip
        program.save(out)
    session = onnxruntime.InferenceSession(str(out), providers=["CPUExecutionProvider"])
    largest = max(_difference(session, plain, _example(*shape, samples)) for shape in SHAPES)
    if not largest <= TOLERANCE:
        raise InputError(
            f"{out}: differs by {largest:.2g} from PyTorch", "do not use it; report the versions"
        )
    return largest


class _Plain(nn.Module):
    """The encoder with a tuple for its outputs."""

    def __init__(self, encoder: nn.Module):
        super().__init__()
        self.encoder = encoder

    def forward(self, eeg, positions_m, channel_mask):
        out = self.encoder(eeg, positions_m, channel_mask)
        return out.last_hidden_state, out.latents, out.pooler_output


def _example(windows: int, channels: int, patches: int, samples: int) -> tuple[torch.Tensor, ...]:
    """Windows with an incomplete last patch, of montages of their own; a channel is masked out."""
    draw = torch.Generator().manual_seed(windows)
    eeg = torch.randn(windows, channels, patches * samples + samples // 2, generator=draw)
    places = nn.functional.normalize(torch.randn(windows, channels, 3, generator=draw), dim=-1)
    mask = torch.ones(windows, channels, dtype=torch.bool)
    mask[-1, 3] = False
    return eeg, HEAD_M * places, mask


@torch.no_grad()
def _difference(session, model: nn.Module, inputs: tuple[torch.Tensor, ...]) -> float:
    found = session.run(None, dict(zip(INPUTS, (x.numpy() for x in inputs), strict=True)))
    _, _, mask = inputs
    tokens, latents, pooled = (x.numpy() for x in model(*inputs))
    real = mask.repeat_interleave(tokens.shape[1] // mask.shape[1], 1).numpy()
    pairs = ((found[0][real], tokens[real]), (found[1][real], latents[real]), (found[2], pooled))
    return max(float(np.abs(a - b).max()) for a, b in pairs)
