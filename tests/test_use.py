"""A pretrained encoder in MNE, scikit-learn and MOABB: the signal that packing makes, strict
loading, features that depend on their own trial alone."""

from __future__ import annotations

import pickle
import warnings

import mne
import numpy as np
import pytest
import torch
from commands import ROOT, TINY, python, ranks
from safetensors.torch import load_file, save_file
from sklearn.base import clone
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from tiny import tiny_shards

from data.errors import InputError
from data.signals.eeg import make_windows
from data.signals.profiles import get_profile
from data.signals.recording import Recording
from use.encoder import EEGEncoder
from use.features import EEGFeatures
from use.signals import prepare_raw, prepare_trials, windows_of

NAMES = ["Fp1", "Fp2", "F3", "F4", "C3", "C4", "P3", "P4", "O1", "O2", "Cz", "Pz"]
PHYSIONET = ROOT.parent / "shared/data/mne_data/MNE-eegbci-data/files/eegmmidb/1.0.0/S001"


def recording(seconds=40, sfreq_hz=250.0, bad=None, names=NAMES) -> mne.io.RawArray:
    """Smooth noise of about 20 uV with an annotation every 3 s."""
    rng = np.random.default_rng(0)
    signal = rng.normal(size=(len(names), int(seconds * sfreq_hz)))
    signal = mne.filter.filter_data(signal, sfreq_hz, 1, 30, verbose="error") * 5e-5
    if bad is not None:
        signal[bad] = 0.0
    raw = mne.io.RawArray(signal, mne.create_info(names, sfreq_hz, "eeg"), verbose="error")
    raw.set_montage("standard_1005", verbose="error")
    onsets = np.arange(2, seconds - 3, 3.0)
    raw.set_annotations(mne.Annotations(onsets, 0.0, ["a", "b"] * (len(onsets) // 2) + ["a"] *
                                        (len(onsets) % 2)))  # fmt: skip
    return raw


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tiny_shards(tmp_path_factory.mktemp("shards") / "shards")
    run = tmp_path_factory.mktemp("run") / "run"
    ranks(1, "trainer/pretrain.py", *TINY, "--shards", folder, "--run", run, "--steps", 2,
          "--global_batch", 8)  # fmt: skip
    return run


@pytest.fixture(scope="module")
def folder(run, tmp_path_factory):
    out = tmp_path_factory.mktemp("converted") / "encoder"
    python("trainer/convert.py", run, "--out", out)
    return out


@pytest.fixture(scope="module")
def encoder(folder):
    return EEGEncoder.from_pretrained(folder)


# ---- the signal --------------------------------------------------------------------------------


def packed(raw, profile, **settings):
    return make_windows(Recording("A", "1", "0", "0", raw=raw, **settings), profile)


def test_windows_are_those_of_packing():
    raw, profile = recording(), get_profile("default")
    wanted = packed(raw.copy(), profile, montage="standard_1005")
    found = windows_of(raw, profile, montage="standard_1005")
    assert np.array_equal(found.eeg, wanted.data.astype(np.float32))
    assert list(found.names) == wanted.channels
    assert found.onset_s.tolist() == [meta["onset_s"] for meta in wanted.meta]


def test_a_whole_recording_holds_packings_windows():
    raw, profile = recording(), get_profile("default")
    wanted = packed(raw.copy(), profile)
    whole = prepare_raw(raw, profile).get_data() * 1e6
    for window, meta in zip(wanted.data, wanted.meta, strict=True):
        first = round(meta["onset_s"] * 200)
        np.testing.assert_allclose(whole[:, first : first + 800], window, atol=0.005)


@pytest.mark.skipif(not PHYSIONET.is_dir(), reason="no real recordings beside this checkout")
def test_a_real_recording_holds_packings_windows():
    raw = mne.io.read_raw_edf(PHYSIONET / "S001R04.edf", preload=True, verbose="error")
    profile = get_profile("default")
    wanted = packed(raw.copy(), profile)
    whole = prepare_raw(raw, profile)
    assert whole.info["sfreq"] == 200
    assert len(whole.ch_names) == 64
    assert len(whole.annotations) >= len(raw.annotations)
    values = whole.get_data(picks=wanted.channels) * 1e6
    for window, meta in zip(wanted.data, wanted.meta, strict=True):
        first = round(meta["onset_s"] * 200)
        np.testing.assert_allclose(values[:, first : first + 800], window, atol=0.01)


def test_bad_channels_are_interpolated_or_dropped():
    raw, profile = recording(bad=3), get_profile("default")
    dropped = prepare_raw(raw, profile, bad="drop")
    filled = prepare_raw(raw, profile)
    assert "F4" not in dropped.ch_names
    assert filled.ch_names == NAMES
    assert filled.get_data(picks="F4").std() > 1e-7
    assert np.array_equal(filled.get_data(picks=dropped.ch_names), dropped.get_data())


def test_annotations_keep_their_times():
    raw = recording().crop(5.0, 35.0)
    found = prepare_raw(raw, get_profile("default"))
    wanted = mne.events_from_annotations(raw, verbose="error")[0]
    events = mne.events_from_annotations(found, verbose="error")[0]
    times = (wanted[:, 0] - raw.first_samp) / 250
    np.testing.assert_allclose(events[:, 0] / 200, times, atol=0.0051)


def test_gaps_are_zero_and_marked():
    raw = recording()
    raw.set_annotations(mne.Annotations([10.0], [5.0], ["BAD_ACQ_SKIP"]))
    found = prepare_raw(raw, get_profile("default"))
    assert "BAD_gap" in set(found.annotations.description)
    assert not found.get_data(tmin=11.0, tmax=14.0).any()
    assert found.get_data(tmin=20.0, tmax=24.0).any()


def test_trials_filtered_before_are_near_packings():
    raw, profile = recording(), get_profile("default")
    whole = windows_of(raw, profile)
    smooth = raw.copy().filter(0.5, 75, verbose="error")
    smooth.resample(200, method="polyphase", verbose="error")
    trials = smooth.get_data()[:, :8000].reshape(12, 10, 800).swapaxes(0, 1)
    found = prepare_trials(trials, NAMES, 200.0, profile, filtered=True)
    r = [np.corrcoef(a.ravel(), b.ravel())[0, 1] for a, b in zip(found.eeg, whole.eeg, strict=True)]
    assert min(r[1:-1]) > 0.99
    alone = prepare_trials(trials[4:5], NAMES, 200.0, profile, filtered=True)
    assert np.array_equal(alone.eeg[0], found.eeg[4])


@pytest.mark.parametrize("filtered", [True, False])
def test_another_rate_shifts_nothing(filtered):
    profile, times_s = get_profile("default"), np.arange(2500) / 250
    trials = 1e-5 * np.sin(2 * np.pi * (8 * times_s + np.arange(12)[:, None] / 12))[None]
    found = prepare_trials(trials, NAMES, 250.0, profile, filtered=filtered).eeg[0]
    at_s = np.arange(2000) / 200
    wanted = np.sin(2 * np.pi * (8 * at_s + np.arange(12)[:, None] / 12))
    middle = slice(700, 1300)
    assert np.corrcoef(found[:, middle].ravel(), wanted[:, middle].ravel())[0, 1] > 0.9999


def test_units_and_rates():
    trials, profile = recording().get_data()[:, :1000][None], get_profile("default")
    volts = prepare_trials(trials, NAMES, 250.0, profile)
    micro = prepare_trials(trials * 1e6, NAMES, 250.0, profile, unit="uV")
    np.testing.assert_allclose(volts.eeg, micro.eeg, atol=1e-4)
    assert volts.eeg.shape == (1, 12, 800)
    with pytest.warns(UserWarning, match="is the unit right"):
        prepare_trials(trials * 1e6, NAMES, 250.0, profile)


def test_three_channels_are_enough():
    profile = get_profile("default")
    trials = recording(names=["C3", "Cz", "C4"]).get_data()[:, :1000][None]
    with pytest.warns(UserWarning, match="own reference"):
        found = prepare_trials(trials, ["C3", "Cz", "C4"], 250.0, profile)
    assert found.eeg.shape == (1, 3, 800)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"trials": np.full((2, 12, 500), np.nan)}, "not finite"),
        ({"trials": np.zeros((2, 12, 500))}, "flat"),
        ({"trials": np.ones((2, 5, 500))}, "for 12 channels"),
        ({"unit": "nV"}, "use one of V, mV, uV"),
        ({"scale": "trial"}, "use one of window, recording"),
        ({"sfreq_hz": 0.0}, "rate of the array"),
        ({"positions_m": np.full((12, 3), 50.0)}, "give metres"),
        ({"ch_names": [f"X{i}" for i in range(12)]}, "known position"),
    ],
)
def test_wrong_arrays_are_one_message(change, says):
    rng = np.random.default_rng(0)
    given = {"trials": rng.normal(size=(2, 12, 500)) * 1e-5, "ch_names": NAMES, "sfreq_hz": 250.0}
    with pytest.raises(InputError, match=says):
        prepare_trials(**{**given, **change}, profile=get_profile("default"))


