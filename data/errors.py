"""One way to tell a user what went wrong.

`InputError` is for what a user can mend: a missing file, a wrong name, damaged data. `run_command`
turns it into one message on stderr and exit code 2, without a traceback. Every other exception is a
bug of ours and keeps its traceback.
"""

from __future__ import annotations

import difflib
import sys
from collections.abc import Callable, Iterable, Sequence


class InputError(Exception):
    """A mistake in the input: `what` went wrong (with the file or field), and the `remedy`."""

    def __init__(self, what: str, remedy: str = ""):
        super().__init__(what, remedy)
        self.what, self.remedy = what, remedy

    def __str__(self) -> str:
        return f"{self.what}\n  -> {self.remedy}" if self.remedy else self.what


def did_you_mean(name: str, known: Iterable[str], every: str = "", count: int = 3) -> str:
    """'Did you mean A, B?' for the entries of `known` nearest to `name`, or ''. `every` opens a
    second sentence, which names all of them: 'The profiles are A, B, C.'"""
    lower = {entry.lower(): entry for entry in known}
    near = difflib.get_close_matches(name.lower(), lower, n=count, cutoff=0.5)
    question = f"Did you mean {', '.join(lower[n] for n in near)}?" if near else ""
    return f"{question} {every} {', '.join(lower.values())}.".strip() if every else question


def some(names: Sequence[str], most: int = 5) -> str:
    """The first names, and how many more there are: 'A, B and 3 more'."""
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more


def few(lines: Sequence[str], most: int, others: str = "more") -> list[str]:
    """The first lines, and a last one that counts the rest: '... and 3 more'."""
    more = [f"... and {len(lines) - most} {others}"] if len(lines) > most else []
    return [*lines[:most], *more]


def run_command(main: Callable[[], int | None]) -> None:
    """Run a command's `main` and exit; an `InputError` is printed plainly and exits with 2."""
    try:
        sys.exit(main() or 0)
    except InputError as error:
        sys.stdout.flush()
        print(f"error: {error}", file=sys.stderr, flush=True)
        sys.exit(2)
    except BrokenPipeError:
        sys.exit(141)
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr, flush=True)
        sys.exit(130)
