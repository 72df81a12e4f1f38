"""One scale for a person's session: what differs between its recordings is kept."""

from __future__ import annotations

import sys

import mne
import numpy as np
import pytest
from commands import ROOT, run
from loading import loaded

from data.errors import InputError
from data.pack import main as pack
from data.packing.recipe import read_recipe
from data.shards.manifest import read_manifest
from data.shards.tars import ShardReader
from data.signals.bad_channels import robust_amplitude
from data.signals.profiles import Profile, get_profile
from data.signals.session_scale import QUANTILES, by_session, combined_scale, peak
from data.simulate_vc import main as simulate_vc

NAMES = ["Fp1", "Fp2", "F3", "F4", "C3", "C4", "O1", "O2"]
LOUD = {"a": 1.0, "b": 3.0, "c": 0.5}


def quantiles(values: np.ndarray) -> np.ndarray:
    return np.quantile(np.abs(values), np.linspace(0, 1, QUANTILES)) / robust_amplitude(values)


@pytest.mark.parametrize("factors", [(1.0,), (1.0, 1.0), (1.0, 3.0), (0.01, 1.0, 40.0)])
@pytest.mark.parametrize("counts", [(30_000, 30_000, 30_000), (3_000, 60_000, 9_000)])
def test_the_scale_of_recordings_together(factors, counts):
    rng = np.random.default_rng(0)
    parts = [
        factor * rng.standard_t(4, count) for factor, count in zip(factors, counts, strict=False)
    ]
    found = combined_scale(
        [quantiles(part) for part in parts],
        [robust_amplitude(part) for part in parts],
        [len(part) for part in parts],
    )
    assert found == pytest.approx(robust_amplitude(np.concatenate(parts)), rel=0.004)


@pytest.mark.parametrize("fraction", [0.0, 0.01, 0.3])
def test_a_window_is_saturated_by_clips_up_to_its_peak(fraction):
    window = np.random.default_rng(0).standard_normal((4, 50)).astype(np.float16)
    high = peak(window, fraction)
    values = np.abs(window.astype(np.float32))
    for clip, saturated in ((high * 0.999, True), (high, True), (high * 1.001, False)):
        assert (np.count_nonzero(values >= clip) > fraction * values.size) == saturated


def entry(subject: str, session: str, scale: float, peaks=(3.0, 20.0), unit: str = "V") -> dict:
    return {
        "dataset": "d", "subject": subject, "session": session, "meta": [{"n": 0}, {"n": 1}],
        "windows": 2, "amplitudes": {
            "quantiles": np.linspace(0, 1.349, QUANTILES).tolist(), "values": 100,
            "peaks": list(peaks), "clip": 15.0,
        },
        "info": {"scale": scale, "scale_uv": 1e6 * scale if unit == "V" else None, "unit": unit,
                 "dropped": {}, "hours": 1.0},
    }  # fmt: skip


def test_sessions_are_scaled_apart():
    entries = [
        entry("1", "1", 1e-5), entry("1", "1", 3e-5), entry("1", "2", 7e-5), entry("2", "1", 1e-5),
        entry("1", "1", 2.0, unit="standardised"), {"info": {}},
    ]  # fmt: skip
    first, second, other, person, plain, bare = by_session(entries)
    assert first["info"]["scale"] == second["info"]["scale"] != 1e-5
    assert 1e-5 < first["info"]["scale"] < 3e-5
    assert second["gain"] / first["gain"] == pytest.approx(3)
    assert first["info"]["scale_uv"] == pytest.approx(1e6 * first["info"]["scale"])
    assert first["info"]["recording_scale"] == 1e-5
    assert [e["gain"] for e in (other, person, plain)] == [1.0] * 3
    assert plain["info"]["scale_uv"] is None
    assert bare == {"info": {}}
    # The quiet recording's loud window fits, the loud one's does not.
    assert (first["rows"], second["rows"]) == ([0, 1], [0])
    assert second["info"]["dropped"] == {"saturated": 1}
    assert (second["windows"], second["info"]["hours"], second["meta"]) == (1, 0.5, [{"n": 0}])
    assert entries[1]["info"]["dropped"] == {}


# ---- packed ----


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    """Three people; conditions a, b and c are one signal, 1, 3 and half as loud; in the loud one a
    second is a hundred times as loud."""
    folder = tmp_path_factory.mktemp("conditions")
    for person in (1, 2, 3):
        noise = np.random.default_rng(person).standard_normal((len(NAMES), 250 * 40))
        for name, loud in LOUD.items():
            data = 1e-5 * person * loud * noise
            if name == "b":
                data[:, 5000:5250] *= 100
            raw = mne.io.RawArray(data, mne.create_info(NAMES, 250.0, "eeg"), verbose="error")
            raw.save(folder / f"sub-{person}_{name}_raw.fif", verbose="error")
    return folder


