"""Which of many, and how many of each."""

from __future__ import annotations

from sys import maxsize

import pytest

from data.spacing import evenly, shared_out


@pytest.mark.parametrize(
    ("total", "count", "found"),
    [
        (0, 3, []),
        (1, 3, [0]),
        (3, 5, [0, 1, 2]),
        (5, 1, [0]),
        (5, 3, [0, 2, 4]),
        (101, 2, [0, 100]),
    ],
)
def test_evenly(total, count, found):
    assert evenly(total, count).tolist() == found


@pytest.mark.parametrize(
    ("total", "sizes", "found"),
    [
        (64, [100] * 5, [13, 13, 13, 13, 12]),
        (10, [1, 100, 100], [1, 5, 4]),
        (10, [3, 2], [3, 2]),
        (2, [5, 5, 5], [1, 1, 1]),
        (9, [0, 5, 5], [0, 5, 4]),
        (maxsize, [7, 1], [7, 1]),
        (5, [], []),
    ],
)
def test_shared_out(total, sizes, found):
    assert shared_out(total, sizes) == found
