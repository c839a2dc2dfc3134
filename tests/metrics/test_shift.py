import math

import numpy as np
import pytest
from scipy.stats import spearmanr

from rdbench.metrics.detection import auroc
from rdbench.metrics.shift import deferred_false_alarms, response, shift_auroc

from .definitions import over_orders


def test_response_agrees_with_scipy_ties_included():
    rng = np.random.default_rng(0)
    for _ in range(20):
        severity = rng.integers(0, 6, 60)
        uncertainty = np.round(rng.random(60) + 0.1 * severity, 1)
        assert response(uncertainty, severity) == pytest.approx(spearmanr(uncertainty, severity)[0], abs=1e-12)


def test_response_of_a_constant_is_nan():
    assert math.isnan(response([1.0, 1.0], [1, 2]))
    assert math.isnan(response([1.0, 2.0], [3, 3]))


def test_shift_auroc_tells_shifted_from_clean():
    assert shift_auroc([1.0, 2.0], [3.0, 4.0]) == 1
    assert shift_auroc([1.0, 2.0], [1.0, 2.0]) == 0.5
    assert shift_auroc([1.0, 3.0], [2.0]) == auroc([0, 0, 1], [1.0, 3.0, 2.0])


def test_deferring_takes_the_most_uncertain_false_alarms_out():
    labels = np.array([0, 0, 0, 0, 1, 1, 0, 0, 0, 0])
    decisions = np.array([1, 1, 0, 0, 1, 0, 0, 0, 0, 0])
    assert deferred_false_alarms(labels, decisions, np.arange(10, 0, -1.0), 0.0) == 2 / 8
    assert deferred_false_alarms(labels, decisions, np.arange(10, 0, -1.0), 0.1) == 1 / 8
    assert deferred_false_alarms(labels, decisions, np.arange(10.0), 0.1) == 2 / 8
    assert deferred_false_alarms(labels, decisions, np.zeros(10), 0.1) == pytest.approx(2 / 8 * 0.9)
    assert math.isnan(deferred_false_alarms([1, 1], [1, 0], [0.1, 0.2]))


def test_deferring_takes_the_mean_over_the_orders_of_ties():
    labels, decisions = np.zeros(6), np.array([1, 1, 0, 1, 0, 0])
    uncertainty = np.array([0.0, 1, 1, 2, 2, 2])
    for budget, sent in ((0.2, 1), (0.4, 2), (0.7, 4)):
        expected = over_orders(lambda d, sent=sent: d[: 6 - sent].sum() / 6, decisions, uncertainty)
        assert deferred_false_alarms(labels, decisions, uncertainty, budget) == pytest.approx(expected)


def test_bad_input_is_an_error_that_names_the_argument():
    with pytest.raises(ValueError, match="severity"):
        response([1.0, 2.0], [1.0, math.nan])
    with pytest.raises(ValueError, match="lengths differ"):
        response([1.0, 2.0], [1.0])
    with pytest.raises(ValueError, match="shifted_uncertainty"):
        shift_auroc([1.0], [])
    with pytest.raises(ValueError, match="budget"):
        deferred_false_alarms([0, 1], [0, 1], [0.1, 0.2], 2.0)