def packed(study, out, *words):
    source = f"raw:{study}/*.fif,dataset=d,label=_(.)_raw"
    assert pack(["--source", source, "--out", str(out), "--window_s", "2", *map(str, words)]) == 0
    return read_manifest(out)


def windows_of(manifest) -> dict[str, dict[float, np.ndarray]]:
    """Recording -> onset -> signal in robust units."""
    found: dict[str, dict[float, np.ndarray]] = {}
    for shard in manifest.shards:
        reader = ShardReader(manifest, shard)
        for row in range(shard.samples):
            meta = reader.meta(row)
            signal = reader.signals[row].astype(np.float32)
            found.setdefault(meta["recording"], {})[meta["onset_s"]] = signal
    return found


def amplitude(windows: dict[float, np.ndarray]) -> float:
    return float(robust_amplitude(np.stack(list(windows.values()))))


@pytest.fixture(scope="module")
def both(study, tmp_path_factory):
    folder = tmp_path_factory.mktemp("packed")
    return (
        packed(study, folder / "recording", "--workers", 1),
        packed(study, folder / "session", "--workers", 1, "--scale", "session"),
    )


def test_ratios_between_conditions_survive(both):
    by_recording, by_session_ = (windows_of(manifest) for manifest in both)
    for person in (1, 2, 3):
        names = {name: f"d_sub-{person}_ses-1_run-sub-{person}_{name}_raw" for name in LOUD}
        for name, loud in LOUD.items():
            base = names["a"]
            assert amplitude(by_recording[names[name]]) / amplitude(
                by_recording[base]
            ) == pytest.approx(1, rel=0.1)  # the loud second is part of its scale
            assert amplitude(by_session_[names[name]]) / amplitude(
                by_session_[base]
            ) == pytest.approx(loud, rel=0.1)
        together = {
            (name, onset): signal
            for name in names.values()
            for onset, signal in by_session_[name].items()
        }
        assert amplitude(together) == pytest.approx(1, rel=0.06)


def test_both_scales_give_the_same_microvolts(both):
    (old, new), windows = both, [windows_of(manifest) for manifest in both]
    scales = [{e["id"]: e["scale_uv"] for e in manifest.recordings} for manifest in both]
    compared = 0
    for name, own in windows[0].items():
        for onset in set(own) & set(windows[1][name]):
            first = own[onset] * scales[0][name]
            second = windows[1][name][onset] * scales[1][name]
            inside = (np.abs(own[onset]) < 14.9) & (np.abs(windows[1][name][onset]) < 14.9)
            np.testing.assert_allclose(
                first[inside], second[inside], rtol=3e-3, atol=1e-3 * scales[0][name]
            )
            compared += 1
    assert compared > 150
    assert len({e["scale_uv"] for e in new.recordings}) == 3
    assert len({e["scale_uv"] for e in old.recordings}) == 9


def test_saturation_is_judged_by_the_scale_in_use(study, both):
    unclipped = {
        recording.id: (windows.info["scale_uv"], windows)
        for recording, windows in loaded(
            f"raw:{study}/*.fif,dataset=d", get_profile("default", 2, "session")
        )
    }
    for manifest in both:
        kept = windows_of(manifest)
        for entry in manifest.recordings:
            own_uv, windows = unclipped[entry["id"]]
            values = np.abs(windows.data.astype(np.float32)) * own_uv / entry["scale_uv"]
            fits = (values >= 15).mean(axis=(1, 2)) <= 0.01
            onsets = {m["onset_s"] for m, fit in zip(windows.meta, fits, strict=True) if fit}
            assert set(kept[entry["id"]]) == onsets
            assert entry["windows"] == len(onsets)
            assert entry["dropped"].get("saturated", 0) == (~fits).sum()
            assert entry["hours"] == pytest.approx(len(onsets) * 2 / 3600)
            assert fits.all() != ("_b_" in entry["id"])


def test_which_scale_was_used_is_told(study, tmp_path):
    words = (sys.executable, ROOT / "data/pack.py", "--workers", 1, "--window_s", 2)
    source = f"raw:{study}/sub-1_*.fif,split=train"
    text = run(*words, "--source", source, "--out", tmp_path / "a", "--scale", "session")
    assert text.count("one for all recordings of a person's session") == 2
    assert read_manifest(tmp_path / "a").profile["scale"] == "session"
    text = run(*words, "--source", source, "--out", tmp_path / "b")
    assert text.count("one for each recording") == 2
    assert "scale" not in read_manifest(tmp_path / "b").profile  # as it always was


