"""What work items of several kinds of sources have in common; see `data.sources.spec.WorkItem`."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, is_dataclass
from pathlib import Path

import mne

from data.files import file_signature
from data.signals.profiles import Profile
from data.signals.recording import Event, MegOptions, Recording
from data.sources.formats.recording_files import with_opened
from data.sources.spec import EventChoice, Spec


def signed(item, *fields: str) -> dict:
    """A work item's `signature`: its files, and what these fields of it say."""
    values = {field: getattr(item, field) for field in fields}
    plain = {name: asdict(v) if is_dataclass(v) else v for name, v in values.items()}
    return {"files": file_signature(item.source_files())} | plain


@dataclass(frozen=True)
class FileItem:
    """One recording in one file, with what the source's options say of it."""

    path: Path
    dataset: str
    subject: str
    session: str
    run: str
    events: EventChoice | None
    montage: str | None
    mains_hz: float | None
    split: str
    meg: MegOptions | None
    unit: str | None

    def recording(
        self, raw: mne.io.BaseRaw, events: list[Event] | None, files: Iterable[Path]
    ) -> Recording:
        """The opened file as a Recording; `files`: those that are hashed."""
        return Recording(
            dataset=self.dataset,
            subject=self.subject,
            session=self.session,
            run=self.run,
            raw=raw,
            events=events,
            mains_hz=self.mains_hz,
            montage=self.montage,
            source_files=with_opened(files, raw),
            meg=self.meg,
        )


def file_options(spec: Spec, profile: Profile, events: EventChoice | None) -> dict:
    """The fields of a FileItem that are the same for every file of a source."""
    return {
        "events": events,
        "montage": spec.options.get("montage"),
        "mains_hz": spec.mains(),
        "split": spec.split,
        "meg": spec.meg_options(profile),
        "unit": spec.unit(),
    }


def files_by_person(
    spec: Spec, patterns: Sequence[str], shown: str, remedy: str, above: int = 2
) -> dict[str, list[Path]]:
    """{person: files below the target that match, sorted}, by the folder sub-PERSON that is so many
    `above` each. `shown`: the patterns in the message where nothing matches."""
    root = Path(spec.target).expanduser()
    people: dict[str, list[Path]] = {}
    for path in sorted(path for pattern in patterns for path in root.glob(pattern)):
        people.setdefault(path.parents[above - 1].name.removeprefix("sub-"), []).append(path)
    if not people:
        raise spec.wrong(f"no {shown} in it" if root.is_dir() else "no such folder", remedy)
    return people
