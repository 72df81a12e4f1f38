"""A run's checkpoint as plain fp32 weights, proved against the engine that trained them."""

from __future__ import annotations

import json
from pathlib import Path

import torch

from data.errors import InputError
from data.files import atomic, hash_file, write_atomic
from data.subjects.trained_on import benchmarks_seen, describe_benchmarks
from model.autoencoder import MaskedVAE
from model.config import from_dict
from trainer.checkpoints.find import read_complete
from trainer.checkpoints.weights import describe, load_model, read_file, run_state_dict
from trainer.masked.initial import parity_loss
from trainer.masked.onnx import write_onnx
from trainer.reports.stated_scores import describe_scores, read_scores

# bf16 has 8 bits: between CPUs and GPUs its sums differ by less than this share of the loss.
TOLERANCE = {"float32": 1e-5, "bfloat16": 5e-3}
PROCESSOR = Path(__file__).resolve().parents[2] / "use" / "processing_eeg_encoder.py"
"""Goes along with an encoder's folder, as its model's code does; nothing here imports it."""


def write_weights(state: dict[str, torch.Tensor], meta: dict, out: Path) -> None:
    """Weights and description, each whole or absent."""
    with atomic(out) as temporary:
        if out.suffix == ".safetensors":
            from safetensors.torch import save_file

            save_file(state, temporary)
        else:
            torch.save(state, temporary)
        meta = {**meta, "weights_sha256": hash_file(temporary)[0]}
    write_atomic(out.with_suffix(".json"), (json.dumps(meta, indent=1) + "\n").encode())


def write_encoder_folder(state: dict[str, torch.Tensor], meta: dict, out: Path) -> None:
    """The encoder as a folder for `AutoModel.from_pretrained`, read back before it is reported."""
    # Here, since transformers costs seconds where plain weights are asked for.
    from model.eeg_encoder import EegEncoderConfig, EegEncoderModel

    trained_on = meta["trained_on"]
    config = EegEncoderConfig(
        meta["model"],
        meta["signal"],
        trained_on["subjects"],
        trained_recordings=trained_on.get("recordings"),
        benchmarks_seen=benchmarks_seen(trained_on),
    )
    model = EegEncoderModel(config)
    model.load_state_dict(state)
    model.save_pretrained(out)
    processor = {
        "auto_map": {"AutoProcessor": f"{PROCESSOR.stem}.EegEncoderProcessor"},
        "feature_extractor_type": "EegEncoderProcessor",
        "signal": meta["signal"],
    }
    text = json.dumps(processor, indent=2) + "\n"
    write_atomic(out / "preprocessor_config.json", text.encode())
    write_atomic(out / PROCESSOR.name, PROCESSOR.read_bytes())
    write_atomic(out / "README.md", encoder_card(out.name, meta).encode())
    again = EegEncoderModel.from_pretrained(out)
    if not all(torch.equal(value, state[name]) for name, value in again.state_dict().items()):
        raise InputError(f"{out}: reads back differently", "check the disk, then convert again")


def encoder_card(name: str, meta: dict) -> str:
    """The model card: what it is, how EEG must be made for it, which people it was trained on."""
    signal, model = meta["signal"], meta["model"]
    subjects = meta["trained_on"]["subjects"]
    people = ", ".join(f"{dataset} ({len(them)})" for dataset, them in subjects.items())
    return f"""---
library_name: transformers
tags: [eeg, masked-autoencoder]
---
# {name}

The encoder of a masked variational autoencoder of EEG: preset {model["preset"]}, trained for
{meta["steps"]} steps.

```python
from transformers import AutoModel, AutoProcessor

encoder = AutoModel.from_pretrained(folder, trust_remote_code=True)
found = encoder(eeg, positions_m)  # eeg [B, C, T] / scale; positions [C, 3] metres, head frame
processor = AutoProcessor.from_pretrained(folder, trust_remote_code=True)  # needs the project
found = encoder(**processor(raw))  # mne Raw or Epochs
found.last_hidden_state, found.latents, found.pooler_output
```

EEG as in training: {signal["sfreq_hz"]:g} Hz, {signal["l_freq_hz"]:g}-{signal["h_freq_hz"]:g} Hz,
{signal.get("reference", "average")} reference, divided by one robust scale for each recording.

Subjects of pretraining: {people}. Scores on them would say nothing.
{describe_benchmarks(benchmarks_seen(meta["trained_on"]))} Nothing was measured on the
downstream use of this encoder.

## Reconstruction of hidden samples

{describe_scores(meta.get("scores"))}
"""


