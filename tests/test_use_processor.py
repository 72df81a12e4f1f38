"""The processor beside an encoder's weights, from the folder alone, as transformers loads it."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import mne
import numpy as np
import pytest
import torch
from commands import ROOT
from test_use import NAMES, recording
from transformers import AutoModel, AutoProcessor

from data.errors import InputError
from data.signals.profiles import get_profile
from model.config import preset
from model.eeg_encoder import EegEncoderConfig, EegEncoderModel
from trainer.masked.export import write_encoder_folder
from use.encoder import EEGEncoder

SMALL = {"width": 32, "heads": 2, "depth": 2, "latent_dim": 8}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """What trainer/convert.py writes of a run, but for the run."""
    out = tmp_path_factory.mktemp("converted") / "encoder"
    signal, config = get_profile("default").as_dict(), preset("tiny", **SMALL).as_dict()
    state = EegEncoderModel(EegEncoderConfig(config)).state_dict()
    meta = {"signal": signal, "model": config, "steps": 0, "trained_on": {"subjects": {}}}
    write_encoder_folder(state, meta, out)
    return out


@pytest.fixture(scope="module")
def processor(folder):
    return AutoProcessor.from_pretrained(folder, trust_remote_code=True)


@pytest.fixture(scope="module")
def model(folder):
    return AutoModel.from_pretrained(folder, trust_remote_code=True).eval()


def test_it_gives_what_the_encoder_reads(folder, processor, model):
    raw, encoder = recording(), EEGEncoder.from_pretrained(folder)
    batch = processor(raw)
    assert processor.sampling_rate == 200
    assert np.array_equal(batch["eeg"].numpy(), encoder.prepare(raw).eeg)
    with torch.no_grad():
        pooled = model(**batch).pooler_output
    np.testing.assert_allclose(pooled.numpy(), encoder.embed(raw, pool="mean"), atol=1e-6)


def test_arrays_and_epochs(processor):
    raw = recording()
    events, ids = mne.events_from_annotations(raw, verbose="error")
    epochs = mne.Epochs(raw, events, ids, 0, 2, baseline=None, preload=True, verbose="error")
    of_epochs = processor(epochs, filtered=True)
    of_array = processor(
        1e6 * epochs.get_data(), ch_names=NAMES, sfreq=250.0, unit="uV", filtered=True
    )
    torch.testing.assert_close(of_epochs["eeg"], of_array["eeg"], atol=1e-4, rtol=0)
    with pytest.raises(InputError, match="without ch_names"):
        processor(epochs.get_data())


def test_montages_of_one_batch_are_padded_and_masked(processor, model):
    """A recording in a batch with a larger one gives what it gives alone."""
    few, many = recording(names=NAMES[2:9]), recording()
    batch = processor([few, many])
    assert batch["positions_m"].shape == (20, 12, 3)
    assert batch["channel_mask"].sum(1).tolist() == [7] * 10 + [12] * 10
    with torch.no_grad():
        found = model(**batch).pooler_output
        wanted = [model(**processor(raw)).pooler_output for raw in (few, many)]
    torch.testing.assert_close(found, torch.cat(wanted), atol=1e-5, rtol=1e-5)
    trials = many.get_data()[:, :500][None]
    with pytest.raises(InputError, match="rate of the array"):
        processor([trials], ch_names=NAMES, sfreq=0.0)


def test_windows_of_unlike_lengths_are_no_batch(processor):
    events = np.array([[500, 0, 1], [1500, 0, 1]])
    cut = [mne.Epochs(recording(), events, tmin=0, tmax=end, baseline=None, preload=True,
                      verbose="error") for end in (1.0, 2.0)]  # fmt: skip
    with pytest.raises(InputError, match="give one length"):
        processor(cut, filtered=True)


def test_it_saves_itself_again(processor, tmp_path):
    processor.save_pretrained(tmp_path)
    again = AutoProcessor.from_pretrained(tmp_path, trust_remote_code=True)
    assert again.signal == processor.signal
    raw = recording(seconds=10)
    assert torch.equal(again(raw)["eeg"], processor(raw)["eeg"])


def test_a_folder_that_does_not_say_how_its_eeg_was_made(folder, tmp_path):
    for name in ("processing_eeg_encoder.py", "preprocessor_config.json", "config.json"):
        (tmp_path / name).write_bytes((folder / name).read_bytes())
    path = tmp_path / "preprocessor_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "signal": {}}))
    with pytest.raises(InputError, match="does not say how its EEG was made"):
        AutoProcessor.from_pretrained(tmp_path, trust_remote_code=True)


@pytest.mark.slow
@pytest.mark.parametrize("known", [True, False])
def test_elsewhere_it_needs_the_project_on_the_path(known, folder, tmp_path):
    code = (
        "from transformers import AutoModel, AutoProcessor\n"
        f"AutoModel.from_pretrained({str(folder)!r}, trust_remote_code=True)\n"
        f"p = AutoProcessor.from_pretrained({str(folder)!r}, trust_remote_code=True)\n"
        "print(p.sampling_rate)"
    )
    path = {"PYTHONPATH": str(ROOT)} if known else {}
    own = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True,
        env={**own, **path, "HF_MODULES_CACHE": str(tmp_path / "modules")},
    )  # fmt: skip
    if known:
        assert done.stdout.split() == ["200.0"], done.stderr
    else:
        assert "put the folder of that project first in PYTHONPATH" in done.stderr
