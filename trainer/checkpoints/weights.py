"""Weights in and out: a run's last complete checkpoint, or a converted file, as a plain model.

A converted file holds tensors only, under the names of `MaskedVAE`'s state dict, beside a JSON with
the model's and the signal's configuration. Nothing here needs DeepSpeed but reading a run's
checkpoint.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
from pathlib import Path

import torch

from data.errors import InputError
from data.files import hash_file
from model.autoencoder import MaskedVAE
from model.config import from_dict, with_new_fields
from trainer.checkpoints import find, lost

FORMAT = "eeg-masked-vae"
FOLDER_WEIGHTS, ENCODER_TYPE = "model.safetensors", "eeg_masked_vae_encoder"
"""Of a folder for AutoModel (model/eeg_encoder.py)."""
FORMER_TRANSLATION = "eeg2meg-run"
"""`format` of a run's config.json by which trainer/eeg2meg.py was known before it had this loop."""


def read_run_config(run: Path) -> dict:
    """config.json of a run folder; a masked autoencoder's model has its fields of today.
    InputError where it is damaged, or of a version whose runs cannot go on."""
    path = run / "config.json"
    try:
        found = json.loads(path.read_text())
        lacking = [name for name in ("run", "model", "profile", "trained_on") if name not in found]
        if problem := of_an_earlier_version(run):
            raise problem
        if lacking:
            raise ValueError(f"it lacks {lacking[0]}")
        if "decoder_depth" in found["model"]:
            found["model"] = with_new_fields(found["model"])
        return found
    except FileNotFoundError:
        raise InputError(
            f"{run}: not a run folder (no config.json)",
            "give the --run folder of a training, or a converted .safetensors or .pt file",
        ) from None
    except (ValueError, AttributeError, TypeError) as error:
        raise InputError(f"{path}: damaged ({error})", "restore it, or train again") from None


def of_an_earlier_version(run: Path) -> InputError | None:
    """Why this version cannot go on with a run, where an earlier one made it; else None."""
    try:
        found = json.loads((run / "config.json").read_text()).get("format")
    except (OSError, ValueError, AttributeError):
        return None
    if found != FORMER_TRANSLATION:
        return None
    return InputError(
        f"{run}: a run of trainer/eeg2meg.py by an earlier version, which cannot go on",
        f"give another --run; {run}/best can still be scored (trainer/eval_eeg2meg.py) and "
        "exported (trainer/convert.py)",
    )


def _masked_config(run: Path) -> dict:
    """`read_run_config` of a run that trained a masked autoencoder; InputError for another task."""
    found = read_run_config(run)
    task = found.get("task", {}).get("name", "masked")
    if task != "masked":
        command = {"translation": "trainer/eeg2meg.py"}.get(task, f"the task {task}")
        raise InputError(
            f"{run}: a run of {command}, which holds no masked autoencoder",
            "give a run folder of trainer/pretrain.py or trainer/finetune_vc.py",
        )
    return found


def describe(run_config: dict, part: str = "whole") -> dict:
    """What travels with the weights: everything needed to use them on new recordings."""
    return {
        "format": FORMAT,
        "format_version": 1,
        "part": part,
        "model": run_config["model"],
        "signal": run_config["profile"],
        "trained_on": run_config["trained_on"],
    }


def run_state_dict(run: Path) -> tuple[dict[str, torch.Tensor], dict, Path]:
    """`last_state` of a run that trained a masked autoencoder; InputError for another task."""
    _masked_config(run)
    return last_state(run)


def last_state(run: Path) -> tuple[dict[str, torch.Tensor], dict, Path]:
    """(fp32 state dict, run config, checkpoint folder) of a run's last complete checkpoint,
    whatever its task.

    DeepSpeed's files are pickles: only read checkpoints of your own.
    """
    config = read_run_config(run)
    tags, passed = find.survey(run)
    gone = lost.lost(run, passed, find.tag_of)
    if not tags and gone:
        lines = "".join(f"\n     {line}" for line in gone)
        raise InputError(f"{run}: its checkpoints are lost:{lines}", "restore them from a copy")
    if not tags:
        raise InputError(f"{run}: no complete checkpoint", "train further, until one is saved")
    folder = find.checkpoint_folder(run)
    step, planned = find.step_of(tags[-1]), config["run"].get("steps")
    if os.environ.get("RANK", "0") == "0":
        lost.say_passed_over(run, passed)
        if later := [one for one in lost.recorded(run) or [] if one > step]:
            print(f"{run}: its last checkpoint, of step {later[-1]}, is lost", flush=True)
        print(f"{run}: weights of step {step} of {planned}", flush=True)
    if problem := find.damaged(folder / tags[-1]):
        raise InputError(
            f"{folder / tags[-1]}: {problem}", "delete this folder, to take the checkpoint before"
        )
    # It prints its progress; a user sees ours.
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        from deepspeed.utils.zero_to_fp32 import get_fp32_state_dict_from_zero_checkpoint

        state = get_fp32_state_dict_from_zero_checkpoint(str(folder), tag=tags[-1])
    plain = {name: tensor.detach().clone().float() for name, tensor in state.items()}
    return plain, config, folder / tags[-1]


