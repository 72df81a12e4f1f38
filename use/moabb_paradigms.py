"""MOABB's paradigms with the signal as the encoder was trained on it.

    paradigm = as_trained(LeftRightImagery(), encoder)
    features = EEGFeatures(path, filtered=True, scale=1e-6)
    CrossSubjectEvaluation(paradigm=paradigm, datasets=[...], return_epochs=True).process(
        {"encoder": make_pipeline(features, StandardScaler(), LogisticRegression())})

The default band of MOABB's motor-imagery paradigms is 8-32 Hz, in which an encoder of 0.5-75 Hz
hears little: on PhysionetMI the features' centred cosine with packing's is .20 then, and 1.00 here.
Each recording is treated whole, as packing treats it; one unit of the encoder is 1 uV of what MOABB
hands on, hence `scale=1e-6` and `filtered=True` in EEGFeatures.
"""

from __future__ import annotations

import copy

from moabb.datasets.preprocessing import NamedFunctionTransformer

from data.errors import InputError
from use.encoder import EEGEncoder


class _AsTrained:
    """What stands before a paradigm's class: its raw step is the encoder's, and it gives no data
    of people that the encoder was trained on."""

    def get_data(self, dataset, subjects=None, *args, **settings):
        asked = dataset.subject_list if subjects is None else subjects
        self.encoder_.refuse_trained_on(type(dataset).__name__, asked, self.allow_trained_on_)
        return super().get_data(dataset, subjects, *args, **settings)

    def _get_raw_pipelines(self):
        return [
            NamedFunctionTransformer(
                func=self.encoder_.prepare_raw, display_name="as the encoder was trained"
            )
        ]


def as_trained(paradigm, encoder: EEGEncoder, allow_trained_on: bool = False):
    """A copy of `paradigm` whose raw step (its band) is the encoder's. Bad channels are
    interpolated, so that all recordings keep the dataset's channels. InputError for a paradigm of
    several bands or of another rate; and, when data is asked for, for people that the encoder was
    trained on (with `allow_trained_on` a warning)."""
    if len(paradigm.filters) != 1:
        raise InputError(
            f"a paradigm with {len(paradigm.filters)} bands", "the encoder has one: use a paradigm "
            "with a single band"
        )  # fmt: skip
    rate_hz = paradigm.resample
    if rate_hz not in (None, encoder.profile.sfreq_hz):
        raise InputError(
            f"a paradigm that resamples to {rate_hz:g} Hz",
            f"leave resample out: the encoder reads {encoder.profile.sfreq_hz:g} Hz",
        )
    changed = copy.copy(paradigm)
    kind = type(paradigm)
    changed.__class__ = type(f"AsTrained{kind.__name__}", (_AsTrained, kind), {})
    changed.encoder_, changed.allow_trained_on_ = encoder, allow_trained_on
    return changed
