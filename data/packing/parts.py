"""One pack shared out over processes that know nothing of each other, e.g. a Slurm array.

Part i of n makes items i, i + n, i + 2n, ... of a list that every part draws up alike, so nobody
hands out work and a part that was killed is simply run again; the price is that the slowest part
decides when all are done. Each part leaves a note with its settings in the packing folder, and
whatever finds a note of other settings there refuses to go on.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path

from data.errors import InputError
from data.files import dump_json, write_atomic

NOTE = re.compile(r"part-(\d+)-of-(\d+)\.json")
SHOWN = 5


@dataclass(frozen=True)
class Part:
    """Part `index` (from 1) of `count`."""

    index: int = 1
    count: int = 1

    @property
    def name(self) -> str:
        return f"part-{self.index}-of-{self.count}"

    def of(self, items: list) -> list:
        return items[self.index - 1 :: self.count]


@dataclass(frozen=True)
class Note:
    """What a part left behind: its settings, and whether it has finished."""

    part: Part
    settings: dict
    finished: bool
    items: list[str] | None = None
    """Names of the whole pack's items, when the part began."""


def parse_part(text: str) -> Part:
    """ "3/16" -> Part(3, 16); InputError for anything else."""
    match = re.fullmatch(r"(\d{1,6})/(\d{1,6})", text)
    if match and 1 <= int(match[1]) <= int(match[2]):
        return Part(int(match[1]), int(match[2]))
    raise InputError(f"--part {text}", "write i/n with 1 <= i <= n, e.g. --part 3/16")


def write_note(folder: Path, part: Part, settings: dict, items: list[str], finished: bool) -> None:
    value = {"settings": settings, "items": items, "finished": finished}
    write_atomic(folder / f"{part.name}.json", dump_json(value).encode())


def read_notes(folder: Path) -> list[Note]:
    """The notes of a packing folder, by part. One that cannot be read counts as unfinished."""
    notes = []
    for path in folder.glob("part-*-of-*.json"):
        if match := NOTE.fullmatch(path.name):
            try:
                value = json.loads(path.read_bytes())
                settings, finished = value["settings"], value["finished"] is True
                items = value.get("items")
            except (FileNotFoundError, ValueError, KeyError, TypeError):
                continue
            notes.append(Note(Part(int(match[1]), int(match[2])), settings, finished, items))
    return sorted(notes, key=lambda note: (note.part.count, note.part.index))


def refuse_other_settings(folder: Path, settings: dict, remedy: str) -> None:
    """InputError where some part in `folder` was made with other settings; names what differs."""
    for note in read_notes(folder):
        differ = list(differences(note.settings, settings))
        if differ:
            what = f"part {note.part.index} of {note.part.count}" if note.part.count > 1 else "it"
            raise InputError(
                f"{folder.parent}: a pack was begun here with other settings ({what})\n  "
                + "\n  ".join(differ),
                remedy,
            )


def changed_list(folder: Path, items: list[str]) -> list[str]:
    """Which items came or went since a pack was begun here, each in a line."""
    lines: dict[str, None] = {}
    for note in read_notes(folder):
        if note.items is not None:
            lines |= dict.fromkeys(f"{name}: new" for name in items if name not in {*note.items})
            lines |= dict.fromkeys(f"{name}: gone" for name in note.items if name not in {*items})
    return list(lines)


def refuse_other_list(folder: Path, items: list[str]) -> None:
    """InputError where parts were begun for another list of items: which part makes what would not
    be the same for all."""
    lines = changed_list(folder, items)
    if lines:
        more = [f"... and {len(lines) - SHOWN} more"] * (len(lines) > SHOWN)
        raise InputError(
            f"{folder.parent}: the recordings are not those that the parts were begun with\n  "
            + "\n  ".join([*lines[:SHOWN], *more]),
            "put them back as they were; or give the command without --part and --merge, which "
            "packs what is missing and keeps what still fits",
        )


def differences(old: dict, new: dict, prefix: str = ""):
    """ "profile sfreq_hz: 200.0 there, 250.0 now" for each setting that differs."""
    for key in sorted({*old, *new}):
        was, now = old.get(key), new.get(key)
        if isinstance(was, dict) and isinstance(now, dict):
            yield from differences(was, now, f"{prefix}{key} ")
        elif was != now:
            yield f"{prefix}{key}: {was} there, {now} now"


def forget_notes(folder: Path) -> None:
    for note in read_notes(folder):
        (folder / f"{note.part.name}.json").unlink(missing_ok=True)


def progress(folder: Path, count: int) -> tuple[list[int], list[int]]:
    """(finished, unfinished) parts of `count`, by their notes."""
    finished = {n.part.index for n in read_notes(folder) if n.finished and n.part.count == count}
    return sorted(finished), [i for i in range(1, count + 1) if i not in finished]


def incomplete(folder: Path, missing: dict[int, str], total: int) -> InputError:
    """The error of a merge that finds items missing. `missing`: {place in the list: what is wrong},
    of `total` items."""
    counts = {note.part.count for note in read_notes(folder)}
    shown = [f"  {text}" for text in list(missing.values())[:SHOWN]]
    if len(missing) > SHOWN:
        shown.append(f"  ... and {len(missing) - SHOWN} more")
    remedy = "run the parts that made them again, then merge again"
    if len(counts) == 1:
        (count,) = counts
        again = sorted({place % count + 1 for place in missing})
        remedy = (
            f"run part {', '.join(map(str, again))} of {count} again "
            f"(sbatch --array={','.join(map(str, again))} ...), then merge again"
        )
    return InputError(
        f"{folder.parent}: {len(missing)} of {total} items are not packed\n" + "\n".join(shown),
        remedy,
    )
