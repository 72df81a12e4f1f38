"""Flags that have another name now: their former spelling is accepted for one release, and says the
present one in a line.

A command keeps a table of `Renamed` and parses `present(argv, TABLE)` in place of argv. What is
mapped is words; whether a value is good is the parser's to say.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Renamed:
    """One flag's former and present spelling, without dashes.

    Renamed("data", "shards")                          --data X      ->  --shards X
    Renamed("d_model", "model d_model=")               --d_model 8   ->  --model d_model=8
    Renamed("model", "")                               --model RUN   ->  RUN, the first positional
    Renamed("", "shards")                              DIR           ->  --shards DIR
    Renamed("init", "linear_start", "ridge|zero")      only where the value is one of these
    """

    old: str
    new: str
    values: str = ""
    """Regular expression; a value that it does not match whole is left alone."""

    def words(self, value: str) -> list[str]:
        """The present spelling of the flag with this value, as words of a command line."""
        if not self.new:
            return [value]
        flag, _, key = self.new.partition(" ")
        return [f"--{flag}", key + value]

    def maps(self, value: str) -> bool:
        return not self.values or re.fullmatch(self.values, value) is not None


@dataclass(frozen=True)
class Respelt:
    """A command line and an environment in present spelling, and what to tell the user of it."""

    argv: list[str]
    environment: dict[str, str]
    lines: list[str]


def respell(
    argv: Sequence[str],
    environment: Mapping[str, str],
    table: Sequence[Renamed],
    former_prefix: str = "",
) -> Respelt:
    """Both in present spelling; `environment` of the result holds changed variables alone.

    `former_prefix`: of variables that are called EEG_NAME now. A present spelling that is given too
    wins in the environment; of flags the parser takes the last, as ever.
    """
    words, lines = _flags(argv, table)
    changed: dict[str, str] = {}
    for name in sorted(environment):
        if former_prefix and name.startswith(former_prefix):
            now, value = _variable(name.removeprefix(former_prefix), environment[name], table)
            if now in environment:
                lines.append(f"{name} is called {now} now, which is set too: {name} is not read")
                continue
            changed[now] = f"{changed[now]} {value}" if now in changed else value
            lines.append(f"{name} is called {now} now (the former name will not be read for long)")
    return Respelt(words, changed, lines)


def present(
    argv: Sequence[str] | None, table: Sequence[Renamed], former_prefix: str = ""
) -> list[str]:
    """`argv` (default: the process's) in present spelling. Sets this process's environment likewise
    and prints, on the first rank, a line for each former spelling."""
    done = respell(sys.argv[1:] if argv is None else argv, os.environ, table, former_prefix)
    os.environ.update(done.environment)
    if os.environ.get("RANK", "0") == "0":
        for line in done.lines:
            print(line, flush=True)
    return done.argv


def _flags(argv: Sequence[str], table: Sequence[Renamed]) -> tuple[list[str], list[str]]:
    first: list[str] = []
    words: list[str] = []
    lines: list[str] = []
    left = list(argv)
    expects_value = False
    while left:
        word = left.pop(0)
        if word == "--":
            words += [word, *left]
            break
        flag = word.startswith("--")
        old, equals, value = word[2:].partition("=") if flag else ("", "", word)
        found = next((one for one in table if one.old == old), None)
        if flag and found and not equals and left:
            value = left[0]
        positional = not word.startswith("-") and not expects_value
        usable = positional or (flag and (equals or left))
        if found is None or not usable or not found.maps(value):
            words.append(word)
            expects_value = flag and not equals
            continue
        if flag and not equals:
            left.pop(0)
        now = found.words(value)
        (words if found.new else first).extend(now)
        expects_value = False
        before = f"--{old} {value}" if flag else value
        lines.append(f"{before} is written {' '.join(now)} now (the former way will not be "
                     "accepted for long)")  # fmt: skip
    return [*first, *words], lines


def _variable(name: str, value: str, table: Sequence[Renamed]) -> tuple[str, str]:
    """(present name, value) of a variable whose former prefix is taken off."""
    found = next((one for one in table if one.old.upper() == name and one.maps(value)), None)
    flag, _, key = (found.new if found else name.lower()).partition(" ")
    return f"EEG_{flag.upper()}", key + value
