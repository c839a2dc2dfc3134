import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rdbench.metrics import selective
from rdbench.metrics._ranking import harmonic, rank
from rdbench.metrics.reasons import why_undefined
from rdbench.metrics.selective import (
    Costs,
    augrc,
    aurc,
    controls,
    coverage_at_risk,
    coverage_at_risk_of,
    decision_losses,
    e_aurc,
    errors_caught,
    expected_cost,
    failure_auroc,
    risk_at_coverage,
    risk_coverage_curve,
)

from .definitions import over_orders

few = st.lists(st.tuples(st.integers(0, 1), st.integers(0, 3)), min_size=1, max_size=7).filter(
    lambda rows: any(error for error, _ in rows)
)
many = st.lists(st.tuples(st.integers(0, 1), st.integers(0, 30)), min_size=2, max_size=60).filter(
    lambda rows: any(error for error, _ in rows)
)


def split(rows):
    return np.array([r[0] for r in rows]), np.array([r[1] for r in rows], dtype=float)


def risks(ordered):
    return np.cumsum(ordered) / np.arange(1, len(ordered) + 1)


def largest_coverage(ordered, risk):
    allowed = np.flatnonzero(risks(ordered) <= risk + 1e-12)
    return (allowed[-1] + 1) / len(ordered) if len(allowed) else 0.0


@given(few)
@settings(max_examples=60)
def test_ties_are_the_mean_over_every_order(rows):
    errors, uncertainty = split(rows)
    n, total = len(errors), errors.sum()
    k = np.arange(n + 1) / n

    def kept(ordered):
        return np.append(0, np.cumsum(ordered)) / n

    def brute(figure):
        return over_orders(figure, errors, uncertainty)

    assert aurc(errors, uncertainty) == pytest.approx(brute(lambda e: risks(e).mean()), abs=1e-9)
    assert augrc(errors, uncertainty) == pytest.approx(brute(lambda e: np.trapezoid(kept(e), k)), abs=1e-9)
    for share in (0.0, 0.3, 0.5, 0.8, 1.0):
        first = max(1, math.ceil(share * n - 1e-9))
        assert risk_at_coverage(errors, uncertainty, share) == pytest.approx(
            brute(lambda e, first=first: e[:first].mean()), abs=1e-9
        )
        last = math.floor(share * n + 1e-9)
        assert errors_caught(errors, uncertainty, share) == pytest.approx(
            brute(lambda e, last=last: e[n - last :].sum() / total), abs=1e-9
        )
        assert coverage_at_risk(errors, uncertainty, share) == pytest.approx(
            brute(lambda e, share=share: largest_coverage(e, share)), abs=1e-9
        )
    coverage, risk = risk_coverage_curve(errors, uncertainty)
    np.testing.assert_allclose(coverage, k[1:])
    np.testing.assert_allclose(risk, [brute(lambda e, i=i: risks(e)[i]) for i in range(n)], atol=1e-12)


@given(many)
def test_augrc_is_its_closed_form_in_the_failure_auroc(rows):
    errors, uncertainty = split(rows)
    err = errors.mean()
    auroc = failure_auroc(errors, uncertainty) if err < 1 else 0.0
    assert augrc(errors, uncertainty) == pytest.approx((1 - auroc) * (1 - err) * err + err**2 / 2, abs=1e-12)


@given(many, st.randoms())
def test_row_order_and_monotone_transforms_do_not_matter(rows, random):
    shuffled = list(rows)
    random.shuffle(shuffled)
    errors, uncertainty = split(rows)
    for figure in (
        aurc,
        augrc,
        e_aurc,
        lambda e, u: risk_at_coverage(e, u, 0.8),
        lambda e, u: coverage_at_risk(e, u, 0.2),
        lambda e, u: errors_caught(e, u, 0.1),
    ):
        value = figure(errors, uncertainty)
        assert -1e-12 <= value <= 1 + 1e-12
        assert figure(*split(shuffled)) == pytest.approx(value, abs=1e-12)
        assert figure(errors, np.exp(uncertainty / 9)) == pytest.approx(value, abs=1e-12)


