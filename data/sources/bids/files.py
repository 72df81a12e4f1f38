"""Which recordings of a BIDS dataset hold EEG, and what their names say."""

from __future__ import annotations

import json
import re
from pathlib import Path

import mne_bids

from data.errors import InputError
from data.sources.formats.recording_files import is_part_of_another
from data.sources.spec import Spec
from data.subjects.moabb_names import quiet

FORMATS = (".vhdr", ".edf", ".bdf", ".set", ".fif")


def recordings_of(spec: Spec, root: Path) -> list[mne_bids.BIDSPath]:
    """Every file that holds EEG, in a stable order."""
    with quiet():
        found = mne_bids.find_matching_paths(
            root, datatypes=["eeg", "meg"], suffixes=["eeg", "meg"], ignore_nosub=True
        )
    files = [path for path in found if path.extension and path.extension.lower() in FORMATS]
    files = [
        path
        for path in files
        if path.subject != "emptyroom"
        and path.root in (root, None)
        and Path(path.fpath).is_relative_to(root / f"sub-{path.subject}")
        and not is_part_of_another(Path(path.fpath))
    ]
    with_eeg = [path for path in files if path.datatype == "eeg" or _counts_eeg(path)]
    if not with_eeg:
        kinds = ", ".join(sorted({str(path.extension) for path in found if path.extension}))
        raise InputError(
            f"--source {spec}: {'only MEG without EEG' if files else 'no recording'} in it"
            + ("" if files or not kinds else f" (files of {kinds})"),
            f"recordings of {', '.join(FORMATS)} in sub-*/eeg or sub-*/meg are read; after "
            "`datalad clone`, fetch the files themselves with `datalad get`",
        )
    return sorted(with_eeg, key=lambda path: str(path.fpath))


def _counts_eeg(path: mne_bids.BIDSPath) -> bool:
    """Whether a MEG recording's sidecar counts EEG channels; True where it does not say."""
    sidecar = path.find_matching_sidecar("meg", ".json", on_error="ignore")
    try:
        return json.loads(Path(sidecar).read_text("utf-8")).get("EEGChannelCount", 1) != 0
    except (TypeError, OSError, ValueError, AttributeError):
        return True


def entities(spec: Spec, paths: list, option: str, entity: str) -> set:
    """The values of an entity (session, task ...) that an option names; None names all."""
    text = spec.options.get(option)
    present = {getattr(path, entity) for path in paths}
    if text is None:
        return present
    wanted = set(re.split(r"\s*\+\s*", text.strip()))
    if not wanted <= present:
        known = "+".join(sorted(filter(None, present))) or f"no {entity} at all"
        raise InputError(
            f"--source {spec}: no {entity} {', '.join(sorted(wanted - present))}",
            f"{option} are written as in the files' names; present: {known}",
        )
    return wanted


def run_of(path: mne_bids.BIDSPath) -> str:
    """What tells recordings of one session apart: task, acquisition, run ... in one word."""
    parts = [path.task, path.acquisition, path.processing, path.recording, path.run]
    return "-".join(part for part in parts if part) or "1"