# ---- the encoder -------------------------------------------------------------------------------


def test_every_form_of_the_weights_is_the_same_encoder(run, folder, encoder, tmp_path):
    python("trainer/convert.py", run, "--out", tmp_path / "encoder.safetensors")
    raw = recording()
    wanted = encoder.embed(raw, pool="channel_std")
    assert wanted.shape == (80, 12 * 2 * 8)
    for path in (run, tmp_path / "encoder.safetensors"):
        other = EEGEncoder.from_pretrained(path)
        assert other.sha256 == encoder.sha256
        assert other.trained_on["subjects"] == encoder.trained_on["subjects"]
        assert np.array_equal(other.embed(raw, pool="channel_std"), wanted)


def test_onnx_is_the_same_encoder(run, encoder, tmp_path):
    pytest.importorskip("onnxscript")
    onnxruntime = pytest.importorskip("onnxruntime")
    output = python("trainer/convert.py", run, "--out", tmp_path / "encoder.onnx")
    assert "onnxruntime differs from PyTorch by" in output
    assert sorted(path.name for path in tmp_path.iterdir()) == ["encoder.json", "encoder.onnx"]
    signals = encoder.prepare(recording(seconds=20))
    session = onnxruntime.InferenceSession(str(tmp_path / "encoder.onnx"))
    count = len(signals.eeg)
    given = {
        "eeg": signals.eeg,
        "positions_m": np.repeat(signals.positions_m[None], count, 0),
        "channel_mask": np.ones((count, 12), bool),
    }
    pooled = session.run(["pooled"], given)[0]
    np.testing.assert_allclose(pooled, encoder.embed_signals(signals, "mean"), atol=1e-4)
    output = python("trainer/convert.py", run, "--out", tmp_path / "x.onnx", "--keep", "whole",
                    fails=True)  # fmt: skip
    assert "an ONNX file holds the encoder" in output