@given(many)
def test_no_uncertainty_beats_the_oracle_and_chance_is_the_error_rate(rows):
    errors, uncertainty = split(rows)
    free = controls(errors, uncertainty, 3.0)
    assert e_aurc(errors, free["oracle"]) == pytest.approx(0, abs=1e-12)
    assert aurc(errors, free["oracle"]) <= aurc(errors, uncertainty) + 1e-12
    assert augrc(errors, free["oracle"]) == pytest.approx(errors.mean() ** 2 / 2)
    assert aurc(errors, free["random"]) == pytest.approx(errors.mean())
    assert risk_at_coverage(errors, free["random"], 0.8) == pytest.approx(errors.mean())
    np.testing.assert_array_equal(free["margin"], -np.abs(uncertainty - 3.0))


def test_chance_is_the_mean_of_random_uncertainties():
    rng = np.random.default_rng(0)
    errors = rng.random(60) < 0.15
    for figure in (aurc, augrc, lambda e, u: coverage_at_risk(e, u, 0.05), lambda e, u: errors_caught(e, u, 0.1)):
        drawn = [figure(errors, rng.random(60)) for _ in range(3000)]
        assert figure(errors, np.zeros(60)) == pytest.approx(np.mean(drawn), abs=4 * np.std(drawn) / 3000**0.5)


def test_the_best_aurc_tends_to_its_published_closed_form():
    errors = np.arange(200_000) < 20_000
    err = errors.mean()
    assert aurc(errors, errors) == pytest.approx(err + (1 - err) * math.log(1 - err), abs=1e-5)


def test_harmonic_numbers_are_right_on_both_sides_of_the_table():
    k = np.array([0.0, 1, 2, 65_535, 65_536, 10**7])
    exact = [math.fsum(1 / i for i in range(1, int(n) + 1)) for n in k]
    np.testing.assert_allclose(harmonic(k), exact, rtol=1e-14)


def test_without_failures_there_is_nothing_to_rank():
    errors, uncertainty = np.zeros(5), np.arange(5.0)
    for figure in (aurc, e_aurc, augrc, failure_auroc):
        assert math.isnan(figure(errors, uncertainty))
    assert math.isnan(risk_at_coverage(errors, uncertainty, 0.8))
    assert math.isnan(coverage_at_risk(errors, uncertainty, 0.01))
    assert math.isnan(errors_caught(errors, uncertainty, 0.1))
    assert why_undefined(errors=errors) == "no failures"


def test_all_wrong_has_a_risk_but_no_failure_auroc():
    assert aurc(np.ones(4), np.arange(4.0)) == pytest.approx(1)
    assert math.isnan(failure_auroc(np.ones(4), np.arange(4.0)))
    assert coverage_at_risk(np.ones(4), np.arange(4.0), 0.5) == 0
    assert why_undefined(errors=np.ones(4)) == "all wrong"


@given(few, st.sampled_from([0.0, 0.2, 0.5, 1.0]))
@settings(max_examples=40)
def test_expected_cost_is_what_reviewing_the_most_uncertain_costs(rows, budget):
    labels, uncertainty = split(rows)
    decisions = (np.arange(len(labels)) % 2).astype(float)
    losses = [{(1, 0): 7.0, (0, 1): 2.0}.get(pair, 0.0) for pair in zip(labels, decisions, strict=True)]
    sent = math.floor(budget * len(labels) + 1e-9)

    def cost(ordered):
        return (ordered[: len(labels) - sent].sum() + 0.5 * sent) / len(labels)

    found = expected_cost(labels, decisions, uncertainty, Costs(7, 2, 0.5), budget)
    assert found == pytest.approx(over_orders(cost, np.array(losses), uncertainty), abs=1e-12)
    oracle = decision_losses(labels, decisions, Costs(7, 2, 0.5))
    np.testing.assert_array_equal(oracle, losses)
    assert expected_cost(labels, decisions, oracle, Costs(7, 2, 0.5), budget) <= found + 1e-12


