"""`vc:FILE.pth`: the published visual-category recordings (Spampinato et al. 2017; Palazzo 2020).

    vc:eeg_5_95_std.pth
    vc:eeg_5_95_std.pth,splits=block_splits_by_image_all.pth,by=image
    vc:eeg_5_95_std.pth,splits=block_splits_by_image_single.pth,subject=4

Six people, 128 channels, 1 kHz, 0.5 s per image. The files are {dataset: [{eeg, image, label,
subject}], labels, images}; as in the authors' code, segments of 450 to 600 samples are used, and
`eeg_signals_128_with_mean_std.pth` is standardised with its own means and stddevs. The images of a
class were shown in one block, so a classifier can score on slow drift alone: labels are recorded,
but a test accuracy on them says little.

The files name no channels. Their order was published by the authors afterwards (perceivelab/
eeg_visual_classification on GitHub, "What is the sequence of channel names"): Brain Products'
actiCAP with 128 electrodes, here with the places of the 10-05 system; `montage=` or `channels=`
says otherwise. The published split is of images: with by=image every subject is in all three
splits, and with by=subject (default) it is recorded by window only.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from data.electrodes.montages import TEMPLATE, positions_of, template_positions
from data.errors import InputError
from data.signals.profiles import Profile
from data.signals.recording import Recording, safe_name
from data.sources.formats.recording_files import montage_files
from data.sources.formats.vc_files import ACTICAP_128, read_vc, split_of_indices, standardise
from data.sources.items import signed
from data.sources.spec import Spec
from data.subjects.people import canonical_subject

DATASET = "VC"
SFREQ_HZ = 1000.0
LENGTHS = (450, 600)


@dataclass(frozen=True)
class VcItem:
    """One subject, or with by=image one subject's windows of one published split."""

    path: Path
    splits: Path | None
    split_num: int
    subject: str
    published: str | None
    """With by=image: which published split."""
    single_subject: bool
    """The split file counts within this subject's segments."""
    montage: str | None
    channels: Path | None
    split: str
    dataset: str = DATASET

    @property
    def key(self) -> str:
        return safe_name(f"vc-{self.path.stem}-{self.subject}-{self.published or ''}")

    @property
    def signature(self) -> dict:
        fields = ("split_num", "subject", "published", "single_subject", "montage")
        return signed(self, *fields)

    def source_files(self) -> list[Path]:
        files = [path for path in (self.path, self.splits, self.channels) if path]
        return [*files, *montage_files(self.montage)]

    def load(self) -> Iterator[Recording]:
        content = read_vc(self.path)
        rows = list(enumerate(content["dataset"]))
        if self.single_subject:
            # Such a file counts after the subjects are filtered, and before the lengths are.
            rows = list(enumerate(r for _, r in rows if str(int(r["subject"])) == self.subject))
        published = split_of_indices(self.splits, self.split_num, len(rows)) if self.splits else {}
        segments, metas, odd, own, unnamed = [], [], 0, 0, 0
        for index, row in rows:
            if str(int(row["subject"])) != self.subject:
                continue
            own, unnamed = own + 1, unnamed + (index not in published)
            if self.published and published.get(index) != self.published:
                continue
            if not LENGTHS[0] <= row["eeg"].shape[1] <= LENGTHS[1]:
                odd += 1
                continue
            segments.append(standardise(row["eeg"], content).numpy())
            meta = {
                "label": content["labels"][int(row["label"])],
                "image": content["images"][int(row["image"])],
            }
            if index in published:
                meta["published_split"] = published[index]
            metas.append(meta)
        names, positions_m, source = self._places(content)
        notes = {"positions_from": source}
        if odd:
            notes["length"] = f"{odd} segments outside {LENGTHS[0]}-{LENGTHS[1]} samples left out"
        if self.splits and unnamed and self.published in (None, "train"):
            what = "left out" if self.published else "packed without one"
            notes["split"] = f"{unnamed} of {own} segments in no split of the file, {what}"
        if "means" in content:
            notes["standardised"] = "with the file's means and stddevs"
        yield Recording(
            dataset=DATASET,
            subject=self.subject,
            session="1",
            run=self.published or "1",
            segments=segments,
            segment_meta=metas,
            segment_sfreq_hz=SFREQ_HZ,
            channel_names=names,
            positions_m=positions_m,
            unit="standardised",
            source_files=[path for path in (self.path, self.splits) if path],
            notes=notes,
        )

    def _places(self, content: dict) -> tuple[list[str], np.ndarray, str]:
        count = content["dataset"][0]["eeg"].shape[0]
        montage = self.montage or TEMPLATE
        if self.channels:
            names = self.channels.read_text("utf-8").split()
            source = f"{self.channels.name}, {montage} by name"
        elif self.montage:
            names = [name for name, _ in template_positions(montage).values()]
            source = f"{montage} by order (an assumption)"
        else:
            names, source = ACTICAP_128, f"actiCAP 128, the order its authors gave; {montage}"
        if len(names) != count:
            raise InputError(
                f"{self.path}: {count} channels, but {source} has {len(names)}",
                "name a montage of as many, e.g. montage=biosemi128, or give channels=FILE",
            )
        return list(names), positions_of(names, montage, str(self.path)), source


def list_items(spec: Spec, profile: Profile) -> list[VcItem]:
    """One item per subject. Raises InputError for a missing, truncated or foreign file."""
    path = Path(spec.target).expanduser()
    splits = spec.path("splits")
    channels = spec.path("channels")
    by = spec.options.get("by", "subject")
    if by not in ("subject", "image") or (by == "image" and not splits):
        raise spec.wrong(f"by={by}", "use by=subject, or by=image together with splits=FILE")
    number = spec.options.get("split_num", "0")
    if not number.isdecimal():
        raise spec.wrong(f"split_num={number}", "give a whole number from 0")
    rows = read_vc(path)["dataset"]
    subjects = sorted({int(row["subject"]) for row in rows})
    only = spec.options.get("subject")
    if only is not None:
        if canonical_subject(only) not in map(str, subjects):
            raise spec.wrong(
                f"subject={only} is not in the file",
                f"its subjects are {', '.join(map(str, subjects))}",
            )
        subjects = [int(canonical_subject(only))]
    single = False
    if splits:
        top = max(split_of_indices(splits, int(number), None), default=0)
        # block_splits_by_image_single.pth counts within one subject and so ends far earlier.
        single = only is not None and top < sum(int(row["subject"]) == subjects[0] for row in rows)
        if only is None and len(subjects) > 1 and top < 0.5 * len(rows):
            raise spec.wrong(
                f"{splits.name} counts to {top}, there are {len(rows)} segments",
                "it splits one subject's segments: name it with subject= (the authors used 4)",
            )
        of_subject = sum(int(row["subject"]) == subjects[0] for row in rows)
        counted = of_subject if single else len(rows)
        unnamed = counted - len(split_of_indices(splits, int(number), counted))
        if unnamed:
            what = "left out" if by == "image" else "packed without one"
            print(
                f"{spec}: {unnamed} of {counted} segments in no split of {splits.name}, {what}",
                flush=True,
            )
    published = ("train", "val", "test") if by == "image" else (None,)
    return [
        VcItem(
            path,
            splits,
            int(number),
            str(subject),
            name,
            single,
            spec.options.get("montage"),
            channels,
            name if name and spec.split == "auto" else spec.split,
        )
        for subject in subjects
        for name in published
    ]