def prove_parity(state: dict[str, torch.Tensor], meta: dict, marker: dict) -> tuple[float, float]:
    """(engine's loss, loss of these weights) on the fixed batch, in the engine's dtype; InputError
    where they differ by more than rounding."""
    model = MaskedVAE(from_dict(meta["model"]))
    model.load_state_dict(state)
    dtype = marker["state"]["parity_dtype"]
    found = parity_loss(model.to(getattr(torch, dtype)), torch.device("cpu"))
    wanted = marker["state"]["parity_loss"]
    if not abs(found - wanted) <= TOLERANCE[dtype] * abs(wanted):
        raise InputError(
            f"these weights give a loss of {found:.6g} on the fixed batch, the engine {wanted:.6g}",
            "the checkpoint is damaged, or the code differs from the code that trained it",
        )
    return wanted, found


def convert(run: Path, out: Path, part: str, report: Path | None = None) -> dict:
    """Convert the last complete checkpoint of `run`; returns what was written, for the report.

    report: report.json of trainer/evaluate.py on this run, whose headline goes with the weights.
    """
    scores = read_scores(report, run) if report else None
    folder_wanted = not out.suffix
    if out.suffix not in ("", ".pt", ".safetensors", ".onnx"):
        raise InputError(
            f"--out {out}: unknown kind of file",
            "end it in .safetensors, .pt or .onnx; or name a folder, for a Hugging Face model",
        )
    if out.suffix == ".onnx" and part == "whole":
        raise InputError(f"--out {out}: an ONNX file holds the encoder", "leave --keep whole out")
    if folder_wanted and (part == "whole" or (out.exists() and any(out.iterdir()))):
        raise InputError(
            f"--out {out}: a Hugging Face folder is new and holds the encoder",
            "choose a new folder, without --keep whole",
        )
    if not out.parent.is_dir():
        raise InputError(f"--out {out}: no folder {out.parent}", "make it first")
    state, config, folder = run_state_dict(run)
    marker = read_complete(folder)
    meta = {
        **describe(config, part),
        "benchmarks_seen": benchmarks_seen(config["trained_on"]),
        "checkpoint": folder.name,
        "steps": marker["state"]["step"],
        "scores": scores,
    }
    wanted, found = prove_parity(state, meta, marker)
    meta["parity"] = {
        "engine_loss": wanted,
        "converted_loss": found,
        "dtype": marker["state"]["parity_dtype"],
    }
    kept = {
        k: v.contiguous() for k, v in state.items() if part == "whole" or k.startswith("encoder.")
    }
    if folder_wanted:
        write_encoder_folder(kept, meta, out)
        return {**meta, "parameters": sum(tensor.numel() for tensor in kept.values())}
    if out.suffix == ".onnx":
        with atomic(out) as temporary:
            meta["onnx_difference"] = write_onnx(kept, meta, temporary)
            meta["weights_sha256"] = hash_file(temporary)[0]
        write_atomic(out.with_suffix(".json"), (json.dumps(meta, indent=1) + "\n").encode())
        return {**meta, "parameters": sum(tensor.numel() for tensor in kept.values())}
    write_weights(kept, meta, out)
    written, _ = read_file(out)
    if written.keys() != kept.keys() or not all(torch.equal(written[k], kept[k]) for k in kept):
        raise InputError(f"{out}: reads back differently", "check the disk, then convert again")
    load_model(out, need=part)
    return {**meta, "parameters": sum(tensor.numel() for tensor in kept.values())}