def read_description(path: str | Path) -> dict:
    """The description of a run folder or of converted weights, without reading these."""
    path = Path(path)
    if is_encoder_folder(path):
        return _folder_description(path)
    return describe(_masked_config(path)) if path.is_dir() else _read_json(path)


def _read_json(path: Path) -> dict:
    description = path.with_suffix(".json")
    try:
        meta = json.loads(description.read_text())
        if meta["format"] != FORMAT or meta["format_version"] != 1:
            raise ValueError(f"format {meta['format']} {meta['format_version']}")
    except FileNotFoundError:
        raise InputError(
            f"{description}: no such file",
            "give a run folder, or weights from trainer/convert.py with their .json beside them",
        ) from None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(f"{description}: damaged ({error})", "convert the run again") from None
    return meta


def read_file(path: Path) -> tuple[dict[str, torch.Tensor], dict]:
    """(state dict, description) of a converted file."""
    meta = _read_json(path)
    if (wanted := meta.get("weights_sha256")) and path.is_file() and hash_file(path)[0] != wanted:
        raise InputError(
            f"{path}: not the weights that {path.with_suffix('.json').name} describes",
            "one of the two was replaced or cut: convert the run again",
        )
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            state = load_file(path)
        else:
            state = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise InputError(f"{path}: no such file", "convert the run again") from None
    except Exception as error:  # safetensors and torch raise many kinds for damaged files
        raise InputError(f"{path}: cannot be read ({error})", "convert the run again") from error
    return state, meta


def is_encoder_folder(path: Path) -> bool:
    """Whether it is a folder for transformers' AutoModel, not a run."""
    return (path / FOLDER_WEIGHTS).is_file()


def _folder_description(path: Path) -> dict:
    """The description of a folder that trainer/convert.py wrote for AutoModel."""
    try:
        config = json.loads((path / "config.json").read_text())
        if config["model_type"] != ENCODER_TYPE:
            raise ValueError(f"its model_type is {config['model_type']}")
        trained_on = {"subjects": config["trained_on"]}
        if config.get("trained_recordings") is not None:
            trained_on["recordings"] = config["trained_recordings"]
        return {"part": "encoder", "model": config["vae"], "signal": config["signal"],
                "trained_on": trained_on}  # fmt: skip
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(
            f"{path}/config.json: not an encoder's ({error})", "give a folder of trainer/convert.py"
        ) from None


def _read_folder(path: Path) -> tuple[dict[str, torch.Tensor], dict]:
    from safetensors.torch import load_file

    meta = _folder_description(path)
    try:
        return load_file(path / FOLDER_WEIGHTS), meta
    except Exception as error:  # safetensors raises a kind of its own
        raise InputError(
            f"{path / FOLDER_WEIGHTS}: cannot be read ({error})", "convert the run again"
        ) from error


def load_state(path: str | Path) -> tuple[dict[str, torch.Tensor], dict]:
    """(state dict, description) of a run folder, a converted file or a folder for AutoModel."""
    path = Path(path)
    if is_encoder_folder(path):
        return _read_folder(path)
    if path.is_dir():
        state, config, folder = run_state_dict(path)
        found = {"checkpoint": folder.name, "steps": find.step_of(folder.name)}
        return state, {**describe(config), **found}
    if path.suffix not in (".pt", ".safetensors"):
        raise InputError(f"{path}: no run folder, .safetensors or .pt file", "check the path")
    return read_file(path)


def load_model(path: str | Path, need: str = "whole") -> tuple[MaskedVAE, dict]:
    """The model of a run or of converted weights, fp32, in evaluation mode, and its description.

    need: `whole`, or `encoder` where a file that holds only the encoder will do (its decoder is
    then untrained). Raises InputError if the file holds too little or does not fit its description.
    """
    state, meta = load_state(path)
    if need == "whole" and meta["part"] != "whole":
        raise InputError(f"{path}: holds the encoder only", "convert the run with --keep whole")
    try:
        model = MaskedVAE(from_dict(meta["model"]))
        missing, unexpected = model.load_state_dict(state, strict=False)
    except (ValueError, RuntimeError) as error:
        raise InputError(
            f"{path}: does not fit its description: {error}", "convert it again"
        ) from None
    wanted = [name for name in missing if meta["part"] == "whole" or name.startswith("encoder.")]
    if wanted or unexpected:
        raise InputError(
            f"{path}: {len(wanted)} weights are missing, {len(unexpected)} are unknown "
            f"({[*wanted, *unexpected][0]} first)",
            "weights and description belong to different models: convert the run again",
        )
    return model.eval(), meta
