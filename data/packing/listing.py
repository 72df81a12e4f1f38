"""What there is to pack: the items of all sources, and one message for all that is missing."""

from __future__ import annotations

import importlib
import os
import re
from collections.abc import Iterable

from data.errors import InputError
from data.files import machine_trouble, require_text_names
from data.signals.profiles import Profile
from data.signals.recording import Recording
from data.sources.kinds import CHOSEN_BY_SUBJECT, KINDS
from data.sources.labels.choose import label_items
from data.sources.spec import Spec, WorkItem
from data.subjects.split import Wish

SIMULATED = "python data/pack.py --source simulated --out shards/simulated"


def list_all(
    specs: list[Spec], profile: Profile, default: bool
) -> tuple[list[WorkItem], list[Wish]]:
    """All work items, and their splits as asked for. Everything missing is named in one message."""
    items, wishes, errors, names = {}, [], [], {}
    for number, spec in enumerate(specs):
        try:
            for item in list_items(spec, profile):
                require_text_names(item.source_files())
                if item.key in items:
                    raise spec.wrong(f"{item.key} is named twice", "name each recording once")
                if (name := name_of(item)) in names:
                    raise spec.wrong(
                        f"two recordings are called {name}, the other one by "
                        f"--source {names[name]}",
                        "give raw: and bids: sources of different recordings dataset=NAME each",
                    )
                names[name] = spec
                items[item.key] = item
                wishes.append(Wish(number, item.dataset, item.subject, item.split))
        except InputError as error:
            errors.append((spec, error))
        except Exception as error:
            if (trouble := machine_trouble(error)) is None:
                raise
            raise spec.wrong(
                f"the machine failed, not the recordings: {trouble}",
                "wait until it works again, then run the same command again",
            ) from error
    if not errors:
        _refuse_two_spellings(items.values())
        return list(items.values()), wishes
    if len(errors) == 1 and not default:
        raise errors[0][1]
    if default:
        where, remedies = "the default recipe (data/recipes/original.yaml)", _missing_defaults()
    else:
        where, remedies = "--source", list(dict.fromkeys(error.remedy for _, error in errors))
    what = [f"{len(errors)} of the {len(specs)} sources of {where} cannot be packed:"]
    for text in dict.fromkeys(error.what for _, error in errors):
        names = ", ".join(str(spec) for spec, error in errors if error.what == text)
        what.append(f"  - {names}: {text.removeprefix(f'--source {names}: ')}")
    raise InputError("\n".join(what), "\n  -> ".join(remedies))


def list_items(spec: Spec, profile: Profile) -> list[WorkItem]:
    """The work items of a source, in a stable order.

    Raises InputError for what is missing or wrong (a file, a dataset's name, no network ...).
    """
    items = importlib.import_module(KINDS[spec.kind].module).list_items(spec, profile)
    if not items:
        raise spec.wrong("nothing to pack", "check the path and the options")
    if spec.kind in CHOSEN_BY_SUBJECT:
        people = list(dict.fromkeys(item.subject for item in items))
        wanted = spec.subjects(people)
        items = [item for item in items if item.subject in wanted]
    return label_items(spec, items)


def _refuse_two_spellings(items: Iterable[WorkItem]) -> None:
    """InputError where a dataset has two subjects whose names differ in zeros or capitals only: one
    person would be split as two."""
    found: dict[tuple[str, str], str] = {}
    for item in items:
        plain = re.sub(r"0+(?=\d)", "", item.subject.casefold())
        other = found.setdefault((item.dataset, plain), item.subject)
        if other != item.subject:
            raise InputError(
                f"dataset {item.dataset}: are subjects {other} and {item.subject} one person?",
                "call them alike if they are, or so that more than zeros and capitals differ (raw: "
                "takes subject=REGEX and dataset=NAME), or leave one out",
            )


def name_of(item: WorkItem) -> str:
    """An item's name, wherever its files lie: of one recording that one's, else its key."""
    if not (hasattr(item, "session") and hasattr(item, "run")):
        return item.key
    return Recording(item.dataset, item.subject, item.session, item.run).id


def _missing_defaults() -> list[str]:
    """What to do where the default recipe's recordings are not at hand."""
    root = os.environ.get("MNE_DATA", "~/mne_data")
    return [
        f"MOABB's sets: run the same command where there is a network, e.g. on a login node, which "
        f"downloads them; or copy such a machine's MNE_DATA folder here, to {root}",
        "THINGS-EEG: put OpenNeuro ds003825, or some of its subjects, into sources/ds003825:  "
        "aws s3 sync --no-sign-request s3://openneuro.org/ds003825 sources/ds003825",
        "or pack what you have, with a recipe of your own:  python data/pack.py --recipe FILE",
        f"or pack simulated recordings, which need no files:  {SIMULATED}",
    ]
