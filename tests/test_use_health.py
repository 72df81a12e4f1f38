"""What is said before any score: an encoder that tells no input from another, or that was trained
on the people who are to be scored."""

from __future__ import annotations

import json
import warnings

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from test_use import NAMES, trials_of

from data.errors import InputError
from data.signals.profiles import get_profile
from model.autoencoder import MaskedVAE
from model.config import preset
from model.pooling import POOLS
from model.transformer import start_weights
from trainer.checkpoints.weights import FORMAT
from use.encoder import EEGEncoder
from use.features import EEGFeatures
from use.health import collapsed_pools

SMALL = {"width": 32, "heads": 2, "depth": 2, "latent_dim": 8}


def model_of(**changes) -> MaskedVAE:
    model = MaskedVAE(preset("tiny", **SMALL, **changes))
    start_weights(model, seed=0)
    return model


def written(folder, model: MaskedVAE, subjects: dict | None = None) -> str:
    """A converted file of `model`."""
    state = {name: value for name, value in model.state_dict().items() if "encoder." in name[:8]}
    save_file(state, folder / "encoder.safetensors")
    meta = {
        "format": FORMAT, "format_version": 1, "part": "encoder",
        "model": model.config.as_dict(), "signal": get_profile("default").as_dict(),
        "trained_on": {"subjects": subjects or {}},
    }  # fmt: skip
    (folder / "encoder.json").write_text(json.dumps(meta))
    return str(folder / "encoder.safetensors")


def without_latents() -> MaskedVAE:
    """As after a collapse of the posterior: the means of latents no longer see the input."""
    model = model_of()
    with torch.no_grad():
        model.encoder.to_mean.weight.zero_()
        model.encoder.to_mean.bias.fill_(0.3)
    return model


@pytest.mark.parametrize("tokens", ["channel", "joint"])
def test_an_encoder_at_its_start_is_healthy(tokens):
    assert collapsed_pools(model_of(tokens=tokens)) == []


@pytest.mark.filterwarnings("ignore:.*same for all inputs")
def test_collapsed_latents_are_named(tmp_path):
    model = without_latents()
    assert collapsed_pools(model) == ["channel", "channel_std"]
    path = written(tmp_path, model)
    with pytest.warns(UserWarning, match=r"same for all inputs \(pool=channel, channel_std\)"):
        EEGEncoder.from_pretrained(path)
    trials, labels = trials_of()
    settings = {"ch_names": NAMES, "sfreq": 250.0}
    with pytest.raises(InputError, match="same for all trials"):
        EEGFeatures(path, **settings).fit(trials, labels)
    EEGFeatures(path, pool="mean", **settings).fit(trials, labels)  # tokens still see it


def test_values_that_are_not_finite_are_named():
    model = model_of()
    with torch.no_grad():
        model.encoder.to_mean.bias[0] = torch.nan
    assert collapsed_pools(model) == ["channel", "channel_std"]


def test_trials_that_are_the_same_are_no_fault_of_the_encoder(tmp_path):
    path = written(tmp_path, model_of())
    trials = np.repeat(trials_of()[0][:1], 4, axis=0)
    EEGFeatures(path, ch_names=NAMES, sfreq=250.0).fit(trials)


def test_people_of_pretraining_are_refused(tmp_path):
    trained = {"Lee2019_MI": ["3", "4"], "mine": ["sub-07"]}
    encoder = EEGEncoder.from_pretrained(written(tmp_path, model_of(), trained))
    encoder.refuse_trained_on("Lee2019_MI", [1, 2])
    encoder.refuse_trained_on("Cho2017", [3])
    with pytest.raises(InputError, match="Lee2019_SSVEP subject 3"):  # the same people
        encoder.refuse_trained_on("Lee2019_SSVEP", range(1, 4))
    with pytest.raises(InputError, match="mine subject 7"):
        encoder.refuse_trained_on("mine", ["7", "8"])
    with pytest.warns(UserWarning, match="says nothing of new people"):
        encoder.refuse_trained_on("mine", ["7"], allowed=True)


def test_moabb_gives_no_data_of_people_trained_on(tmp_path):
    from moabb.datasets.fake import FakeDataset
    from moabb.evaluations import WithinSessionEvaluation
    from moabb.paradigms import LeftRightImagery

    from use.moabb_paradigms import as_trained

    encoder = EEGEncoder.from_pretrained(written(tmp_path, model_of(), {"FakeDataset": ["2"]}))
    dataset = FakeDataset(["left_hand", "right_hand"], n_subjects=2, n_runs=1, duration=60, seed=0)
    paradigm = as_trained(LeftRightImagery(), encoder)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert len(paradigm.get_data(dataset, [1])[0])
        with pytest.raises(InputError, match="FakeDataset subject 2"):
            paradigm.get_data(dataset)
        evaluation = WithinSessionEvaluation(
            paradigm=paradigm, datasets=[dataset], overwrite=True, hdf5_path=str(tmp_path)
        )
        features = EEGFeatures(
            str(tmp_path / "encoder.safetensors"), ch_names=["C3", "Cz", "C4"], sfreq=200.0,
            unit="uV", filtered=True, scale=1e-6,
        )  # fmt: skip
        with pytest.raises(InputError, match="FakeDataset subject 2"):
            evaluation.process({"encoder": features})
    allowed = as_trained(LeftRightImagery(), encoder, allow_trained_on=True)
    with pytest.warns(UserWarning, match="says nothing of new people"):
        allowed.get_data(dataset, [2])


def test_every_pool_can_tell_windows_apart():
    """The gate looks at every pool that `embed` has."""
    model = model_of()
    with torch.no_grad():
        for value in model.encoder.parameters():
            value.zero_()
    assert collapsed_pools(model) == list(POOLS)
