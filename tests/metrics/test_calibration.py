import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import brier_score_loss, log_loss

from rdbench.metrics.calibration import (
    _folds,
    brier,
    conformal_p_values,
    cross_fitted_probabilities,
    ece,
    false_alarm_gap,
    nll,
    platt,
    reliability_curve,
    why_uncalibrated,
)
from rdbench.metrics.detection import conformal_threshold


def sample(seed=0, n=120, gap=1.2):
    rng = np.random.default_rng(seed)
    labels = (rng.random(n) < 0.6).astype(int)
    return labels, rng.normal(size=n) + gap * labels, np.arange(n) // 2


def scikit_learn_platt(labels, scores):
    """Logistic regression on Platt's smoothed targets: each image once as each class, with that weight."""
    positives = labels.sum()
    high, low = (positives + 1) / (positives + 2), 1 / (len(labels) - positives + 2)
    target = np.where(labels == 1, high, low)
    model = LogisticRegression(C=np.inf, tol=1e-12, max_iter=10_000, solver="newton-cholesky")
    model.fit(np.tile(scores, 2)[:, None], np.repeat([1, 0], len(scores)), sample_weight=np.append(target, 1 - target))
    return model


@pytest.mark.parametrize(("seed", "gap", "scale"), [(0, 1.2, 1.0), (1, 0.1, 1e-6), (2, 3.0, 1e4), (3, -1.0, 1.0)])
def test_platt_scaling_agrees_with_scikit_learn(seed, gap, scale):
    labels, scores, _ = sample(seed, gap=gap)
    slope, intercept = platt(labels.astype(float), scores * scale, np.ones((1, len(labels)), dtype=bool))
    model = scikit_learn_platt(labels, scores)
    assert slope[0] * scale == pytest.approx(model.coef_[0, 0], rel=1e-6)
    assert intercept[0] == pytest.approx(model.intercept_[0], abs=1e-6)


def test_separable_and_constant_scores_have_a_finite_fit():
    labels = np.array([0.0, 0, 0, 1, 1])
    everything = np.ones((1, 5), dtype=bool)
    slope, intercept = platt(labels, np.array([1.0, 2, 3, 4, 1e6]), everything)
    assert 0 < slope[0] < math.inf
    assert math.isfinite(intercept[0])
    slope, intercept = platt(labels, np.full(5, 7.0), everything)
    assert slope[0] == 0
    smoothed = (2 * 3 / 4 + 3 * 1 / 5) / 5  # the mean of Platt's targets
    assert 1 / (1 + math.exp(-intercept[0])) == pytest.approx(smoothed)


@pytest.mark.parametrize("far", [1e4, 1e9, 1e30])
def test_an_image_far_out_does_not_flatten_the_fits_that_do_not_see_it(far):
    labels, scores, _ = sample()
    alone = platt(labels.astype(float), scores, np.ones((1, len(labels)), dtype=bool))
    seen = np.append(np.ones(len(labels), dtype=bool), False)[None]
    np.testing.assert_allclose(platt(np.append(labels, 1.0), np.append(scores, far), seen), alone, rtol=1e-9)


@pytest.mark.parametrize("scale", [1e-200, 1e-30, 1e30, 1e200])
def test_platt_scaling_knows_no_unit(scale):
    labels, scores, parts = sample()
    plain = cross_fitted_probabilities(labels, scores, parts, seed=0)
    np.testing.assert_allclose(cross_fitted_probabilities(labels, scores * scale, parts, seed=0), plain, rtol=1e-9)


def test_no_image_takes_part_in_its_own_fit():
    labels, scores, parts = sample()
    p = cross_fitted_probabilities(labels, scores, parts, seed=3)
    fold = _folds(labels.astype(float), parts, 3)
    for f in range(5):
        own = fold == f
        moved = cross_fitted_probabilities(labels, scores + own, parts, seed=3)
        shift = np.log(moved[own] / (1 - moved[own])) - np.log(p[own] / (1 - p[own]))
        np.testing.assert_allclose(shift, shift[0], atol=1e-6)  # one step along a line that did not move
        assert not np.allclose(moved[~own], p[~own], atol=1e-3)


def test_cross_fitting_agrees_with_scikit_learn_fold_by_fold():
    labels, scores, parts = sample()
    p = cross_fitted_probabilities(labels, scores, parts, seed=1)
    fold = _folds(labels.astype(float), parts, 1)
    assert len(np.unique(fold)) == 5
    assert all(len(np.unique(fold[parts == part])) == 1 for part in parts)
    for f in range(5):
        model = scikit_learn_platt(labels[fold != f], scores[fold != f])
        np.testing.assert_allclose(p[fold == f], model.predict_proba(scores[fold == f, None])[:, 1], atol=1e-7)


def test_cross_fitting_does_not_depend_on_row_order_and_does_on_the_seed():
    labels, scores, parts = sample()
    names = np.array([f"part-{p}" for p in parts])
    p = cross_fitted_probabilities(labels, scores, names, seed=0)
    order = np.random.default_rng(0).permutation(len(labels))
    shuffled = cross_fitted_probabilities(labels[order], scores[order], names[order], seed=0)
    np.testing.assert_allclose(shuffled, p[order], atol=1e-9)
    assert not np.allclose(p, cross_fitted_probabilities(labels, scores, names, seed=1))


