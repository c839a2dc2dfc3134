"""Is a method's uncertainty worth more than the free one? AUGRC saved over the threshold margin, with an interval."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from rdbench.benchmark.evaluate import views
from rdbench.metrics.cell import cell_metrics, cell_replicates, check_sample
from rdbench.metrics.statistics import RESAMPLES, aggregate_interval
from rdbench.report.entries import Source
from rdbench.report.means import FloatArray, nan_mean
from rdbench.report.rankings import Ranking
from rdbench.report.reread import predictions_of


@dataclass(frozen=True)
class Saved:
    """AUGRC of the margin minus AUGRC of the method's uncertainty, on the method's own predictions."""

    value: float
    """Mean over categories of means over seeds; NaN where no cell has an error."""
    low: float
    high: float
    """95 % interval over parts, and seeds where there are several: margin and method are resampled together."""

    @property
    def verdict(self) -> str:
        """Whether the uncertainty beats the margin, in words."""
        if np.isnan(self.value):
            return "no failures"
        if self.low > 0:
            return "better"
        return "worse" if self.high < 0 else "as good" if self.low == self.high == 0 else "cannot be told"


def saved_over_margin(ranking: Ranking, method: int, condition: str) -> Saved:
    """The method's saving under a condition. Raises InputError if stored predictions cannot be used."""
    _, categories, seeds = ranking.value.shape[:3]
    values = np.full((categories, seeds), np.nan)
    resampled = np.full((categories, seeds, RESAMPLES), np.nan)
    for (m, c, s), source in ranking.cells.items():
        if m == method:
            values[c, s], resampled[c, s] = _cell(source, condition)
    if np.isnan(values).all():
        return Saved(np.nan, np.nan, np.nan)
    interval = aggregate_interval(resampled)
    return Saved(float(nan_mean(nan_mean(values, 1), 0)), interval.low, interval.high)


def _cell(source: Source, condition: str) -> tuple[float, FloatArray]:
    """A cell's saving, and in resamples over parts, whose r-th draw is the same for all cells on the same images."""
    by_condition = views(predictions_of(source))
    if condition not in by_condition:
        return np.nan, np.full(RESAMPLES, np.nan)
    view = by_condition[condition]
    sample = check_sample(view.labels, view.scores, view.uncertainties, source.result.threshold.value)
    if not sample.errors.any():
        return np.nan, np.full(RESAMPLES, np.nan)
    figures, resampled = cell_metrics(sample), cell_replicates(sample, view.parts)
    return figures["augrc_margin"] - figures["augrc"], resampled["augrc_margin"] - resampled["augrc"]
