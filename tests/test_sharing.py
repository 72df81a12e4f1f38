"""What is handed on through transformers: the translator's folder and card, the EEG encoder."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import huggingface_hub
import pytest
import torch
import yaml

import model.eeg_encoder  # noqa: F401  registers the encoder
from data.errors import InputError
from model.autoencoder import MaskedVAE
from model.brainformer import BrainformerConfig, BrainformerForEEG2MEG, BrainformerProcessor
from model.config import preset
from model.eeg_encoder import EegEncoderConfig, EegEncoderModel
from trainer.convert import main as convert
from trainer.masked.export import write_encoder_folder
from trainer.translation.export import export, push, read_report, write_translator
from trainer.translation.fit import read_encoder

SMALL = {"width": 32, "depth": 2, "heads": 2, "decoder_width": 16, "decoder_heads": 2,
         "decoder_depth": 1, "latent_dim": 8}  # fmt: skip


def offline(folder: Path) -> dict:
    return {"HF_HOME": str(folder / "cache"), "HF_HUB_OFFLINE": "1", "PATH": "/usr/bin",
            "OMP_NUM_THREADS": "1"}  # fmt: skip


ENCODE = """
import sys, torch
from transformers import AutoModel
encoder = AutoModel.from_pretrained(sys.argv[1], trust_remote_code=True).eval()
assert not any(name == "model" or name.startswith("model.") for name in sys.modules)
given = torch.load(sys.argv[1] + "/given.pt", weights_only=True)
with torch.no_grad():
    torch.save(encoder(**given).latents, sys.argv[1] + "/latents.pt")
"""


@pytest.mark.parametrize("tokens", ["channel", "joint"])
@pytest.mark.slow
def test_encoder_folder_gives_what_the_autoencoder_gives(tokens, tmp_path):
    """By the Auto classes with this project's code, and without it."""
    torch.manual_seed(0)
    config = preset("tiny", tokens=tokens, **SMALL)
    vae = MaskedVAE(config).eval()
    eeg, places = torch.randn(2, 9, 3 * config.patch_samples + 5), torch.randn(9, 3) / 15
    wanted = vae.encode(eeg, places)
    state = {k: v for k, v in vae.state_dict().items() if k.startswith("encoder.")}
    people = {"manifest_sha256": "0" * 64, "subjects": {"A": ["1", "2"], "B": ["5"]}}
    meta = {"model": config.as_dict(), "trained_on": people, "steps": 7,
            "signal": {"sfreq_hz": 200.0, "l_freq_hz": 0.5, "h_freq_hz": 75.0}}  # fmt: skip
    folder = tmp_path / "encoder"
    write_encoder_folder(state, meta, folder)
    assert (folder / "model.safetensors").is_file()
    assert "Subjects of pretraining: A (2), B (1)." in (folder / "README.md").read_text()
    assert "Its reconstructions were not scored" in (folder / "README.md").read_text()
    assert EegEncoderConfig.from_pretrained(folder).trained_on == people["subjects"]

    from transformers import AutoModel

    encoder = AutoModel.from_pretrained(folder).eval()
    assert type(encoder) is EegEncoderModel
    with torch.no_grad():
        found = encoder(eeg, places)
    torch.testing.assert_close(found.latents, wanted.tokens)
    torch.testing.assert_close(found.pooler_output, wanted.pooled)
    assert found.last_hidden_state.shape[:2] == found.latents.shape[:2]
    with pytest.raises(ValueError, match="a patch has"):
        encoder(eeg[..., :3], places)

    found = read_encoder(str(folder), 200.0)
    assert set(found.state) == set(state)
    assert found.settings["vae"] == config.as_dict()
    assert found.settings["trained_on"] == {"A": ["1", "2"], "B": ["5"]}
    with pytest.raises(InputError, match="trained at 200 Hz, the pairs have 250"):
        read_encoder(str(folder), 250.0)

    torch.save({"eeg": eeg, "positions_m": places}, folder / "given.pt")
    subprocess.run(
        [sys.executable, "-c", ENCODE, str(folder)], check=True, cwd=tmp_path, env=offline(tmp_path)
    )
    torch.testing.assert_close(torch.load(folder / "latents.pt"), wanted.tokens)


def test_encoder_config_keeps_what_it_is_told():
    config = EegEncoderConfig(preset("tiny", **SMALL).as_dict(), {"sfreq_hz": 200.0}, {"A": ["1"]})
    again = EegEncoderConfig.from_dict(config.to_dict())
    assert again.vae_config == config.vae_config
    assert again.signal == {"sfreq_hz": 200.0}
    with pytest.raises(ValueError, match="unknown"):
        EegEncoderConfig({**config.vae, "wide": 3})


@pytest.fixture
def run(tmp_path) -> Path:
    """A run folder as training leaves it, without checkpoints."""
    config = BrainformerConfig(
        d_model=16, n_heads=2, d_ff=32, skip_rank=4, skip_anchors=24, skip_states=2
    )
    torch.manual_seed(0)
    model = BrainformerForEEG2MEG(config)
    description = {
        "split": {"rule": "loso:3", "validation_rule": "subject 2"}, "trained_on": ["a", "b"],
        "signal": {"sfreq_hz": 250.0, "l_freq_hz": 1.0, "h_freq_hz": 40.0},
    }  # fmt: skip
    folder = tmp_path / "run"
    write_translator(
        folder / "best", config, model.state_dict(), BrainformerProcessor(), description
    )
    return folder


