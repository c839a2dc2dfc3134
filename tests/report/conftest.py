"""Made-up results as fixtures."""

from __future__ import annotations

import pytest

from rdbench.benchmark.results import CellResult
from rdbench.report.entries import Source
from tests.made_up import MakeCell, make_cell, make_lit_source, make_source


@pytest.fixture(name="make_cell")
def _make_cell() -> MakeCell:
    return make_cell


@pytest.fixture
def results() -> list[CellResult]:
    """Four methods on three categories, two seeds and three conditions."""
    return [
        make_cell(method, category, seed, conditions=("clean", "lighting:3", "noise:3"))
        for method in ("deterministic", "mc_dropout", "tta", "deep_ensemble")
        for category in ("grid", "bolt", "label")
        for seed in (0, 1)
    ]


@pytest.fixture(scope="session")
def sources() -> list[Source]:
    """Three methods on two categories and two seeds, with their predictions."""
    return [
        make_source(method, category, seed)
        for method in ("deterministic", "mc_dropout", "deep_ensemble")
        for category in ("grid", "bolt")
        for seed in (0, 1)
    ]


@pytest.fixture(scope="session")
def lit() -> list[Source]:
    """Four methods on one custom category under three real lightings, two seeds, with their predictions."""
    return [
        make_lit_source(method, seed=seed)
        for method in ("deterministic", "mc_dropout", "tta", "twin")
        for seed in (0, 1)
    ]
