"""The report and the adaptation report, end to end on a small shard folder."""

from __future__ import annotations

import json

import mne
import numpy as np
import pytest
import torch
from tiny import MASK_KINDS

from data.errors import InputError
from data.shards.manifest import Montage, montage_id, read_manifest, write_manifest
from data.shards.tars import write_shard
from data.subjects.trained_on import trained_subjects
from model.autoencoder import MaskedVAE
from model.config import preset
from model.masks import Sheet, draw_mask, of_rows, parse
from trainer import evaluate as command
from trainer.masked.adaptation import adaptation_report
from trainer.masked.evaluation import evaluate
from trainer.reports.figures import reconstruction_figure
from trainer.reports.report import markdown
from trainer.reports.report_figures import write_figures
from trainer.scoring.baselines import BASELINES
from trainer.scoring.compare import ALL, compare
from trainer.scoring.held_out import HeldOutWindows, draw_masks
from trainer.scoring.scores import samples_of

SFREQ_HZ, SAMPLES, PATCH = 200.0, 200, 20


def smooth_windows(rng, positions_m, count, samples=SAMPLES):
    """Activity that is smooth over the scalp and in time, float16 `[count, C, samples]`."""
    sources_m = positions_m[rng.integers(len(positions_m), size=3)]
    mixing = np.exp(-((positions_m[:, None] - sources_m) ** 2).sum(-1) / 0.003)
    time_s = np.arange(samples) / SFREQ_HZ
    rates_hz, phases = rng.uniform(2, 40, (count, 3, 1)), rng.uniform(0, 6.3, (count, 3, 1))
    activity = np.sin(2 * np.pi * rates_hz * time_s + phases) / np.sqrt(rates_hz)
    noise = 0.05 * rng.standard_normal((count, len(positions_m), samples))
    return (mixing @ activity * 3 + noise).astype(np.float16)


def make_shards(folder, subjects, samples=SAMPLES, windows=5):
    """subjects: {dataset: (montage name, channels, {subject: split})}."""
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(0)
    montages, recordings, shards = {}, [], []
    for dataset, (name, n_channels, splits) in subjects.items():
        cap = mne.channels.make_standard_montage(name)
        channels = cap.ch_names[:n_channels]
        positions_m = np.array([cap.get_positions()["ch_pos"][c] for c in channels])
        montage = montage_id(channels, positions_m)
        montages[montage] = Montage(tuple(channels), positions_m.astype(np.float32))
        for subject, split in splits.items():
            record = f"{dataset}_sub-{subject}_ses-0_run-0"
            recordings.append(
                {"id": record, "dataset": dataset, "subject": subject, "split": split,
                 "session": "0", "run": "0", "scale_uv": 12.5, "source_sfreq_hz": 160.0}
            )  # fmt: skip
            entry = write_shard(
                folder / f"{dataset}-{subject}.tar",
                [f"{record}_{i:04d}" for i in range(windows)],
                smooth_windows(rng, positions_m, windows, samples),
                [{"recording": record, "onset_s": float(i)} for i in range(windows)],
                dataset=dataset,
                split=split,
                montage=montage,
            )
            shards.append(entry)
    profile = {"name": "default", "sfreq_hz": SFREQ_HZ, "l_freq_hz": 0.5, "h_freq_hz": 75.0}
    write_manifest(
        folder, profile=profile, montages=montages, recordings=recordings, shards=shards,
        split={}, source={},
    )  # fmt: skip
    return folder


@pytest.fixture(scope="module")
def shards(tmp_path_factory):
    return make_shards(
        tmp_path_factory.mktemp("shards"),
        {
            "A": ("biosemi32", 32, {"1": "test", "2": "test", "3": "test", "4": "train"}),
            "B": ("easycap-M10", 8, {"x": "test"}),
        },
    )


@pytest.fixture(scope="module")
def manifest(shards):
    return read_manifest(shards)


def tiny(**changes):
    torch.manual_seed(0)
    return MaskedVAE(
        preset("tiny", width=24, depth=1, decoder_width=16, decoder_depth=1, **changes)
    )


@pytest.fixture(scope="module")
def untrained(manifest):
    return evaluate(tiny(), manifest, windows_per_subject=3, progress=False)


