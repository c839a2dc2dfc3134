import math
from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binomtest, wilcoxon

from rdbench.metrics import calibration, detection, selective
from rdbench.metrics.statistics import (
    Interval,
    holm,
    paired_test,
    paired_tests,
    part_weights,
    percentile_intervals,
    proportion_interval,
    rank_intervals,
    wilson_interval,
)

weighted = st.lists(
    st.tuples(st.integers(0, 1), st.integers(0, 4), st.integers(0, 3), st.integers(0, 3)), min_size=1, max_size=12
)

FIGURES = {
    "auroc": (detection.rank_labels, detection.auroc_of, detection.auroc),
    "ap": (detection.rank_labels, detection.average_precision_of, detection.average_precision),
    "f1": (detection.rank_labels, detection.f1_max_of, detection.f1_max),
    "fpr95": (detection.rank_labels, lambda r: detection.fpr_at_recall_of(r, 0.95), detection.fpr_at_recall),
    "aurc": (selective.rank_errors, selective.aurc_of, selective.aurc),
    "e_aurc": (selective.rank_errors, selective.e_aurc_of, selective.e_aurc),
    "augrc": (selective.rank_errors, selective.augrc_of, selective.augrc),
    "risk": (
        selective.rank_errors,
        lambda r: selective.risk_at_coverage_of(r, 0.8),
        lambda e, u: selective.risk_at_coverage(e, u, 0.8),
    ),
    "coverage": (
        selective.rank_errors,
        lambda r: selective.coverage_at_risk_of(r, 0.3),
        lambda e, u: selective.coverage_at_risk(e, u, 0.3),
    ),
    "caught": (
        selective.rank_errors,
        lambda r: selective.errors_caught_of(r, 0.2),
        lambda e, u: selective.errors_caught(e, u, 0.2),
    ),
    "ece": (
        lambda y, s, w: calibration.rank_probabilities(y, s / 4, w),
        lambda ranked: calibration.ece_of(*ranked, 3),
        lambda y, s: calibration.ece(y, s / 4, 3),
    ),
}


@pytest.mark.parametrize("name", FIGURES)
@given(weighted)
@settings(max_examples=40)
def test_a_resample_is_the_sample_with_its_images_copied(name, rows):
    ranked, batched, plain = FIGURES[name]
    hits, key, *weights = np.array(rows).T
    weights = np.stack([w for w in weights if w.sum() > 0] or [np.ones(len(hits), dtype=int)])
    values = batched(ranked(hits, key.astype(float), weights))
    expected = [plain(np.repeat(hits, w), np.repeat(key, w).astype(float)) for w in weights]
    np.testing.assert_allclose(values, expected, atol=1e-9)


def test_part_weights_draw_whole_parts_within_strata():
    parts = np.array(["a", "a", "b", "c", "c", "c", "a", "d"])
    strata = np.array([0, 0, 0, 0, 0, 0, 1, 1])  # part a of category 1 is another part
    weights = part_weights(parts, 2000, seed=0, strata=strata)
    np.testing.assert_array_equal(weights[:, 0], weights[:, 1])
    np.testing.assert_array_equal(weights[:, 3], weights[:, 5])
    np.testing.assert_array_equal(weights[:, [0, 2, 3]].sum(axis=1), 3)
    np.testing.assert_array_equal(weights[:, [6, 7]].sum(axis=1), 2)
    np.testing.assert_allclose(weights.mean(axis=0), 1, atol=0.1)
    np.testing.assert_array_equal(weights, part_weights(parts, 2000, seed=0, strata=strata))
    assert not np.array_equal(weights, part_weights(parts, 2000, seed=1, strata=strata))


def test_a_bootstrap_over_parts_agrees_with_a_loop_over_copied_images():
    rng = np.random.default_rng(0)
    labels, scores, parts = rng.integers(0, 2, 60), np.round(rng.random(60), 1), np.arange(60) // 3
    weights = part_weights(parts, 300, seed=4)
    [found] = percentile_intervals(detection.auroc_of(detection.rank_labels(labels, scores, weights))[None])
    values = [detection.auroc(np.repeat(labels, w), np.repeat(scores, w)) for w in weights]
    assert (found.low, found.high) == pytest.approx(np.percentile(values, [2.5, 97.5]), abs=1e-9)