def test_a_folder_that_lacks_a_tensor_is_refused(folder, tmp_path):
    import shutil

    shutil.copytree(folder, tmp_path / "cut")
    path = tmp_path / "cut" / "model.safetensors"
    state = load_file(path)
    state.pop("encoder.to_mean.weight")
    save_file(state, path, metadata={"format": "pt"})
    with pytest.raises(InputError, match="to_mean"):
        EEGEncoder.from_pretrained(tmp_path / "cut")


def test_wrong_calls_are_one_message(encoder):
    trials = recording().get_data()[:, :1000][None]
    with pytest.raises(InputError, match="without ch_names"):
        encoder.embed(trials)
    with pytest.raises(InputError, match="channel_std"):
        encoder.embed(trials, pool="channels", ch_names=NAMES, sfreq=250.0)
    with pytest.raises(InputError, match="shorter than a patch"):
        encoder.embed(trials[..., :20], ch_names=NAMES, sfreq=250.0)


def test_order_of_channels_tells(encoder):
    """Names and signals may come in any order; with wrong names, features by channel change."""
    trials = recording().get_data()[:, :1000][None]
    settings = {"sfreq": 250.0, "pool": "channel"}
    wanted = encoder.embed(trials, ch_names=NAMES, **settings).reshape(12, -1)
    order = np.random.default_rng(1).permutation(12)
    moved = encoder.embed(trials[:, order], ch_names=[NAMES[i] for i in order], **settings)
    np.testing.assert_allclose(moved.reshape(12, -1), wanted[order], atol=1e-4)
    wrong = encoder.embed(trials[:, order], ch_names=NAMES, **settings).reshape(12, -1)
    assert np.abs(wrong - wanted).max() > 1e-2


# ---- scikit-learn ------------------------------------------------------------------------------


