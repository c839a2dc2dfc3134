"""Means over the severities of each shift, and over all shifts, as further conditions of a ranking."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from rdbench.report.means import FloatArray, nan_mean
from rdbench.report.rankings import Ranking

NOT_EVERY_SHIFT = "not measured under every shift of the mean"
MEAN = "mean"
ALL_SHIFTS = f"shifts:{MEAN}"


def with_mean_shifts(ranking: Ranking) -> Ranking:
    """The ranking with further conditions: the mean over the severities of each shift, and over all shifts.

    The means are made cell by cell, over the conditions in which the cell has the figure; a cell that was not measured
    under each of them has none, for a mean over milder shifts is no match. A cell's interval is the mean of its
    intervals: its conditions show one set of parts, so their chances do not average out.
    """
    shifts = {k: name.partition(":")[0] for k, name in enumerate(ranking.conditions) if ":" in name}
    groups = {
        f"{kind}:{MEAN}": tuple(k for k in shifts if shifts[k] == kind) for kind in dict.fromkeys(shifts.values())
    }
    groups[ALL_SHIFTS] = tuple(shifts)
    groups = {name: members for name, members in groups.items() if len(members) > 1}
    measured = ranking.measured

    def with_means(array: FloatArray) -> FloatArray:
        means = [
            np.where(
                np.all(measured[..., list(m)], axis=3, keepdims=True), nan_mean(array[:, :, :, list(m)], 3), np.nan
            )
            for m in groups.values()
        ]
        return np.stack([*np.moveaxis(array, 3, 0), *means], axis=3)

    value, low, high = map(with_means, (ranking.value, ranking.low, ranking.high))
    pooled = dict(enumerate(groups.values(), start=len(ranking.conditions)))
    notes = dict(ranking.notes)
    for place in ranking.cells:
        for index, members in pooled.items():
            if not measured[place][list(members)].all():
                notes |= {(*place, index, f): NOT_EVERY_SHIFT for f in range(len(ranking.metrics))}
    for (m, c, s, k, f), note in ranking.notes.items():
        for index, members in pooled.items():
            if k in members and np.isnan(value[m, c, s, index, f]):
                notes.setdefault((m, c, s, index, f), note)
    conditions = (*ranking.conditions, *groups)
    return replace(ranking, conditions=conditions, value=value, low=low, high=high, notes=notes, pooled=pooled)
