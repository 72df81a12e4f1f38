"""Who is who: names of datasets and subjects, and datasets in which the same persons appear.

One person must not train under one dataset's name and be tested under another's. Where the numbers
of two datasets are known to mean the same persons, each person is one; where persons are shared but
nobody says who is whom, all subjects of those datasets count as one person, so that they stay on
one side of the split. That costs held-out subjects, never honesty.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from data.errors import InputError

SAME_NUMBERS: dict[str, tuple[str, ...]] = {
    "Lee2019": ("Lee2019_MI", "Lee2019_ERP", "Lee2019_SSVEP"),
    "Shin2017": ("Shin2017A", "Shin2017B"),
    "ErpCore2021": tuple(
        f"ErpCore2021_{name}" for name in ("ERN", "LRP", "MMN", "N170", "N2pc", "N400", "P3")
    ),
    "GuttmannFlury2025": tuple(f"GuttmannFlury2025_{n}" for n in ("ME", "MI", "P300", "SSVEP")),
    "Castillos2023": (
        "CastillosBurstVEP100", "CastillosBurstVEP40", "CastillosCVEP100", "CastillosCVEP40",
    ),
    "Dreyer2023": ("Dreyer2023", "Dreyer2023A", "Dreyer2023B", "Dreyer2023C"),
    "MAMEM": ("MAMEM1", "MAMEM2", "MAMEM3"),
}  # fmt: skip
"""Group -> datasets of MOABB in which subject n is always the same person: one publication, one
list of people, recorded with several tasks (Dreyer2023 is A, B and C together)."""

SHARED_UNNUMBERED: dict[str, tuple[str, ...]] = {
    "Weibo2014": ("Weibo2014", "Beetl2021_B"),
    "Nguyen2017": ("Nguyen2017_L", "Nguyen2017_S", "Nguyen2017_SL", "Nguyen2017_V"),
    "Lee2021Mobile": ("Lee2021Mobile_ERP", "Lee2021Mobile_SSVEP", "BCIComp2020WalkingERP"),
    "Jeong2020": ("Jeong2020", "BCIComp2020UpperLimb"),
    "Mainsah2025": tuple(f"Mainsah2025_{name}" for name in (*"ABCDEFGHIJKLMNOPQR", "S1", "S2")),
}
"""Group -> datasets that share persons under other numbers: Beetl2021_B is cut from Weibo2014;
bigP3BCI (Mainsah2025) has 267 people in studies that count 327; people took part in several of
Nguyen's vocabularies; 23 of Lee's 24 walkers did both tasks.

