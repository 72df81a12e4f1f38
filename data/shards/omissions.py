"""What of recordings was not packed, by reason, as lines for the printed summary.

All of it is read from the manifest, so that packing and inspecting a folder say the same.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict

SHOWN = 12
"""Reasons that are printed of one kind."""
EXAMPLES = 4
COUNTED = ("event", "recording")
"""What a reason may begin with that is counted."""


def channel_lines(recordings: list[dict], key: str) -> list[str]:
    """One line a reason, the most frequent first: how many channels, in how many recordings, and
    some names. `key`: an entry of the manifest's records, channel -> why."""
    names: dict[str, Counter] = defaultdict(Counter)
    holding: Counter = Counter()
    for recording in recordings:
        reasons = {name: _kind(why) for name, why in recording.get(key, {}).items()}
        for name, why in reasons.items():
            names[why][name] += 1
        holding.update(set(reasons.values()))
    lines = [
        f"{found.total()} {why}, in {_recordings(holding[why])}: {_some(found)}"
        for why, found in sorted(names.items(), key=lambda item: (-item[1].total(), item[0]))
    ]
    return _cut(lines)


def window_lines(recordings: list[dict]) -> list[str]:
    """One line a reason why windows were dropped, or events gave none: how many, in how many
    recordings."""
    counts, holding = Counter(), Counter()
    for recording in recordings:
        dropped = {why: n for why, n in recording.get("dropped", {}).items() if n}
        counts.update(dropped)
        holding.update(dropped.keys())
    ordered = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    return _cut(
        [f"{count} {_plural(why, count)}, in {_recordings(holding[why])}" for why, count in ordered]
    )


def skipped_lines(skipped: list[dict]) -> list[str]:
    """Recordings that were left out as unreadable: each with its reason where there are few, else
    one line a kind of reason, the most frequent first, with an example."""
    if len(skipped) <= SHOWN:
        return [f"{entry['name']}: {entry['reason']}" for entry in skipped]
    kinds: dict[str, list[dict]] = defaultdict(list)
    for entry in skipped:
        kinds[_plain_reason(entry["reason"])].append(entry)
    lines = []
    for found in sorted(kinds.values(), key=lambda entries: (-len(entries), entries[0]["name"])):
        first, more = found[0], len(found) - 1
        others = f"; {more} more for a like reason, e.g. {found[1]['name']}" if more else ""
        lines.append(f"{first['name']}: {first['reason']}{others}")
    return [*_cut(lines), "all of them: source.skipped in manifest.json"]


def _plain_reason(reason: str) -> str:
    """A reason without paths and numbers, so that like reasons are equal."""
    return re.sub(r"\d[\d.,]*", "#", re.sub(r"\S*[/\\]\S*", "", reason)).strip()


def _plural(why: str, count: int) -> str:
    """`event too near an edge` of one, `events ...` of several; `saturated` of any number."""
    noun = why.split(" ", 1)[0]
    return why.replace(noun, f"{noun}s", 1) if count != 1 and noun in COUNTED else why


def _kind(why: str) -> str:
    """A reason without what is particular to one channel."""
    plain = why.split(" (")[0]
    return "the same electrode as another" if plain.startswith("the same electrode as ") else plain


def _recordings(count: int) -> str:
    return f"{count} recording{'s' * (count != 1)}"


def _some(names: Counter) -> str:
    shown = ", ".join(name for name, _ in names.most_common(EXAMPLES))
    more = len(names) - EXAMPLES
    return f"{shown} and {more} more" if more > 0 else shown


def _cut(lines: list[str]) -> list[str]:
    more = len(lines) - SHOWN
    return (
        [*lines[:SHOWN], f"... and {more} other reasons, in manifest.json"] if more > 0 else lines
    )
