"""The encoder as a braindecode model. Skipped where braindecode does not import: it needs
torchaudio, of which the package index has CUDA builds only."""

from __future__ import annotations

import shutil

import mne
import numpy as np
import pytest
import torch
from commands import TINY, ranks
from safetensors.torch import load_file, save_file
from test_use import NAMES, code_of, recording, trials_of
from tiny import tiny_shards

try:
    import braindecode  # noqa: F401
except (ImportError, OSError) as error:
    pytest.skip(f"braindecode does not import here: {error}", allow_module_level=True)

from model.pooling import by_channel
from use.braindecode_model import MaskedVAEEncoder, places_of, resampling
from use.encoder import EEGEncoder


@pytest.fixture(scope="module")
def path(tmp_path_factory) -> str:
    folder = tiny_shards(tmp_path_factory.mktemp("shards") / "shards")
    run = tmp_path_factory.mktemp("run") / "run"
    ranks(1, "trainer/pretrain.py", *TINY, "--shards", folder, "--run", run, "--steps", 2,
          "--global_batch", 8)  # fmt: skip
    return str(run)


@pytest.fixture(scope="module")
def epochs() -> mne.Epochs:
    raw = recording(60)
    events, ids = mne.events_from_annotations(raw, verbose="error")
    settings = {"baseline": None, "preload": True, "verbose": "error"}
    return mne.Epochs(raw, events, ids, 0, 2, **settings)


def model_of(path, epochs, **changes) -> MaskedVAEEncoder:
    signal = {"n_outputs": 2, "chs_info": epochs.info["chs"], "n_times": 501, "sfreq": 250}
    return MaskedVAEEncoder.from_encoder(path, **{**signal, **changes}).eval()


@torch.no_grad()
def test_its_tokens_are_the_encoders(path, epochs):
    encoder, model = EEGEncoder.from_pretrained(path), model_of(path, epochs)
    signals = encoder.prepare(epochs, filtered=True)
    eeg, places = (torch.from_numpy(x) for x in (signals.eeg, signals.positions_m))
    wanted = by_channel(encoder.model.encoder, eeg, places).tokens.flatten(1, 2)
    x = torch.tensor(epochs.get_data(), dtype=torch.float32)
    found = model(x, return_features=True)["features"]
    # The trials end where resampling needs more of them.
    assert np.corrcoef(found.flatten(), wanted.flatten())[0, 1] > 0.998


@torch.no_grad()
def test_units_do_not_matter_and_unknown_channels_are_left_out(path, epochs):
    model, x = model_of(path, epochs), torch.tensor(epochs.get_data(), dtype=torch.float32)
    torch.testing.assert_close(model(x), model(1e6 * x), atol=1e-5, rtol=1e-4)
    few = [channel for channel in epochs.info["chs"] if channel["ch_name"] != "Cz"]
    keep = [row for row, name in enumerate(NAMES) if name != "Cz"]
    without = model_of(path, epochs, chs_info=few)
    without.final_layer.load_state_dict(model.final_layer.state_dict())
    places = model.positions_m.expand(len(x), -1, -1).clone()
    places[:, NAMES.index("Cz")] = -0.1  # how NeuralBench marks it
    torch.testing.assert_close(model(x, places), without(x[:, keep]), atol=1e-5, rtol=1e-4)


def test_it_trains_under_eegclassifier(path):
    from braindecode import EEGClassifier
    from braindecode.util import set_random_seeds

    set_random_seeds(0, cuda=False)
    trials, names = trials_of(48)
    info = mne.create_info(NAMES, 250.0, "eeg").set_montage("standard_1005")
    epochs = mne.EpochsArray(trials, info, verbose="error")
    labels = (names == "task").astype(int)
    classifier = EEGClassifier(
        MaskedVAEEncoder, module__encoder=path, max_epochs=10, train_split=None, classes=[0, 1],
        verbose=0, batch_size=8, lr=1e-3, optimizer=torch.optim.AdamW,
    )  # fmt: skip
    classifier.fit(epochs[:32], labels[:32])
    assert (classifier.predict(epochs[32:]) == labels[32:]).mean() > 0.9