Two competition sets of Korea University are very probably cut from recordings that its authors also
published whole, though nobody says so. BCIComp2020WalkingERP has Lee2021Mobile's task, speed (1.6
m/s), ages (19-32) and montage of 32 scalp, 14 ear and 4 eye electrodes with a sensor of motion on
the forehead; BCIComp2020UpperLimb has Jeong2020's 60 electrodes and amplifier, and its session of
grasping: cup, ball and card, 50 trials each, on three days."""


TUH = ("TUEG", "TUAB", "TUAR", "TUEP", "TUEV", "TUSL", "TUSZ", "tuh_eeg", "tuh_eeg_abnormal",
       "tuh_eeg_artifact", "tuh_eeg_epilepsy", "tuh_eeg_events", "tuh_eeg_slowing",
       "tuh_eeg_seizure")  # fmt: skip
"""The Temple University corpora, by short and by folder's name. All are cut from TUEG and call a
person the same, but for the evaluation part of TUEV, which numbers people anew."""
OLD_NAMES = {
    "munichmi": "GrosseWentrup2009",
    "ssvepexo": "Kalunga2016",
    "ssvepnakanishi": "Nakanishi2015",
    "ssvepwang": "Wang2016",
    "ssvepmamem1": "MAMEM1",
    "ssvepmamem2": "MAMEM2",
    "ssvepmamem3": "MAMEM3",
    "shin2017": "Shin2017A",
    "openmi": "Cho2017",
    "gigadb": "Cho2017",
}
"""Names of earlier MOABB releases and of papers, in letters and digits only."""


@functools.cache
def plain_dataset(name: str) -> str:
    """One spelling for a dataset's name: BNCI2014001, BNCI2014-001 and BNCI2014_001 are one, and
    names of earlier MOABB releases are those of today."""
    text = re.sub(r"[^a-z0-9]", "", name.lower())
    today = OLD_NAMES.get(text)
    return re.sub(r"[^a-z0-9]", "", today.lower()) if today else text


@dataclass(frozen=True)
class People:
    """Maps (dataset, subject) to a person."""

    groups: Mapping[str, tuple[str, bool]]
    """Plain name of a dataset -> (group, whether subjects' numbers tell persons apart)."""

    @classmethod
    def known(cls, same_people: Iterable[Iterable[str]] = ()) -> People:
        """What is known of MOABB, and `same_people`: sets of datasets whose subjects' names mean
        the same persons. Sets that touch become one group."""
        groups: dict[str, tuple[str, bool]] = {}
        tables = ((SAME_NUMBERS, True), ({"TUH": TUH}, True), (SHARED_UNNUMBERED, False))
        for table, numbered in tables:
            for group, datasets in table.items():
                groups |= {plain_dataset(name): (group, numbered) for name in datasets}
        for names in same_people:
            plain = [plain_dataset(name) for name in names]
            joined = {groups[name] for name in plain if name in groups}
            group = min((group for group, _ in joined), default="+".join(sorted(plain)))
            numbered = all(numbered for _, numbered in joined)
            members = {name for name, entry in groups.items() if entry in joined} | set(plain)
            groups |= dict.fromkeys(members, (group, numbered))
        return cls(groups)

    def group(self, dataset: str) -> str:
        """What a dataset's persons are counted under: the group's name, else the dataset's own."""
        return self.groups.get(plain_dataset(dataset), (dataset, True))[0]

    def person(self, dataset: str, subject: str) -> tuple[str, str]:
        """(group, subject): equal for two names of one person, and only there if it is known."""
        group, numbered = self.groups.get(plain_dataset(dataset), (dataset, True))
        if group == dataset and plain_dataset(dataset) not in self.groups:
            return group, subject
        return group, canonical_subject(subject) if numbered else "all"

    def known_person(self, dataset: str, subject: str) -> tuple[str, str]:
        """`person`, but for persons who are shared with another dataset without anyone's saying who
        is whom: these stay (dataset, subject). For telling persons apart, not for splits."""
        _, numbered = self.groups.get(plain_dataset(dataset), (dataset, True))
        return self.person(dataset, subject) if numbered else (dataset, subject)


def canonical_subject(subject: object) -> str:
    """'sub-02', '02' and 2 all name subject '2'; other names stay as they are."""
    text = re.sub(r"^sub-", "", str(subject).strip())
    return str(int(text)) if text.isdecimal() else text


def select_subjects(text: str | None, known: Sequence, what: str) -> list:
    """The entries of `known` that `text` names, in the order of `known`; None names all.

    `text` joins single subjects and ranges of numbers with +, e.g. "1-3+7". InputError for one
    that `known` lacks, or for text that cannot be read; `what` opens the message.
    """
    if text is None:
        return list(known)
    by_name = {canonical_subject(subject): subject for subject in known}
    wanted = expand_subjects(text, what)
    missing = [name for name in wanted if name not in by_name]
    if missing or not wanted:
        raise InputError(
            f"{what}: subjects={text}: no subject {', '.join(missing[:10]) or 'is named'}",
            f"the subjects are {describe_subjects(known)}; write e.g. subjects=1-3+7",
        )
    return [subject for name, subject in by_name.items() if name in wanted]


def expand_subjects(text: str, what: str) -> list[str]:
    """ "1-3+7" -> canonical names 1, 2, 3, 7; InputError for text that cannot be read."""
    wanted: dict[str, None] = {}
    for part in text.split("+"):
        span = re.fullmatch(r"\s*(\d+)\s*-\s*(\d+)\s*", part)
        if span:
            first, last = int(span[1]), int(span[2])
            if last < first or last - first > 100_000:
                raise InputError(f"{what}: subjects={text}", f"the range {part.strip()} is not one")
            wanted.update(dict.fromkeys(str(number) for number in range(first, last + 1)))
        elif part.strip():
            wanted[canonical_subject(part)] = None
    return list(wanted)


def describe_subjects(subjects: Iterable) -> str:
    """Subjects as short text that `select_subjects` reads back: [1, 2, 3, 7] -> "1-3+7"."""
    names = [canonical_subject(subject) for subject in subjects]
    numbers = sorted(int(name) for name in names if name.isdecimal())
    runs: list[list[int]] = []
    for number in numbers:
        if runs and number == runs[-1][1] + 1:
            runs[-1][1] = number
        else:
            runs.append([number, number])
    parts = [str(a) if a == b else f"{a}-{b}" for a, b in runs]
    return "+".join(parts + [name for name in names if not name.isdecimal()])