def test_the_intervals_of_many_rows_are_those_of_each_row():
    values = np.round(np.random.default_rng(3).random((5, 200)), 2)
    values[1, :30], values[3] = math.nan, math.nan
    for found, row in zip(percentile_intervals(values, 0.9), values, strict=True):
        defined = row[~np.isnan(row)]
        low, high = np.percentile(defined, [5, 95]) if len(defined) else (math.nan, math.nan)
        assert (found.low, found.high) == pytest.approx((low, high), abs=1e-12, nan_ok=True)
        assert found.undefined == len(row) - len(defined)


def test_undefined_resamples_are_left_out_and_counted():
    some, none = percentile_intervals(np.array([[math.nan, 1.0, 2.0, math.nan], [math.nan] * 4]), level=1.0)
    assert some == Interval(1.0, 2.0, 2)
    assert math.isnan(none.low)
    assert none.undefined == 4
    labels, parts = np.array([0, 0, 0, 1]), np.arange(4)
    ranked = detection.rank_labels(labels, np.arange(4.0), part_weights(parts, 1000))
    [found] = percentile_intervals(detection.auroc_of(ranked)[None])
    assert 0.25 * 1000 < found.undefined < 0.4 * 1000  # (3/4)^4 without the anomalous part


@given(st.integers(0, 40), st.integers(1, 40))
def test_wilson_agrees_with_scipy(successes, trials):
    successes = min(successes, trials)
    expected = binomtest(successes, trials).proportion_ci(0.95, method="wilson")
    found = wilson_interval(successes, trials)
    assert (found.low, found.high) == pytest.approx((expected.low, expected.high), abs=1e-9)


def test_a_proportion_of_dependent_images_has_the_interval_of_its_parts():
    outcomes = np.repeat([0, 1, 0, 0, 1, 0, 0, 0, 0, 1], 6)
    parts = np.repeat(np.arange(10), 6)
    dependent, independent = proportion_interval(outcomes, parts), proportion_interval(outcomes, np.arange(60))
    expected = wilson_interval(3, 10)
    assert (dependent.low, dependent.high) == pytest.approx((expected.low, expected.high))
    expected = wilson_interval(18, 60)
    assert (independent.low, independent.high) == pytest.approx((expected.low, expected.high))
    assert proportion_interval(np.zeros(60), parts) == wilson_interval(0, 10)


def test_paired_test_agrees_with_scipy():
    rng = np.random.default_rng(0)
    first, second = rng.random(20) + 0.15, rng.random(20)
    found = paired_test(first, second)
    assert found.p_value == found.p_holm == pytest.approx(wilcoxon(first, second).pvalue)
    assert (found.pairs, found.left_out) == (20, 0)
    assert found.difference == pytest.approx((first - second).mean())
    assert paired_test(second, first).effect == pytest.approx(-found.effect)
    assert paired_test([1.0, 2, 3], [0.0, 0, 0]).effect == 1


def test_pairs_that_do_not_exist_or_do_not_differ():
    found = paired_test([1.0, math.nan, 2.0], [1.0, 1.0, 2.0])
    assert (found.pairs, found.left_out, found.p_value, found.effect) == (2, 1, 1.0, 0.0)
    assert math.isnan(paired_test([math.nan], [1.0]).p_value)


def test_holm_is_the_step_down_of_its_paper():
    np.testing.assert_allclose(holm([0.01, 0.04, 0.03, 0.005]), [0.03, 0.06, 0.06, 0.02])
    np.testing.assert_allclose(holm([0.01, math.nan, 0.6, 0.9]), [0.03, math.nan, 1, 1])
    rng = np.random.default_rng(0)
    reference = rng.random(12)
    tests = paired_tests(reference, {"a": reference + rng.random(12), "b": rng.random(12)})
    np.testing.assert_allclose([t.p_holm for t in tests.values()], holm([t.p_value for t in tests.values()]))


