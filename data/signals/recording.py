"""What a source hands to preprocessing, and what preprocessing hands to the packer.

Plain containers between the modules that read files (data/sources/), the one that treats signals
(data/signals/eeg.py) and the one that writes shards (data/pack.py). A source reads and describes;
it never filters, references or scales, so that every source gets the same treatment.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import mne

    from data.shards.sensors import MegSensors

WHITENED = "whitened"
"""A unit: channels were mixed until their noise was white (data/signals/whitened.py)."""


@dataclass(frozen=True)
class Event:
    """One event that an event window is cut at."""

    onset_s: float
    """Seconds from the first sample of the recording."""
    label: int | str | None = None
    image: str | None = None


@dataclass(frozen=True)
class MegOptions:
    """What is done to a paired recording besides filtering; written into its record."""

    sss: bool = False
    """Signal-space separation (Maxwell filter) of the MEG. It leaves about 70 independent
    components of 306 sensors."""
    regress: tuple[str, ...] = ()
    """Channel types ("eog", "ecg") whose linear part is taken out of both EEG and MEG."""


@dataclass
class Recording:
    """One continuous recording in volts (`raw`), or one set of cut `segments`.

    Segments are float32 `[C, L]` arrays (L may differ between them) with one dict of
    `segment_meta` each, and carry their own `channel_names` and `positions_m` (`[C, 3]`, metres,
    MNE's head frame). `raw` may hold any channels: preprocessing picks the EEG ones.
    """

    dataset: str
    subject: str
    session: str
    run: str
    raw: mne.io.BaseRaw | None = None
    events: list[Event] | None = None
    """None: continuous windows. A list: one window for each event."""
    segments: list[np.ndarray] | np.ndarray | None = None
    """WHITENED ones are one array `[n, C, L]`, which may be mapped."""
    segment_meta: list[dict] | None = None
    segment_sfreq_hz: float | None = None
    channel_names: list[str] | None = None
    positions_m: np.ndarray | None = None
    unit: str = "V"
    """"V"; where the source gives no physical unit "standardised", or WHITENED."""
    mains_hz: float | None = None
    """50 or 60 where the country is known; None: measured from the spectrum."""
    montage: str | None = None
    """A built-in montage of MNE to take positions from, where the file itself has none."""
    source_files: list[Path] = field(default_factory=list)
    """Hashed (SHA-256) into the manifest."""
    meg: MegOptions | None = None
    """What is done to the MEG of a paired recording; None: nothing but what is done to the EEG."""
    label: str | None = None
    """Of the whole recording, for windows without a label of their own."""
    labels: dict[str, str] = field(default_factory=dict)
    """What else a table of labels says of it: column -> cell."""
    notes: dict = field(default_factory=dict)
    """What the source assumed or mended; JSON-able, copied into the manifest's record."""
    remarks: list[str] = field(default_factory=list)
    """Sentences for people on the same, readers' warnings among them: kept in the manifest's record
    and printed at the end of packing (data/shards/remarks.py). Files are named without their
    folders."""

    @property
    def id(self) -> str:
        """A name for the manifest: letters, digits, `_` and `-` only, no dots."""
        return safe_name(f"{self.dataset}_sub-{self.subject}_ses-{self.session}_run-{self.run}")


@dataclass
class Windows:
    """What preprocessing makes of a Recording."""

    data: np.ndarray
    """float16 `[n, C, T]`, in units of `info["scale_uv"]` microvolts."""
    meta: list[dict]
    """One small JSON-able dict for each window: onset_s, label, image ... where they exist."""
    channels: list[str]
    positions_m: np.ndarray
    """float64 `[C, 3]`, metres, MNE's head frame."""
    info: dict
    """The recording's record in the manifest; keys: `data.signals.eeg.make_windows`."""
    meg: np.ndarray | None = None
    """Paired recordings: float16 `[n, Ct, T]`, in units of `info["meg_scale"]` (tesla for "mag",
    tesla/metre for "grad")."""
    sensors: MegSensors | None = None
    amplitudes: dict | None = None
    """With a scale by session: what that is made of (data/signals/session_scale.py); `data` is
    unclipped then, in units of the recording's own scale."""


def safe_name(text: str) -> str:
    """`text` with every run of other characters than letters, digits, `_`, `-` made one `-`."""
    return re.sub(r"[^A-Za-z0-9_-]+", "-", text).strip("-")
