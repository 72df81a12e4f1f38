"""Former spellings of flags and variables, and what they are now."""

from __future__ import annotations

import importlib

import pytest

from data.flags import Renamed, present, respell

TABLE = (
    Renamed("data", "shards"),
    Renamed("d_model", "model d_model="),
    Renamed("lags", "model skip_lags="),
    Renamed("model", ""),
    Renamed("init", "linear_start", "ridge|zero"),
)
LINES = {
    # former -> present
    "--data a": "--shards a",
    "--data=a": "--shards a",
    "--d_model 8 --lags=5": "--model d_model=8 --model skip_lags=5",
    "--out o --model RUN": "RUN --out o",
    "--init ridge": "--linear_start ridge",
    # these stay as they are
    "--init runs/a": "--init runs/a",
    "--shards a --steps 3": "--shards a --steps 3",
    "--out --data": "--out --data",
    "--data": "--data",
    "RUN --lr -1": "RUN --lr -1",
    "-- --data a": "-- --data a",
    "": "",
}


@pytest.mark.parametrize("former", LINES)
def test_a_former_command_line_becomes_the_present_one(former):
    done = respell(former.split(), {}, TABLE)
    assert " ".join(done.argv) == LINES[former]
    assert bool(done.lines) == (former != LINES[former])


@pytest.mark.parametrize(
    ("former", "now"),
    [
        ("a", "--shards a"),
        ("a --out b", "--shards a --out b"),
        ("--out b a", "--out b --shards a"),
        ("--out b", "--out b"),
        ("--out=b a", "--out=b --shards a"),
        ("-h", "-h"),
    ],
)
def test_a_positional_becomes_a_flag(former, now):
    assert " ".join(respell(former.split(), {}, [Renamed("", "shards")]).argv) == now


def test_each_former_spelling_says_the_present_one():
    done = respell(["--data", "a", "--d_model", "8"], {}, TABLE)
    assert [line.partition(" (")[0] for line in done.lines] == [
        "--data a is written --shards a now",
        "--d_model 8 is written --model d_model=8 now",
    ]


def test_variables_are_mapped_by_the_same_table():
    environment = {
        "OLD_DATA": "a", "OLD_D_MODEL": "8", "OLD_LAGS": "5", "OLD_INIT": "zero", "OLD_STEPS": "3",
        "OLD_LR": "1", "EEG_LR": "2", "PATH": "x",
    }  # fmt: skip
    done = respell([], environment, TABLE, "OLD_")
    assert done.environment == {
        "EEG_SHARDS": "a", "EEG_MODEL": "d_model=8 skip_lags=5", "EEG_LINEAR_START": "zero",
        "EEG_STEPS": "3",
    }  # fmt: skip
    assert any(line.startswith("OLD_DATA is called EEG_SHARDS now") for line in done.lines)
    assert any("OLD_LR is not read" in line for line in done.lines)
    assert respell([], environment, TABLE).environment == {}


def test_only_the_first_rank_speaks(monkeypatch, capsys):
    environment = {"RANK": "1", "OLD_STEPS": "3"}
    monkeypatch.setattr("data.flags.os.environ", environment)
    assert present(["--data", "a"], TABLE, "OLD_") == ["--shards", "a"]
    assert environment["EEG_STEPS"] == "3"
    assert capsys.readouterr().out == ""
    environment["RANK"] = "0"
    present(["--data", "a"], TABLE)
    assert "--data a is written --shards a now" in capsys.readouterr().out


FORMER = [
    # (command, former words, present words)
    ("data.inspect_shards", "DIR --windows 3", "--shards DIR --windows 3"),
    ("trainer.convert", "RUN --out o.pt --part whole", "RUN --out o.pt --keep whole"),
    ("trainer.evaluate", "RUN --shards s --kinds tube", "RUN --shards s --masks tube"),
    ("trainer.finetune_vc", "--report_windows 8", "--windows_per_subject 8"),
    (
        "trainer.eeg2meg",
        "--data d --split loso:5 --deepspeed j.json --init ridge --eeg_encoder e --eval_pieces 8",
        "--shards d --holdout loso:5 --deepspeed_config j.json --linear_start ridge --encoder e "
        "--eval_windows 8",
    ),
    (
        "trainer.eeg2meg",
        "--d_model 8 --n_heads 2 --n_layers 3 --lags 5 --skip_rank 4",
        "--model d_model=8 --model n_heads=2 --model n_layers=3 --model skip_lags=5 --model "
        "skip_rank=4",
    ),
    (
        "trainer.eval_eeg2meg",
        "--data d --split loso:5 --out o --model RUN --limit 3",
        "RUN --shards d --holdout loso:5 --out o --windows_per_recording 3",
    ),
]


@pytest.mark.parametrize(("command", "former", "now"), FORMER)
def test_former_spellings_of_commands_are_accepted(command, former, now, capsys):
    table = importlib.import_module(command).RENAMED
    assert present(former.split(), table) == now.split()
    assert "is written" in capsys.readouterr().out
    assert present(now.split(), table) == now.split()
    assert capsys.readouterr().out == ""
