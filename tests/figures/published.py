"""Figures of docs/results.md that no table of rdbench prints, from the predictions of the published entries.

    python -m tests.figures.published                   # ten seconds
    python -m tests.figures.published --resamples 50    # to try it

All are means over the seeds of the one category that is published. In brackets an interval of 95 % for parts and seeds,
made as those of the tables are.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from rdbench.benchmark.evaluate import View, views
from rdbench.benchmark.results import Predictions
from rdbench.metrics.detection import auroc, auroc_of, conformal_threshold, rank_labels
from rdbench.metrics.readouts import read_out
from rdbench.metrics.selective import augrc, failure_auroc
from rdbench.metrics.statistics import part_weights, percentile_intervals
from rdbench.report.entries import published
from rdbench.report.means import mean_interval

FloatArray = NDArray[np.float64]
Cells = dict[str, dict[int, Predictions]]
"""By method and seed."""

RULE = 0.10
"""The alpha of the threshold and of the `conformal` entry."""


def main(arguments: Sequence[str] | None = None) -> None:
    """Print each figure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--resamples", type=int, default=1000)
    resamples = parser.parse_args(arguments).resamples
    cells = published_cells()
    print("image AUROC less that of deterministic")
    for method in cells:
        if method != "deterministic":
            print(f"  {method:20} {with_interval(*auroc_gain(cells, method, resamples), sign='+')}", flush=True)
    print("AUROC of the uncertainty, normal images under that light against normal images under regular light")
    for light in ("overexposed", "underexposed"):
        for method, seeds in cells.items():
            told = light_told(seeds, light, resamples)
            print(f"  {light:13} {method:20} {with_interval(*told)}", flush=True)
    print("share of pairs of a wrong and a right decision in which the wrong one is the less certain: missed and found")
    print("defects, missed defects and normal images let pass, false alarms and found defects, false alarms and images")
    print("let pass; all pairs, which is the failure AUROC. Last, as if the score itself were the uncertainty")
    by_score = {seed: replace(p, uncertainties=p.scores) for seed, p in cells["deterministic"].items()}
    for name, seeds in [*cells.items(), ("the score", by_score)]:
        print(f"  {name:20} {in_a_row(pairs(seeds))}")
    print("share of wrong decisions among those of deterministic that call an image anomalous, normal")
    print(f"  {in_a_row([wrong_share(cells['deterministic'], called) for called in (True, False)])}")
    print(
        "members: share of their variance on normal images that is one of their levels; failure AUROC of the standard"
    )
    print("deviation; the same with each member's mean over the calibration images taken off")
    for method, seeds in cells.items():
        if next(iter(seeds.values())).member_scores.shape[1]:
            print(f"  {method:20} {in_a_row(levels(seeds))}")
    print(
        "conformal, by its alpha: AUGRC of its uncertainty; share of normal images under regular light with p <= alpha;"
    )
    print("p-value of the ten images nearest to the threshold")
    for alpha in (0.05, 0.10, 0.15, 0.20):
        print(f"  {alpha:.2f} {in_a_row(conformal(cells['conformal'], alpha))}")


def in_a_row(figures: Iterable[float]) -> str:
    """Figures side by side."""
    return " ".join(f"{figure:.3f}" for figure in figures)


def with_interval(mean: float, low: float, high: float, sign: str = "") -> str:
    """A mean with its interval."""
    return f"{mean:{sign}.3f} ({low:{sign}.3f} to {high:{sign}.3f})"


def published_cells() -> Cells:
    """The predictions of all entries that came with rdbench."""
    cells: Cells = {}
    for source in published():
        assert source.predictions is not None
        cells.setdefault(source.result.spec.method, {})[source.result.spec.seed] = source.predictions()
    return cells


def threshold(predictions: Predictions) -> float:
    """The cell's conformal threshold."""
    return conformal_threshold(predictions.calibration_scores, RULE).value


def clean(predictions: Predictions) -> tuple[View, FloatArray, NDArray[np.bool_], NDArray[np.bool_]]:
    """All images; their margins; which are called anomalous, and which wrongly."""
    view = views(predictions)["clean"]
    above = view.scores > threshold(predictions)
    return view, -np.abs(view.scores - threshold(predictions)), above, above != (view.labels == 1)


