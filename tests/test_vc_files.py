"""Files of the VC recordings as old versions of torch wrote them."""

from __future__ import annotations

import torch

from data.sources.vc_files import load_tensors


def test_a_file_from_before_torch_1_6_is_read(tmp_path):
    content = {"dataset": [{"eeg": torch.randn(4, 9), "label": 1}], "labels": ["n01"]}
    path = tmp_path / "old.pth"
    torch.save(content, path, _use_new_zipfile_serialization=False)
    found = load_tensors(path, "VC recordings")
    assert found["labels"] == ["n01"]
    assert torch.equal(found["dataset"][0]["eeg"], content["dataset"][0]["eeg"])
