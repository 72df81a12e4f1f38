"""MOABB: trials glued end to end, what `data_path` gives back, and errors of the machine."""

from __future__ import annotations

import errno
from pathlib import Path

import mne
import numpy as np
import pytest

from data.electrodes.montages import TEMPLATE
from data.errors import InputError
from data.files import _hash
from data.signals.eeg import make_windows, source_hashes
from data.signals.profiles import get_profile
from data.signals.recording import Recording
from data.signals.spans import spans_of
from data.sources import from_moabb
from data.sources.formats import moabb_skips, offline
from data.sources.formats.moabb_skips import mark_skips
from data.sources.from_moabb import MoabbItem
from data.sources.spec import list_items, parse_spec

CHANNELS = ["Fz", "C3", "Cz", "C4", "Pz", "O1", "Oz", "O2"]
SFREQ = 250.0
PROFILE = get_profile("default")


def trials_of(count: int, seconds: float) -> np.ndarray:
    """`[count, channels, samples]` microvolts: 10 Hz and noise, different in every trial."""
    rng = np.random.default_rng(0)
    times = np.arange(round(seconds * SFREQ)) / SFREQ
    phases = rng.uniform(0, 6, (count, len(CHANNELS), 1))
    return 20 * np.sin(2 * np.pi * 10 * times + phases) + rng.normal(
        0, 5, (count, len(CHANNELS), len(times))
    )


class Dataset:
    """A dataset of one person, with one recording made by MOABB's own hand."""

    event_id = {"one": 1, "two": 2}  # noqa: RUF012
    interval = (0.0, 0.5)
    raw: mne.io.BaseRaw

    def get_data(self, _subjects):
        return {1: {"0": {"0": self.raw}}}


@pytest.fixture
def load(monkeypatch):
    """Load a recording as that of a MOABB dataset, with continuous windows or one an event."""

    def run(raw, by_event=False) -> Recording:
        monkeypatch.setattr(Dataset, "raw", raw, raising=False)
        monkeypatch.setattr(from_moabb, "find_class", lambda _name: Dataset)
        item = MoabbItem("Glued", 1, (), by_event, None, 50.0, "auto", False)
        (recording,) = item.load()
        return recording

    return run


def glued(trials: np.ndarray, onset_sample: int = 0, **options) -> mne.io.BaseRaw:
    from moabb.datasets.preprocessing import SetRawAnnotations
    from moabb.datasets.utils import build_raw_from_epochs

    labels = 1 + np.arange(len(trials)) % 2
    raw = build_raw_from_epochs(
        trials, CHANNELS, SFREQ, labels, "standard_1005", onset_sample=onset_sample, **options
    )
    return SetRawAnnotations(Dataset.event_id, (0.0, 0.5)).transform(raw)


def joined(trials: np.ndarray) -> mne.io.BaseRaw:
    """The same trials end to end without zeros, with MNE's mark of a join between them."""
    trials = 1e-6 * (trials - trials.mean(axis=2, keepdims=True))
    info = mne.create_info(CHANNELS, SFREQ, "eeg")
    raw = mne.io.RawArray(np.concatenate(list(trials), axis=1), info, verbose="error")
    raw.set_montage(TEMPLATE)
    onsets = np.arange(1, len(trials)) * trials.shape[2] / SFREQ
    return raw.set_annotations(mne.Annotations(onsets, 0.0, "EDGE boundary"))


def test_no_window_reaches_over_a_join_of_trials(load):
    windows = make_windows(load(glued(trials_of(30, 1.0))), PROFILE)
    assert len(windows.data) == 0
    assert windows.info["notes"] == {"zero_runs_cut": 31, "zero_s_cut": 30 * 0.4}


@pytest.mark.parametrize("buffer_samples", [50, 33, 7])
def test_windows_lie_inside_trials_and_hold_their_signal(load, buffer_samples):
    trials = trials_of(5, 10.0)
    windows = make_windows(load(glued(trials, buffer_samples=buffer_samples)), PROFILE)
    buffer_s = buffer_samples / SFREQ
    expected_s = [
        n * (10 + 2 * buffer_s) + buffer_s + 4 * half for n in range(5) for half in range(2)
    ]
    # A single buffer of 7 samples is too short to count at the ends: the windows there hold it.
    inner = slice(2, 8) if buffer_samples == 7 else slice(None)
    found_s = [meta["onset_s"] for meta in windows.meta]
    np.testing.assert_allclose(found_s[inner], np.round(expected_s, 6)[inner], atol=1e-6)
    plain = make_windows(load(joined(trials)), PROFILE)
    found = windows.data.astype(float) * windows.info["scale_uv"]
    expected = plain.data.astype(float) * plain.info["scale_uv"]
    assert windows.data.shape == plain.data.shape == (10, 8, 800)
    np.testing.assert_allclose(found[inner], expected[inner], atol=0.2)
    assert "marked bad in the file" not in windows.info["dropped"]