def test_the_untrained_network_scores_exactly_what_it_starts_from(untrained):
    report, _ = untrained
    for group in (report[ALL], *(entry["kinds"] for entry in report["datasets"].values())):
        assert list(group) == ["random", "block", "tube", "channel", "time"]
        for methods in group.values():
            without = {k: v for k, v in methods["start"].items() if k != "model_minus_this"}
            assert methods["model"] == without
            assert methods["model"]["r"]["mean"] == pytest.approx(
                methods["spline"]["r"]["mean"], abs=1e-3
            )
            assert methods["start"]["model_minus_this"]["r"]["mean"] == 0.0


def test_a_network_that_learnt_something_else_scores_differently(manifest):
    model = tiny()
    torch.nn.init.normal_(model.decoder.to_patch.weight, std=0.05)
    report, _ = evaluate(model, manifest, kinds=["block"], windows_per_subject=2, progress=False)
    methods = report[ALL]["block"]
    assert methods["model"]["r"] != methods["start"]["r"]
    difference = methods["start"]["model_minus_this"]["r"]
    assert difference["mean"] == pytest.approx(
        methods["model"]["r"]["mean"] - methods["start"]["r"]["mean"]
    )


def test_baselines_order_as_geometry_says(untrained):
    kinds = untrained[0]["datasets"]["A"]["kinds"]
    for kind in ("tube", "channel"):
        assert kinds[kind]["spline"]["r"]["mean"] > 0.5
        for method in ("linear", "cubic", "zero"):
            assert kinds[kind][method]["r"]["mean"] == 0.0
            assert kinds[kind][method]["nmse"]["mean"] == pytest.approx(1.0)
    # Where all channels are hidden at once, space says nothing.
    spline, linear = (kinds["time"][m]["r"]["mean"] for m in ("spline", "linear"))
    assert spline == pytest.approx(linear)


def test_the_report_counts_subjects_bands_and_channels(untrained):
    report, comparison = untrained
    dataset = report["datasets"]["A"]
    assert (dataset["subjects"], dataset["windows"], dataset["channels"]) == (3, 9, 32)
    assert dataset["bands_hz"]["gamma"] == [30.0, 72.0]  # 0.45 of the source's 160 Hz
    assert dataset["kinds"]["random"]["model"]["r"]["low"] is not None
    assert "too few" in report["datasets"]["B"]["kinds"]["random"]["model"]["r"]["note"]
    means = [dataset["by_subject"][s]["random"]["spline"]["r"] for s in ("1", "2", "3")]
    assert dataset["kinds"]["random"]["spline"]["r"]["mean"] == pytest.approx(np.mean(means))
    assert set(dataset["by_channel"]["random"]["model"]) == set(comparison.positions_m["A"])
    assert report[ALL]["random"]["model"]["r"]["subjects"] == 4
    assert json.loads(json.dumps(report, allow_nan=False)) == report


def test_every_run_meets_the_same_masks(manifest):
    first, second = (
        evaluate(tiny(), manifest, kinds=kinds, windows_per_subject=2, progress=False)[0]
        for kinds in (["block"], ["random", "block"])
    )
    assert first[ALL]["block"] == second[ALL]["block"]
    other, _ = evaluate(
        tiny(), manifest, kinds=["block"], windows_per_subject=2, seed=1, progress=False
    )
    assert first[ALL]["block"] != other[ALL]["block"]


