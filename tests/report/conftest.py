"""Made-up results as fixtures."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from rdbench.benchmark.results import CellResult
from rdbench.report.entries import Source
from rdbench.report.leaderboard import write_site
from tests.made_up import MakeCell, make_cell, make_lit_source, make_source

if TYPE_CHECKING:
    from selenium.webdriver.remote.webdriver import WebDriver


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


@pytest.fixture(scope="module")
def chrome(tmp_path_factory: pytest.TempPathFactory) -> Iterator[WebDriver]:
    from tests.report.browser import new_chrome

    driver = new_chrome(tmp_path_factory.mktemp("profile"))
    yield driver
    driver.quit()


@pytest.fixture(scope="session")
def page(sources: list[Source], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A site of two boards, of which the second has no predictions."""
    other = [make_cell(method, dataset="visa", conditions=("clean",)) for method in ("deterministic", "tta")]
    return write_site([*sources, *other], tmp_path_factory.mktemp("site"))


@pytest.fixture(scope="session")
def many(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A ranking of as many methods as come with rdbench, and more."""
    names = ["deterministic", "a_rather_long_name[placement=decoder, p=0.35]", *(f"method_{m:02d}" for m in range(22))]
    return write_site([make_source(name, seed=s) for name in names for s in (0, 1)], tmp_path_factory.mktemp("many"))


@pytest.fixture(scope="session")
def lit_page(lit: list[Source], tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_site(lit, tmp_path_factory.mktemp("lit"))
