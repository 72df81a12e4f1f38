"""Is a finished folder what is asked for? Compared by content, not by names.

The manifest keeps each item's settings (hashed) and its files' names, sizes and hashes: every file
that decides the content, tables and montages too. Folders' names are left out of it, so that it
does not tell of a machine; the same files are the same wherever they lie now.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

from data.diskspace import readable
from data.errors import InputError
from data.files import dump_json, hash_once, named
from data.packing.listing import name_of
from data.packing.recipe import Recipe
from data.shards.manifest import Manifest, read_manifest
from data.shards.tars import ShardReader
from data.signals.profiles import Profile
from data.sources.kinds import FROM_FILES, PATH_OPTIONS
from data.sources.spec import Spec, WorkItem, parse_spec

SHOWN = 10
OTHER = "other content than was packed"
SMALL_BYTES = 1 << 20
HASH_LETTERS = 16
"""Of SHA-256: enough to see that a file was changed; the recordings' entries have all 64."""


def settings(recipe: Recipe, specs: Sequence[Spec]) -> dict:
    """What decides the content, for the manifest: folders' names are left out of the sources."""
    return {
        "sources": [portable(spec) for spec in specs],
        "seed": recipe.seed,
        "shard_mb": float(recipe.shard_mb),
        **recipe.selection(),
    }


def portable(spec: Spec) -> str:
    """The source's text, of paths only the last part: a manifest must not depend on the machine."""
    options = {
        key: Path(value).name if key in PATH_OPTIONS else value
        for key, value in spec.options.items()
    }
    target = Path(spec.target).name if "/" in spec.target else spec.target
    return str(replace(spec, target=target, options=options))


def whole(spec: Spec) -> str:
    """The source's text with whole paths: what was begun is begun with these files."""
    path = Path(spec.target).expanduser()
    target = str(path.absolute()) if spec.kind in FROM_FILES else spec.target
    options = {
        key: str(Path(value).absolute()) if key in PATH_OPTIONS and Path(value).is_file() else value
        for key, value in spec.options.items()
    }
    return str(replace(spec, target=target, options=options))


def item_entry(item: WorkItem, record: dict) -> dict:
    """What the manifest keeps of an item. `record`: its packing record."""
    return {
        "name": name_of(item),
        "settings": item_settings(item),
        "files": {
            name: [size, sha[:HASH_LETTERS]] for name, (size, sha) in record["files"].items()
        },
        **({"left_out": True} if record["skipped"] else {}),
    }


def item_settings(item: WorkItem) -> str:
    """Hash of everything but its files that an item's content and split depend on."""
    signature = {
        key: Path(value).name if key in PATH_OPTIONS and isinstance(value, str) else value
        for key, value in item.signature.items()
        if key != "files"
    }
    text = dump_json([item.dataset, item.subject, item.split, signature])
    return hashlib.sha256(text.encode()).hexdigest()[:HASH_LETTERS]


def refuse_other_settings_of(
    out: Path, recipe: Recipe, specs: Sequence[Spec], profile: Profile
) -> Manifest:
    """The manifest of a finished folder; InputError where it is damaged or has other settings."""
    try:
        manifest = read_manifest(out)
        for shard in manifest.shards:
            ShardReader(manifest, shard)
        found = manifest.raw["source"]
    except InputError as error:
        raise InputError(error.what, "add --overwrite to pack it again") from None
    wanted = settings(recipe, specs)
    found = {key: type(value)() for key, value in wanted.items()} | found  # earlier: no selection
    differ = [
        f"{key}: {found[key]} there, {value} asked"
        for key, value in wanted.items()
        if key != "sources" and found[key] != value
    ]
    if "items" in found:
        differ += _other_sources(found["sources"], wanted["sources"])
    asked = profile.as_dict()
    for key in sorted({*asked, *manifest.profile}):
        there, value = manifest.profile.get(key), asked.get(key)
        if there != value:
            differ.append(f"profile {key}: {there} there, {value} asked")
    if differ:
        raise InputError(f"{out}: holds shards of other settings\n  " + "\n  ".join(differ), _WAYS)
    return manifest


