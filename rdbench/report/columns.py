"""The columns of every table: their short titles and how a figure is written."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import cache

from rdbench.metrics.catalog import METRICS, Metric

UNDEFINED = DASH = "\N{EN DASH}"
TIMES = "\N{MULTIPLICATION SIGN}"

TITLES = {
    "image_auroc": "Image AUROC",
    "image_ap": "Image AP",
    "image_f1_max": "F1 max (oracle)",
    "image_fpr_95": "FPR at 95 % recall",
    "pixel_auroc": "Pixel AUROC",
    "pixel_ap": "Pixel AP",
    "aupro_30": "AU-PRO",
    "aupro_05": "AU-PRO 5 %",
    "aupimo": "AUPIMO",
    "seg_f1": "SegF1",
    "ause": "AUSE",
    "fpr": "FPR at τ",
    "fnr": "FNR at τ",
    "failures": "Failures",
    "error_rate": "Error rate",
    "augrc": "AUGRC",
    "augrc_saved": "AUGRC saved",
    "aurc": "AURC",
    "e_aurc": "E-AURC",
    "failure_auroc": "Failure AUROC",
    "errors_caught_5": "Caught at 5 %",
    "errors_caught_10": "Caught at 10 %",
    "errors_caught_20": "Caught at 20 %",
    "ece": "ECE",
    "brier": "Brier",
    "nll": "NLL",
    "prevalence": "Prevalence",
    "false_alarm_gap": "False-alarm gap",
    "shift_response": "Response to severity",
    "shift_auroc": "Shift AUROC",
    "auroc_drop": "AUROC drop",
    "fpr_deferred_10": "FPR after 10 % review",
    "train_seconds": "Training s",
    "train_passes": "Training passes",
    "inference_ms": "ms per image",
    "teacher_passes": "Teacher passes",
    "bottleneck_passes": "Bottleneck passes",
    "decoder_passes": "Decoder passes",
    "gflop": "GFLOP",
    "throughput_1": "Images/s, one at a time",
    "throughput_best": "Images/s, best batch",
    "parameters": "Parameters",
    "peak_memory_mb": "Memory MB",
    "image_auroc_shifted": "AUROC shifted",
    "image_auroc_lightings": "AUROC other lights",
    "train_ratio": f"Training {TIMES}",
    "inference_ratio": f"Inference {TIMES}",
    "memory_ratio": f"Memory {TIMES}",
}

DERIVED = {
    metric.name: metric
    for metric in (
        Metric("image_auroc_shifted", "detection", "higher", "fraction", "image_auroc, mean over shifts", "rdbench"),
        Metric(
            "image_auroc_lightings", "detection", "higher", "fraction",
            "image_auroc, mean over the real lightings but the regular one, which training saw", "rdbench",
        ),
        Metric(
            "train_ratio", "derived", "lower", "ratio",
            "train_seconds over that of deterministic, same machine; at least 1 with no fewer passes and parameters",
            "rdbench",
        ),
        Metric(
            "inference_ratio", "derived", "lower", "ratio", "inference_ms over that of deterministic, same machine",
            "rdbench",
        ),
        Metric(
            "memory_ratio", "derived", "lower", "ratio", "peak_memory_mb over that of deterministic, same machine",
            "rdbench",
        ),
    )
}  # fmt: skip
"""Figures that tables show beside the catalogue's, computed cell by cell from them."""


def title(metric: str) -> str:
    """The short title of a metric; a control's is that of its metric with the control's name."""
    base, _, control = metric.rpartition("_")
    if metric not in TITLES and base in TITLES:
        return f"{TITLES[base]}, {control}"
    return TITLES.get(metric, metric)


@cache
def describe(metric: str) -> Metric:
    """The catalogue's entry; a metric from a newer rdbench that it does not know has no direction."""
    unknown = Metric(metric, "", "none", "", "not known to this version of rdbench", "")
    return DERIVED.get(metric) or METRICS.get(metric, unknown)


def signed(metric: Metric) -> bool:
    """Whether the figure can be below zero."""
    unknown = metric.direction == "none" and metric.unit not in ("count", "fraction")
    return metric.unit in ("difference", "correlation") or metric.name == "auroc_drop" or unknown


def bounded(metric: Metric) -> bool:
    """Whether the figure lies between 0 and 1."""
    return metric.unit == "fraction" and not signed(metric)


def written(metric: str, value: float) -> str:
    """A figure as people read it: fractions with three decimals, counts whole, others with three digits."""
    return number_writer(metric)(value)


def written_interval(metric: str, low: float, high: float) -> str:
    """A 95 % interval in as few signs as it takes; empty where there is none or it has no width."""
    return interval_writer(metric)(low, high)


@cache
def interval_writer(metric: str) -> Callable[[float, float], str]:
    """`written_interval` of one metric, for columns of many figures."""
    unit, write = describe(metric).unit, number_writer(metric)
    bare = unit in ("fraction", "difference", "ratio")
    between = " to " if unit == "difference" else DASH

    def interval(low: float, high: float) -> str:
        if low != low or high != high:  # NaN
            return ""
        first, last = write(low), write(high)
        if first == last:
            return ""
        if bare:
            first, last = _bare(first), _bare(last)
        return f"{first.removesuffix(TIMES)}{between}{last}"

    return interval


@cache
def number_writer(metric: str) -> Callable[[float], str]:
    """`written` of one metric, for columns of many figures."""
    unit = describe(metric).unit

    def difference(value: float) -> str:
        return f"{value:+.3f}" if abs(value) < 1e9 else unusual(value)

    def fraction(value: float) -> str:
        return f"{value:.3f}" if abs(value) < 1e9 else unusual(value)

    def ratio(value: float) -> str:
        if abs(value) < 100:
            return f"{value:.{3 if value >= 1 else 2}g}{TIMES}"
        return f"{value:,.0f}{TIMES}" if abs(value) < 1e9 else unusual(value)

    def other(value: float) -> str:
        if abs(value) < 100 and unit != "count":
            return f"{value:.3g}"
        return f"{value:,.0f}" if abs(value) < 1e9 else unusual(value)

    def unusual(value: float) -> str:
        return UNDEFINED if math.isnan(value) else f"{value:.2e}"

    return {"difference": difference, "fraction": fraction, "ratio": ratio}.get(unit, other)


def _bare(number: str) -> str:
    """A number without the zero before its point."""
    return number.replace("0.", ".", 1) if number.startswith(("0.", "+0.", "-0.")) else number
