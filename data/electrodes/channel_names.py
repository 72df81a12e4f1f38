"""What files call their electrodes: one grammar, used wherever a channel's name is compared.

`EEG Fp1-Ref`, `eeg Fp1`, `Fp1 REF`, `EEG Fp1-A1`, `POL Fp1`, `Fp1-LE`, `Fp1.` and `Fp1-0` (MNE's
running number of a name that is there twice) are all Fp1. `Fp1-F7` is the difference of two
electrodes, which has no place on the head. Case and spaces tell nothing apart.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

NOT_EEG = re.compile(
    r"(.*EOG.*|VEO[UL]?|HEO[LR]?|[LR]OC|.*ECG.*|.*EKG.*|.*EMG.*|M1|M2|A1|A2|PG[12]|EXG\d*|ERG\d*"
    r"|GSR\d*|EDA|RESP\w*|RESP .*|PLET\w*|PPG|SPO2|SAO2|PULSE\w*|TEMP|STATUS|STI\s*\d*|STIM?\w*"
    r"|TRIG\w*|MARK(ER)?\w*|EVENTS?|PHOTO\w*|PHOTIC\w*|IBI|BURSTS|SUPPR|DC\d+|ERGO.*"
    r"|ACC[_-]?[XYZ]|NZ|LPA|RPA)",
    re.IGNORECASE,
)
"""Plain names of channels that are often typed EEG and are none."""
RENAMED = {"t3": "t7", "t4": "t8", "t5": "p7", "t6": "p8"}
"""The 10-20 system's names of 1958 -> those of the 10-10 system (Chatrian et al. 1985)."""

_TYPE = r"(?:EEG|POL)"
_REFERENCE = (
    r"V?REF\d?|REFERENCE|LE|C?LER?|LM|AVG?|AVE|AVERAGE|C?AR|AA|A1|A2|M1|M2|A1\+?A2|M1\+?M2|A12"
)
_ELECTRODE = r"[AFCTPOIN]{1,4}(?:\d{1,2}|Z)H?"
_WITH_TYPE = re.compile(rf"{_TYPE}[ _:-]*([A-Z]+\d*[A-Z]?'?(?:[-_ ].*)?)", re.IGNORECASE)
_WITH_REFERENCE = re.compile(rf"(.*?\w.*?)\s*[-_ :]\s*\(?({_REFERENCE})\)?", re.IGNORECASE)
_DIFFERENCE = re.compile(rf"({_ELECTRODE})\s*[-_ ]\s*({_ELECTRODE})", re.IGNORECASE)
_NUMBERED = re.compile(rf"(.*(?:{_ELECTRODE}|[-_ ](?:{_REFERENCE})))-\d", re.IGNORECASE)


@dataclass(frozen=True)
class Label:
    """What a channel's label says."""

    name: str
    """The electrode, as the file writes it, without type, reference and running number."""
    reference: str | None = None
    minus: str | None = None
    """The second electrode of a difference (a bipolar channel), whose `name` is then both."""

    @property
    def key(self) -> str:
        return name_key(self.name)


def parse_label(label: str) -> Label:
    """A channel's label, taken apart."""
    text = label.strip().strip(".").strip()
    match = _WITH_TYPE.fullmatch(text)
    text = match[1] if match else text
    match = _NUMBERED.fullmatch(text)
    text = match[1] if match else text
    match = _WITH_REFERENCE.fullmatch(text)
    if match:
        return Label(match[1].strip(" ."), match[2].upper())
    match = _DIFFERENCE.fullmatch(text)
    return Label(text, minus=match[2] if match else None)


def parse_labels(labels: Sequence[str]) -> list[Label]:
    """As `parse_label`, of all channels of a recording: where every one is measured against the
    same electrode (`Fp1-Cz`, `F3-Cz` ...), that is the reference and none is a difference."""
    parsed = [parse_label(label) for label in labels]
    seconds = {name_key(label.minus) if label.minus else None for label in parsed}
    if len(parsed) < 3 or len(seconds) > 1 or None in seconds:
        return parsed
    firsts = (_DIFFERENCE.fullmatch(label.name)[1] for label in parsed)
    return [
        replace(label, name=first, reference=label.minus.upper(), minus=None)
        for label, first in zip(parsed, firsts, strict=True)
    ]


def plain_name(label: str) -> str:
    """'Fc5.' -> 'Fc5', 'EEG FP1-REF' -> 'FP1'; 'EEG 001' stays."""
    return parse_label(label).name


def name_key(label: str) -> str:
    """What is compared: the plain name in lower case, without spaces. Equal for all spellings of
    one electrode, but for its older name (`RENAMED`)."""
    return re.sub(r"\s+", "", plain_name(label)).casefold()


def keys_of(label: str) -> list[str]:
    """Keys to look a label up by, the best first: its own, then its name in the other system."""
    key = name_key(label)
    back = {new: old for old, new in RENAMED.items()}
    return [key, *(table[key] for table in (RENAMED, back) if key in table)]


def is_other_than_eeg(label: str) -> bool:
    """Whether a label names an eye, a muscle, an ear, a trigger ..."""
    return bool(NOT_EEG.fullmatch(plain_name(label)))


def match_names(wanted: Iterable[str], present: Sequence[str]) -> dict[str, list[str]]:
    """For each of `wanted`, those of `present` that it names (several where one electrode is there
    twice, none where it is not): letter by letter, else by key, else by the older or newer name.
    A channel that is named more closely by one is not taken for another."""
    found: dict[str, list[str]] = {name: [] for name in wanted}
    free = dict.fromkeys(present)
    for name in found:
        if name in free:
            found[name] = [name]
            del free[name]
    for place in range(2):
        taken = []
        by_key: dict[str, list[str]] = {}
        for name in free:
            by_key.setdefault(name_key(name), []).append(name)
        for name, channels in found.items():
            keys = keys_of(name)
            if not channels and place < len(keys):
                found[name] = by_key.get(keys[place], [])
                taken += found[name]
        for name in taken:
            free.pop(name, None)
    return found
