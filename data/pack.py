"""Pack recordings into shards.

    python data/pack.py --source simulated --out shards/sim
    python data/pack.py --source moabb:PhysionetMI,subjects=1-20 --source raw:/data/*.edf --out DIR
    python data/pack.py                          # the recipe data/recipes/original.yaml
    python data/pack.py --source bids:/data/ds000117 --profile eeg2meg --out DIR   # EEG with MEG
    python data/pack.py ... --part 3/16          # one of 16 machines' share; after all of them:
    python data/pack.py ... --merge              # the shards, byte for byte those of one machine

Safe to run twice: a finished folder is left as it is, an interrupted one is continued.
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path[0] = str(Path(__file__).resolve().parents[1])  # repo root, not this directory

import shutil

from data.errors import InputError, few, run_command
from data.files import make_folder
from data.packing.assemble import collect, pictures_of, write_shards
from data.packing.finished import (
    item_entry,
    refuse_other_content,
    refuse_other_settings_of,
    settings,
    whole,
)
from data.packing.items import locked, remove_partials, run_jobs
from data.packing.jobs import Job, changed_jobs, code_version, finished_records, make_jobs
from data.packing.listing import list_all, name_of
from data.packing.options import cores, parse_arguments, resolve
from data.packing.parts import (
    Part,
    changed_list,
    forget_notes,
    parse_part,
    progress,
    refuse_other_list,
    refuse_other_settings,
    write_note,
)
from data.packing.recipe import Recipe, excluded, withhold
from data.packing.same_signal import check_same_signal
from data.shards.manifest import MANIFEST, SPLITS, Manifest, read_manifest, write_manifest
from data.shards.summary import SCALE_TEXTS, summarise
from data.signals.profiles import Profile, get_profile
from data.sources.spec import parse_spec
from data.subjects.split import FRACTIONS, Wish, assign_splits

PACKING = ".packing"
SHOWN = 10


def main(argv: list[str] | None = None) -> int:
    args = parse_arguments(argv)
    recipe = resolve(args)
    profile = get_profile(recipe.profile, recipe.window_s, recipe.scale)
    specs = [parse_spec(source) for source in recipe.sources]
    workers = args.workers if args.workers is not None else cores()
    if workers < 1:
        raise InputError(f"--workers {workers}", "give a number from 1")
    part = parse_part(args.part) if args.part else None
    if part and (args.merge or args.overwrite):
        raise InputError(
            f"--part with --{'merge' if args.merge else 'overwrite'}",
            "run all the parts first, then --merge alone"
            if args.merge
            else f"other parts may be at work: remove {args.out} before the first one starts",
        )
    if args.out.exists() and not args.out.is_dir():
        raise InputError(f"--out {args.out}: not a folder", "choose another --out")
    finished = (args.out / MANIFEST).exists() and not args.overwrite and not args.list
    if finished:
        manifest = refuse_other_settings_of(args.out, recipe, specs, profile)
    else:
        announce(args.out, recipe, profile, workers)
    try:
        items, wishes = list_all(
            specs, profile, default=args.source is None and args.recipe is None
        )
    except InputError as error:
        if not finished:
            raise
        raise InputError(
            f"{args.out}: packed, but its sources cannot be compared with it: {error.what}",
            f"{error.remedy}\n  -> to use it as it is, no packing is needed: give it as --shards",
        ) from None
    out_of_it = excluded(recipe)
    notes = check_same_signal(
        [item for item in items if not out_of_it.holds(item.dataset, item.subject)], recipe.people
    )
    items, wishes, left_out = withhold(items, wishes, recipe)
    if finished:
        compared = refuse_other_content(manifest, items, workers)
        print(f"already packed: {args.out} ({compared})")
        shutil.rmtree(args.out / PACKING, ignore_errors=True)
        report(manifest)
        return 0
    # A contradiction is reported before hours of work.
    assign_splits(wishes, recipe.seed, recipe.people)
    for spec in specs:
        print(f"  source    {spec}")
    for note in [*notes[:SHOWN], *left_out]:
        print(f"  {note}")
    print(
        f"  found     {len(items)} items in {len({i.dataset for i in items})} datasets", flush=True
    )
    if args.list:
        return 0
    make_folder(args.out, "--out")
    jobs = make_jobs(items, profile, args.out / PACKING, args.skip_bad)
    begun = {
        "sources": [whole(spec) for spec in specs],
        "profile": profile.as_dict(),
        "code": code_version()[:12],
    } | recipe.selection()
    if part:
        return make_part(args.out, part, jobs, begun, workers)
    assemble(args, recipe, specs, profile, jobs, wishes, begun, workers)
    report(read_manifest(args.out))
    return 0


def announce(out: Path, recipe: Recipe, profile: Profile, workers: int) -> None:
    print(
        f"packing into {out}\n"
        f"  profile   {profile.name}: {profile.l_freq_hz:g}-{profile.h_freq_hz:g} Hz, "
        f"{profile.sfreq_hz:g} Hz, windows of {profile.window_samples / profile.sfreq_hz:g} s"
        f"{', EEG with MEG' * profile.meg}\n"
        f"  scale     {SCALE_TEXTS[profile.scale]}\n"
        f"  seed      {recipe.seed}; {workers} worker{'s' * (workers > 1)}; "
        f"shards of {recipe.shard_mb:g} MB"
    )


def make_part(out: Path, part: Part, jobs: list[Job], begun: dict, workers: int) -> int:
    """Make one part's windows; the shards are left to the merge."""
    folder, own = out / PACKING, part.of(jobs)
    names = [name_of(job.item) for job in jobs]
    with locked(folder, part):
        refuse_other_settings(folder, begun, _begun_remedy(out))
        refuse_other_list(folder, names)
        say_again(changed_jobs(own))
        write_note(folder, part, begun, names, finished=False)
        remove_partials(own)
        run_jobs(own, workers)
        write_note(folder, part, begun, names, finished=True)
    finished, unfinished = progress(folder, part.count)
    print(f"\npart {part.index} of {part.count} is packed: {len(own)} of {len(jobs)} items")
    if unfinished:
        print(f"parts still to come: {', '.join(map(str, unfinished))}")
    else:
        print(f"all {len(finished)} parts are packed; next: the same command with --merge in place "
              "of --part")  # fmt: skip
    return 0