@pytest.mark.parametrize(
    ("errors", "uncertainty", "named"),
    [
        ([0, 2], [0.1, 0.2], "errors"),
        ([0, 1], [math.nan, 0.2], "uncertainty"),
        ([0, 1], [0.1], "lengths differ"),
        ([], [], "errors"),
    ],
)
def test_bad_input_is_an_error_that_names_the_argument(errors, uncertainty, named):
    for figure in (aurc, e_aurc, augrc, failure_auroc, risk_coverage_curve):
        with pytest.raises(ValueError, match=named):
            figure(errors, uncertainty)


def test_shares_and_costs_out_of_range_are_errors():
    for figure, named in ((risk_at_coverage, "coverage"), (coverage_at_risk, "risk"), (errors_caught, "budget")):
        with pytest.raises(ValueError, match=named):
            figure([0, 1], [0.1, 0.2], 1.2)
    with pytest.raises(ValueError, match="costs"):
        expected_cost([0, 1], [0, 1], [0.1, 0.2], Costs(-1, 1, 1), 0.1)
    with pytest.raises(ValueError, match="costs"):
        expected_cost([0, 1], [0, 1], [0.1, 0.2], (10, 1), 0.1)
    for threshold in (math.nan, math.inf):
        with pytest.raises(ValueError, match="threshold"):
            controls([0, 1], [0.1, 0.2], threshold)
    with pytest.raises(ValueError, match="decisions"):
        expected_cost([0, 1], [0, 3], [0.1, 0.2], Costs(), 0.1)


@pytest.mark.parametrize("risk", [0.01, 0.05, 0.2])
@pytest.mark.parametrize(("hits", "before", "hits_before"), [(450, 0, 0), (100, 0, 0), (270, 300, 2), (30, 700, 40)])
def test_coverage_at_risk_of_a_long_tie_is_the_expectation_by_backward_induction(hits, before, hits_before, risk):
    """Hundreds of places before the end the risk can hardly be met: what is left out there is nothing."""
    size = 900
    errors = np.concatenate([np.ones(hits_before), np.zeros(before - hits_before), np.arange(size) < hits])
    uncertainty = np.concatenate([np.arange(-hits_before, before - hits_before), np.full(size, 1000)])
    certain = max((k for k in range(1, before + 1) if errors[:k].sum() <= risk * k + 1e-9), default=0)
    if hits + hits_before <= risk * (size + before) + 1e-9:
        certain = size + before
    # Of the places after j, given x errors among the first j: E[k; k the last one inside], P(none inside).
    x = np.arange(hits + 2)
    last, none = np.zeros(len(x)), np.ones(len(x))
    for j in range(size - 1, -1, -1):
        inside = x + hits_before <= risk * (before + j + 1) + 1e-9
        last, none = np.where(inside, last + none * (before + j + 1), last), np.where(inside, 0, none)
        wrong = np.clip((hits - x) / (size - j), 0, 1)
        last, none = (wrong * np.append(v[1:], 0) + (1 - wrong) * v for v in (last, none))
    expected = (last[0] + none[0] * certain) / (size + before) if certain < size + before else 1.0
    assert coverage_at_risk(errors, uncertainty, risk) == pytest.approx(expected, rel=1e-12, abs=1e-15)


def test_resamples_have_the_same_bits_alone_and_among_others_whatever_is_kept(monkeypatch):
    rng = np.random.default_rng(0)
    errors, weights = (rng.random(300) < 0.3).astype(float), rng.multinomial(300, np.full(300, 1 / 300), size=30)
    key = np.zeros(300)
    together = coverage_at_risk_of(rank(errors, key, weights), 0.2)
    assert len(np.unique(together)) > 15
    for most in (0, 1000):
        monkeypatch.setattr(selective, "_MOST_KEPT", most)
        monkeypatch.setattr(selective, "_walked", {})
        for some in (slice(15, 30), slice(0, 30), *(slice(i, i + 1) for i in range(30))):
            found = coverage_at_risk_of(rank(errors, key, weights[some]), 0.2)
            assert found.tobytes() == together[some].tobytes()
