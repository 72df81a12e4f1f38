"""The work items of a source, chosen and labelled as its options say.

Each kind is one module of this package with `list_items(spec, profile) -> list[WorkItem]`. Modules
are imported when first asked for, because MOABB and torch take seconds to import.
"""

from __future__ import annotations

import importlib

from data.errors import InputError
from data.signals.profiles import Profile
from data.sources.kinds import CHOSEN_BY_SUBJECT, KINDS
from data.sources.labels.choose import label_items
from data.sources.spec import Spec, WorkItem
from data.subjects.selection import select_subjects


def list_items(spec: Spec, profile: Profile) -> list[WorkItem]:
    """The work items of a source, in a stable order.

    Raises InputError for what is missing or wrong (a file, a dataset's name, no network ...).
    """
    items = importlib.import_module(KINDS[spec.kind].module).list_items(spec, profile)
    if not items:
        raise InputError(f"--source {spec}: nothing to pack", "check the path and the options")
    if spec.kind in CHOSEN_BY_SUBJECT:
        people = list(dict.fromkeys(item.subject for item in items))
        wanted = select_subjects(spec.options.get("subjects"), people, f"--source {spec}")
        items = [item for item in items if item.subject in wanted]
    return label_items(spec, items)
