"""Trials of recordings that lack different channels are brought to one montage."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
import torch

from data.batches.batch import Batch
from data.errors import InputError
from data.shards.manifest import Montage, ShardEntry
from data.simulate.head import montage_directions
from trainer.images.montage import POSTERIOR_CHANNELS, CommonMontage

PLACES = dict(
    zip(POSTERIOR_CHANNELS, 0.095 * montage_directions("easycap-M1", POSTERIOR_CHANNELS)[1],
        strict=True)
)  # fmt: skip


class Folder:
    """What a CommonMontage reads of a manifest."""

    def __init__(self, *lacking: tuple[str, ...]):
        self.montages, self.shards, self.recordings = {}, [], []
        for number, names in enumerate(lacking):
            kept = tuple(name for name in POSTERIOR_CHANNELS if name not in names)
            places = np.array([PLACES[name] for name in kept], np.float32)
            self.montages[str(number)] = Montage(kept, places)
            self.recordings.append({"montage": str(number)})
            fields = dict.fromkeys(ShardEntry.__dataclass_fields__)
            self.shards.append(ShardEntry(**{**fields, "montage": str(number)}))


def batch_of(folder, number, eeg):
    return Batch.of(eeg.half(), torch.from_numpy(folder.montages[number].positions_m))


def test_what_is_there_stays_and_what_lacks_is_filled():
    folder = Folder((), ("Oz", "P7"))
    common = CommonMontage.of(folder, "all", "here")
    assert common.channels == POSTERIOR_CHANNELS
    # A smooth field, which a spline knows.
    direction = torch.tensor(np.array([PLACES[n] for n in POSTERIOR_CHANNELS]) / 0.095).float()
    field = (direction @ torch.tensor([0.3, -0.8, 0.5]))[None, :, None] * torch.linspace(0, 2, 50)
    whole = common(batch_of(folder, "0", field))
    assert torch.equal(whole.eeg, field.half())
    kept = [POSTERIOR_CHANNELS.index(name) for name in folder.montages["1"].channels]
    found = common(batch_of(folder, "1", field[:, kept]))
    assert torch.equal(found.eeg[:, kept], field[:, kept].half())
    torch.testing.assert_close(found.eeg.float(), field, atol=0.05, rtol=0)
    assert torch.equal(found.positions_m, whole.positions_m)
    assert common.filled(folder) == {"Oz": 1, "P7": 1}


def test_channels_may_be_chosen():
    folder = Folder((), ("Oz",))
    common = CommonMontage.of(folder, "O1+Oz+O2", "here")
    assert common.channels == ("O1", "Oz", "O2")
    eeg = torch.randn(2, 17, 9)
    found = common(batch_of(folder, "0", eeg))
    rows = [POSTERIOR_CHANNELS.index(name) for name in ("O1", "Oz", "O2")]
    torch.testing.assert_close(found.eeg, eeg.half()[:, rows])
    assert CommonMontage.of(folder, "posterior", "here").channels == POSTERIOR_CHANNELS
    with pytest.raises(InputError, match="no recording of here has Cz"):
        CommonMontage.of(folder, "O1+Cz", "here")


def test_another_folder_comes_to_the_same_montage():
    told = CommonMontage.of(Folder(()), "all", "here").as_dict()
    told = json.loads(json.dumps(told))
    other = Folder(("P1", "PO7"))
    again = CommonMontage.again(told, other, "there")
    assert again(batch_of(other, "0", torch.randn(1, 15, 4))).eeg.shape == (1, 17, 4)
    with pytest.raises(InputError, match="a recording has 8 of the 17"):
        CommonMontage.again(told, Folder(POSTERIOR_CHANNELS[:9]), "there")


def test_one_name_at_two_places_is_refused():
    folder = Folder((), ("Oz",))
    moved = folder.montages["1"].positions_m.copy()
    moved[0] += 0.03
    folder.montages["1"] = replace(folder.montages["1"], positions_m=moved)
    with pytest.raises(InputError, match="P7 lies at two places, 52 mm apart"):
        CommonMontage.of(folder, "all", "here")
