import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import average_precision_score, f1_score, roc_auc_score

from rdbench.metrics.detection import (
    auroc,
    average_precision,
    conformal_threshold,
    error_rates,
    f1_max,
    fpr_at_recall,
)
from rdbench.metrics.reasons import why_undefined

labelled = st.lists(st.tuples(st.integers(0, 1), st.integers(-5, 5)), min_size=2, max_size=40).filter(
    lambda rows: 0 < sum(label for label, _ in rows) < len(rows)
)


def split(rows):
    return np.array([r[0] for r in rows]), np.array([r[1] for r in rows], dtype=float)


@pytest.mark.parametrize("ties", [False, True])
def test_auroc_and_average_precision_agree_with_scikit_learn(ties):
    rng = np.random.default_rng(0)
    for _ in range(20):
        labels, scores = rng.integers(0, 2, 200), rng.normal(size=200)
        scores = np.round(scores, 1) if ties else scores
        assert auroc(labels, scores) == pytest.approx(roc_auc_score(labels, scores), abs=1e-12)
        assert average_precision(labels, scores) == pytest.approx(average_precision_score(labels, scores), abs=1e-12)


@given(labelled)
def test_f1_max_is_the_best_of_all_thresholds(rows):
    labels, scores = split(rows)
    best = max(f1_score(labels, scores >= t) for t in scores)
    assert f1_max(labels, scores) == pytest.approx(best, abs=1e-12)


@given(labelled, st.sampled_from([0.5, 0.8, 0.95, 1.0]))
def test_fpr_at_recall_is_that_of_the_highest_threshold_with_the_recall(rows, recall):
    labels, scores = split(rows)
    enough = [t for t in scores if np.mean(scores[labels == 1] >= t) >= recall - 1e-12]
    assert fpr_at_recall(labels, scores, recall) == pytest.approx(np.mean(scores[labels == 0] >= max(enough)))


@given(labelled, st.randoms())
def test_row_order_and_monotone_transforms_do_not_matter(rows, random):
    shuffled = list(rows)
    random.shuffle(shuffled)
    for figure in (auroc, average_precision, f1_max, fpr_at_recall):
        value = figure(*split(rows))
        assert 0 <= value <= 1
        assert figure(*split(shuffled)) == pytest.approx(value, abs=1e-12)
        labels, scores = split(rows)
        assert figure(labels, np.exp(scores / 3)) == pytest.approx(value, abs=1e-12)


@given(labelled)
def test_auroc_turns_over_with_the_scores(rows):
    labels, scores = split(rows)
    assert auroc(labels, -scores) == pytest.approx(1 - auroc(labels, scores), abs=1e-12)


def test_one_class_is_nan_with_a_reason():
    for labels, reason in (([0, 0], "no anomalous image"), ([1, 1], "no normal image")):
        for figure in (auroc, average_precision, f1_max, fpr_at_recall):
            assert math.isnan(figure(labels, [0.1, 0.2]))
        assert why_undefined(labels=labels) == reason
    assert why_undefined(labels=[0, 1], errors=[1, 0]) == ""


def test_conformal_threshold_takes_the_rank_that_split_conformal_prediction_takes():
    for n, alpha, rank in ((9, 0.1, 9), (10, 0.1, 10), (19, 0.1, 18), (29, 0.1, 27), (48, 0.1, 45), (19, 0.05, 19)):
        assert math.ceil(round((n + 1) * (1 - alpha), 9)) == rank
        found = conformal_threshold(np.arange(n, 0, -1.0), alpha)
        assert (found.value, found.rank, found.attained) == (rank, rank, True)
        assert found.level == pytest.approx((n + 1 - rank) / (n + 1))
        assert found.level <= alpha


def test_conformal_threshold_says_when_the_level_is_not_attainable():
    found = conformal_threshold([3.0, 1.0, 2.0], 0.1)
    assert (found.value, found.level, found.attained) == (3.0, 0.25, False)


def test_conformal_threshold_of_a_level_near_one_is_the_smallest_score():
    for alpha in (0.95, 0.9999, 1 - 1e-12):
        assert conformal_threshold(np.arange(5.0), alpha).value == 0


def test_conformal_threshold_keeps_its_level_on_new_normal_images():
    rng = np.random.default_rng(0)
    alarms = []
    for _ in range(4000):
        scores = rng.normal(size=21)
        alarms.append(scores[-1] > conformal_threshold(scores[:-1], 0.1).value)
    level = conformal_threshold(np.arange(20.0), 0.1).level
    assert np.mean(alarms) == pytest.approx(level, abs=0.015)


def test_error_rates_call_anomalous_what_lies_above_the_threshold():
    rates = error_rates([0, 0, 0, 1, 1], [1.0, 2.0, 3.0, 2.0, 4.0], 2.0)
    assert rates == (pytest.approx(1 / 3), pytest.approx(1 / 2))
    assert math.isnan(error_rates([1], [0.5], 1.0).fpr)
    assert math.isnan(error_rates([0], [0.5], 1.0).fnr)


@pytest.mark.parametrize(
    ("labels", "scores", "named"),
    [
        ([0, 2], [0.1, 0.2], "labels"),
        ([0, 0.5], [0.1, 0.2], "labels"),
        ([0, 1], [0.1, math.nan], "scores"),
        ([0, 1], [0.1, math.inf], "scores"),
        ([0, 1, 1], [0.1, 0.2], "lengths differ"),
        ([], [], "labels"),
        ([[0, 1]], [[0.1, 0.2]], "labels"),
        (["0", "1"], [0.1, 0.2], "labels"),
    ],
)
def test_bad_input_is_an_error_that_names_the_argument(labels, scores, named):
    for figure in (auroc, average_precision, f1_max, fpr_at_recall):
        with pytest.raises(ValueError, match=named):
            figure(labels, scores)
    with pytest.raises(ValueError, match=named):
        error_rates(labels, scores, 0.5)


def test_bad_thresholds_and_levels_are_errors():
    with pytest.raises(ValueError, match="threshold"):
        error_rates([0, 1], [0.1, 0.2], math.nan)
    with pytest.raises(ValueError, match="alpha"):
        conformal_threshold([0.1], 1.5)
    with pytest.raises(ValueError, match="calibration_scores"):
        conformal_threshold([], 0.1)
    with pytest.raises(ValueError, match="recall"):
        fpr_at_recall([0, 1], [0.1, 0.2], 1.1)
