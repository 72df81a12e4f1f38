"""Which moments of a recording are its events: annotations, or codes of a stimulus channel.

A file may hold both, and its annotations may be comments. So each name that is asked for is looked
for in both. Of one that both hold at other times the triggers are taken, and it is said: they are
what was recorded. One that several stimulus channels hold at other times is not guessed at.
"""

from __future__ import annotations

import re
import warnings
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

import mne
import numpy as np

from data.electrodes.channel_names import match_names
from data.errors import InputError
from data.signals.recording import Event
from data.sources.events.times import Times, annotated, coded, stimulus_channels
from data.sources.spec import Spec

ANNOTATIONS = "annotations"
SHOWN = 20
"""Names that a message lists."""
SAME_S = 0.02
"""An annotation and a code within this time are one event."""


@dataclass(frozen=True)
class EventChoice:
    """What the options `events`, `events_from` and `edges` say."""

    names: tuple[str, ...] = ()
    """Runs of spaces count as one. None: every event."""
    source: str | None = None
    """ANNOTATIONS, or a stimulus channel's name; None: where the names are found."""
    rising: bool = False
    """Codes count only where they rise."""

    @classmethod
    def of(
        cls, spec: Spec, words: dict[str, EventChoice | None] | None = None
    ) -> EventChoice | None:
        """From a source's options; `words`: values of `events` that are no names. None: continuous
        windows."""
        text, source = spec.options.get("events"), spec.options.get("events_from")
        edges = spec.options.get("edges", "any")
        if edges not in ("any", "rise"):
            raise InputError(f"--source {spec}: edges={edges}", "write edges=any or edges=rise")
        if text is None or (words or {}).get(text, cls()) is None:
            if source or "edges" in spec.options:
                raise InputError(
                    f"--source {spec}: events_from and edges choose among events",
                    "say which events with events=, or leave them out",
                )
            return None
        names = () if text in (words or {}) else text.split("+")
        plain = (" ".join(name.split()) for name in names)
        return cls(tuple(filter(None, plain)), source, edges == "rise")


def find_events(
    raw: mne.io.BaseRaw,
    choice: EventChoice,
    where: str,
    outside: Iterable[Event] = (),
    from_table: bool = False,
) -> list[Event]:
    """The events that `choice` names, in order, labelled with their names. `outside`: events that
    the file tells and MNE dropped, because they lie beyond the signal; those named are returned
    too, for the cutter to count. `from_table`: the annotations are an events table's rows, so that
    where no names are given they alone are the events; without one they may be comments, and
    triggers go before them.

    Warns of names that are not there, and of codes that may be none. InputError where none is
    there, with what is; or where several stimulus channels hold a name, at other times.
    """
    if choice.source == ANNOTATIONS:
        sources = {ANNOTATIONS: annotated(raw, choice.names)}
    elif choice.source:
        channel = _channel(raw, choice.source, where)
        sources = {channel: coded(raw, channel, choice.names, choice.rising)}
    else:
        sources = {ANNOTATIONS: annotated(raw, choice.names)}
        unnamed = not choice.names and not from_table
        if unnamed or any(re.fullmatch(r"\d+", name) for name in choice.names):
            sources |= {
                name: coded(raw, name, choice.names, choice.rising)
                for name in stimulus_channels(raw)
            }
    beyond: dict[str, list[float]] = {}
    for event in outside:
        if choice.source in (None, ANNOTATIONS):
            beyond.setdefault(" ".join(str(event.label).split()), []).append(event.onset_s)
    names = choice.names or _every(sources, beyond, from_table)
    events, used, absent = [], Counter(), []
    for name in dict.fromkeys(names):
        holding = {source: found[name] for source, found in sources.items() if name in found}
        chosen = _one_of(holding, name, where) if holding else None
        onsets = [*(holding[chosen] if chosen else ()), *beyond.get(name, ())]
        events += [Event(float(onset), name) for onset in onsets]
        if chosen:
            used[chosen] += 1
        if not onsets:
            absent.append(name)
    beyond_count = sum(len(beyond.get(name, ())) for name in dict.fromkeys(names))
    if len(events) == beyond_count:
        raise _none(raw, choice, where, sources, beyond_count, from_table)
    if absent:
        warnings.warn(f"no event is called {' or '.join(map(repr, absent))}", stacklevel=2)
    present = [source for source in sources if sources[source]]
    if choice.names and choice.source is None and len(present) > 1:
        warnings.warn(f"events were taken from {' and '.join(used)}", stacklevel=2)
    return sorted(events, key=lambda event: event.onset_s)