@pytest.mark.parametrize("buffer_samples", [50, 33, 100])
def test_windows_as_long_as_a_trial_are_kept(load, buffer_samples):
    """Also where the ends of the skips, in seconds, are rounded into the windows beside them."""
    plain = glued(trials_of(40, 4.0), buffer_samples=buffer_samples)
    raw = raw_of(plain.get_data("eeg"), first_samp=777)
    windows = make_windows(load(raw), PROFILE)
    assert len(windows.data) == 40
    assert windows.info["dropped"] == {}


def test_events_stay_on_their_samples(load):
    trials = trials_of(6, 3.0)
    raw = glued(trials, onset_sample=250)
    before = mne.find_events(raw, shortest_event=0, verbose="error")
    annotated = raw.annotations.copy()
    recording = load(raw, by_event=True)
    assert [event.label for event in recording.events] == ["one", "two"] * 3
    onsets = [event.onset_s for event in recording.events]
    assert onsets == pytest.approx([n * 3.4 + 0.2 + 1.0 for n in range(6)])
    np.testing.assert_array_equal(mne.find_events(raw, shortest_event=0, verbose="error"), before)
    kept = raw.annotations[[name != "BAD_ACQ_SKIP" for name in raw.annotations.description]]
    assert kept == annotated

    windows = make_windows(recording, PROFILE)
    assert [meta["label"] for meta in windows.meta] == ["one", "two"] * 3
    assert windows.info["dropped"] == {}
    whole = make_windows(load(joined(trials)), get_profile("default", 3.0))
    cut = whole.data[:, :, 160:360].astype(float) * whole.info["scale_uv"]
    np.testing.assert_allclose(windows.data * windows.info["scale_uv"], cut, atol=0.2)


def test_an_event_at_the_edge_of_its_trial_gives_no_window(load):
    windows = make_windows(load(glued(trials_of(6, 3.0)), by_event=True), PROFILE)
    assert windows.info["dropped"] == {"event too near an edge": 6}


def test_trials_outside_of_the_signal_are_counted(load, monkeypatch):
    """MOABB moves each trigger to where the task begins, and MNE drops what then lies outside."""
    from moabb.datasets.preprocessing import SetRawAnnotations

    monkeypatch.setattr(Dataset, "interval", (3.0, 4.0))
    monkeypatch.setattr(Dataset, "event_id", {"one": 1, "two": [2, 3]})
    signal = 1e-5 * np.random.default_rng(0).standard_normal((len(CHANNELS) + 1, 20 * 250))
    signal[-1] = 0
    for second, code in ((2, 1), (9, 3), (17.5, 2), (18, 1), (18.5, 7)):
        signal[-1, round(second * 250)] = code
    info = mne.create_info([*CHANNELS, "STI"], 250.0, ["eeg"] * len(CHANNELS) + ["stim"])
    raw = mne.io.RawArray(signal, info, first_samp=500, verbose="error").set_montage(TEMPLATE)
    with pytest.warns(RuntimeWarning, match="outside"):
        raw = SetRawAnnotations(Dataset.event_id, Dataset.interval).transform(raw)
    recording = load(raw, by_event=True)
    assert [(event.onset_s, event.label) for event in recording.events] == [
        (5.0, "one"), (12.0, "two"), (20.5, "two"), (21.0, "one"),
    ]  # fmt: skip
    windows = make_windows(recording, PROFILE)
    assert [meta["label"] for meta in windows.meta] == ["one", "two"]
    assert windows.info["dropped"] == {"event outside the recording": 2}


def raw_of(signal: np.ndarray, kind: str = "eeg", **options) -> mne.io.BaseRaw:
    info = mne.create_info(CHANNELS, SFREQ, kind)
    raw = mne.io.RawArray(signal, info, verbose="error", **options)
    return raw.set_montage(TEMPLATE) if kind == "eeg" else raw


def skips_of(raw) -> list[tuple[int, int]]:
    notes = raw.annotations
    start = np.round((notes.onset - raw.first_time) * SFREQ).astype(int)
    length = np.round(notes.duration * SFREQ).astype(int)
    skip = notes.description == "BAD_ACQ_SKIP"
    return list(zip(start[skip].tolist(), (start + length)[skip].tolist(), strict=True))


