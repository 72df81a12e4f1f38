"""Preprocessing profiles: every number that turns a recording into windows, in one place.

A profile is written whole into the shard manifest, so that two shard folders can be compared and
a run can say what its signal was. `default` follows what recent EEG encoders agree on (0.5-75 Hz,
200 Hz, average reference, one robust scale per recording, or by `scale` per session); `brain2image`
has the rate, band and length of the DreamDiffusion line (1000 Hz, 512 samples, 5-95 Hz), so that
its shapes can be had.
Those called `eeg2meg` keep MEG beside the EEG, for recordings that hold both: 1-40 Hz at 250 Hz;
`_wide` 0.1-100 Hz; `_200` the rate and band of `default`, so that an encoder pretrained on it fits.
`things2_published` packs pre-processed arrays as they are, at 250 Hz from onset on; `_100` those at
100 Hz from 0.2 s before it. Their bands are the amplifier's.
The coils that track the head (293-328 Hz) are filtered out in all of them.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace

from data.errors import InputError, did_you_mean

SCALES = ("recording", "session")
"""What windows share a scale."""


@dataclass(frozen=True)
class Profile:
    """How a recording becomes windows. Times are seconds, rates and bands hertz."""

    name: str
    sfreq_hz: float
    """Sampling rate of the windows."""
    window_samples: int
    """Length of a continuous window, in samples at `sfreq_hz`; windows do not overlap."""
    l_freq_hz: float
    """High-pass edge of the zero-phase FIR band-pass."""
    h_freq_hz: float
    """Low-pass edge of the band-pass; lowered to 0.45 x the source's rate where that is smaller."""
    event_tmin_s: float
    """Start of an event window, relative to the event."""
    event_samples: int
    """Length of an event window, in samples at `sfreq_hz`."""
    segment_start: int
    """VC segments: first source sample that is used (1 kHz samples, as published)."""
    segment_stop: int
    """VC segments: one past the last source sample that is used."""
    segment_samples: int
    """VC segments: length of the window, in samples at `sfreq_hz`."""
    segment_stretch: bool
    """VC segments: True resamples start..stop to exactly `segment_samples` (the original's way,
    which changes the time axis); False resamples to `sfreq_hz` and cuts to `segment_samples`."""
    clip: float = 15.0
    """Scaled samples are clipped at +-clip."""
    saturated_fraction: float = 0.01
    """A window with more than this fraction of clipped samples is dropped."""
    reference: str = "average"
    """"average": over the good EEG channels, the one reference every source can reach; "own": as
    recorded, for an encoder's input of too few channels, and for arrays published whitened."""
    scale: str = "recording"
    """"recording": a robust scale for each; "session": one for all of a person's recordings of a
    session, which keeps how their amplitudes differ (data/signals/session_scale.py)."""
    meg: bool = False
    """True: pairs. MEG is kept beside the EEG, and a recording without MEG is refused."""

    def __post_init__(self):
        for field in ("sfreq_hz", "window_samples", "event_samples", "segment_samples", "clip"):
            if not getattr(self, field) > 0:
                raise InputError(f"profile field {field}={getattr(self, field)}", "it must be > 0")
        if not 0 < self.l_freq_hz < self.h_freq_hz < self.sfreq_hz / 2:
            raise InputError(
                f"profile {self.name}: band {self.l_freq_hz}-{self.h_freq_hz} Hz",
                f"it must lie inside 0-{self.sfreq_hz / 2} Hz (half of sfreq_hz)",
            )

        if self.scale not in SCALES:
            raise InputError(
                f"scale={self.scale}", did_you_mean(self.scale, SCALES, "The scales are")
            )
        if self.meg and self.scale != "recording":
            raise InputError(
                f"profile {self.name}: scale={self.scale} with MEG",
                "leave it out: pairs are read in volts and tesla, whatever they were scaled by",
            )

    def as_dict(self) -> dict:
        """For the manifest; `meg` and `scale` only where they are not the usual."""
        usual = {"meg": False, "scale": "recording"}
        return {k: v for k, v in asdict(self).items() if k not in usual or v != usual[k]}


PROFILES = {
    "default": Profile(
        name="default", sfreq_hz=200.0, window_samples=800, l_freq_hz=0.5, h_freq_hz=75.0,
        event_tmin_s=-0.2, event_samples=200,
        segment_start=20, segment_stop=420, segment_samples=80, segment_stretch=False,
    ),
    "brain2image": Profile(
        name="brain2image", sfreq_hz=1000.0, window_samples=512, l_freq_hz=5.0, h_freq_hz=95.0,
        event_tmin_s=-0.128, event_samples=640,
        segment_start=20, segment_stop=480, segment_samples=512, segment_stretch=True,
    ),
    "eeg2meg": Profile(
        name="eeg2meg", sfreq_hz=250.0, window_samples=256, l_freq_hz=1.0, h_freq_hz=40.0,
        event_tmin_s=-0.2, event_samples=256, meg=True,
        segment_start=20, segment_stop=420, segment_samples=100, segment_stretch=False,
    ),
    "eeg2meg_wide": Profile(
        name="eeg2meg_wide", sfreq_hz=250.0, window_samples=256, l_freq_hz=0.1, h_freq_hz=100.0,
        event_tmin_s=-0.2, event_samples=256, meg=True,
        segment_start=20, segment_stop=420, segment_samples=100, segment_stretch=False,
    ),
    "eeg2meg_200": Profile(
        name="eeg2meg_200", sfreq_hz=200.0, window_samples=256, l_freq_hz=0.5, h_freq_hz=75.0,
        event_tmin_s=-0.2, event_samples=256, meg=True,
        segment_start=20, segment_stop=420, segment_samples=80, segment_stretch=False,
    ),
    "things2_published": Profile(
        name="things2_published", sfreq_hz=250.0, window_samples=250, l_freq_hz=0.1,
        h_freq_hz=100.0, event_tmin_s=0.0, event_samples=250, reference="own",
        segment_start=0, segment_stop=250, segment_samples=250, segment_stretch=False,
    ),
    "things2_published_100": Profile(
        name="things2_published_100", sfreq_hz=100.0, window_samples=100, l_freq_hz=0.1,
        h_freq_hz=49.0, event_tmin_s=-0.2, event_samples=100, reference="own",
        segment_start=0, segment_stop=100, segment_samples=100, segment_stretch=False,
    ),
}  # fmt: skip


def get_profile(name: str, window_s: float | None = None, scale: str = "recording") -> Profile:
    """The profile called `name`, optionally with another length of continuous windows (seconds),
    scaled by recording or by session."""
    if name not in PROFILES:
        raise InputError(
            f"--profile {name}: no such profile",
            did_you_mean(name, PROFILES, "The profiles are"),
        )
    profile = replace(PROFILES[name], scale=scale)
    if window_s is None:
        return profile
    if window_s <= 0:
        raise InputError(f"--window_s {window_s}: not a length", "give seconds > 0, e.g. 2")
    return replace(profile, window_samples=max(1, round(window_s * profile.sfreq_hz)))