def _every(sources: dict[str, Times], beyond: Iterable[str], from_table: bool) -> list[str]:
    """The names of all events where none is given: the triggers', else the annotations'. Warns of
    what they were taken from, where no table says that they are events."""
    if ANNOTATIONS not in sources:
        return [name for found in sources.values() for name in found]
    notes = sources[ANNOTATIONS]
    triggers = {
        source: found for source, found in sources.items() if found and source != ANNOTATIONS
    }
    if triggers:
        unused = f", not its annotations ({_listed(notes)})" if notes else ""
        remedy = f"; events_from={ANNOTATIONS} takes those" if notes else ""
        warnings.warn(
            f"no events.tsv: the triggers of {' and '.join(triggers)} were taken for events"
            f"{unused}{remedy}",
            stacklevel=3,
        )
        return [name for found in triggers.values() for name in found]
    if notes and not from_table:
        warnings.warn(
            f"no events.tsv: all annotations were taken for events: {_listed(notes)}; events= with "
            "names takes some",
            stacklevel=3,
        )
    return [*notes, *beyond]


def _listed(found: Times) -> str:
    """Names with their counts, as text; of many the first."""
    entries = [f"{name!r} ({len(times)})" for name, times in sorted(found.items())]
    more = [f"and {len(entries) - SHOWN} more"] if len(entries) > SHOWN else []
    return ", ".join(entries[:SHOWN] + more)


def _channel(raw: mne.io.BaseRaw, name: str, where: str) -> str:
    found = match_names([name], raw.ch_names)[name]
    if not found:
        stimulus = ", ".join(map(repr, stimulus_channels(raw))) or "none"
        raise InputError(
            f"{where}: events_from={name}: no such channel (stimulus channels: {stimulus})",
            "name a channel, or write events_from=annotations",
        )
    return found[0]


def _one_of(holding: Times, name: str, where: str) -> str:
    """Which source an event's name is taken from: the only one, or any where all agree. Triggers go
    before annotations that disagree, with a warning; InputError where channels disagree."""
    triggers = {source: times for source, times in holding.items() if source != ANNOTATIONS}
    if not triggers:
        return ANNOTATIONS
    (first, onsets), *others = triggers.items()
    counts = ", ".join(f"{source}: {len(times)}" for source, times in holding.items())
    if not all(_same(onsets, also) for _, also in others):
        raise InputError(
            f"{where}: events called {name!r} are in several places, at different times ({counts})",
            f"say which are meant: events_from={' or events_from='.join(holding)}",
        )
    if ANNOTATIONS in holding and not _same(onsets, holding[ANNOTATIONS]):
        warnings.warn(
            f"annotations and triggers called {name!r} disagree ({counts}): the triggers were "
            f"used; events_from={ANNOTATIONS} takes the others",
            stacklevel=3,
        )
    return first


def _same(onsets: np.ndarray, also: np.ndarray) -> bool:
    if len(onsets) != len(also):
        return False
    return bool(np.abs(np.sort(also) - np.sort(onsets)).max(initial=0.0) <= SAME_S)


def _none(
    raw, choice: EventChoice, where: str, sources: dict, beyond: int, from_table: bool
) -> InputError:
    """The message that no event is in the signal, with what is; `beyond`: how many lie outside."""
    looked = dict(sources)
    if choice.source is None:
        looked |= {
            name: coded(raw, name, choice.names, choice.rising)
            for name in stimulus_channels(raw)
            if name not in looked
        }
    listings = []
    for source, found in looked.items():
        if found:
            listing = _listed(found)
            listings.append(listing if source == ANNOTATIONS else f"in {source} {listing}")
    wanted = " or ".join(map(repr, sorted(choice.names)))
    table = "events.tsv has no row that is one" if from_table and not beyond else "no event in it"
    what = f"no event is called {wanted}" if wanted else table
    far = f"; {beyond} lie outside of the signal" if beyond else ""
    with_codes = [source for source, found in looked.items() if found and source != ANNOTATIONS]
    if choice.names and listings:
        remedy = "name one that is present, or leave events out for continuous windows"
    elif with_codes:
        remedy = (
            f"take the triggers with events_from={' or events_from='.join(with_codes)}, or leave "
            "events out for continuous windows"
        )
    else:
        remedy = "leave events out for continuous windows"
    return InputError(
        f"{where}: {what}; present: {'; '.join(listings) or 'no events at all'}{far}",
        "the onsets are not in seconds from the recording's start (for THINGS-EEG, ds003825, use "
        "things:), or the table is another recording's"
        if beyond
        else remedy,
    )