def trials_of(count=24):
    """Alternating classes, of which the second has more alpha at the back."""
    rng, y = np.random.default_rng(0), np.array(["rest", "task"] * (count // 2))
    noise = rng.normal(size=(count, 12, 500)) * 1e-5
    alpha = 3e-5 * np.sin(2 * np.pi * 10 * np.arange(500) / 250 + rng.uniform(0, 6, (count, 1)))
    noise[y == "task", 6:10] += alpha[y == "task", None]
    return noise, y


def features(folder, **settings):
    return EEGFeatures(str(folder), ch_names=NAMES, sfreq=250.0, **settings)


def test_a_pipeline_clones_pickles_and_decodes(folder):
    X, y = trials_of()
    model = make_pipeline(features(folder), StandardScaler(), LogisticRegression(max_iter=1000))
    model = clone(model).fit(X[:16], y[:16])
    assert model.score(X[16:], y[16:]) == 1.0
    content = pickle.dumps(model)
    assert len(content) < 40_000
    assert pickle.loads(content).predict(X).tolist() == model.predict(X).tolist()


def test_a_row_depends_on_its_own_trial(folder, tmp_path):
    X, _ = trials_of()
    whole = features(folder).fit(X).transform(X)
    alone = features(folder, cache=tmp_path / "cache").fit(X[5:6]).transform(X[5:6])
    np.testing.assert_allclose(alone[0], whole[5], atol=1e-5)
    assert len(list((tmp_path / "cache").glob("*.npy"))) == 1  # also what was in memory


def test_what_is_cached_is_not_computed_again(folder, tmp_path, monkeypatch):
    X, _ = trials_of()
    kept = features(folder, cache=tmp_path / "cache", scale=2e-5)
    wanted = kept.fit(X).transform(X)
    assert len(list((tmp_path / "cache").glob("*.npy"))) == 24
    monkeypatch.setattr("use.features._STORE", {})
    monkeypatch.setattr(EEGEncoder, "embed", None)
    again = features(folder, cache=tmp_path / "cache", scale=2e-5)
    assert np.array_equal(again.fit(X).transform(X), wanted)
    with pytest.raises(TypeError):
        features(folder, cache=tmp_path / "cache", scale=3e-5).fit(X)


def test_a_scale_that_was_fitted(folder):
    """One number of the training trials: new trials keep how loud they are."""
    X, _ = trials_of()
    fitted = features(folder, scale="fit").fit(X[:12])
    measured = prepare_trials(X[:12], NAMES, 250.0, get_profile("default"), scale="recording")
    assert fitted.scale_ == measured.scale_v[0]
    fixed = features(folder, scale=float(fitted.scale_)).fit(X[:12])
    assert np.array_equal(fitted.transform(X[12:]), fixed.transform(X[12:]))
    louder = fitted.transform(3 * X[12:])
    assert np.abs(louder - fitted.transform(X[12:])).max() > 1e-3
    assert not hasattr(clone(fitted), "scale_")
    again = pickle.loads(pickle.dumps(fitted))
    assert np.array_equal(again.transform(3 * X[12:]), louder)


def test_a_cache_of_other_code_is_not_read(folder, tmp_path, monkeypatch):
    X, _ = trials_of(4)
    features(folder, cache=tmp_path).fit(X).transform(X)
    monkeypatch.setattr("use.features.code_hash", lambda: "another version")
    features(folder, cache=tmp_path).fit(X).transform(X)
    assert len(list(tmp_path.glob("*.npy"))) == 8


def test_epochs_bring_names_and_rate(folder):
    raw = recording()
    events, ids = mne.events_from_annotations(raw, verbose="error")
    epochs = mne.Epochs(raw, events, ids, 0, 2, baseline=None, preload=True, verbose="error")
    found = EEGFeatures(str(folder)).fit(epochs).transform(epochs)
    arrays = features(folder).fit(epochs.get_data()).transform(epochs.get_data())
    np.testing.assert_allclose(found, arrays, atol=1e-3)


def test_a_scale_over_trials_is_refused(folder):
    with pytest.raises(InputError, match="must not depend on other trials"):
        features(folder, scale="recording").fit(trials_of()[0])
    with pytest.raises(InputError, match="no such encoder"):
        features("nowhere").fit(trials_of()[0])


# ---- MOABB -------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["WithinSession", "CrossSession", "CrossSubject"])
def test_moabbs_evaluations_take_it(kind, folder, tmp_path):
    import moabb.evaluations
    from moabb.datasets.fake import FakeDataset
    from moabb.paradigms import LeftRightImagery

    from use.moabb_paradigms import as_trained

    encoder = EEGEncoder.from_pretrained(folder)
    dataset = FakeDataset(
        ["left_hand", "right_hand"], n_subjects=2, n_sessions=2, n_runs=1, stim=True,
        duration=60, seed=0,
    )  # fmt: skip
    paradigm = as_trained(LeftRightImagery(), encoder)
    X, labels, _ = paradigm.get_data(dataset, subjects=[1])
    assert X.shape[1] == 3  # C3, Cz, C4
    assert 0.1 < np.abs(X).mean() < 3  # the encoder's units
    assert set(labels) == {"left_hand", "right_hand"}
    arrays = {"ch_names": ["C3", "Cz", "C4"], "sfreq": 200.0, "unit": "uV"}
    scores = []
    for of_epochs in (False, True):  # Epochs bring names and rate
        own = {} if of_epochs else arrays
        pipeline = make_pipeline(
            EEGFeatures(str(folder), filtered=True, scale=1e-6, **own),
            StandardScaler(), LogisticRegression(max_iter=500),
        )  # fmt: skip
        evaluation = getattr(moabb.evaluations, f"{kind}Evaluation")(
            paradigm=paradigm, datasets=[dataset], overwrite=True,
            hdf5_path=str(tmp_path / str(of_epochs)), return_epochs=of_epochs,
        )  # fmt: skip
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            scores.append(evaluation.process({"encoder": pipeline})["score"].to_numpy())
    assert len(scores[0]) >= 2
    np.testing.assert_allclose(scores[1], scores[0], atol=0.05)


@pytest.mark.slow
def test_a_real_dataset_of_moabb(folder, mne_data):
    """PhysionetMI's person 1: the paradigm's trials are the encoder's own signal."""
    from moabb.datasets import PhysionetMI
    from moabb.paradigms import LeftRightImagery

    from use.moabb_paradigms import as_trained

    encoder = EEGEncoder.from_pretrained(folder)
    paradigm = as_trained(LeftRightImagery(), encoder)
    epochs, labels, meta = paradigm.get_data(PhysionetMI(), subjects=[1], return_epochs=True)
    assert len(epochs) == len(labels) == len(meta)
    assert len(epochs.ch_names) == 64
    features = EEGFeatures(str(folder), filtered=True, scale=1e-6, pool="channel").fit(epochs)
    found = features.transform(epochs)
    assert found.shape == (len(epochs), 64 * 8)
    assert np.isfinite(found).all()
    assert 0.3 < np.median(np.abs(epochs.get_data())) * 1e6 < 1.5


def test_paradigms_that_do_not_fit_are_refused(encoder):
    from moabb.paradigms import FilterBankLeftRightImagery, LeftRightImagery

    from use.moabb_paradigms import as_trained

    with pytest.raises(InputError, match="resamples to 128"):
        as_trained(LeftRightImagery(resample=128), encoder)
    with pytest.raises(InputError, match="bands"):
        as_trained(FilterBankLeftRightImagery(), encoder)
    given = LeftRightImagery()
    as_trained(given, encoder)
    assert type(given) is LeftRightImagery
    assert torch.is_tensor(next(encoder.model.parameters()))


# ---- the page ----------------------------------------------------------------------------------


def code_of(page: str, name: str) -> str:
    text = (ROOT / page).read_text()
    return text.split(f"```python\n# {name}\n")[1].split("```")[0]


def test_the_page_runs(folder, tmp_path, monkeypatch):
    """The code of docs/use.md, but for MOABB's evaluation, which is above."""
    raw = recording()
    raw.save(tmp_path / "recording_raw.fif", verbose="error")
    (tmp_path / "encoder").symlink_to(folder)
    monkeypatch.chdir(tmp_path)
    trials, labels = trials_of()
    known = {"names": NAMES, "trials": trials * 1e6, "labels": labels}
    known |= {"eeg": torch.randn(2, 12, 200), "channel_mask": torch.ones(2, 12).bool()}
    known["few"] = recording(names=NAMES[:7])
    for name in ("features", "arrays", "sklearn", "transformers", "processor"):
        code = code_of("docs/use.md", name).replace("recording.edf", "recording_raw.fif")
        if name == "transformers":
            known["positions_m"] = torch.from_numpy(known["signals"].positions_m)
        exec(compile(code, name, "exec"), known)
        if name == "features":
            assert known["features"].shape == (80, 192)
    assert known["pipeline"].score(known["trials"], labels) == 1.0
    assert known["found"].pooler_output.shape == (160, 32)
