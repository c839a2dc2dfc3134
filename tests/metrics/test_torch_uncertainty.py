"""Against torch-uncertainty 0.13, without ties. Where its definition differs from ours, the case says how."""

import numpy as np
import pytest

from rdbench.metrics import calibration, detection, localization, selective


@pytest.fixture(scope="module")
def tu():
    return pytest.importorskip("torch_uncertainty.metrics.classification", exc_type=ImportError)


@pytest.fixture(scope="module")
def torch(tu):
    import torch

    return torch


def predictions(seed, n=300):
    """Distinct probabilities of class 1, the errors of `p > 0.5`, and 1 - confidence as uncertainty."""
    rng = np.random.default_rng(seed)
    p, labels = rng.random(n), rng.integers(0, 2, n)
    return p, labels, ((p > 0.5) != labels).astype(int), 1 - np.maximum(p, 1 - p)


def computed(metric, torch, p, labels):
    metric.update(torch.tensor(p), torch.tensor(labels))
    return float(metric.compute())


@pytest.mark.parametrize("seed", range(3))
def test_aurc_and_augrc(tu, torch, seed):
    """torch-uncertainty takes the trapezoid area from coverage 1/n on, over 1 - 1/n; ours is the mean of the n
    risks (AURC), and the trapezoid area from (0, 0) on (AUGRC). Both are the same curve: convert and compare.
    """
    p, labels, errors, uncertainty = predictions(seed)
    n = len(p)
    _, risk = selective.risk_coverage_curve(errors, uncertainty)
    theirs = computed(tu.AURC(), torch, p, labels) * (1 - 1 / n)
    assert selective.aurc(errors, uncertainty) == pytest.approx(theirs + (risk[0] + risk[-1]) / (2 * n), abs=1e-9)
    theirs = computed(tu.AUGRC(), torch, p, labels) * (1 - 1 / n)
    assert selective.augrc(errors, uncertainty) == pytest.approx(theirs + risk[0] / (2 * n * n), abs=1e-9)


@pytest.mark.parametrize("seed", range(3))
def test_risk_at_coverage_and_coverage_at_risk(tu, torch, seed):
    p, labels, errors, uncertainty = predictions(seed)
    theirs = computed(tu.RiskAtxCov(0.8), torch, p, labels)
    assert selective.risk_at_coverage(errors, uncertainty, 0.8) == pytest.approx(theirs, abs=1e-9)
    theirs = computed(tu.CovAtxRisk(0.45), torch, p, labels)
    assert selective.coverage_at_risk(errors, uncertainty, 0.45) == pytest.approx(np.nan_to_num(theirs), abs=1e-7)


def test_aurc_of_torch_uncertainty_depends_on_row_order_under_ties(tu, torch):
    """Where the library is wrong: two rows of one confidence, one right and one wrong, in both orders."""
    p, labels = np.array([0.9, 0.9]), np.array([1, 0])
    values = {computed(tu.AURC(), torch, p[order], labels[order]) for order in ([0, 1], [1, 0])}
    assert len(values) == 2
    ours = {selective.aurc(np.array([0, 1])[order], np.array([0.1, 0.1])) for order in ([0, 1], [1, 0])}
    assert ours == {0.5}


@pytest.mark.parametrize("ties", [False, True])
def test_fpr95(tu, torch, ties):
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 2, 400)
    scores = rng.normal(size=400) + labels
    scores = np.round(scores, 1) if ties else scores
    theirs = computed(tu.FPR95(pos_label=1), torch, scores, labels)
    assert detection.fpr_at_recall(labels, scores, 0.95) == pytest.approx(theirs, abs=1e-7)


def test_ece(tu, torch):
    """torch-uncertainty's adaptive ECE looks at the confidence of the predicted class; with every probability
    at least 0.5 that is P(y = 1) itself, and with n a multiple of the bins so are the bins.
    """
    rng = np.random.default_rng(0)
    p = 0.5 + rng.random(300) / 2
    labels = (rng.random(300) < p**2).astype(int)
    metric = tu.AdaptiveCalibrationError(task="binary", num_bins=15)
    assert calibration.ece(labels, p) == pytest.approx(computed(metric, torch, p, labels), abs=1e-7)


def test_brier(tu, torch):
    """torch-uncertainty sums over both classes: twice the Brier score of P(y = 1)."""
    p, labels, _, _ = predictions(0)
    theirs = computed(tu.BrierScore(num_classes=2), torch, np.stack([1 - p, p], axis=1), labels)
    assert calibration.brier(labels, p) == pytest.approx(theirs / 2, abs=1e-7)


def test_ause(tu, torch):
    from torch_uncertainty.metrics import AUSE

    rng = np.random.default_rng(0)
    error = rng.random(500)
    uncertainty = error + rng.random(500)
    theirs = computed(AUSE(), torch, uncertainty, error)
    assert localization.ause(error, uncertainty) == pytest.approx(theirs, abs=1e-9)