@pytest.mark.parametrize(
    ("seeds", "spreads"),
    [
        ([3], [1]),
        ([5], [1]),
        ([2] * 5, [1] * 5),
        ([3] * 8, [1] * 8),
        ([3] * 5, [10, 1, 1, 1, 1]),
        ([3, 1, 1, 1, 1], [1] * 5),
    ],
)
def test_equal_methods_are_placed_for_certain_as_often_as_is_said(seeds, spreads):
    rng = np.random.default_rng(0)
    certain = 0
    for trial in range(300):
        values = rng.normal(size=(2, len(seeds), max(seeds))) * np.array(spreads)[:, None]
        values[:, np.arange(max(seeds)) >= np.array(seeds)[:, None]] = np.nan
        ranks = rank_intervals({"a": values[0], "b": values[1]}, higher_is_better=True, resamples=400, seed=trial)
        certain += ranks["a"].low == ranks["a"].high
    assert 4 <= certain <= 27  # of 300; a chance of 5 % gives fewer or more in 1 of 1000 runs each


def test_rank_intervals_are_one_rank_where_nothing_varies_and_wide_where_methods_mix():
    rng = np.random.default_rng(0)
    noise = rng.normal(size=(5, 3)) * 0.3
    values = {"best": np.full((5, 3), 0.9), "middle": 0.5 + noise, "same": 0.5 + rng.normal(size=(5, 3)) * 0.3}
    ranks = rank_intervals(values, higher_is_better=True)
    assert (ranks["best"].rank, ranks["best"].low, ranks["best"].high) == (1, 1, 1)
    assert (ranks["middle"].low, ranks["middle"].high) == (2, 3)
    assert rank_intervals(values, higher_is_better=False)["best"].rank == 3
    tied = rank_intervals({"a": [[0.5]], "b": [[0.5]]}, higher_is_better=True)
    assert tied["a"].rank == tied["b"].rank == 1.5


def test_a_cell_that_one_method_lacks_is_left_out_for_all():
    values = {"a": [[0.9], [math.nan]], "b": [[0.8], [1.0]]}
    assert rank_intervals(values, higher_is_better=True)["a"].rank == 1


def test_bad_input_is_an_error_that_names_the_argument():
    with pytest.raises(ValueError, match="parts"):
        part_weights([])
    with pytest.raises(ValueError, match="lengths differ"):
        part_weights([1, 2], strata=[1])
    with pytest.raises(ValueError, match="successes"):
        wilson_interval(3, 2)
    with pytest.raises(ValueError, match="infinite"):
        paired_test([math.inf], [1.0])
    with pytest.raises(ValueError, match="lengths differ"):
        paired_test([1.0, 2.0], [1.0])


def test_equal_differences_are_equal_whatever_float64_makes_of_them():
    assert paired_test([0.3, 0.7, 0.8], [0.1 + 0.2, 0.7, 0.8]).effect == 0
    called, missed = np.array([3, 5, 7, 9, 11, 4, 6]), np.array([2, 4, 6, 8, 10, 3, 7])  # six won by one, one lost
    found = paired_test(called / 20, missed / 20)
    assert found.effect == pytest.approx((6 * 4 - 4) / 28)
    assert found.p_value == pytest.approx(2 * (1 + 7) / 2**7)


@given(st.lists(st.integers(-3, 3).filter(bool), min_size=1, max_size=9))
def test_the_signed_rank_test_is_exact_with_ties(gaps):
    size, gap = np.array(gaps), np.array(gaps, dtype=float)
    ranks = [sum(abs(size) < abs(g)) + (sum(abs(size) == abs(g)) + 1) / 2 for g in gaps]
    sums = [sum(r for r, sign in zip(ranks, signs, strict=True) if sign) for signs in product([0, 1], repeat=len(gaps))]
    won = sum(r for r, g in zip(ranks, gaps, strict=True) if g > 0)
    tails = np.mean(np.array(sums) <= won), np.mean(np.array(sums) >= won)
    assert paired_test(gap, np.zeros(len(gap))).p_value == pytest.approx(min(1, 2 * min(tails)), abs=1e-12)


@pytest.mark.parametrize("pairs", [30, 50, 51, 80])
def test_the_signed_rank_test_without_ties_is_scipys(pairs):
    gap = np.random.default_rng(pairs).normal(0.2, 1, pairs)
    method = "exact" if pairs <= 50 else "asymptotic"
    expected = wilcoxon(gap, method=method).pvalue
    assert paired_test(gap, np.zeros(pairs)).p_value == pytest.approx(expected, rel=1e-9)
