"""The simulations run, and say what they are told: the figures themselves take more trials than a test has time for."""

from __future__ import annotations

import re

import numpy as np
import pytest

from tests.figures.chance import EQUAL, by_category, certain, drawn, found_worse, holds, main, one_for_all


def test_every_share_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    main(["--trials", "3"])
    said = capsys.readouterr().out
    shares = [float(share) for share in re.findall(r"(\d+\.\d) \(", said)]
    assert len(shares) == 3 * len(EQUAL) + 6
    assert all(0 <= share <= 100 for share in shares)


def test_one_variance_for_all_holds_less_than_each_category_s_own() -> None:
    values = drawn(np.random.default_rng(0), 4000, [10, 1, 1, 1, 1], [3] * 5)
    own, pooled = (holds(values, interval).mean() for interval in (by_category, one_for_all))
    assert own == pytest.approx(0.935, abs=0.015)
    assert pooled == pytest.approx(0.865, abs=0.015)


def test_what_differs_beyond_doubt_is_found() -> None:
    apart = np.array([[[0.0, 0.001]], [[1.0, 1.001]]])
    assert certain(apart)
    assert not certain(apart[[0, 0]])
    assert found_worse(10_000, 3).all()
    assert not found_worse(0, 3).any()