def auroc_gain(cells: Cells, method: str, resamples: int) -> tuple[float, float, float]:
    """By how much the method's image AUROC is above that of `deterministic`."""
    found = []
    for seed, predictions in cells[method].items():
        first, second = (views(p)["clean"] for p in (predictions, cells["deterministic"][seed]))
        weights = np.vstack([np.ones((1, len(first.parts)), np.int64), part_weights(first.parts, resamples)])
        by_draw = [auroc_of(rank_labels(view.labels, view.scores, weights)) for view in (first, second)]
        found.append(by_draw[0] - by_draw[1])
    return over_seeds(np.array(found))


def light_told(seeds: dict[int, Predictions], light: str, resamples: int) -> tuple[float, float, float]:
    """Whether the uncertainty tells normal images under `light` from those under the light of training."""
    found = []
    for predictions in seeds.values():
        view = views(predictions)["clean"]
        chosen = view.normal() & np.isin(predictions.lightings, [light, "regular"])
        weights = part_weights(view.parts[chosen], resamples)
        weights = np.vstack([np.ones((1, weights.shape[1]), np.int64), weights])
        told = (predictions.lightings[chosen] == light).astype(np.int8)
        found.append(auroc_of(rank_labels(told, view.uncertainties[chosen], weights)))
    return over_seeds(np.array(found))


def over_seeds(found: FloatArray) -> tuple[float, float, float]:
    """(S, 1 + R), each seed's figure and those of its resamples -> the mean and its interval."""
    ends = percentile_intervals(found[:, 1:])
    low, high = np.array([(end.low, end.high) for end in ends]).T[:, None, None]
    mean, below, above = mean_interval(found[None, None, :, 0], low, high)
    return float(mean[0]), float(below[0]), float(above[0])


def pairs(seeds: dict[int, Predictions]) -> FloatArray:
    """(5,) missed > found, missed > passed, false alarm > found, false alarm > passed, all: shares, ties half."""
    found = []
    for predictions in seeds.values():
        view, _, above, wrong = clean(predictions)
        rows = []
        for one in (wrong & ~above, wrong & above):
            for other in (~wrong & above, ~wrong & ~above):
                both = one | other
                rows.append(auroc(one[both].astype(np.int8), view.uncertainties[both]))
        found.append([*rows, failure_auroc(wrong, view.uncertainties)])
    return np.asarray(np.mean(found, axis=0))


def wrong_share(seeds: dict[int, Predictions], called: bool) -> float:
    """Of the images that are called anomalous, or normal, the share that is not."""
    found = [clean(predictions)[2:] for predictions in seeds.values()]
    return float(np.mean([wrong[above == called].mean() for above, wrong in found]))


def levels(seeds: dict[int, Predictions]) -> FloatArray:
    """(3,) share of the members' variance that is one of their levels, failure AUROC with it and without it."""
    found = []
    for predictions in seeds.values():
        view, _, _, wrong = clean(predictions)
        level = predictions.calibration_members.astype(np.float64).mean(axis=1)
        share = level.var(ddof=1) / view.members[:, view.normal()].var(axis=0, ddof=1).mean()
        spreads = (
            read_out(name, view.members, view.scores, threshold(predictions), level) for name in ("std", "centred_std")
        )
        found.append([share, *(failure_auroc(wrong, spread) for spread in spreads)])
    return np.asarray(np.mean(found, axis=0))


def conformal(seeds: dict[int, Predictions], alpha: float) -> FloatArray:
    """(3,) AUGRC of `conformal`'s uncertainty at `alpha`, share of p-values that reach it, p-value at the threshold."""
    found = []
    for predictions in seeds.values():
        view, margin, _, wrong = clean(predictions)
        p = p_values(view.uncertainties)
        nearest = np.argsort(-margin)[:10]
        normal = view.normal() & (predictions.lightings == "regular")
        uncertainty = 1 / (1 + np.abs(np.log(p / alpha)))
        found.append([augrc(wrong, uncertainty), (p[normal] <= alpha).mean(), p[nearest].mean()])
    return np.asarray(np.mean(found, axis=0))


def p_values(uncertainties: FloatArray, training: int = 85) -> FloatArray:
    """The p-values k / (n + 1) from u = 1 / (1 + |log p - log alpha|): of two that have it one is no such fraction."""
    away = np.exp(1 / uncertainties - 1)
    counts = (training + 1) * RULE * np.array([1 / away, away])
    nearest = np.abs(counts - counts.round()).argmin(axis=0)
    return np.asarray(counts.round()[nearest, np.arange(len(away))] / (training + 1))


if __name__ == "__main__":
    main()
