"""Tables of a report, in Markdown."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from trainer.scoring.fill_scores import AFTER_GAIN

SIZE, SIGNED = "log_spectral_error_db", "signed_log_spectral_error_db"


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """A Markdown table, numbers to the right."""
    line = "|".join(["---", *["---:"] * (len(header) - 1)])
    return [
        f"| {' | '.join(header)} |",
        f"|{line}|",
        *(f"| {' | '.join(row)} |" for row in rows),
        "",
    ]


def interval(summary: dict) -> str:
    """`.812 [.790, .830]`, or the mean alone."""
    mean, low, high = (short(summary[name]) for name in ("mean", "low", "high"))
    return mean if summary["low"] is None or low == high else f"{mean} [{low}, {high}]"


def plural(count: int, noun: str) -> str:
    """`1 subject`, `2 subjects`."""
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"


def short(value: float | None, digits: int = 3) -> str:
    """A number, or `--`."""
    return "--" if value is None else f"{round(value, digits) + 0.0:.{digits}f}"


def headline_table(headline: Mapping, kinds: Mapping, method: str) -> list[str]:
    """A method, the best baseline, and the difference, by kind of mask."""
    rows = [
        [
            kind,
            interval(kinds[kind][method]["r"]),
            f"{entry['baseline']} {interval(kinds[kind][entry['baseline']]['r'])}",
            interval(entry["difference"]),
            entry["verdict"],
        ]
        for kind, entry in headline.items()
        if entry
    ]
    return table(["r, hidden samples", method, "best baseline", f"{method} - best", ""], rows)


def headline_lines(headline: Mapping, method: str) -> list[str]:
    """The same for a terminal."""
    width = max((len(kind) for kind, entry in headline.items() if entry), default=0)
    return [
        f"{kind.ljust(width)}  {method} minus the best baseline ({entry['baseline']}): "
        f"{interval(entry['difference'])}: {entry['verdict']}"
        for kind, entry in headline.items()
        if entry
    ]


def reference_table(kinds: Mapping) -> list[str]:
    """r of every method before and after it was made to keep the average reference."""
    methods = list(next(iter(kinds.values())))
    rows = [
        [
            kind,
            *(
                f"{short(e[m]['r_without_reference']['mean'])} -> {short(e[m]['r']['mean'])}"
                for m in methods
            ),
        ]
        for kind, e in kinds.items()
    ]
    return table(["r without -> with the reference kept", *methods], rows)


def spectrum_table(kinds: Mapping) -> list[str]:
    """Size of the log-spectral error, the mean over bands, as it is and after the gain."""
    methods = list(next(iter(kinds.values())))
    rows = []
    for kind, entries in kinds.items():
        cells = []
        for method in methods:
            bands = entries[method].get("bands", {}).values()
            cells.append(" -> ".join(short(x, 1) for x in _spectral_sizes(bands)))
        rows.append([kind, *cells])
    return table(
        ["log-spectral error, dB, mean over bands: as it is -> after the gain", *methods], rows
    )


def band_table(kind: str, methods: Mapping, edges: Mapping) -> list[str]:
    """r, and the signed log-spectral error as it is and after the gain, by band."""
    gained = any(AFTER_GAIN in x for s in methods.values() for x in s["bands"].values())
    rows = []
    for band, (low, high) in edges.items():
        cells = []
        for scores in methods.values():
            entry = scores["bands"][band]
            values = [short(entry["r"]["mean"]), signed(entry[SIGNED]["mean"])]
            values += [signed(entry[AFTER_GAIN][SIGNED]["mean"])] if gained else []
            cells.append(" / ".join(values))
        rows.append([f"{band} {low:g}-{high:g} Hz", *cells])
    return table([f"{kind}: r / dB{' / dB after the gain' * gained}", *methods], rows)


def signed(value: float | None) -> str:
    """`+1.2`, `-0.3`, `0.0`."""
    text = short(value, 1)
    return f"+{text}" if value is not None and float(text) > 0 else text


def _spectral_sizes(bands) -> list[float | None]:
    bands = list(bands)
    found = []
    for read in (lambda e: e[SIZE], lambda e: e.get(AFTER_GAIN, {}).get(SIZE, {"mean": None})):
        values = [read(entry)["mean"] for entry in bands]
        kept = [value for value in values if value is not None]
        found.append(sum(kept) / len(kept) if kept else None)
    return found
