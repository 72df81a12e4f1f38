"""What a shard folder holds, as a table for people; everything is read from its manifest."""

from __future__ import annotations

from collections import Counter

from data.diskspace import readable
from data.shards.manifest import Manifest
from data.shards.omissions import channel_lines, skipped_lines, window_lines
from data.shards.remarks import grouped
from data.shards.sensors import MEG_TYPES

SHOWN_LABELS = 12
SCALE_TEXTS = {
    "recording": "one for each recording",
    "session": "one for all recordings of a person's session",
}


def summarise(manifest: Manifest) -> str:
    """One block for each dataset, and the total."""
    lines = []
    for dataset in sorted({recording["dataset"] for recording in manifest.recordings}):
        lines += _dataset(manifest, dataset)
    counts = Counter()
    for shard in manifest.shards:
        counts[shard.split] += shard.samples
    size = sum(shard.bytes for shard in manifest.shards)
    hours = sum(recording.get("hours", 0) for recording in manifest.recordings)
    windows = ", ".join(f"{counts[split]} {split}" for split in ("train", "val", "test"))
    lines.append(
        f"total: {len(manifest.recordings)} recordings, {hours:.3g} h, windows {windows}, "
        f"{len(manifest.shards)} shards, {readable(size)} in {manifest.folder}"
    )
    scale = str(manifest.profile.get("scale", "recording"))
    lines.append(f"scale: {SCALE_TEXTS.get(scale, scale)}")
    skipped = manifest.raw["source"].get("skipped", [])
    if skipped:
        lines.append(f"left out as unreadable ({len(skipped)}); once repaired, add --overwrite:")
        lines += [f"  {line}" for line in skipped_lines(skipped)]
    return "\n".join(lines)


def _dataset(manifest: Manifest, dataset: str) -> list[str]:
    recordings = [r for r in manifest.recordings if r["dataset"] == dataset]
    shards = [shard for shard in manifest.shards if shard.dataset == dataset]
    subjects = manifest.raw["split"].get("subjects", {}).get(dataset, {})
    held = Counter(subjects.values())
    several = sum(count for split, count in held.items() if "+" in split)
    channels = sorted({len(manifest.montages[r["montage"]].channels) for r in recordings})
    montages = len({r["montage"] for r in recordings})
    lost = sum(sum(recording.get("dropped", {}).values()) for recording in recordings)
    hours = sum(r.get("hours", 0) for r in recordings)
    return [
        dataset,
        f"  recordings  {len(recordings)} ({hours:.3g} h kept)",
        f"  subjects    {len(subjects)} (train {held['train']}, val {held['val']}, "
        f"test {held['test']}{f', in several splits {several}' if several else ''})",
        f"  channels    {_range(channels)} in {montages} montage{'s' * (montages > 1)}",
        *_meg(manifest, recordings),
        *_labels(recordings),
        f"  windows     {sum(shard.samples for shard in shards)} kept; dropped: {lost or 'none'}",
        f"  shards      {len(shards)}, {readable(sum(shard.bytes for shard in shards))}",
        *(f"  dropped     {line}" for line in window_lines(recordings)),
        *(f"  not used    {line}" for line in channel_lines(recordings, "left_out")),
        *(f"  bad         {line}" for line in channel_lines(recordings, "bad_channels")),
        *(f"  bad MEG     {line}" for line in channel_lines(recordings, "bad_meg")),
        *(f"  remark      {line}" for line in grouped(recordings)),
    ]


def _meg(manifest: Manifest, recordings: list[dict]) -> list[str]:
    """The line on MEG sensors, where there are any."""
    sensors = [manifest.montages[r["montage"]].meg for r in recordings]
    counts = [Counter(entry.types) for entry in sensors if entry]
    if not counts:
        return []
    each = [f"{_range(sorted({c[kind] for c in counts}))} {kind}" for kind in MEG_TYPES]
    bad = Counter(why.split(" (")[0] for r in recordings for why in r.get("bad_meg", {}).values())
    worst = ", ".join(f"{n} {why}" for why, n in sorted(bad.items())) or "none"
    return [f"  MEG         {', '.join(each)}; bad: {worst}"]


def _labels(recordings: list[dict]) -> list[str]:
    """The line on labels of whole recordings, where there are any."""
    counts = Counter(recording.get("label") for recording in recordings)
    without = counts.pop(None, 0)
    if not counts:
        return []
    shown = [f"{label} ({count})" for label, count in sorted(counts.items())[:SHOWN_LABELS]]
    if len(counts) > SHOWN_LABELS:
        shown.append(f"and {len(counts) - SHOWN_LABELS} more")
    return [
        f"  labels      {', '.join(shown)} of recordings" + f"; {without} without" * (without > 0)
    ]


def _range(values: list[int]) -> str:
    return str(values[0]) if len(values) == 1 else f"{values[0]}-{values[-1]}"
