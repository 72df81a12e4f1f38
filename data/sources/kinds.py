"""The kinds of sources: which module lists each, and which options it takes, in words."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Kind:
    """One kind of source: the module that lists it, what follows the colon, and its options."""

    module: str
    target: str
    options: dict[str, str]


_SUBJECTS = "which subjects, e.g. 1-3+7 (ranges and single ones joined by +); default all"
_MONTAGE = "a montage built into MNE, or a file of positions, instead of the recording's own"
_UNIT = "uV, nV, mV or V: the unit of the file's EEG, whatever the file says or does not say"
_EVENTS = "1: one window for each event, with its label; 0: continuous windows"
_MEG = {
    "sss": "1: signal-space separation of the MEG (with a profile that keeps MEG); default 0",
    "regress": "eog, ecg or eog+ecg: take their linear part out of EEG and MEG (likewise)",
}
_EVENTS_FROM = {
    "events_from": "annotations, or a stimulus channel's name; default: where the names are found, "
    "triggers before annotations",
    "edges": "any (default): each change of a stimulus channel to another code than 0 is an event; "
    "rise: only to a higher code",
}
COMMON = {
    "split": "train, val or test for all of it; auto (default) splits by subject",
    "label": "a regular expression whose group called label, or first group, in a recording's path "
    "(raw:, bids:) or name is its label; with labels=, the name of the column",
    "labels": "a table, tab-separated, of labels by file, recording or subject (and session, run)",
}
CHOSEN_BY_SUBJECT = ("raw", "vc")
"""Kinds whose items are listed first and then chosen by `subjects`."""

KINDS = {
    "moabb": Kind(
        "data.sources.from_moabb",
        "a dataset of MOABB, e.g. PhysionetMI; files are looked for under MNE_DATA first",
        {
            "subjects": f"{_SUBJECTS}; subjects=available takes those whose files are on disk",
            "events": f"{_EVENTS} (default)",
            "montage": _MONTAGE,
            "mains_hz": "50 or 60; default: MOABB's record of the country, else measured",
        },
    ),
    "things": Kind(
        "data.sources.things.from_things",
        "the BIDS root of OpenNeuro ds003825 (THINGS-EEG)",
        {"subjects": _SUBJECTS, "events": f"{_EVENTS.replace('0:', '0 ')}; default 1"},
    ),
    "vc": Kind(
        "data.sources.from_vc",
        "a published .pth file of the visual-category recordings (eeg_5_95_std.pth ...)",
        {
            "splits": "the published split file; val, test and train are recorded by window",
            "split_num": "which of the file's splits, default 0",
            "by": "subject (default): subjects are split; image: the published split of images "
            "is used, so every subject is in all three splits",
            "subjects": _SUBJECTS,
            "subject": "one subject only; needed with block_splits_by_image_single.pth (subject=4)",
            "montage": "a montage with 128 channels in the file's order, e.g. biosemi128",
            "channels": "a text file with one channel name per line, in the file's order",
        },
    ),
    "things2": Kind(
        "data.sources.things.from_things2",
        "the folder of THINGS-EEG2's raw data (sub-XX/ses-YY/raw_eeg_training.npy)",
        {
            "subjects": _SUBJECTS,
            "sessions": "which sessions, joined by +; default all",
            "parts": "training, test or training+test (default)",
            "events": f"{_EVENTS.replace('0:', '0 ')}; default 1",
        },
    ),
    "things2-published": Kind(
        "data.sources.things.from_things2_published",
        "the folder of THINGS-EEG2's pre-processed arrays (sub-XX/preprocessed_eeg_training.npy)",
        {"subjects": _SUBJECTS, "part": "training or test: packed into folders of their own"},
    ),
    "bids": Kind(
        "data.sources.from_bids",
        "the root of a BIDS dataset with EEG, or with MEG and EEG",
        {
            "subjects": _SUBJECTS,
            "sessions": "which sessions, joined by +; default all",
            "tasks": "which tasks, joined by +; default all",
            "runs": "which runs, joined by + (as in the files' names); default all",
            "events": "1: one window for each row of events.tsv (without that table: for each "
            "trigger, else for each annotation); or names of events, joined by +; "
            "default: continuous windows",
            **_EVENTS_FROM,
            "dataset": "a name for the dataset, default the folder's name",
            "montage": _MONTAGE,
            "mains_hz": "50 or 60; default: the sidecar, else measured",
            "unit": _UNIT,
            **_MEG,
        },
    ),
    "raw": Kind(
        "data.sources.from_raw",
        "a path or glob (** too) of anything that MNE reads: EDF, BDF, BrainVision, FIF, EEGLAB",
        {
            "subject": "a regular expression whose first group is the subject, looked for in the "
            "path below the folder that all files share; or one: all files are one person; or "
            "file: each is a person of its own; default: sub-XX in the path, or names like S01",
            "subjects": _SUBJECTS,
            "dataset": "a name for the dataset, default the folder's name",
            "montage": _MONTAGE,
            "events": "descriptions of annotations, or codes of a stimulus channel, joined by +; "
            "default: continuous",
            **_EVENTS_FROM,
            "mains_hz": "50 or 60; default: the file's header, else measured",
            "unit": _UNIT,
            **_MEG,
        },
    ),
    "simulated": Kind(
        "data.sources.simulated",
        "nothing, or a montage",
        {
            "montages": "montages, joined by +",
            "subjects": "people per montage",
            "minutes": "minutes per person",
            "states": "1: people at rest and at a task, labelled",
            "seed": "another seed gives other people",
        },
    ),
    "simulated-images": Kind(
        "data.sources.simulated_images",
        "nothing: people who look at pictures, and the best retrieval known",
        {
            "part": "training or test: packed into folders of their own",
            "subjects": "people",
            "concepts": "of the training part",
            "pictures": "of each training concept",
            "repeats": "trials of each training picture",
            "test_concepts": "of the test part, one picture each",
            "test_repeats": "trials of each test picture",
            "seed": "another seed gives other people and pictures",
        },
    ),
    "simulated-pairs": Kind(
        "data.sources.simulated_pairs",
        "nothing, linear or nonlinear: EEG with MEG, and the best prediction known",
        {
            "statistics": "linear: one map from EEG to MEG is the best (default); nonlinear: "
            "active sources switch between states",
            "subjects": "people",
            "runs": "runs per person",
            "minutes": "minutes per run",
            "eeg": "electrodes, 8 to 74; several joined by + are dealt to the people in turn",
            "sources": "dipoles",
            "noise": "sensor noise, times the usual",
            "variation": "how much people and runs differ, times the usual; 0: one head",
            "seed": "another seed gives other people",
        },
    ),
}
PROFILES = {"simulated-pairs": "eeg2meg", "things2-published": "things2_published"}
"""How kinds are packed unless --profile says otherwise."""
WITHOUT_TARGET = ("simulated", "simulated-images", "simulated-pairs")
"""Kinds after which nothing need follow."""
FROM_FILES = ("raw", "bids", "things", "things2", "things2-published", "vc")
"""Kinds whose target is a path."""
PATH_OPTIONS = ("montage", "splits", "channels", "labels")
"""Options that may name a file; of these a manifest keeps the last part."""
