"""Small recordings in real formats, written by hand where no library writes what a test needs."""

from __future__ import annotations

from pathlib import Path

import numpy as np


def write_edf(path: Path, onsets, channels, counts, sfreq: int, notes=None, kind="EDF+D") -> None:
    """An EDF+ file of one-second records that began at `onsets` (seconds).

    `counts` int16 `[C, len(onsets) * sfreq]`, a tenth of a microvolt each; `notes` {seconds: text}.
    """

    def text(value, width: int) -> bytes:
        return str(value).ljust(width).encode()

    labels, notes_samples = [*channels, "EDF Annotations"], 40
    count = len(labels)
    header = [
        text("0", 8), text("X X X X", 80), text("Startdate 01-JAN-2020 X X X", 80),
        b"01.01.20", b"00.00.00", text(256 * (count + 1), 8), text(kind, 44),
        text(len(onsets), 8), text(1, 8), text(count, 4),
    ]  # fmt: skip
    signal = [label != "EDF Annotations" for label in labels]
    header += [text(label, 16) for label in labels] + [text("", 80)] * count
    header += [text("uV" if is_signal else "", 8) for is_signal in signal]
    header += [text(-3276.8 if is_signal else -1, 8) for is_signal in signal]
    header += [text(3276.7 if is_signal else 1, 8) for is_signal in signal]
    header += [text(-32768, 8)] * count + [text(32767, 8)] * count + [text("", 80)] * count
    header += [text(sfreq, 8)] * len(channels) + [text(notes_samples, 8)] + [text("", 32)] * count
    records = []
    for index, onset in enumerate(onsets):
        stamp = f"+{onset:g}\x14\x14\0".encode()
        for second, note in (notes or {}).items():
            if onset <= second < onset + 1:
                stamp += f"+{second:g}\x14{note}\x14\0".encode()
        block = counts[:, index * sfreq : (index + 1) * sfreq].astype("<i2")
        records.append(block.tobytes() + stamp.ljust(2 * notes_samples, b"\0"))
    path.write_bytes(b"".join([*header, *records]))


def write_brainvision(path: Path, channels, minutes, sfreq: int, rng, segments=(1,)) -> None:
    """White noise, a minute at a time, in BrainVision files; `segments`: first sample (from 1) of
    each "New Segment" marker."""
    stem = path.stem
    with open(path.with_suffix(".eeg"), "wb") as file:
        for seconds in np.diff([*np.arange(0, minutes, 1), minutes]) * 60:
            noise = rng.standard_normal((round(seconds * sfreq), len(channels)), np.float32)
            file.write((300 * noise).astype("<i2").tobytes())
    markers = [f"Mk{i}=New Segment,,{at},1,0" for i, at in enumerate(segments, start=1)]
    path.with_suffix(".vmrk").write_text(
        "Brain Vision Data Exchange Marker File, Version 1.0\n"
        f"[Common Infos]\nDataFile={stem}.eeg\n[Marker Infos]\n" + "\n".join(markers) + "\n"
    )
    names = "".join(f"Ch{i}={name},,0.1,uV\n" for i, name in enumerate(channels, start=1))
    path.with_suffix(".vhdr").write_text(
        "Brain Vision Data Exchange Header File Version 1.0\n"
        f"[Common Infos]\nDataFile={stem}.eeg\nMarkerFile={stem}.vmrk\nDataFormat=BINARY\n"
        f"DataOrientation=MULTIPLEXED\nNumberOfChannels={len(channels)}\n"
        f"SamplingInterval={1e6 / sfreq:g}\n[Binary Infos]\nBinaryFormat=INT_16\n"
        f"[Channel Infos]\n{names}"
    )