def assemble(args, recipe, specs, profile, jobs, wishes, begun: dict, workers: int) -> None:
    """Make what is missing (with --merge: refuse if anything is), then shards and manifest."""
    folder, names = args.out / PACKING, [name_of(job.item) for job in jobs]
    with locked(folder):
        if args.overwrite:
            forget_notes(folder)
        refuse_other_settings(folder, begun, _begun_remedy(args.out))
        if args.merge:
            refuse_other_list(folder, names)
        # Without its manifest the old content no longer looks finished while it is replaced.
        (args.out / MANIFEST).unlink(missing_ok=True)
        if args.merge:
            records = finished_records(jobs)
        else:
            say_again([*changed_list(folder, names), *changed_jobs(jobs)])
            write_note(folder, Part(), begun, names, finished=False)
            remove_partials(jobs)
            records = run_jobs(jobs, workers)
        splits = split_of_records(records, wishes, recipe)
        recordings, montages, groups = collect(records, folder, splits)
        shards = write_shards(args.out, groups, recipe.seed, recipe.shard_mb, workers)
        skipped = [entry for record in records for entry in record["skipped"]]
        write_manifest(
            args.out,
            profile=profile.as_dict(),
            montages=montages,
            recordings=recordings,
            shards=shards,
            split={"seed": recipe.seed, "fractions": FRACTIONS, "subjects": by_subject(recordings)},
            source=settings(recipe, specs)
            | {
                "items": [item_entry(j.item, r) for j, r in zip(jobs, records, strict=True)],
                "skipped": skipped,
                **({"pictures": shown} if (shown := pictures_of(groups)) else {}),
            },
        )
        shutil.rmtree(folder)


def say_again(changed: list[str]) -> None:
    """Print what changed since a pack was begun: what was made of it is not kept."""
    if changed:
        print("changed since this pack was begun; what was made of these is made again:")
        print("\n".join(f"  {line}" for line in few(changed, SHOWN)), flush=True)


def _begun_remedy(out: Path) -> str:
    return (
        "give the settings it was begun with, choose another --out, or start anew: --overwrite "
        f"without --part, or remove {out / PACKING}"
    )


def split_of_records(records: list[dict], wishes: list[Wish], recipe: Recipe) -> list[str | None]:
    """The split of each record. Only subjects with windows are divided, so that a recording that
    was left out is not the one that would validate."""
    full = [any(entry["windows"] for entry in record["recordings"]) for record in records]
    present = [wish for wish, has in zip(wishes, full, strict=True) if has]
    found = assign_splits(present, recipe.seed, recipe.people)
    remaining = iter(found)
    return [next(remaining) if has else None for has in full]


def by_subject(recordings: list[dict]) -> dict[str, dict[str, str]]:
    """{dataset: {subject: split}}; a subject in several (VC by image) has them joined by +."""
    found: dict[str, dict[str, list[str]]] = {}
    for recording in recordings:
        if recording["split"]:
            subjects = found.setdefault(recording["dataset"], {})
            subjects.setdefault(recording["subject"], []).append(recording["split"])
    return {
        dataset: {
            subject: "+".join(split for split in SPLITS if split in splits)
            for subject, splits in subjects.items()
        }
        for dataset, subjects in found.items()
    }


def report(manifest: Manifest) -> None:
    if manifest.paired:
        following = f"python trainer/eeg2meg.py --shards {manifest.folder}"
        print(f"\n{summarise(manifest)}\n\nnext:  {following}")
        return
    print(f"\n{summarise(manifest)}\n\nnext:  deepspeed --num_gpus 1 trainer/pretrain.py "
          f"--deepspeed_config ds_configs/zero2.json --shards {manifest.folder}")  # fmt: skip


if __name__ == "__main__":
    run_command(main)
