"""Cut a filtered recording into windows, scale them, and drop and count the unusable ones.

Continuous windows lie on a grid without overlap that starts anew after each BAD stretch; event
windows start `event_tmin_s` from each event, rounded to the nearest sample. One robust scale for
the whole recording keeps the differences between channels and between moments; one by session also
those between recordings (data/signals/session_scale.py).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from data.files import scratch_array
from data.signals.bad_channels import robust_amplitude, spread
from data.signals.profiles import Profile
from data.signals.recording import Event
from data.signals.session_scale import LARGEST

MOST_SAMPLES = 250_000
"""The scale is the median of about this many samples, at evenly spread times: 0.2 % precise."""
NEAR_EDGE = "event too near an edge"


@dataclass(frozen=True)
class Stretches:
    """Where a recording has signal, without joins."""

    spans_s: np.ndarray
    """float64 `[K, 2]`, seconds from the first sample."""
    duration_s: float

    @classmethod
    def of(cls, spans: list[tuple[int, int]], samples: int, sfreq_hz: float) -> Stretches:
        """`spans`: first and last sample + 1 of each, of a recording of `samples`."""
        return cls(np.array(spans, np.float64).reshape(-1, 2) / sfreq_hz, samples / sfreq_hz)


def why_no_window(onset_s: float, stretches: Stretches, window_s: float, tolerance_s: float) -> str:
    """The reason why an event at `onset_s` gives no window of `window_s`, where it gives none."""
    if not -tolerance_s <= onset_s < stretches.duration_s:
        return "event outside the recording"
    begins, ends = stretches.spans_s.T
    around = (begins - tolerance_s <= onset_s) & (onset_s < ends + tolerance_s)
    if not around.any():
        return "event in a gap of the recording"
    if ((ends - begins)[around] < window_s - tolerance_s).all():
        return "event in a stretch shorter than a window"
    return NEAR_EDGE


class WindowCutter:
    """Collects the windows of one recording; `add` its parts, then `finish`."""

    def __init__(
        self,
        profile: Profile,
        channels: np.ndarray,
        events: list[Event] | None,
        stretches: Stretches | None = None,
    ):
        """`channels`: the rows of the parts that windows are made of; `stretches`: of the whole
        recording, to tell why an event gives no window."""
        self.profile, self.channels, self.events = profile, channels, events
        self.stretches = stretches
        self.length = profile.window_samples if events is None else profile.event_samples
        self.dropped: dict[str, int] = {}
        self._places: list[tuple[np.ndarray, int]] = []
        self._meta: list[dict] = []
        self._used: set[int] = set()
        self.kept: list[int] = []
        """Numbers, in order of cutting, of the windows that `finish` returns."""

    def add(self, part, flat, start_s: float, rough: np.ndarray, holes_s: np.ndarray) -> None:
        """Cut `part` float32 `[C, M]`, which begins `start_s` into the recording.

        `flat` bool `[M]`: no signal; `rough` `[K, 2]`: BAD intervals; `holes_s` `[K, 2]`: intervals
        of non-finite samples, both in seconds of the recording.
        """
        for first, extra in self._starts(part.shape[1], start_s, rough):
            onset_s, end_s = self._times(first, start_s)
            if len(_overlapping(rough, onset_s, end_s)):
                self._drop("marked bad in the file")
            elif len(_overlapping(holes_s, onset_s, end_s)):
                self._drop("non-finite samples")
            elif flat[first : first + self.length].mean() > 0.5:
                self._drop("flat")
            else:
                self._places.append((part, first))
                self._meta.append({"onset_s": round(onset_s, 6), **extra})

    def scale(self) -> float | None:
        """1.4826 x median |x| over all channels and windows, or None where there are none."""
        if not self._places:
            return None
        return float(robust_amplitude(self.sample()))

    def sample(self) -> np.ndarray:
        """float32 `[n]`: what the scale is the robust amplitude of."""
        # Times, not single samples: the reference needs all channels of a time.
        times = len(self._places) * self.length
        step = max(1, times * len(self.channels) // MOST_SAMPLES)
        parts = [
            self._window(part, first, step, int(spread(number) * min(step, self.length))).ravel()
            for number, (part, first) in enumerate(self._places)
        ]
        return np.concatenate(parts)

    def finish(self, scale: float | None) -> tuple[np.ndarray, list[dict]]:
        """float16 `[n, C, T]` in units of `scale`, clipped, and the meta of each window. With a
        scale by session the windows are not clipped yet, and none is dropped for it."""
        for number, event in enumerate(self.events or ()):
            if number not in self._used:
                self._drop(self._why_unused(event))
        if self.events == []:
            self._drop("recording without events")
        if not self._places and not self.dropped:
            self._drop("recording shorter than a window")
        whole = self.profile.scale == "session"
        clip, count = np.float32(LARGEST if whole else self.profile.clip), 0
        data = scratch_array((len(self._places), len(self.channels), self.length), np.float16)
        meta = []
        for number, (place, record) in enumerate(zip(self._places, self._meta, strict=True)):
            window = self._window(*place)
            window /= np.float32(scale)
            clipped = np.clip(window, -clip, clip)
            if not whole and self._saturated(number, clipped):
                self._drop("saturated")
                continue
            data[count] = clipped
            meta.append(record)
            self.kept.append(number)
            count += 1
        return data[:count], meta

    def _saturated(self, number: int, clipped: np.ndarray) -> bool:
        """Whether window `number` is to be dropped for its clipped samples."""
        at_clip = np.count_nonzero(np.abs(clipped) >= np.float32(self.profile.clip))
        return at_clip > self.profile.saturated_fraction * clipped.size

    def _window(self, part: np.ndarray, first: int, step: int = 1, skip: int = 0) -> np.ndarray:
        """float32 `[C, T]` of the chosen channels, referenced; at every `step`-th sample time from
        the `skip`-th on."""
        window = part[self.channels, first + skip : first + self.length : step]
        return referenced(window, self.profile.reference)

    def _starts(self, samples: int, start_s: float, rough) -> Iterator[tuple[int, dict]]:
        """First sample of each window that fits into `samples`, with its label and image."""
        if self.events is not None:
            for number, event in enumerate(self.events):
                begin_s = event.onset_s + self.profile.event_tmin_s - start_s
                first = round(begin_s * self.profile.sfreq_hz)
                if first >= 0 and first + self.length <= samples and number not in self._used:
                    self._used.add(number)
                    extra = {"label": event.label, "image": event.image}
                    yield first, {key: value for key, value in extra.items() if value is not None}
            return
        first = 0
        while first + self.length <= samples:
            yield first, {}
            hit = _overlapping(rough, *self._times(first, start_s))
            if len(hit):
                after = np.ceil((hit[:, 1].max() - start_s) * self.profile.sfreq_hz)
                first = max(int(after), first + 1)
            else:
                first += self.length

    def _why_unused(self, event: Event) -> str:
        if self.stretches is None:
            return NEAR_EDGE
        return why_no_window(
            event.onset_s,
            self.stretches,
            self.length / self.profile.sfreq_hz,
            0.5 / self.profile.sfreq_hz,
        )

    def _times(self, first: int, start_s: float) -> tuple[float, float]:
        onset_s = start_s + first / self.profile.sfreq_hz
        return onset_s, onset_s + self.length / self.profile.sfreq_hz

    def _drop(self, reason: str, count: int = 1) -> None:
        self.dropped[reason] = self.dropped.get(reason, 0) + count


def referenced(signal: np.ndarray, reference: str) -> np.ndarray:
    """`signal` `[C, T]`, in place, as a profile's `reference` says."""
    if reference == "average":
        signal -= signal.mean(axis=0)
    return signal


def _overlapping(intervals: np.ndarray, begin: float, end: float) -> np.ndarray:
    """The rows of `intervals` `[K, 2]` that overlap begin..end."""
    return intervals[(intervals[:, 0] < end) & (intervals[:, 1] > begin)]
