"""When codes begin: the rule, by table; and which of a file's two kinds of events is meant."""

from __future__ import annotations

import numpy as np
import pytest

from data.sources.events.triggers import read_codes


def held(*pairs) -> list[int]:
    """(code, samples) ... -> the channel."""
    return [code for code, samples in pairs for _ in range(samples)]


@pytest.mark.parametrize(
    ("channel", "any_edge", "rising"),
    [
        (held((0, 3), (5, 2), (0, 3), (3, 2), (0, 3)), [(3, 5), (8, 3)], [(3, 5), (8, 3)]),
        (held((0, 2), (5, 3), (3, 3), (4, 3)), [(2, 5), (5, 3), (8, 4)], [(2, 5), (8, 4)]),
        (held((0, 2), (3, 3), (1, 3), (0, 2)), [(2, 3), (5, 1)], [(2, 3)]),
        (held((0, 2), (1, 3), (3, 3), (2, 3), (0, 2)), [(2, 1), (5, 3), (8, 2)], [(2, 1), (5, 3)]),
        # A pulse of one sample, from 0 and from a channel that rests at 255.
        (held((0, 4), (7, 1), (0, 4)), [(4, 7)], [(4, 7)]),
        (held((255, 4), (7, 1), (255, 4)), [(4, 7), (5, 255)], [(5, 255)]),
        # Lines that do not switch at one instant: the value of one sample between is no code.
        (held((0, 4), (1, 1), (3, 4), (0, 2)), [(5, 3)], [(5, 3)]),
        (held((0, 4), (3, 4), (1, 1), (0, 2)), [(4, 3)], [(4, 3)]),
        (held((0, 4), (1, 1), (3, 1), (7, 3), (0, 2)), [(6, 7)], [(6, 7)]),
        (held((5, 4), (7, 1), (3, 4)), [(5, 3)], []),
        (held((3, 4), (1, 1), (2, 1), (3, 4)), [], []),
        # Held to the end; on already at the start; never on; a lone last sample.
        (held((0, 4), (9, 3)), [(4, 9)], [(4, 9)]),
        (held((9, 4), (0, 2), (9, 2), (0, 1)), [(6, 9)], [(6, 9)]),
        (held((0, 4)), [], []),
        (held((0, 4), (2, 1)), [(4, 2)], [(4, 2)]),
        ([], [], []),
        ([4], [], []),
    ],
)
def test_when_codes_begin(channel, any_edge, rising):
    for expected, found in ((any_edge, read_codes(channel)), (rising, read_codes(channel, True))):
        assert list(zip(found.samples.tolist(), found.codes.tolist(), strict=True)) == expected


def test_what_is_doubtful_is_marked():
    found = read_codes(held((9, 2), (0, 2), (3, 3), (1, 3), (0, 1), (1, 1), (3, 4), (4, 2), (0, 2)))
    assert found.codes.tolist() == [3, 1, 3, 4]
    assert found.rests.tolist() == [False, True, False, False]
    assert found.settling.tolist() == [1]
    assert found.standing == 9


def test_agrees_with_mne_where_codes_return_to_0():
    import mne

    rng = np.random.default_rng(0)
    parts = [
        (int(code), 3) if on else (0, 5) for on in [0, 1] * 50 for code in [rng.integers(1, 99)]
    ]
    channel = held(*parts, (0, 4))
    raw = mne.io.RawArray([channel], mne.create_info(["STI"], 100.0, "stim"), verbose="error")
    events = mne.find_events(raw, verbose="error")
    found = read_codes(channel)
    np.testing.assert_array_equal(found.samples, events[:, 0])
    np.testing.assert_array_equal(found.codes, events[:, 2])
