"""Who is trained on and who is scored: decided on recordings, before a window is looked at.

    loso:07[,08]   leave these subjects out           loro:6[,5]   leave these runs out
    time:0.7       the first 70 % of each recording trains, the rest is scored (weakest)
    auto           the last subject; the last run where there is one subject only

Of the training groups one more is held out for early stopping and for choosing between weights.
Windows of one recording resemble each other, so a split that shuffles windows scores memory:
`trainer/eval_eeg2meg.py --leak_test` measures how much.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass

from data.errors import InputError, did_you_mean

KINDS = {"loso": "subject", "loro": "run"}
VALIDATION_SHARE = 0.2


@dataclass(frozen=True)
class Part:
    """A recording, or the piece of it between two of its shares (0 its start, 1 its end)."""

    recording: str
    group: str
    start: float = 0.0
    stop: float = 1.0


@dataclass(frozen=True)
class Split:
    """`validation` belongs to the training groups: it stops the training, and is never scored."""

    rule: str
    group: str
    validation_rule: str
    train: tuple[Part, ...]
    validation: tuple[Part, ...]
    test: tuple[Part, ...]

    def as_dict(self) -> dict:
        return asdict(self)

    def entries(self, recordings: Sequence[dict]) -> list[dict]:
        """The manifest's records with the `split` that this makes of them, instead of the shards':
        a recording that is divided in time is one of training."""
        names = {"test": self.test, "val": self.validation, "train": self.train}
        split = {one.recording: name for name, parts in names.items() for one in parts}
        return [{**entry, "split": split.get(entry["id"], "test")} for entry in recordings]

    def trained_on(self) -> list[str]:
        """Ids of the recordings that training or early stopping looked at."""
        return sorted({part.recording for part in (*self.train, *self.validation)})


def make_split(rule: str, recordings: Sequence[dict]) -> Split:
    """Split recording entries (`id`, `subject`, `run`, `dataset`) by `rule`, see the module.

    Raises InputError for an unknown rule, an unknown subject or run, and where nothing would be
    left to train on.
    """
    if not recordings:
        raise InputError(
            "no recordings to split", "pack paired data first: see docs/brainformer.md"
        )
    if rule == "auto":
        rule = _automatic(recordings)
    kind, _, wanted = rule.partition(":")
    if kind == "time":
        return _by_time(rule, wanted, recordings)
    if kind not in KINDS or not wanted:
        raise InputError(
            f"--holdout {rule}: no such rule", "use loso:SUBJECT, loro:RUN, time:SHARE or auto"
        )
    field = KINDS[kind]
    names = wanted.split(",")
    known = sorted({str(entry[field]) for entry in recordings})
    if len(known) < 2:
        raise InputError(
            f"--holdout {rule}: there is one {field} only ({known[0]}), so leaving it out leaves "
            "nothing to train on",
            f"pack more {field}s, or use {'loro:RUN or ' if field == 'subject' else ''}time:0.7",
        )
    for name in names:
        if name not in known:
            raise InputError(
                f"--holdout {rule}: no {field} {name!r}",
                f"{did_you_mean(name, known)} There are {', '.join(known)}.".strip(),
            )
    test = [entry for entry in recordings if str(entry[field]) in names]
    rest = [entry for entry in recordings if str(entry[field]) not in names]
    if not rest:
        raise InputError(f"--holdout {rule}: nothing is left to train on", "leave fewer out")
    train, validation, how = _hold_out(rest, field)
    return Split(rule, field, how, train, validation, tuple(_part(e, field) for e in test))


def _automatic(recordings: Sequence[dict]) -> str:
    for kind, field in KINDS.items():
        known = sorted({str(entry[field]) for entry in recordings})
        if len(known) > 1:
            return f"{kind}:{known[-1]}"
    raise InputError(
        "--holdout auto: one subject with one run, so neither can be left out",
        "pack more recordings, or use time:0.7 (its end is scored: says little)",
    )


def _by_time(rule: str, wanted: str, recordings: Sequence[dict]) -> Split:
    try:
        share = float(wanted)
    except ValueError:
        share = math.nan
    if not 0 < share < 1:
        raise InputError(f"--holdout {rule}", "give the training share, between 0 and 1: time:0.7")
    middle = (1 - VALIDATION_SHARE) * share

    def parts(start: float, stop: float) -> tuple[Part, ...]:
        return tuple(Part(e["id"], str(e["id"]), start, stop) for e in recordings)

    how = f"the last {VALIDATION_SHARE:.0%} of the training time"
    return Split(rule, "time", how, parts(0, middle), parts(middle, share), parts(share, 1))


def _hold_out(entries: Sequence[dict], field: str):
    """(train parts, validation parts, how) of the training recordings: the last group of `field`,
    else the last run, else the end of each recording."""
    for name in dict.fromkeys((field, "subject", "run")):
        known = sorted({str(entry[name]) for entry in entries})
        if len(known) > 1:
            kept = tuple(_part(e, field) for e in entries if str(e[name]) != known[-1])
            held = tuple(_part(e, field) for e in entries if str(e[name]) == known[-1])
            return kept, held, f"{name} {known[-1]}"
    cut = 1 - VALIDATION_SHARE
    kept = tuple(_part(e, field, stop=cut) for e in entries)
    held = tuple(_part(e, field, start=cut) for e in entries)
    return kept, held, f"the last {VALIDATION_SHARE:.0%} of each training recording"


def _part(entry: dict, field: str, start: float = 0.0, stop: float = 1.0) -> Part:
    return Part(entry["id"], str(entry[field]), start, stop)
