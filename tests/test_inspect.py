"""The inspection page and the cost of a run, against what is known of the shards."""

from __future__ import annotations

import json

import numpy as np
import pytest
from matplotlib import image
from tiny import tiny_shards

from data.electrodes.montages import positions_of
from data.errors import InputError
from data.inspect_shards import main
from data.inspection.drawing import from_above
from data.inspection.survey import foreign_frames, remarks, survey
from data.pack import main as pack
from data.shards.manifest import Montage, read_manifest, write_manifest
from data.shards.tars import ShardReader, write_shard
from model.config import preset
from model.flops import training_flops
from trainer.estimate import estimate
from trainer.estimate import main as estimate_main


def sine_shards(folder, scale_uv=10.0, sfreq_hz=200.0):
    """One dataset of 6 windows that hold sines of 10 Hz, 30 microvolts high."""
    folder.mkdir()
    times_s = np.arange(800) / sfreq_hz
    signal = np.tile(30 / scale_uv * np.sin(2 * np.pi * 10 * times_s), (4, 1)).astype(np.float16)
    places = np.array([[0, 0.1, 0.04], [0.1, 0, 0.04], [0, 0, 0.14], [0, -0.1, 0.04]], np.float32)
    entry = write_shard(
        folder / "a.tar", [f"k{i}" for i in range(6)], [signal] * 6,
        [{"recording": "r", "onset_s": 4 * i} for i in range(6)],
        dataset="sines", split="train", montage="m",
    )  # fmt: skip
    write_manifest(
        folder, profile={"sfreq_hz": sfreq_hz}, montages={"m": Montage(tuple("ABCD"), places)},
        recordings=[{"id": "r", "dataset": "sines", "montage": "m", "unit": "V",
                     "scale_uv": scale_uv, "dropped": {"flat": 2}, "bad_channels": {"E": "flat"}}],
        shards=[entry], split={}, source={},
    )  # fmt: skip
    return folder


def test_the_spectrum_is_in_microvolts_squared_per_hertz(tmp_path):
    """A sine of amplitude A has power A²/2, whatever the scale that it was stored with."""
    for number, scale_uv in enumerate((10.0, 3.0)):
        manifest = read_manifest(sine_shards(tmp_path / str(number), scale_uv))
        (entry,) = survey(manifest, 6, 2)
        step_hz = entry.freqs_hz[1] - entry.freqs_hz[0]
        assert entry.power.sum() * step_hz == pytest.approx(30**2 / 2, rel=0.01)
        assert entry.freqs_hz[entry.power.argmax()] == 10
        assert (entry.unit, entry.kept, entry.dropped) == ("uV", 6, {"flat": 2})
        assert abs(entry.examples[0][2]).max() == pytest.approx(30, rel=0.01)


def test_remarks_name_what_stands_out(tmp_path):
    manifest = read_manifest(sine_shards(tmp_path / "a"))
    found = "\n".join(remarks(manifest, survey(manifest, 6, 1)))
    assert "no val windows" in found
    assert "sines: 25% of the windows were dropped" in found
    assert "r: 1 of 5 channels bad" in found


@pytest.mark.parametrize("shift_m", [0.0, 0.045])
def test_a_folder_packed_in_another_frame_is_told(tmp_path, shift_m):
    """As earlier versions packed EEGLAB's places, round the middle of the head."""
    names = ("Fp1", "Fp2", "F7", "F3", "Fz", "F4", "F8", "C3", "Cz", "C4", "Pz", "O1", "O2")
    places = positions_of(list(names), "fsaverage_1005", "here") - [0, shift_m / 3, shift_m]
    manifest = read_manifest(sine_shards(tmp_path / "a"))
    manifest.montages.clear()
    manifest.montages["cap"] = Montage(names, places.astype(np.float32))
    found = foreign_frames(manifest)
    assert len(found) == (shift_m > 0)
    assert all("aligned by 13 names" in line for line in found)


def test_electrodes_from_above():
    """Vertex in the middle, nose up, right ear right; the equator of the head at radius 1."""
    flat = from_above(np.array([[0, 0, 0.14], [0, 0.1, 0.04], [0.1, 0, 0.04]]))
    np.testing.assert_allclose(flat, [[0, 0], [0, 1], [1, 0]], atol=1e-9)


def test_the_page(tmp_path, capsys):
    """On a pack of two datasets: every picture exists, shows something, and is on the page."""
    out = tmp_path / "shards"
    source = "simulated,montages=1020-19+biosemi32,subjects=3,minutes=0.2"
    pack(["--source", source, "--out", str(out), "--workers", "1"])
    capsys.readouterr()
    main([str(out), "--windows", "8", "--examples", "2"])
    printed = capsys.readouterr().out
    manifest = read_manifest(out)  # the page lies inside the folder, and does not spoil it
    windows = sum(shard.samples for shard in manifest.of_split("train"))
    assert f"an epoch: {windows} training windows" in printed
    assert "python trainer/estimate.py --shards" in printed
    page = (out / "inspection/index.html").read_text()
    pictures = sorted(path.name for path in (out / "inspection").glob("*.png"))
    assert len(pictures) == 6
    for name in pictures:
        assert f'src="{name}"' in page
        assert image.imread(out / "inspection" / name)[..., :3].std() > 0.02


def test_a_damaged_shard_is_named(tmp_path):
    folder = tiny_shards(tmp_path / "shards")
    victim = folder / read_manifest(folder).shards[2].file
    victim.write_bytes(victim.read_bytes()[:-512])
    with pytest.raises(InputError, match=victim.name):
        main([str(folder)])


def test_the_estimate_is_the_sum_over_windows(tmp_path, capsys):
    folder = tiny_shards(tmp_path / "shards")
    manifest, model = read_manifest(folder), preset("tiny")
    found = estimate(manifest, model, gpus=4, tflops=100, mfu=0.5, epochs=3)
    flops = tokens = count = 0
    for shard in manifest.of_split("train"):
        for signal in ShardReader(manifest, shard).signals:
            flops += 3 * training_flops(model, *signal.shape)
            tokens += 3 * model.token_count(*signal.shape)
            count += 3
    assert found["flops"] == pytest.approx(flops)
    assert (found["tokens"], found["windows"]) == (tokens, count)
    assert found["hours"] * 3600 * 4 * 100e12 * 0.5 == pytest.approx(flops)
    assert found["windows_per_s_per_gpu"] * 4 * found["hours"] * 3600 == pytest.approx(count)
    estimate_main(["--shards", str(folder), "--preset", "tiny", "--json"])
    assert json.loads(capsys.readouterr().out)["windows"] == count / 3


@pytest.mark.parametrize(
    ("extra", "says"),
    [
        (["--mfu", "2"], "--mfu"),
        (["--preset", "brain2image"], "1000 Hz"),
        (["--gpus", "0"], "--gpus"),
    ],
)
def test_estimates_that_make_no_sense(tmp_path, extra, says):
    folder = tiny_shards(tmp_path / "shards")
    with pytest.raises(InputError, match=says):
        estimate_main(["--shards", str(folder), *extra])


def test_any_number_of_datasets_is_drawn(tmp_path):
    """Five do not fill rows of four electrode maps."""
    datasets = dict.fromkeys("ABCDE", ("biosemi16", 8))
    folder = tiny_shards(tmp_path / "shards", train=(4,), held_out=2, datasets=datasets)
    main([str(folder), "--windows", "2", "--examples", "1"])
    assert (folder / "inspection/electrodes.png").is_file()
