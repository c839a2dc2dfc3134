from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy.stats import entropy, norm

from rdbench.metrics.readouts import READOUTS, first_members, read_out, table
from rdbench.metrics.selective import controls

PAGE = Path(__file__).parents[2] / "docs" / "metrics.md"

MEMBERS = np.array(
    [
        [1.0, 4.0, 2.0, 3.0],
        [2.0, 4.0, 2.0, 3.0],
        [3.0, 4.0, 2.0, 3.0],
        [6.0, 4.0, 2.0, 3.0],
    ]
)  # four members, four images
SCORES = MEMBERS.mean(axis=0)  # 3, 4, 2, 3
TAU = 2.5

scores = st.floats(-100, 100, width=32)


@st.composite
def said(draw):
    """Members (K, n), scores that are mostly their mean, and a threshold."""
    shape = draw(st.tuples(st.integers(1, 6), st.integers(1, 8)))
    members = draw(arrays(np.float64, shape, elements=scores))
    own = members.mean(axis=0) if draw(st.booleans()) else draw(arrays(np.float64, shape[1], elements=scores))
    return members, own, draw(scores)


def test_by_hand():
    # image 0: 1, 2, 3, 6 with mean 3: two of four vote anomalous, as does the mean; squares 4 + 1 + 0 + 9 = 14
    std = np.sqrt(14 / 3)
    np.testing.assert_allclose(read_out("std", MEMBERS, SCORES, TAU, 0.0), [std, 0, 0, 0])
    np.testing.assert_array_equal(read_out("disagreement", MEMBERS, SCORES, TAU, 0.0), [0.5, 0, 0, 0])
    np.testing.assert_array_equal(read_out("entropy", MEMBERS, SCORES, TAU, 0.0), [1, 0, 0, 0])
    expected = [norm.cdf(-0.5 / std), 0, 0, 0]
    np.testing.assert_allclose(read_out("standardised_margin", MEMBERS, SCORES, TAU, 0.0), expected)
    np.testing.assert_array_equal(read_out("margin", MEMBERS, SCORES, TAU, 0.0), [-0.5, -1.5, -0.5, -0.5])


def test_levels_are_no_part_of_the_centred_spread():
    # less their levels 1, 2, 3 and 5 the members say 0, 0, 0, 1 of the first image, and -1 to 3, -1 to -3, -2 to 2 of
    # the others: mean 1/4 and squares 3/16 + 9/16 = 3/4 in the first
    levels = [1.0, 2.0, 3.0, 5.0]
    spread = np.std(levels, ddof=1)
    np.testing.assert_allclose(
        read_out("std", MEMBERS, SCORES, TAU, levels), read_out("std", MEMBERS, SCORES, TAU, 0.0)
    )
    np.testing.assert_allclose(read_out("centred_std", MEMBERS, SCORES, TAU, levels), [0.5, spread, spread, spread])
    np.testing.assert_array_equal(
        read_out("centred_std", MEMBERS + 7, SCORES, TAU, 7.0), read_out("std", MEMBERS, SCORES, TAU, 0.0)
    )


def test_a_score_on_the_threshold_decides_nothing_whatever_the_spread():
    members = np.array([[1.0, 2.0], [3.0, 2.0]])
    np.testing.assert_array_equal(read_out("standardised_margin", members, [2.0, 2.0], 2.0, 0.0), [0.5, 0.5])


def test_disagreement_and_entropy_part_where_most_members_are_against_the_mean():
    members = np.array([[0.0], [0.0], [0.0], [0.0], [10.0]])  # mean 2, over the threshold because of one member
    assert read_out("disagreement", members, [2.0], 1.0, 0.0) == [0.8]
    assert read_out("entropy", members, [2.0], 1.0, 0.0) == pytest.approx(entropy([0.2, 0.8], base=2))


def test_one_member_has_no_spread():
    for name in ("std", "disagreement", "entropy", "standardised_margin"):
        np.testing.assert_array_equal(read_out(name, [[1.0, 3.0]], [1.0, 3.0], 2.0, 0.0), [0, 0])


def test_beyond_what_float64_holds_flips_tie_at_zero():
    far = read_out("standardised_margin", [[0.0, 0.0], [1e-300, 1e-3]], [0.0, 5e-4], 1.0, 0.0)
    np.testing.assert_array_equal(far, [0, 0])