def test_the_page_runs(path, tmp_path, monkeypatch):
    trials, names = trials_of(16)
    info = mne.create_info(NAMES, 250.0, "eeg").set_montage("standard_1005")
    known = {"epochs": mne.EpochsArray(trials, info, verbose="error"), "labels": names == "task"}
    (tmp_path / "encoder").symlink_to(path)
    monkeypatch.chdir(tmp_path)
    exec(compile(code_of("docs/use.md", "braindecode"), "braindecode", "exec"), known)
    assert len(known["classifier"].history) == 20


def test_a_saved_model_needs_no_encoder_file(path, epochs, tmp_path):
    run = tmp_path / "run"
    shutil.copytree(path, run)
    settings = {"n_outputs": 2, "chs_info": epochs.info["chs"], "n_times": 501, "sfreq": 250}
    model = MaskedVAEEncoder(encoder=str(run), **settings).eval()
    model.save_pretrained(tmp_path / "saved")
    shutil.rmtree(run)
    again = MaskedVAEEncoder.from_pretrained(tmp_path / "saved").eval()
    x = torch.tensor(epochs.get_data(), dtype=torch.float32)
    assert torch.equal(again(x), model(x))
    assert model.get_config()["encoder"] is None


def test_trials_that_do_not_fit_are_one_message(path, epochs):
    with pytest.raises(ValueError, match="a patch has 20"):
        model_of(path, epochs, n_times=20)
    with pytest.raises(ValueError, match="where n_times=501"):
        model_of(path, epochs)(torch.randn(2, 12, 500))


def test_it_reloads_with_another_head_and_is_strict(path, epochs, tmp_path):
    model = model_of(path, epochs)
    model.save_pretrained(tmp_path)
    again = MaskedVAEEncoder.from_pretrained(tmp_path, n_outputs=5)
    assert again.final_layer.out_features == 5
    assert torch.equal(again.encoder.embed.weight, model.encoder.embed.weight)
    file = tmp_path / "model.safetensors"
    state = load_file(file)
    state["encoder.other"] = state.pop("encoder.to_mean.weight")
    save_file(state, file, metadata={"format": "pt"})
    with pytest.raises(ValueError, match=r"1 tensors are missing and 1 unknown"):
        MaskedVAEEncoder.from_pretrained(tmp_path)


@pytest.mark.parametrize("sfreq", [100, 160, 250, 500])
def test_any_rate_is_resampled(sfreq):
    matrix, at_s = resampling(3 * sfreq, sfreq, 200.0), np.arange(3 * sfreq) / sfreq
    wave = torch.tensor(np.sin(2 * np.pi * 11 * at_s), dtype=torch.float32)
    wanted = np.sin(2 * np.pi * 11 * np.arange(600) / 200)
    np.testing.assert_allclose((wave @ matrix)[200:400], wanted[200:400], atol=5e-3)


def test_places_come_from_names_too():
    places, known = places_of([{"ch_name": "C3"}, {"ch_name": "X1"}, {"ch_name": "Cz"}])
    assert known.tolist() == [True, False, True]
    assert places[0, 0] < 0 < places[2, 2]
    with pytest.raises(ValueError, match="no channel has a place"):
        places_of([{"ch_name": "X1"}])


def test_lora_through_peft(path, epochs):
    peft = pytest.importorskip("peft")
    model = model_of(path, epochs)
    x = torch.tensor(epochs.get_data()[:2], dtype=torch.float32)
    wanted = model(x)
    targets = ["qkv", "attention_out", "mlp_in", "mlp_out"]
    settings = peft.LoraConfig(target_modules=targets, modules_to_save=["final_layer"])
    adapted = peft.get_peft_model(model, settings).eval()
    torch.testing.assert_close(adapted(x), wanted)
    trained = [name for name, one in adapted.named_parameters() if one.requires_grad]
    assert all("lora" in name or "final_layer" in name for name in trained)
