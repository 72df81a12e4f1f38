"""The encoder as a scikit-learn transformer: trials in, features out; the encoder stays as it is.

    make_pipeline(EEGFeatures("encoder/", ch_names=names, sfreq=250), StandardScaler(),
                  LogisticRegression(max_iter=1000))

The encoder is given by its path and loaded on first use, so a pipeline clones, pickles to a few kB
and runs in joblib's workers; whoever unpickles it needs the path. Embeddings are cached by trial,
since cross-validation passes each trial through the frozen encoder many times.
"""

from __future__ import annotations

import functools
import hashlib
import io
import json
from importlib.metadata import version
from pathlib import Path

import mne
import numpy as np
from sklearn.base import BaseEstimator, TransformerMixin
from sklearn.utils.validation import check_is_fitted

from data.errors import InputError
from data.files import write_atomic
from data.spacing import evenly
from use.encoder import EEGEncoder
from use.health import refuse_collapsed

LOOKED_AT = 8
"""Trials whose features `fit` compares."""
MEASURED = 200
"""Trials that `scale="fit"` is taken from."""
ROOT = Path(__file__).resolve().parents[1]
BETWEEN = ("data/electrodes", "data/signals", "model", "use")
"""Folders whose code lies between a trial and its features."""


class EEGFeatures(TransformerMixin, BaseEstimator):
    """Args:
    encoder: path of a converted encoder or a run.
    ch_names, sfreq: of arrays; mne.Epochs bring their own.
    unit: of arrays: V, mV or uV (MOABB's arrays are uV).
    montage: a built-in montage's name, where names alone do not tell the places.
    filtered: the trials hold no more than the encoder's band, so they are not filtered again.
    scale: what trials are divided by: `window`, each by its own robust amplitude; `fit`, all by
        that of the trials given to `fit` (wrong across people whose amplifiers differ); or volts.
    pool: mean, mean_std, channel, channel_std (model/pooling.py).
    device: cpu or cuda[:N].
    cache: a folder in which embeddings are kept by trial [only in memory].

    X: `[n, C, T]` or mne.Epochs; `transform` gives float32 `[n, D]`. A row depends on its own trial
    alone.
    """

    def __init__(
        self, encoder, ch_names=None, sfreq=None, unit="V", montage=None, filtered=False,
        scale="window", pool="channel_std", device="cpu", cache=None,
    ):  # fmt: skip
        self.encoder = encoder
        self.ch_names = ch_names
        self.sfreq = sfreq
        self.unit = unit
        self.montage = montage
        self.filtered = filtered
        self.scale = scale
        self.pool = pool
        self.device = device
        self.cache = cache

    def fit(self, X, y=None):
        """Settings are checked, the number of features is found, and with `scale="fit"` the scale.
        InputError where the features of the first trials are all the same though the trials are
        not."""
        if self.scale == "recording":
            raise InputError(
                "scale='recording'", "a trial's features must not depend on other trials: use "
                "'window', 'fit', or a number of volts"
            )  # fmt: skip
        if self.scale == "fit":
            self.scale_ = self._amplitude(X[evenly(len(X), MEASURED)])
        first = self.transform_checked(X[:LOOKED_AT])
        if len(first) > 1 and np.ptp(_values(X[:LOOKED_AT]), axis=0).any():
            refuse_collapsed(first, f"{self.encoder}, pool={self.pool}")
        self.n_features_out_ = first.shape[1]
        return self

    def transform(self, X):
        """float32 `[n, D]`."""
        check_is_fitted(self, "n_features_out_")
        return self.transform_checked(X)

    def transform_checked(self, X) -> np.ndarray:
        """`transform`, also before `fit`."""
        encoder = loaded(str(self.encoder), self.device)
        trials = _values(X)
        if not len(trials):
            return np.zeros((0, getattr(self, "n_features_out_", 0)), np.float32)
        names = [self._name(encoder, trial, X) for trial in trials]
        store = _STORE.setdefault(encoder.sha256, {})
        missing = [row for row, name in enumerate(names) if self._known(store, name) is None]
        if missing:
            found = encoder.embed(X[missing], pool=self.pool, **self._settings(X))
            for row, features in zip(missing, found, strict=True):
                store[names[row]] = features
        for name in names:
            self._keep(name, store[name])
        return np.stack([store[name] for name in names])

    def __sklearn_tags__(self):
        tags = super().__sklearn_tags__()
        tags.input_tags.three_d_array = True
        return tags

    def get_feature_names_out(self, input_features=None) -> np.ndarray:
        """`pool_0`, `pool_1`, ..."""
        check_is_fitted(self, "n_features_out_")
        return np.array([f"{self.pool}_{i}" for i in range(self.n_features_out_)], dtype=object)

    def _settings(self, X) -> dict:
        scale = self.scale_ if self.scale == "fit" else self.scale
        found = {"filtered": self.filtered, "scale": scale}
        if self.montage is not None:
            found["montage"] = self.montage
        if not isinstance(X, mne.BaseEpochs):
            found |= {"unit": self.unit, "ch_names": self.ch_names, "sfreq": self.sfreq}
        return found

    def _amplitude(self, X) -> float:
        """Volts: one robust amplitude of all trials, as the encoder reads them."""
        self.scale_ = "recording"
        encoder = loaded(str(self.encoder), self.device)
        return float(encoder.prepare(X, **self._settings(X)).scale_v[0])

    def _name(self, encoder: EEGEncoder, trial: np.ndarray, X) -> str:
        settings = {**self._settings(X), "pool": self.pool, "encoder": encoder.sha256}
        settings["code"] = code_hash()
        if isinstance(X, mne.BaseEpochs):
            places = [channel["loc"][:3].tolist() for channel in X.info["chs"]]
            settings |= {"names": X.ch_names, "sfreq": X.info["sfreq"], "places": places}
        digest = hashlib.sha256(json.dumps(settings, sort_keys=True, default=str).encode())
        digest.update(str((trial.shape, trial.dtype)).encode())
        digest.update(np.ascontiguousarray(trial).tobytes())
        return digest.hexdigest()

    def _known(self, store: dict, name: str) -> np.ndarray | None:
        if name not in store and self.cache is not None:
            path = Path(self.cache) / f"{name}.npy"
            if path.is_file():
                store[name] = np.load(path, allow_pickle=False)
        return store.get(name)

    def _keep(self, name: str, features: np.ndarray) -> None:
        if self.cache is None or (path := Path(self.cache) / f"{name}.npy").is_file():
            return
        path.parent.mkdir(parents=True, exist_ok=True)
        content = io.BytesIO()
        np.save(content, features, allow_pickle=False)
        write_atomic(path, content.getvalue())


def _values(X) -> np.ndarray:
    """`[n, C, T]` of an array or mne.Epochs."""
    return X.get_data(picks="eeg") if isinstance(X, mne.BaseEpochs) else np.asarray(X)


_STORE: dict[str, dict[str, np.ndarray]] = {}
"""Of this process, by the encoder's hash: settings and trial -> features."""


@functools.cache
def code_hash() -> str:
    """Of the code and the libraries that make features: a cache on disk outlives them."""
    digest = hashlib.sha256()
    for path in sorted(path for folder in BETWEEN for path in (ROOT / folder).glob("*.py")):
        digest.update(path.read_bytes())
    for library in ("mne", "numpy", "scipy", "torch"):
        digest.update(version(library).encode())
    return digest.hexdigest()


@functools.lru_cache(maxsize=2)
def loaded(path: str, device: str) -> EEGEncoder:
    """The encoder of a path, once in a process."""
    if not Path(path).exists():
        raise InputError(f"{path}: no such encoder", "a pipeline holds the path, not the weights")
    return EEGEncoder.from_pretrained(path, device)