@given(said())
def test_bounds(drawn):
    bounds = {
        "std": (0, np.inf),
        "centred_std": (0, np.inf),
        "disagreement": (0, 1),
        "entropy": (0, 1),
        "standardised_margin": (0, 0.5),
    }
    for name in READOUTS:
        found = read_out(name, *drawn, 0.0)
        low, high = bounds.get(name, (-np.inf, 0))
        assert found.shape == drawn[1].shape
        assert np.isfinite(found).all()
        assert ((low <= found) & (found <= high)).all()


@given(said(), st.randoms(use_true_random=False))
def test_the_order_of_members_and_images_does_not_matter(drawn, random):
    members, own, tau = drawn
    rows, columns = list(range(members.shape[0])), list(range(members.shape[1]))
    random.shuffle(rows)
    random.shuffle(columns)
    for name in READOUTS:
        plain, mixed = read_out(name, *drawn, 0.0), read_out(name, members[rows][:, columns], own[columns], tau, 0.0)
        np.testing.assert_allclose(mixed, plain[columns], rtol=1e-9, atol=1e-10)


@given(said())
def test_scipy_and_numpy_agree(drawn):
    members, own, tau = drawn
    votes = (members > tau).mean(axis=0)
    np.testing.assert_allclose(read_out("entropy", *drawn, 0.0), entropy([votes, 1 - votes], base=2), atol=1e-12)
    if len(members) > 1:
        std = members.std(axis=0, ddof=1)
        np.testing.assert_allclose(read_out("std", *drawn, 0.0), std, rtol=1e-9, atol=1e-10)
        some = std > 1e-3
        flip = norm.cdf(-np.abs(own - tau)[some] / std[some])
        np.testing.assert_allclose(read_out("standardised_margin", *drawn, 0.0)[some], flip, rtol=1e-6)
    errors = np.arange(len(own)) % 2
    np.testing.assert_array_equal(read_out("margin", *drawn, 0.0), controls(errors, own, tau)["margin"])


@given(said())
def test_entropy_and_disagreement_rank_alike_unless_most_members_are_against_the_decision(drawn):
    unsure, against = read_out("entropy", *drawn, 0.0), read_out("disagreement", *drawn, 0.0)
    ranked = np.argsort(against[against <= 0.5], kind="stable")
    assert (np.diff(unsure[against <= 0.5][ranked]) >= 0).all()


@given(arrays(np.float32, st.tuples(st.integers(1, 6), st.integers(1, 5)), elements=scores))
def test_the_first_members_are_the_running_moments_of_the_sampling_methods(members):
    import torch

    from rdbench.uq.sampling import RunningMoments

    moments = RunningMoments()
    for value, (mean, std) in zip(torch.from_numpy(members), first_members(members), strict=True):
        moments.add(value)
        np.testing.assert_array_equal(mean, moments.mean.numpy())
        np.testing.assert_allclose(std, moments.std().numpy(), rtol=2e-7)  # torch's square root is off by a last bit


@pytest.mark.parametrize(
    ("members", "own", "tau", "named"),
    [
        ([[1.0, np.nan]], [1.0, 2.0], 1.0, "member_scores"),
        ([[1.0, 2.0, 3.0]], [1.0, 2.0], 1.0, "member_scores"),
        (np.empty((0, 2)), [1.0, 2.0], 1.0, "member_scores"),
        ([1.0, 2.0], [1.0, 2.0], 1.0, "member_scores"),
        ([[1.0]], [np.inf], 1.0, "scores"),
        ([[1.0]], [1.0], np.nan, "threshold"),
    ],
)
def test_bad_input_is_an_error_that_names_the_argument(members, own, tau, named):
    for name in READOUTS:
        with pytest.raises(ValueError, match=named):
            read_out(name, members, own, tau, 0.0)


@pytest.mark.parametrize("levels", [[1.0], [1.0, np.nan], [[1.0, 2.0]], np.inf])
def test_bad_levels_are_an_error_too(levels):
    with pytest.raises(ValueError, match="levels"):
        read_out("centred_std", [[1.0], [2.0]], [1.5], 1.0, levels)


def test_the_page_carries_the_table_of_the_readouts():
    assert table() in PAGE.read_text(encoding="utf-8"), "paste `readouts.table()` into docs/metrics.md"
