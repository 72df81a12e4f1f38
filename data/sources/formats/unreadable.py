"""Why MNE cannot open a file as a recording, and what to do about it: it need not be damaged."""

from __future__ import annotations

from pathlib import Path

import mne

from data.errors import InputError

KINDS = {
    "epochs": "epochs",
    "evoked": "averages of epochs",
    "ica": "an ICA decomposition",
    "cov": "a covariance matrix",
    "events": "a list of events",
    "forward": "a forward solution",
    "inverse": "an inverse operator",
    "proj": "projections",
    "src": "a source space",
    "trans": "a transformation of coordinates",
    "bem solution": "a head model",
    "bem surfaces": "surfaces of a head model",
}
"""What `mne.what` calls a FIF file -> in words."""
CONTINUOUS = (
    "give the continuous recording that they were cut from, with events=NAME for windows at events"
)


def explain(path: Path, error: Exception) -> InputError:
    """The message for what MNE raised on opening `path` as a recording."""
    said = " ".join(str(error).split())
    if path.suffix.lower() == ".set" and "number of trials" in said.lower():
        return InputError(
            f"{path}: a file of epochs ({_trials(said)}), no continuous recording", CONTINUOUS
        )
    kind = _kind_of_fif(path) if path.suffix.lower() == ".fif" else None
    if kind in ("epochs", "evoked"):
        return InputError(f"{path}: a file of {KINDS[kind]}, no continuous recording", CONTINUOUS)
    if kind:
        return InputError(
            f"{path}: {KINDS[kind]}, no recording",
            "leave it out: make the pattern narrower, e.g. raw:.../*_raw.fif",
        )
    if isinstance(error, UnicodeError) and path.suffix.lower() in (".vhdr", ".ahdr"):
        return InputError(
            f"{path}: its header or markers are no UTF-8, which MNE asks for ({said[:120]})",
            "convert the two, which are text: iconv -f latin1 -t utf-8 OLD > NEW",
        )
    if isinstance(error, UnicodeError):
        return InputError(
            f"{path}: text in it is not in the encoding that its format asks for ({said[:120]})",
            "export it again with names in plain letters, as EDF, BrainVision or FIF",
        )
    return InputError(
        f"{path}: MNE cannot read it ({type(error).__name__}: {said[:200]})",
        "it is damaged, or of a format that MNE does not know: copy it again, or export it as "
        "EDF, BrainVision or FIF",
    )


def _kind_of_fif(path: Path) -> str | None:
    """What else than a recording a FIF file holds, in MNE's word; None where it does not say."""
    try:
        kind = mne.what(path)
    except Exception:  # nearly anything, on a damaged file
        return None
    return kind if kind in KINDS else None


def _trials(said: str) -> str:
    digits = "".join(c if c.isdigit() else " " for c in said).split()
    return f"{digits[0]} trials" if digits else "several trials"
