"""A ranking with everything that is computed for the page: a board."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property

from rdbench.benchmark.results import CellSpec, slug
from rdbench.metrics.statistics import RankInterval
from rdbench.report.curves import Evidence, read_evidence
from rdbench.report.mean_shifts import with_mean_shifts
from rdbench.report.means import Mean
from rdbench.report.rankings import USUAL_ALPHA, Ranking
from rdbench.report.standings import (
    LEAD,
    CriticalDifference,
    compared_by_lead,
    critical_difference,
    lead_replicates,
    least_difference,
    rank_methods,
)
from rdbench.report.views import Row, shown_columns, table_rows

TEACHERS_APART = ("embedded", "random")
"""Weights of teachers that are marked on the page."""


@dataclass(frozen=True)
class Standing:
    """How sure the ranking is under one condition."""

    ranks: dict[int, RankInterval]
    least: float
    """The least difference in the lead figure that can be told from chance; NaN if there is nothing to compare."""
    critical: CriticalDifference | None


@dataclass(frozen=True)
class Board:
    """One ranking, computed."""

    ranking: Ranking
    columns: tuple[str, ...]
    mean: Mean
    """Over all categories."""
    by_category: tuple[Mean, ...]
    evidence: Evidence
    standings: tuple[Standing, ...]
    """By condition."""
    _rows: dict[tuple[int, int | None], list[Row]] = field(default_factory=dict)

    @cached_property
    def id(self) -> str:
        """Names the board in links and file names; the same whenever the same kind of results is ranked."""
        spec: CellSpec = self.ranking.spec
        kind = spec.digest("dataset", "backbone", "weights_sha256", "image_size", "protocol")
        words = [slug(spec.dataset), slug(spec.backbone), kind[:6]]
        words += ["custom"] if self.ranking.custom else []
        words += [slug(f"alpha{self.ranking.alpha}")] if self.ranking.alpha != USUAL_ALPHA else []
        return "-".join(words)

    def page_of(self, method: int) -> str:
        """The method's page, below the site."""
        return f"methods/{self.id}-{slug(self.ranking.methods[method])}.html"

    def rows(self, condition: int, category: int | None = None) -> list[Row]:
        """The table of one condition, over all categories or for one."""
        if (condition, category) not in self._rows:
            mean = self.mean if category is None else self.by_category[category]
            ranks = self.standings[condition].ranks if category is None else {}
            self._rows[condition, category] = table_rows(self.ranking, mean, self.columns, condition, ranks, category)
        return self._rows[condition, category]

    def data_path(self, condition: str, part: str = "") -> str:
        """A file with the condition's figures, or a `part` of them, below the site."""
        return f"data/{self.id}/{'-'.join(word for word in (slug(condition) if condition else '', part) if word)}.js"


def make_board(ranking: Ranking, advance: Callable[[], None] = lambda: None) -> Board:
    """Compute a board; `advance` is called once per cell, whose stored predictions are read."""
    ranking = with_mean_shifts(ranking)
    evidence = read_evidence(ranking, advance)
    standings = []
    for condition in range(len(ranking.conditions)):
        if LEAD not in ranking.metrics:
            standings.append(Standing({}, float("nan"), None))
            continue
        lead = compared_by_lead(ranking, condition)
        replicates = lead_replicates(lead, evidence.augrc)
        standings.append(
            Standing(rank_methods(lead, replicates), least_difference(lead, replicates), critical_difference(lead))
        )
    means = tuple(ranking.mean(category) for category in range(len(ranking.categories)))
    return Board(ranking, shown_columns(ranking), ranking.mean(), means, evidence, tuple(standings))