@given(st.lists(st.tuples(st.integers(0, 1), st.integers(0, 6)), min_size=2, max_size=30))
def test_cross_fitting_is_defined_exactly_when_each_class_is_in_two_parts(rows):
    labels, parts = np.array(rows).T
    p = cross_fitted_probabilities(labels, np.arange(len(rows), dtype=float), parts, seed=0)
    enough = all(len(set(parts[labels == c])) >= 2 for c in (0, 1))
    assert np.isfinite(p).all() if enough else np.isnan(p).all()
    assert (why_uncalibrated(labels, parts) == "") == enough
    if not enough:
        assert why_uncalibrated(labels, parts).startswith("fewer than two parts with")


def test_brier_and_nll_agree_with_scikit_learn():
    rng = np.random.default_rng(0)
    labels, p = rng.integers(0, 2, 300), rng.random(300)
    assert brier(labels, p) == pytest.approx(brier_score_loss(labels, p), abs=1e-12)
    assert nll(labels, p) == pytest.approx(log_loss(labels, p), abs=1e-12)
    assert nll([1], [0.0]) == math.inf
    assert nll([1], [1.0]) == 0


def test_ece_is_that_of_equal_mass_bins():
    rng = np.random.default_rng(0)
    labels, p = rng.integers(0, 2, 150), rng.random(150)
    order = np.argsort(p)
    bins = np.split(order, 15)
    assert ece(labels, p) == pytest.approx(np.mean([abs(labels[b].mean() - p[b].mean()) for b in bins]), abs=1e-12)
    curve = reliability_curve(labels, p)
    np.testing.assert_allclose(curve.probability, [p[b].mean() for b in bins])
    np.testing.assert_allclose(curve.frequency, [labels[b].mean() for b in bins])
    np.testing.assert_array_equal(curve.images, 10)


def test_equal_probabilities_share_a_bin():
    labels = np.array([0, 1] * 50)
    assert ece(labels, np.full(100, 0.5)) == 0
    curve = reliability_curve(labels, np.repeat([0.2, 0.9], [70, 30]))
    np.testing.assert_allclose(curve.probability, [0.2, 0.9])
    np.testing.assert_array_equal(curve.images, [70, 30])


@given(st.lists(st.tuples(st.integers(0, 1), st.integers(0, 20)), min_size=1, max_size=80), st.randoms())
def test_row_order_does_not_matter(rows, random):
    shuffled = list(rows)
    random.shuffle(shuffled)
    labels, p = np.array(rows).T
    other_labels, other_p = np.array(shuffled).T
    for figure in (ece, brier):
        value = figure(labels, p / 20)
        assert 0 <= value <= 1
        assert figure(other_labels, other_p / 20) == pytest.approx(value, abs=1e-12)


def test_conformal_p_values_agree_with_their_definition_and_the_threshold():
    rng = np.random.default_rng(0)
    calibration, scores = np.round(rng.random(29), 1), np.round(rng.random(50), 1)
    p = conformal_p_values(calibration, scores)
    np.testing.assert_allclose(p, [(1 + np.sum(calibration >= s)) / 30 for s in scores])
    for alpha in (0.05, 0.1, 0.2):
        np.testing.assert_array_equal(p <= alpha + 1e-12, scores > conformal_threshold(calibration, alpha).value)


def test_false_alarm_gap_agrees_with_its_definition():
    rng = np.random.default_rng(0)
    calibration, normal = rng.random(29), rng.random(50) + 0.1
    p = conformal_p_values(calibration, normal)
    levels = np.arange(1, 7) / 30
    expected = np.mean([abs(np.mean(p <= level + 1e-12) - level) for level in levels])
    assert false_alarm_gap(calibration, normal) == pytest.approx(expected)
    assert math.isnan(false_alarm_gap([1.0, 2.0, 3.0], normal))
    assert false_alarm_gap([1.0, 2.0, 3.0, 4.0], [0.0]) == pytest.approx(0.2)


@pytest.mark.parametrize(
    ("labels", "p", "named"),
    [
        ([0, 1], [0.2, 1.2], "probabilities: outside"),
        ([0, 1], [-0.1, 0.5], "probabilities: outside"),
        ([0, 1], [0.2, math.nan], "probabilities: NaN"),
        ([0, 3], [0.2, 0.5], "labels"),
        ([0, 1], [0.2], "lengths differ"),
        ([], [], "labels"),
    ],
)
def test_bad_input_is_an_error_that_names_the_argument(labels, p, named):
    for figure in (ece, brier, nll, reliability_curve):
        with pytest.raises(ValueError, match=named):
            figure(labels, p)


def test_other_bad_input():
    with pytest.raises(ValueError, match="groups"):
        cross_fitted_probabilities([0, 1], [0.1, 0.2], [], 0)
    with pytest.raises(ValueError, match="lengths differ"):
        cross_fitted_probabilities([0, 1], [0.1, 0.2], [1, 2, 3], 0)
    with pytest.raises(ValueError, match="normal_test_scores"):
        false_alarm_gap([0.1, 0.2], [])
    with pytest.raises(ValueError, match="bins"):
        ece([0, 1], [0.1, 0.2], bins=0)