def refuse_other_content(manifest: Manifest, items: Sequence[WorkItem], workers: int) -> str:
    """What was compared, in words; InputError where `items` are not what the folder was made of."""
    out, found = manifest.folder, manifest.raw["source"].get("items")
    if found is None:
        raise InputError(
            f"{out}: packed by an earlier version, which did not write down which files it packed: "
            "that they are those asked for cannot be shown",
            f"{_WAYS}. To use it as it is, no packing is needed: give it as --shards",
        )
    there = {entry["name"]: entry for entry in found}
    asked = {name_of(item): item for item in items}
    differ = [f"{name}: new, not among those packed" for name in asked if name not in there]
    differ += [f"{name}: packed, but not among those asked for" for name in there.keys() - asked]
    same = [name for name in asked if name in there]
    files = {name: named(asked[name].source_files()) for name in same}
    for name in same:
        differ += _at_a_glance(there[name], asked[name], files[name])
    hashed = 0
    if not differ:
        paths = {path for name in same for path in files[name].values()}
        hashed = sum(path.stat().st_size for path in paths)
        with ThreadPoolExecutor(workers) as pool:
            hashes = dict(zip(paths, pool.map(hash_once, paths), strict=True))
        for name in same:
            for label, path in files[name].items():
                if hashes[path][:HASH_LETTERS] != there[name]["files"][label][1]:
                    differ.append(_changed(there[name], label, OTHER))
        if not differ:
            return (
                f"its {len(same)} recordings were made of the same {len(paths)} files, "
                f"{readable(hashed)}, by size and hash"
                if paths
                else "it was made of the same sources"
            )
    more = [f"... and {len(differ) - SHOWN} more"] * (len(differ) > SHOWN)
    touched = {line.split(":", 1)[0] for line in differ}
    foreign = touched >= {*there, *asked} and len(there) > 1
    raise InputError(
        f"{out}: was packed from other files than those that are there now\n  "
        + "\n  ".join([*sorted(differ)[:SHOWN], *more])
        + "\n  (no recording is the same: is this another folder?)" * foreign,
        _WAYS,
    )


_WAYS = "choose another --out, or add --overwrite to pack anew in place of what is there"


def _other_sources(found: list[str], wanted: list[str]) -> list[str]:
    """What differs between two lists of sources, by option where they are otherwise alike."""
    if len(found) != len(wanted):
        return [f"sources: {', '.join(found)} there, {', '.join(wanted)} asked"]
    differ = []
    for old, new in zip(found, wanted, strict=True):
        try:
            was, now = parse_spec(old), parse_spec(new)
        except InputError:  # an option of an earlier version
            was = now = None
        if old == new:
            continue
        if was is None or (was.kind, was.target) != (now.kind, now.target):
            differ.append(f"sources: {old} there, {new} asked")
            continue
        for key in sorted({*was.options, *now.options}):
            values = [spec.options.get(key, "not given") for spec in (was, now)]
            if values[0] != values[1]:
                head = replace(now, options={})
                differ.append(f"sources: {head}: {key}={values[0]} there, {key}={values[1]} asked")
    return differ


def _at_a_glance(entry: dict, item: WorkItem, files: dict[str, Path]) -> list[str]:
    """What differs without looking into large files: settings, names, sizes, tables."""
    differ = []
    if entry["settings"] != item_settings(item):
        differ.append(f"{entry['name']}: other settings than it was packed with")
    was = entry["files"]
    differ += [_changed(entry, name, "new") for name in files.keys() - was]
    differ += [_changed(entry, name, "gone") for name in was.keys() - files]
    for name in files.keys() & was:
        size = files[name].stat().st_size
        if size != was[name][0]:
            differ.append(_changed(entry, name, f"changed: {was[name][0]} bytes there, {size} now"))
        elif size <= SMALL_BYTES and hash_once(files[name])[:HASH_LETTERS] != was[name][1]:
            differ.append(_changed(entry, name, OTHER))
    return differ


def _changed(entry: dict, file: str, what: str) -> str:
    left = " (it was left out as unreadable; packing anew tries it again)"
    return f"{entry['name']}: {file}: {what}{left * entry.get('left_out', False)}"