@pytest.mark.parametrize("block", [13, 100_000])
@pytest.mark.parametrize("first_samp", [0, 777])
def test_which_zeros_count(monkeypatch, block, first_samp):
    monkeypatch.setattr(moabb_skips, "BLOCK_SAMPLES", block)
    signal = trials_of(1, 4.0)[0] * 1e-6
    for start, stop in ((0, 9), (100, 107), (200, 208), (400, 500), (990, 1000)):
        signal[:, start:stop] = 0
    signal[1:, 600:700] = 0  # one channel lives
    raw = raw_of(signal, first_samp=first_samp)
    raw.set_annotations(mne.Annotations([1.0], [0.5], ["BAD muscle"]))
    assert mark_skips(raw) == {"zero_runs_cut": 4, "zero_s_cut": 127 / 250}
    assert skips_of(raw) == [(0, 9), (200, 208), (400, 500), (990, 1000)]
    assert "BAD muscle" in raw.annotations.description


def test_ordinary_recordings_are_left_alone(load, tmp_path):
    raw = raw_of(trials_of(1, 9.0)[0] * 1e-6)
    assert load(raw).notes == {}
    assert len(raw.annotations) == 0
    assert mark_skips(raw_of(np.zeros((8, 500)), "misc")) == {}  # no EEG that could be silent
    silent = raw_of(np.zeros((8, 5000)))
    silent.save(tmp_path / "silent_raw.fif", verbose="error")
    assert mark_skips(mne.io.read_raw_fif(tmp_path / "silent_raw.fif", verbose="error")) == {}


def test_a_recording_of_zeros_alone_is_refused(load):
    with pytest.raises(InputError, match="0 of 8 EEG channels are good"):
        make_windows(load(raw_of(np.zeros((8, 5000)))), PROFILE)


@pytest.mark.slow
def test_real_recordings(mne_data):
    bnci, *_ = list_items(parse_spec("moabb:BNCI2014001,subjects=1"), PROFILE)
    assert all(recording.notes == {} for recording in bnci.load())
    physionet, *_ = list_items(parse_spec("moabb:PhysionetMI,subjects=1"), PROFILE)
    for recording in physionet.load():  # 124.5 s, and zeros to the end of the file's last record
        assert recording.notes == {"zero_runs_cut": 1, "zero_s_cut": 0.5}
        spans = spans_of(recording.raw)
        assert spans == [(0, round(124.5 * 160))]


# ---- what data_path gives back ----


def test_paths_in_any_nesting():
    nested = {"mat": ["a", Path("b")], "xdf": ("c", {"d": np.array(["e"])}), "none": [], "no": None}
    assert offline.flat_paths(nested) == [Path(name) for name in "abce"]
    assert offline.flat_paths("a") == [Path("a")]


def tree(root: Path, *names: str) -> Path:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(name)
    return root


@pytest.mark.slow
def test_a_dataset_that_gives_a_dictionary_is_listed(tmp_path, monkeypatch):
    monkeypatch.setenv("MNE_DATA", str(tmp_path))
    monkeypatch.setenv("MOABB_DOWNLOAD_PROVIDER", "upstream")
    monkeypatch.setenv("MNE_DATASETS_CHEN2017SINGLEFLICKER_PATH", str(tmp_path))
    from data.subjects.moabb_names import find_class

    folder = f"MNE-{find_class('Chen2017SingleFlicker')().code.lower()}-data"
    tree(tmp_path / folder, "x/3_1.mat", "x/sub_3_1.xdf", "x/sub_4_1.xdf")
    (item,) = list_items(parse_spec("moabb:Chen2017SingleFlicker,subjects=3"), PROFILE)
    assert [path.name for path in item.files] == ["3_1.mat", "sub_3_1.xdf"]


