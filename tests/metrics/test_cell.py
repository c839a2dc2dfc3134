import math
from dataclasses import replace

import numpy as np
import pytest

from rdbench.metrics import calibration, detection, selective
from rdbench.metrics.catalog import METRICS
from rdbench.metrics.cell import cell_bootstrap, cell_metrics, cell_replicates, check_sample
from rdbench.metrics.statistics import part_weights, proportion_interval


def sample(seed=0, n=90):
    rng = np.random.default_rng(seed)
    labels = (rng.random(n) < 0.6).astype(int)
    scores, uncertainty, parts = rng.normal(size=n) + 2 * labels, np.round(rng.random(n), 1), np.arange(n) // 3
    p = calibration.cross_fitted_probabilities(labels, scores, parts, 0)
    return check_sample(labels, scores, uncertainty, 1.2, p), parts


def test_a_cell_has_every_figure_of_its_families_and_no_other():
    found = cell_metrics(sample()[0])
    expected = {m.name for m in METRICS.values() if m.family in ("detection", "selective", "calibration")}
    assert set(found) == expected - {"false_alarm_gap"}


def test_each_figure_is_that_of_the_plain_function():
    s, _ = sample()
    found = cell_metrics(s)
    rates = detection.error_rates(s.labels, s.scores, s.threshold)
    assert (found["fpr"], found["fnr"]) == pytest.approx(rates)
    assert found["image_auroc"] == pytest.approx(detection.auroc(s.labels, s.scores))
    assert found["failures"] == s.errors.sum()
    for suffix, u in {"": s.uncertainty, "_margin": -abs(s.scores - 1.2), "_oracle": s.errors}.items():
        assert found["augrc" + suffix] == pytest.approx(selective.augrc(s.errors, u), abs=1e-12)
        assert found["aurc" + suffix] == pytest.approx(selective.aurc(s.errors, u), abs=1e-12)
        assert found["e_aurc" + suffix] == pytest.approx(selective.e_aurc(s.errors, u), abs=1e-12)
        assert found["failure_auroc" + suffix] == pytest.approx(selective.failure_auroc(s.errors, u), abs=1e-12)
        assert found["risk_at_80" + suffix] == pytest.approx(selective.risk_at_coverage(s.errors, u, 0.8))
        assert found["coverage_at_risk_5" + suffix] == pytest.approx(selective.coverage_at_risk(s.errors, u, 0.05))
        assert found["errors_caught_10" + suffix] == pytest.approx(selective.errors_caught(s.errors, u, 0.1))
    assert found["augrc_saved"] == found["augrc_margin"] - found["augrc"]
    cost = selective.expected_cost(s.labels, s.decisions, s.uncertainty, s.costs, 0.1)
    assert found["expected_cost_10"] == pytest.approx(cost)
    assert found["expected_cost_10_oracle"] <= cost
    assert found["errors_caught_10_random"] == pytest.approx(9 / 90)
    assert found["ece"] == pytest.approx(calibration.ece(s.labels, s.probabilities))


def test_replicates_are_the_figures_of_the_copied_images():
    s, parts = sample(n=30)
    replicates = cell_replicates(s, parts, resamples=5, seed=2)
    for row, w in enumerate(part_weights(parts, 5, seed=2)):
        copied = [np.repeat(x, w) for x in (s.labels, s.scores, s.uncertainty)]
        again = cell_metrics(check_sample(*copied, s.threshold, np.repeat(s.probabilities, w)))
        for name, values in replicates.items():
            assert values[row] == pytest.approx(again[name], abs=1e-9, nan_ok=True), name


def test_intervals_hold_the_figures_and_proportions_have_wilsons():
    s, parts = sample()
    found, intervals = cell_metrics(s), cell_bootstrap(s, parts, resamples=400)
    for name in ("image_auroc", "image_ap", "augrc", "augrc_margin", "failure_auroc", "brier"):
        assert intervals[name].low < found[name] < intervals[name].high
    assert intervals["error_rate"] == proportion_interval(s.errors, parts)
    assert {"failures", "prevalence", "ece"}.isdisjoint(intervals)
    for name, interval in intervals.items():
        assert interval.low - 1e-12 <= found[name] <= interval.high + 1e-12, name


def test_what_is_saved_has_the_interval_of_a_difference_on_the_same_parts():
    s, parts = sample()
    intervals = cell_bootstrap(s, parts, resamples=400)
    width = {name: intervals[name].high - intervals[name].low for name in ("augrc", "augrc_margin", "augrc_saved")}
    assert width["augrc_saved"] < np.hypot(width["augrc"], width["augrc_margin"]), "margin and method share the parts"
    alike = replace(s, uncertainty=-np.abs(s.scores - s.threshold))
    none = cell_bootstrap(alike, parts, resamples=400)["augrc_saved"]
    assert none.low == none.high == cell_metrics(alike)["augrc_saved"] == 0


def test_a_cell_without_failures_or_probabilities_has_nan_for_them_alone():
    s = check_sample([0, 0, 1, 1], [0.1, 0.2, 0.8, 0.9], [1.0, 2, 3, 4], 0.5, np.full(4, math.nan))
    found = cell_metrics(s)
    assert found["image_auroc"] == 1
    assert found["failures"] == found["expected_cost_0"] == 0
    for name in ("augrc", "aurc_random", "failure_auroc_oracle", "coverage_at_risk_1", "ece", "brier", "nll"):
        assert math.isnan(found[name]), name


def test_bad_input_is_an_error_that_names_the_argument():
    good = {"labels": [0, 1], "scores": [0.1, 0.9], "uncertainty": [0.1, 0.2], "threshold": 0.5}
    for name, bad in (
        ("labels", [0, 2]),
        ("scores", [0.1, math.nan]),
        ("uncertainty", [0.1]),
        ("threshold", math.inf),
        ("probabilities", [0.5, 2.0]),
    ):
        with pytest.raises(ValueError, match=name):
            check_sample(**(good | {name: bad}))