def test_weights_are_exported_in_fp32(run, tmp_path):
    model = BrainformerForEEG2MEG.from_pretrained(run / "best")
    weights = {name: value + 1e-4 for name, value in model.state_dict().items()}
    write_translator(tmp_path / "out", model.config, weights, BrainformerProcessor(), {})
    again = BrainformerForEEG2MEG.from_pretrained(tmp_path / "out")
    for name, value in again.state_dict().items():
        assert torch.equal(value, weights[name])
    assert json.loads((tmp_path / "out" / "config.json").read_text())["dtype"] == "float32"


def row(r: float) -> dict:
    summary = {"mean": r, "low": r - 0.01, "high": r + 0.01, "units": 3}
    return {"unit": "subject", "r": summary, "r2": {**summary, "mean": r / 2}}


def report_of(run: Path) -> Path:
    gap = {
        "baseline": "ridge", "difference": {"mean": 0.09, "low": -0.02, "high": 0.2},
        "verdict": "not told apart",
    }  # fmt: skip
    table = {"model": row(0.61), "ridge": row(0.52), "shifted EEG": row(0.0)}
    value = {
        "model_path": str(run), "warnings": ["TRAINED ON one"], "tested": ["x"],
        "split": {"rule": "loso:3"}, "types": {"mag": table, "grad": table},
        "headline": {"mag": gap, "grad": None},
    }  # fmt: skip
    path = run / "report.json"
    path.write_text(json.dumps(value))
    return path


def test_shared_folder_holds_card_code_and_weights(run, tmp_path):
    from transformers import AutoModel

    out = tmp_path / "out"
    words = [run, "--out", out, "--report", report_of(run), "--name", "Translator"]
    assert convert(list(map(str, words))) == 0
    model, best = (AutoModel.from_pretrained(folder) for folder in (out, run / "best"))
    for name, value in best.state_dict().items():
        assert torch.equal(model.state_dict()[name], value)
    card = (out / "README.md").read_text()
    head = yaml.safe_load(card.split("---")[1])
    assert head["library_name"] == "transformers"
    results = head["model-index"][0]["results"][0]["metrics"]
    assert {"type": "pearsonr", "value": 0.61, "name": "mag: Pearson r"} in results
    assert "0.610 [0.600, 0.620]" in card
    assert "TRAINED ON one" in card
    assert "| ridge | 0.520" in card
    best = "model minus the best baseline (ridge): 0.090 [-0.020, 0.200]: not told apart."
    assert f"mag  {best}" in card
    for name in ("modeling_brainformer.py", "states_brainformer.py", "processing_brainformer.py"):
        assert (out / name).is_file()
    assert not list(out.glob("*.bin")) + list(out.glob("*.pt"))
    with pytest.raises(InputError, match="not empty"):
        export(run, out)


def test_a_card_without_a_report_claims_nothing(run, tmp_path):
    export(run, tmp_path / "out")
    assert "Nothing was measured yet" in (tmp_path / "out" / "README.md").read_text()


def test_a_report_of_another_model_is_refused(run, tmp_path):
    path = report_of(run)
    path.write_text(path.read_text().replace(str(run), "elsewhere"))
    with pytest.raises(InputError, match="elsewhere"):
        read_report(path, run)
    with pytest.raises(InputError, match=r"not a run folder \(no config.json\)"):
        export(run, tmp_path / "out", "last")
    with pytest.raises(InputError, match="no best"):
        export(tmp_path / "nothing", tmp_path / "out")


def test_flags_of_another_kind_of_run_are_refused(run, tmp_path):
    for words, says in (
        ([run, "--keep", "encoder"], "is written whole, into a folder"),
        ([tmp_path / "masked", "--push", "me/it"], "is no run of trainer/eeg2meg.py"),
        ([tmp_path / "masked", "--checkpoint", "last"], "--checkpoint: "),
    ):
        with pytest.raises(InputError, match=says):
            convert([*map(str, words), "--out", str(tmp_path / "out")])


@pytest.mark.slow
def test_push_uploads_the_whole_folder(run, tmp_path, monkeypatch):
    """Against a patched Hub: nothing leaves the machine."""
    sent = {}

    def create_repo(self, repo_id, **options):
        sent["private"] = options["private"]
        return huggingface_hub.RepoUrl(f"https://huggingface.co/{repo_id}")

    def create_commit(self, repo_id, operations, **options):
        sent["repo"] = repo_id
        sent["files"] = {operation.path_in_repo for operation in operations}
        return huggingface_hub.CommitInfo(
            commit_url=f"https://huggingface.co/{repo_id}/commit/1", commit_message="",
            commit_description="", oid="1",
        )  # fmt: skip

    monkeypatch.setattr(huggingface_hub.HfApi, "create_repo", create_repo)
    monkeypatch.setattr(huggingface_hub.HfApi, "create_commit", create_commit)
    out = tmp_path / "out"
    export(run, out)
    assert push(out, "someone/translator", private=True).endswith("someone/translator")
    assert sent["private"] is True
    assert sent["repo"] == "someone/translator"
    wanted = {"README.md", "config.json", "model.safetensors", "preprocessor_config.json",
              "modeling_brainformer.py", "processing_brainformer.py"}  # fmt: skip
    assert wanted <= sent["files"]
    BrainformerForEEG2MEG.from_pretrained(run / "best").push_to_hub("someone/plain")
    assert sent["repo"] == "someone/plain"
    assert {"config.json", "model.safetensors", "modeling_brainformer.py"} <= sent["files"]


def test_a_push_that_is_not_allowed_says_so(run, tmp_path, monkeypatch):
    def refuse(self, repo_id, **options):
        raise huggingface_hub.errors.LocalTokenNotFoundError("no token")

    monkeypatch.setattr(huggingface_hub.HfApi, "create_repo", refuse)
    with pytest.raises(InputError, match="log in"):
        push(run / "best", "someone/translator", private=False)
