"""A source listed and loaded as a packing worker does it."""

from __future__ import annotations

import json
import pickle

from data.signals.eeg import make_windows
from data.signals.profiles import get_profile
from data.sources.spec import list_items, parse_spec

DEFAULT = get_profile("default")


def items_of(spec: str, profile=DEFAULT):
    return list_items(parse_spec(spec), profile)


def loaded(spec: str, profile=DEFAULT):
    """(recording, windows) of every recording of a source; the items must survive a worker."""
    pairs = []
    for item in items_of(spec, profile):
        item = pickle.loads(pickle.dumps(item))
        json.dumps(item.signature)
        for recording in item.load():
            assert (recording.dataset, recording.subject) == (item.dataset, item.subject)
            windows = make_windows(recording, profile)
            json.dumps(windows.info, allow_nan=False)
            assert all(len(json.dumps(meta)) < 400 for meta in windows.meta)
            pairs.append((recording, windows))
    return pairs
