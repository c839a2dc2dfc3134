"""Figures that are made from other figures of a ranking, cell by cell.

Notation as in `rdbench.report.rankings`: M methods, C categories, S seeds, K conditions, F metrics.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from rdbench.benchmark.results import CLEAN, Figure
from rdbench.report.entries import REFERENCE, Source, comparable
from rdbench.report.means import FloatArray, nan_mean

COST_RATIOS = {
    "train_ratio": "train_seconds", "inference_ratio": "inference_ms", "memory_ratio": "peak_memory_mb",
}  # fmt: skip
LARGEST = 1e12
"""No figure of any metric is larger; entries are foreign and may say anything."""
NO_REFERENCE = f"no {REFERENCE} on the same machine"
REGULAR = "regular"
"""The real lighting of the training images."""
Place = tuple[int, int, int, int, int]
"""Indices of method, category, seed, condition and metric."""


def derive(
    value: FloatArray, low: FloatArray, high: FloatArray, metric_at: dict[str, int], conditions: Sequence[str]
) -> None:
    """Fill in the figures of `DERIVED` but the ratios, cell by cell; NaN where what they need is missing.

    The interval of a mean over conditions is the mean of theirs, which share the parts.
    """
    if "image_auroc" not in metric_at:
        return
    measured = is_measured(value)
    shifts = [":" in name for name in conditions]
    lights = [is_lighting(name) and name != REGULAR for name in conditions]
    for name, chosen in (("image_auroc_shifted", shifts), ("image_auroc_lightings", lights)):
        every = measured[..., chosen].all(axis=3)
        for array in (value, low, high):
            mean = np.where(every, nan_mean(array[..., chosen, metric_at["image_auroc"]], 3), np.nan)
            array[..., metric_at[name]] = mean[..., None]


def derive_ratios(
    value: FloatArray,
    metric_at: dict[str, int],
    reference: int | None,
    placed: dict[tuple[int, int, int], Source],
    notes: dict[Place, str],
) -> None:
    """Fill in each cell's costs relative to the reference's: what its entry gives, else those of the same category and
    seed in this ranking, if they come from the same machine and settings.

    A method with no fewer training passes and parameters than the reference, such as one that builds on its student,
    is not cheaper to train: where the clock says so, the ratio is 1.
    """
    if reference is None and all(source.reference is None for source in placed.values()):
        return
    for (m, c, s), source in placed.items():
        given = source.reference
        if source.result.spec.method == REFERENCE:
            given = source.result.cost
        elif given is None and reference is not None and (beside := placed.get((reference, c, s))) is not None:
            given = beside.result.cost if comparable(source.result) == comparable(beside.result) else None

        def times(cost: str, own: FloatArray, given: Mapping[str, Figure] | None = given) -> FloatArray:
            """(K,) the reference's cost, as often as it takes; NaN where it is not known."""
            figure = given.get(cost) if given is not None else None
            of = figure.value if figure is not None else None
            with np.errstate(over="ignore"):  # what is infinitely often is no number either
                quotient = own / of if of is not None and 0 < of <= LARGEST else np.full(own.shape, np.nan)
            return np.where(quotient <= LARGEST, quotient, np.nan)

        unusable = NO_REFERENCE if given is None else f"{REFERENCE}'s is no number to compare with"
        for ratio, cost in COST_RATIOS.items():
            if cost not in metric_at:
                continue
            own, at = value[m, c, s, :, metric_at[cost]], metric_at[ratio]
            value[m, c, s, :, at] = times(cost, own)
            for k in np.flatnonzero(np.isnan(value[m, c, s, :, at])).tolist():
                note = notes.get((m, c, s, k, metric_at[cost])) if np.isnan(own[k]) else unusable
                if note:
                    notes[m, c, s, k, at] = note
        if "train_passes" in metric_at and "parameters" in metric_at:
            sizes = [times(name, value[m, c, s, :, metric_at[name]]) for name in ("train_passes", "parameters")]
            ratios = value[m, c, s, :, metric_at["train_ratio"]]
            np.maximum(ratios, 1.0, out=ratios, where=np.all(np.stack(sizes) >= 1, axis=0))


def is_lighting(condition: str) -> bool:
    """Whether the condition is a real lighting: not the whole test set, and no shift made by us."""
    return condition != CLEAN and ":" not in condition


def is_measured(value: FloatArray) -> NDArray[np.bool_]:
    """(M, C, S, K) whether there is a cell that was measured under the condition, of values (M, C, S, K, F)."""
    return np.asarray((~np.isnan(value)).any(axis=4))
