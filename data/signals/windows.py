"""The door from recordings to windows: chooses how a recording is treated."""

from __future__ import annotations

from data.signals.profiles import Profile
from data.signals.recording import Recording, Windows


def make_windows(recording: Recording, profile: Profile) -> Windows:
    """`data.signals.eeg.make_windows`; of a profile with MEG `data.signals.eeg_meg.make_windows`.
    Imported when called: MNE takes a second to import."""
    if profile.meg:
        from data.signals.eeg_meg import make_windows as implementation
    else:
        from data.signals.eeg import make_windows as implementation

    return implementation(recording, profile)