@pytest.mark.parametrize(
    ("dataset", "number", "own", "others"),
    [
        ("Forenzo2023", 1, "Subject01/publicData/Subject01_Session1_LR_CL_R01.mat",
         ["Subject10/publicData/Subject10_Session1_LR_CL_R01.mat", "Subject02/x/R01.mat"]),
        ("Wu2020", 3, "subject3/run1.dat", ["subject1/run3.dat", "subject13/run1.dat"]),
        ("Zhou2020", 2, "S02/ses-01/run1.npz", ["S01/ses-02/run2.npz", "S12/s2/run1.npz"]),
        ("Gao2026", 1, "sub-01/ses-02/eeg/sub-01_ses-02_eeg.bdf", ["sub-02/ses-01/eeg/x.bdf"]),
        ("Tavakolan2017", 4, "P04/P04_Se01.DAT", ["P01/P01_Se04.DAT", "P300_readme.txt"]),
        ("Chang2025", 7, "S208/S208_MI1.set", ["S201/S201_MI7.set", "S207/x.set"]),
    ],
)  # fmt: skip
def test_a_folder_of_all_people_gives_ones_own_files(tmp_path, dataset, number, own, others):
    tree(tmp_path, own, others[0])
    before = offline.subject_files(tmp_path, dataset, number)
    assert before == [tmp_path / own]
    tree(tmp_path, *others, "readme.txt")  # another person is fetched beside
    assert offline.subject_files(tmp_path, dataset, number) == before


def test_a_folder_that_names_nobody_or_is_ones_own_is_taken_whole(tmp_path):
    unnamed = tree(tmp_path / "all", "G1/a.mat", "G2/session3.mat")
    assert len(offline.subject_files([unnamed], "Some", 3)) == 2
    own = tree(tmp_path / "subject3" / "EEG", "S3.vhdr", "run1.eeg", "S1.txt")
    assert len(offline.subject_files([own], "Some", 3)) == 3
    assert len(offline.subject_files(own.parent, "Some", 3)) == 3


def test_every_file_is_hashed_once_and_none_overwrites_another(tmp_path, monkeypatch):
    names = [f"ses-{n}/data.bdf" for n in range(100)] + ["ses-0/events.tsv", "notes.txt"]
    tree(tmp_path, *names)
    files = [tmp_path / name for name in names]
    recording = Recording("d", "1", "0", "0", source_files=files)
    _hash.cache_clear()
    asked = []
    monkeypatch.setattr(
        "data.files.hash_file", lambda path: (asked.append(path), (f"hash of {path}", 0))[1]
    )
    hashes = source_hashes(recording)
    assert list(hashes) == [*names[:100], "events.tsv", "notes.txt"]
    assert hashes["ses-7/data.bdf"] == f"hash of {tmp_path}/ses-7/data.bdf"
    assert source_hashes(recording) == hashes
    assert asked == files
    alone = Recording("d", "1", "0", "0", source_files=files[-2:])
    assert list(source_hashes(alone)) == ["events.tsv", "notes.txt"]
    _hash.cache_clear()


# ---- whose fault an error is ----


class Failing(Dataset):
    error: BaseException

    def get_data(self, _subjects):
        raise self.error

    data_path = get_data


def failing(error: BaseException) -> Failing:
    dataset = Failing()
    dataset.error = error
    return dataset


MACHINE = [MemoryError(), *(OSError(number, "no") for number in (
    errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO, errno.ESTALE, errno.EMFILE, errno.ENFILE,
    errno.ETIMEDOUT,
))]  # fmt: skip


@pytest.mark.parametrize("error", MACHINE, ids=repr)
def test_trouble_of_the_machine_is_not_blamed_on_a_file(error, tmp_path):
    with pytest.raises(type(error)) as caught:
        from_moabb._read(failing(error), 1, needs_network=False)
    assert caught.value is error
    unlisted, unread = failing(error), failing(error)
    unlisted.get_data = lambda _subjects: {}
    unread.data_path = lambda _subject: 1 / 0
    for dataset in (unlisted, unread):  # else its files would count as absent, and be fetched again
        with pytest.raises(type(error)):
            offline.files_on_disk(dataset, 1, tmp_path)


def test_trouble_behind_another_error_is_seen():
    error = RuntimeError("cannot read")
    error.__cause__ = OSError(errno.EIO, "I/O error")
    with pytest.raises(RuntimeError):
        from_moabb._read(failing(error), 1, needs_network=False)


def test_other_errors_name_the_file_as_damaged(tmp_path):
    for error in (ValueError("bad header"), OSError("truncated"), EOFError()):
        with pytest.raises(InputError, match="cannot be read") as caught:
            from_moabb._read(failing(error), 1, needs_network=False)
        assert "damaged" in caught.value.remedy
        assert offline.files_on_disk(failing(error), 1, tmp_path) is None


def test_a_disk_that_fills_while_fetching_is_told(monkeypatch, tmp_path):
    monkeypatch.setenv("MNE_DATA", str(tmp_path))
    dataset = failing(OSError(errno.ENOSPC, "no space"))
    with pytest.raises(InputError, match="not enough room"):
        from_moabb._download(parse_spec("moabb:Some"), dataset, 1)