@pytest.mark.parametrize("first", [[], ["--scale", "session"]])
def test_a_folder_of_the_other_scale_is_refused(study, tmp_path, first):
    words = ["--source", f"raw:{study}/sub-1_*.fif,split=train", "--workers", "1"]
    words += ["--out", str(tmp_path / "out")]
    second = [] if first else ["--scale", "session"]
    assert pack([*words, *first]) == 0
    with pytest.raises(InputError, match="profile scale: ") as caught:
        pack([*words, *second])
    assert "--overwrite" in caught.value.remedy
    assert pack([*words, *second, "--overwrite"]) == 0
    found = read_manifest(tmp_path / "out").profile.get("scale", "recording")
    assert found == ("session" if second else "recording")


def test_workers_and_parts_give_the_same_bytes(study, tmp_path, both):
    packed(study, tmp_path / "two", "--workers", 2, "--scale", "session")
    words = ["--source", f"raw:{study}/*.fif,dataset=d,label=_(.)_raw", "--window_s", "2"]
    words += ["--scale", "session", "--out", str(tmp_path / "parts"), "--workers", "1"]
    for part in (2, 1):
        assert pack([*words, "--part", f"{part}/2"]) == 0
    assert pack([*words, "--merge"]) == 0
    hashes = {shard.file: shard.sha256 for shard in both[1].shards}
    for folder in ("two", "parts"):
        manifest = read_manifest(tmp_path / folder)
        assert {shard.file: shard.sha256 for shard in manifest.shards} == hashes
        assert manifest.sha256 == both[1].sha256


def test_one_recording_a_session_is_as_by_recording(tmp_path):
    words = ["--source", "simulated:1020-19,subjects=3,minutes=0.5", "--workers", "1"]
    found = []
    for scale in ("recording", "session"):
        out = tmp_path / scale
        assert pack([*words, "--out", str(out), "--scale", scale]) == 0
        found.append({s.file: s.sha256 for s in read_manifest(out).shards})
    assert found[0] == found[1]


def test_a_person_of_segments_in_several_items(tmp_path):
    """Visual-category files by image: a person's training, validation and test images are packed
    apart, and have one scale."""
    file, splits = tmp_path / "vc.pth", tmp_path / "splits.pth"
    words = ["--out", str(file), "--splits", str(splits), "--subjects", "2", "--classes", "4"]
    assert simulate_vc(words) == 0
    words = ["--source", f"vc:{file},splits={splits},by=image", "--workers", "1"]
    assert pack([*words, "--scale", "session", "--out", str(tmp_path / "out")]) == 0
    scales: dict[str, set] = {}
    for entry in read_manifest(tmp_path / "out").recordings:
        scales.setdefault(entry["subject"], set()).add(entry["scale"])
    assert {len(values) for values in scales.values()} == {1}


def test_settings_that_make_no_sense_are_refused(tmp_path):
    with pytest.raises(InputError, match="with MEG"):
        get_profile("eeg2meg", scale="session")
    with pytest.raises(InputError, match="scale=sesion") as caught:
        get_profile("default", scale="sesion")
    assert "Did you mean session?" in caught.value.remedy
    assert isinstance(get_profile("default", scale="session"), Profile)
    recipe = tmp_path / "r.yaml"
    recipe.write_text("sources: [simulated]\nscale: session\n")
    assert read_recipe(recipe).scale == "session"


@pytest.mark.slow
def test_rest_and_task_of_eegmat(shared_data, tmp_path):
    """Rest and serial subtraction are files: their ratio is kept by session, lost by recording."""
    source = rf"raw:{shared_data}/eegmat/Subject0[0-3]_*.edf,subject=(Subject\d+),label=_(\d)\.edf"
    manifests = []
    for scale in ("recording", "session"):
        words = ["--source", source, "--out", str(tmp_path / scale), "--workers", "2"]
        assert pack([*words, "--scale", scale]) == 0
        manifests.append(read_manifest(tmp_path / scale))
    found = [windows_of(manifest) for manifest in manifests]
    ratios: dict[str, dict[str, list[float]]] = {}
    for entry in manifests[0].recordings:
        kept = set(found[0][entry["id"]]) & set(found[1][entry["id"]])
        ratios.setdefault(entry["subject"], {})[entry["label"]] = [
            amplitude({onset: windows[entry["id"]][onset] for onset in kept}) for windows in found
        ] + [entry["scale_uv"]]
    for who, of in ratios.items():
        by_recording, session, microvolts = (of["2"][n] / of["1"][n] for n in range(3))
        print(f"{who}: task / rest {by_recording:.2f}, by session {session:.2f}")
        assert by_recording == pytest.approx(1, abs=0.06)
        assert session == pytest.approx(by_recording * microvolts, rel=0.005)
    assert max(abs(of["2"][1] / of["1"][1] - 1) for of in ratios.values()) > 0.1
