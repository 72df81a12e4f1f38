"""Files of the VC recordings: as old versions of torch wrote them, and their splits."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from data.errors import InputError
from data.signals.profiles import get_profile
from data.sources.formats.vc_files import load_tensors
from data.sources.spec import list_items, parse_spec


def test_a_file_from_before_torch_1_6_is_read(tmp_path):
    content = {"dataset": [{"eeg": torch.randn(4, 9), "label": 1}], "labels": ["n01"]}
    path = tmp_path / "old.pth"
    torch.save(content, path, _use_new_zipfile_serialization=False)
    found = load_tensors(path, "VC recordings")
    assert found["labels"] == ["n01"]
    assert torch.equal(found["dataset"][0]["eeg"], content["dataset"][0]["eeg"])


def recordings(tmp_path) -> Path:
    rng = np.random.default_rng(0)
    rows = [
        {
            "eeg": torch.tensor(rng.standard_normal((128, 500)), dtype=torch.float32),
            "image": index % 10,
            "label": index % 4,
            "subject": 1 + index // 20,
        }
        for index in range(40)
    ]
    path = tmp_path / "vc.pth"
    names = [f"n{index}" for index in range(10)]
    torch.save({"dataset": rows, "labels": names[:4], "images": names}, path)
    return path


def listed(tmp_path, by: str, **split) -> list:
    torch.save({"splits": [split]}, tmp_path / "split.pth")
    path = recordings(tmp_path)
    spec = parse_spec(f"vc:{path},by={by},splits={tmp_path}/split.pth")
    return list_items(spec, get_profile("default"))


@pytest.mark.parametrize("by", ["image", "subject"])
@pytest.mark.parametrize(
    ("train", "val", "test", "words"),
    [
        (range(30), range(30, 35), range(25, 40), r"10 segments are .* 10 of them in two"),
        ([*range(30), 3], range(30, 35), range(35, 40), r"1 segments are .* 0 of them in two"),
        (range(30, 300), range(300, 350), range(350, 400), "360 of the 370 segments"),
        ([-1, -2, *range(20)], range(20, 22), range(22, 24), "2 of the 26 segments"),
    ],
)
def test_a_split_file_that_does_not_fit_is_refused(tmp_path, by, train, val, test, words):
    with pytest.raises(InputError, match=words):
        listed(tmp_path, by, train=list(train), val=list(val), test=list(test))


@pytest.mark.parametrize(("by", "what"), [("image", "left out"), ("subject", "packed without one")])
def test_segments_in_no_split_are_told(tmp_path, by, what, capsys):
    items = listed(tmp_path, by, train=list(range(24)), val=[24, 25], test=[38, 39])
    assert f"12 of 40 segments in no split of split.pth, {what}" in capsys.readouterr().out
    [item] = [i for i in items if i.subject == "2" and i.published in (None, "train")]
    [recording] = item.load()
    assert recording.notes["split"] == f"12 of 20 segments in no split of the file, {what}"


def test_a_split_file_that_names_each_segment_once_is_taken(tmp_path, capsys):
    items = listed(tmp_path, "image", train=list(range(30)), val=list(range(30, 35)),
                   test=list(range(35, 40)))  # fmt: skip
    assert "no split" not in capsys.readouterr().out
    kept = {(i.subject, i.published): len(next(iter(i.load())).segments) for i in items}
    assert kept[("1", "train")] == 20
    assert kept[("2", "test")] == 5
