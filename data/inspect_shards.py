"""Look at a shard folder before hours of GPU time go into it.

    python data/inspect_shards.py --shards shards/pretrain

Prints the summary and what deserves a look, and writes a page of pictures (index.html beside PNGs):
windows, mean spectra in µV²/Hz, amplitudes, electrode maps, and why windows were dropped; of pairs
also spectra and maps of the MEG sensors, in femtotesla.
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path[0] = str(Path(__file__).resolve().parents[1])  # repo root, not this directory

import argparse
import html

from data.errors import InputError, few, run_command
from data.files import make_folder, readable, write_atomic
from data.flags import Renamed, present
from data.inspection.survey import DatasetSurvey, remarks, survey
from data.inspection.survey_meg import draw_meg, remarks_meg, survey_meg
from data.shards.manifest import Manifest, read_manifest
from data.shards.summary import summarise
from data.signals.recording import safe_name

SHOWN_REMARKS = 20
PAGE = """<!doctype html>
<meta charset="utf-8">
<title>{title}</title>
<style>body {{ font: 15px/1.45 sans-serif; max-width: 1100px; margin: 2em auto; padding: 0 1em }}
img {{ max-width: 100%; border: 1px solid #ddd }} pre {{ background: #f6f6f6; padding: 1em;
overflow-x: auto }}</style>
<h1>{title}</h1>
<pre>{summary}</pre>
{pictures}
"""


RENAMED = (Renamed("", "shards"),)


def parse_arguments(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python data/inspect_shards.py",
        description="Print and draw what a folder of shards holds.",
    )
    add = parser.add_argument
    add("--shards", type=Path, required=True, help="folder that data/pack.py wrote")
    add("--out", type=Path, help="folder for the page (SHARDS/inspection)")
    add("--windows", type=int, default=200, help="windows read of each dataset (200)")
    add("--examples", type=int, default=3, help="windows drawn of each dataset (3)")
    return parser.parse_args(present(argv, RENAMED))


def main(argv: list[str] | None = None) -> int:
    args = parse_arguments(argv)
    for name in ("windows", "examples"):
        if getattr(args, name) < 1:
            raise InputError(f"--{name} {getattr(args, name)}", "give a number from 1")
    manifest = read_manifest(args.shards)
    if not manifest.shards:
        raise InputError(f"{args.shards}: holds no shards", "pack some recordings first")
    out = args.out or args.shards / "inspection"
    make_folder(out, "--out")
    surveys = survey(manifest, max(args.windows, args.examples + 2), args.examples)
    found = remarks(manifest, surveys)
    if manifest.paired:
        found += remarks_meg(manifest)
    text = "\n\n".join([summarise(manifest), facts(manifest), _remarks(found)])
    print(text)
    page = PAGE.format(
        title=html.escape(f"Shards in {args.shards.resolve().name}"),
        summary=html.escape(text),
        pictures=draw(manifest, surveys, out, args.windows),
    )
    write_atomic(out / "index.html", page.encode())
    print(f"\npictures: {out / 'index.html'}\nwhat a run costs: python trainer/estimate.py "
          f"--shards {args.shards} --preset base")  # fmt: skip
    return 0


def draw(manifest: Manifest, surveys: list[DatasetSurvey], out: Path, windows: int) -> str:
    """Write the PNGs; returns the page's HTML that shows them."""
    from data.inspection import drawing  # Matplotlib takes a second: after the checks, not before.

    sections = [
        ("Spectra", "spectra.png", drawing.draw_spectra, (surveys, manifest.profile)),
        ("Amplitudes", "amplitudes.png", drawing.draw_amplitudes, (surveys,)),
        ("Electrodes", "electrodes.png", drawing.draw_electrodes, (surveys,)),
        ("Dropped windows", "dropped.png", drawing.draw_dropped, (surveys,)),
    ]
    if manifest.paired:
        sections.append(("MEG", "meg.png", draw_meg, (survey_meg(manifest, windows),)))
    rate = manifest.profile["sfreq_hz"]
    for number, entry in enumerate(surveys):
        file = f"windows-{number:02d}-{safe_name(entry.name)[:60]}.png"
        sections.append((f"Windows of {entry.name}", file, drawing.draw_windows, (entry, rate)))
    lines = []
    for title, file, function, arguments in sections:
        function(*arguments, out / file)
        lines.append(
            f'<h2>{html.escape(title)}</h2>\n<img src="{file}" alt="{html.escape(title)}">'
        )
    return "\n".join(lines)


def facts(manifest: Manifest) -> str:
    """What one epoch is, whatever the model."""
    training = manifest.of_split("train")
    windows = sum(shard.samples for shard in training)
    rate = manifest.profile["sfreq_hz"]
    hours = sum(s.samples * s.window_samples for s in training) / rate / 3600
    values = sum(s.samples * s.channels * s.window_samples for s in training)
    return (
        f"an epoch: {windows:,} training windows, {hours:.3g} h, {values:.3g} values, "
        f"{readable(sum(shard.bytes for shard in training))} to read; "
        f"{len({shard.montage for shard in training})} montages"
    )


def _remarks(found: list[str]) -> str:
    if not found:
        return "nothing stands out"
    return "\n  ".join(["look at:", *few(found, SHOWN_REMARKS)])


if __name__ == "__main__":
    run_command(main)