@pytest.mark.parametrize("kind", MASK_KINDS)
def test_masks_are_what_their_kind_says(manifest, kind):
    config = preset("tiny")
    batch = next(HeldOutWindows(manifest, "test", config, per_subject=5).batches())
    hidden = draw_masks(kind, batch, config, 0.55, 0)
    assert hidden.shape == (len(batch), 32, SAMPLES // PATCH)
    assert len(set(hidden.sum((1, 2)).tolist())) == 1
    assert not torch.equal(hidden[0], hidden[1])
    if kind in ("tube", "channel") or parse(kind)[0].count is of_rows:
        assert torch.equal(hidden.any(2), hidden.all(2))
    if kind in ("time", "random-time"):
        assert torch.equal(hidden.any(1), hidden.all(1))
    assert parse(kind)[0].count(32, 10, 0.55) == hidden[0].sum()


def test_a_radius_is_scored_where_it_is_asked_for(manifest, tmp_path):
    kinds = ["channel", "radius_cm=4", "radius_cm=8"]
    report, comparison = evaluate(
        tiny(mask_mixture={"radius_cm=4": 1.0}), manifest, kinds=kinds, windows_per_subject=3,
        progress=False,
    )  # fmt: skip
    assert list(report[ALL]) == kinds
    spline = [report[ALL][kind]["spline"]["r"]["mean"] for kind in kinds]
    assert spline == sorted(spline, reverse=True)  # the wider the hole, the harder
    assert "* `radius_cm=4`: all electrodes within a radius" in markdown(report, [])
    assert write_figures(tmp_path, report, comparison)
    with pytest.raises(InputError, match="all channels at once"):
        evaluate(
            tiny(tokens="joint", mask_mixture={"random": 1.0}), manifest, kinds=kinds[1:],
            progress=False,
        )  # fmt: skip


def test_no_method_is_shown_hidden_samples(manifest):
    config = preset("tiny")
    seen = []

    def spy(eeg, positions_m, hidden):
        seen.append(eeg[samples_of(hidden, eeg.shape[2])].abs().max().item())
        return eeg

    windows = HeldOutWindows(manifest, "test", config, per_subject=1)
    compare(
        {"spy": spy}, windows.batches(), manifest, config,
        kinds=["random", "time"], mask_ratio=0.5, seed=0, progress=False,
    )  # fmt: skip
    assert seen
    assert max(seen) == 0.0


def test_a_perfect_method_scores_perfectly(manifest):
    config = preset("tiny")
    windows = HeldOutWindows(manifest, "test", config, per_subject=2)
    truths = iter([batch.eeg for batch in windows.batches() for _ in range(2)])
    result = compare(
        {"oracle": lambda eeg, positions_m, hidden: next(truths)}, windows.batches(), manifest,
        config, kinds=["random", "tube"], mask_ratio=0.5, seed=0, progress=False,
    )  # fmt: skip
    for methods in result.summary(ALL, "oracle").values():
        assert methods["oracle"]["r"]["mean"] == pytest.approx(1.0)
        assert methods["oracle"]["nmse"]["mean"] == 0.0
        for band in methods["oracle"]["bands"].values():
            assert band["r"]["mean"] == pytest.approx(1.0)
            assert band["log_spectral_error_db"]["mean"] == 0.0


def test_windows_are_spread_over_a_subject(manifest):
    config = preset("tiny")
    windows = HeldOutWindows(manifest, "test", config, per_subject=3)
    keys = [key for batch in windows.batches() for key in batch.keys]
    assert [key[-1] for key in keys if "A_sub-1_" in key] == ["0", "2", "4"]
    assert windows.windows_of() == {"A": {"1": 3, "2": 3, "3": 3}, "B": {"x": 3}}
    assert len(HeldOutWindows(manifest, "test", config, total=9)) == 9
    assert len(HeldOutWindows(manifest, "test", config)) == 20


def test_joint_tokens_are_scored_on_masks_of_all_channels(manifest):
    model = tiny(tokens="joint", mask_mixture={"random": 1.0})
    report, _ = evaluate(model, manifest, windows_per_subject=2, progress=False)
    assert list(report[ALL]) == ["time", "random-time"]
    assert any("joint token" in note for note in report["notes"])
    methods = report[ALL]["random-time"]
    assert methods["model"]["r"] == methods["start"]["r"]
    with pytest.raises(InputError, match="all channels at once"):
        evaluate(model, manifest, kinds=["block"], progress=False)


def test_kinds_that_a_montage_cannot_take_are_left_out_and_said(tmp_path):
    folder = make_shards(tmp_path, {"one": ("biosemi32", 1, {"1": "test"})})
    report, comparison = evaluate(tiny(), read_manifest(folder), progress=False)
    assert list(report["datasets"]["one"]["kinds"]) == ["random", "block", "time"]
    assert any("`tube` masks are impossible" in note for note in report["notes"])
    assert markdown(report, write_figures(tmp_path, report, comparison))


@pytest.mark.parametrize("samples", [40, 83])
def test_short_and_ragged_windows(tmp_path, samples):
    folder = make_shards(tmp_path, {"S": ("biosemi32", 16, {"1": "test"})}, samples=samples)
    report, _ = evaluate(tiny(), read_manifest(folder), progress=False)
    assert "delta" in report["datasets"]["S"]["bands_left_out"]
    assert report[ALL]["channel"]["spline"]["r"]["mean"] > 0.5


def test_trained_subjects_are_named(manifest):
    known = {"subjects": {"A": ["2", "4"], "B": []}}
    report, _ = evaluate(tiny(), manifest, windows_per_subject=1, kinds=["random"],
                         trained_on=known, progress=False)  # fmt: skip
    assert report["settings"]["trained_subjects"] == {"A": ["2"]}
    assert report["notes"][0].startswith("TRAINED ON: 1 of these 4 subjects")
    assert "> **TRAINED ON" in markdown(report, [])
    fresh = {"subjects": {"A": ["4"]}}
    report, _ = evaluate(tiny(), manifest, windows_per_subject=1, kinds=["random"],
                         trained_on=fresh, progress=False)  # fmt: skip
    assert report["notes"][0] == "None of these subjects was trained on."
    report, _ = evaluate(tiny(), manifest, split="train", kinds=["random"], progress=False)
    assert report["notes"][0].startswith("TRAINED ON")


@pytest.mark.parametrize(
    ("changes", "arguments", "words"),
    [
        ({"sfreq_hz": 250.0}, {}, "sampled at 200 Hz, but the model is made for 250 Hz"),
        ({}, {"split": "val"}, "no subject is in the val split"),
        ({"patch_samples": 150}, {}, "at least two must fit"),
        ({}, {"kinds": ["blok"]}, "no such kind"),
        ({}, {"kinds": ["radius_cm"]}, "give radius_cm=NUMBER, centimetres, above 0"),
        ({}, {"kinds": ["radius_cm=-4"]}, "give radius_cm=NUMBER, centimetres, above 0"),
        ({}, {"kinds": ["tube=3"]}, "tube takes no number"),
        ({}, {"mask_ratio": 1.0}, "between 0 and 1"),
        ({}, {"windows_per_subject": 0}, "at least 1"),
    ],
)
def test_what_cannot_be_scored_is_refused(manifest, changes, arguments, words):
    with pytest.raises(InputError) as caught:
        evaluate(tiny(**changes), manifest, progress=False, **arguments)
    assert words in str(caught.value)


def test_an_empty_split_names_the_others(manifest):
    with pytest.raises(InputError) as caught:
        evaluate(tiny(), manifest, split="val", progress=False)
    assert "train: A (5 windows); test: A (15 windows), B (5 windows)" in str(caught.value)


@pytest.mark.slow
def test_the_report_files(untrained, tmp_path):
    report, comparison = untrained
    figures = write_figures(tmp_path, report, comparison)
    names = {path.name for path in figures}
    assert {"r_by_kind.png", "nmse_by_kind.png", "r_by_band.png", "spectrum_by_band.png"} <= names
    assert {"topography_A.png", "topography_B.png", "example_A_block.png"} <= names
    assert all(path.read_bytes().startswith(b"\x89PNG") for path in figures)
    assert not list(tmp_path.glob("*.partial"))
    text = markdown(report, figures)
    for words in ("## A", "## B", "r_by_kind.png", "alpha 8-13 Hz", "r by subject"):
        assert words in text


def test_a_figure_shows_hidden_and_visible_channels_of_any_montage():
    signal, hidden = np.random.default_rng(0).standard_normal((40, 60)), np.zeros((40, 3), bool)
    hidden[10:30] = True
    names = [f"E{i}" for i in range(40)]
    figure = reconstruction_figure(signal, signal, signal, hidden, names, 200.0, "µV", "title")
    titles = [ax.get_title(loc="left") for ax in figure.axes]
    assert len(titles) == 5
    assert sum(title.endswith("r = 1.00") for title in titles) == 4
    assert sum(title.endswith("(visible)") for title in titles) == 1
    few = reconstruction_figure(
        signal[:2], signal[:2], signal[:2], hidden[:2], names[:2], 200.0, "µV", "title"
    )
    assert [ax.get_title(loc="left").split()[0] for ax in few.axes] == ["E0", "E1"]


@pytest.mark.slow
def test_the_command(shards, tmp_path, capsys):
    from safetensors.torch import save_file

    model = tiny()
    weights = tmp_path / "model.safetensors"
    save_file(model.state_dict(), weights)
    description = {
        "format": "eeg-masked-vae", "format_version": 1, "part": "whole",
        "model": model.config.as_dict(), "signal": {},
        "trained_on": {"manifest_sha256": "", "subjects": {"A": ["4"]}},
    }  # fmt: skip
    weights.with_suffix(".json").write_text(json.dumps(description))
    out = tmp_path / "report"
    arguments = [str(weights), "--shards", str(shards), "--out", str(out), "--device", "cpu"]
    command.main([*arguments, "--masks", "random,time", "--windows_per_subject", "2"])
    printed = capsys.readouterr().out
    assert "None of these subjects was trained on." in printed
    assert f"wrote {out / 'report.md'}" in printed
    report = json.loads((out / "report.json").read_text())
    assert report["settings"]["kinds"] == ["random", "time"]
    assert f"{report[ALL]['random']['spline']['r']['mean']:.3f}" in printed
    with pytest.raises(InputError, match="--device"):
        command.main([*arguments[:-1], "warp"])
    with pytest.raises(InputError, match="--out"):
        command.main([*arguments, "--out", str(weights), "--windows_per_subject", "1"])


@pytest.mark.slow
def test_adaptation_report(manifest, tmp_path):
    before, after = tiny(), tiny()
    torch.nn.init.normal_(after.decoder.to_patch.weight, std=0.02)
    people = {"trained_on": {"subjects": trained_subjects(manifest)}}
    arguments = (before, after, manifest)
    settings = {"windows_per_subject": 3, "progress": False}
    result = adaptation_report(*arguments, "test", tmp_path, **settings, **people)
    stored = json.loads((tmp_path / "adaptation.json").read_text())
    assert stored == result
    assert (tmp_path / "adaptation.png").read_bytes().startswith(b"\x89PNG")
    assert "adaptation.png" in (tmp_path / "adaptation.md").read_text()
    masked, distances = result["masked"]["block"], result["reconstruction"]
    assert set(masked) == {"before", "after", "gauss", *BASELINES}
    assert masked["before"]["r"]["mean"] == pytest.approx(masked["spline"]["r"]["mean"], abs=1e-3)
    assert masked["before"]["r"] != masked["after"]["r"]
    assert set(distances) == {"before", "after", "gauss", "spline"}
    for metric in ("wasserstein_1", "std_ratio", "spectrum_db"):
        same, other = (distances[m][metric]["mean"] for m in ("before", "after"))
        assert same == pytest.approx(distances["spline"][metric]["mean"], rel=1e-2)
        assert same != other
    assert "people that the model was not trained on" in result["summary"]
    settings = {"windows_per_subject": 1, "progress": False}
    seen = adaptation_report(*arguments, "train", tmp_path, **settings, **people)
    assert "TRAINED ON" in seen["summary"]
    unknown = adaptation_report(*arguments, "test", tmp_path, **settings)
    assert "not known" in unknown["summary"]


def test_adaptation_refuses_models_that_cut_the_signal_differently(manifest, tmp_path):
    with pytest.raises(InputError, match="patch_samples is 40 before and 20 after"):
        adaptation_report(tiny(patch_samples=40), tiny(), manifest, "test", tmp_path)


def test_draw_hidden_is_not_asked_for_the_impossible():
    for kind in MASK_KINDS:
        for channels in (1, 2, 7):
            for patches in (2, 3):
                count = parse(kind)[0].count(channels, patches, 0.9)
                if count:
                    places = np.random.default_rng(0).standard_normal((channels, 3))
                    rng = np.random.default_rng(1)
                    assert draw_mask(kind, Sheet(places, patches, 10.0), count, rng).sum() == count
