"""The entries of the catalogue, family by family; `catalog` is where to read them."""

from dataclasses import dataclass, replace
from typing import Literal

Direction = Literal["higher", "lower", "none"]


@dataclass(frozen=True, slots=True)
class Metric:
    """What a printed name stands for.

    `direction` says which way is better; `none` marks a figure that only describes the sample.
    `undefined` says when the value is `nan`; `ties` what equal scores or uncertainties do.
    A metric with `controls` is printed beside `<name>_random`, `<name>_margin` and `<name>_oracle`.
    """

    name: str
    family: str
    direction: Direction
    unit: str
    definition: str
    source: str
    ties: str = "-"
    undefined: str = "never"
    controls: bool = False


_HALF = "a tied pair counts half"
_BLOCK = "tied values enter together"
_ORDERS = "expectation over the orders of tied values, exact"
_ONE_CLASS = "one class only"
_NO_FAILURE = "no failures"

_ROC = "Fawcett 2006"
_CONFORMAL = "Vovk et al. 2005; Angelopoulos & Bates 2023"
_GEIFMAN = "Geifman & El-Yaniv 2017"
_RDBENCH = "rdbench"
_SKLEARN = "scikit-learn"
_PRO = "Bergmann et al. 2021"


def _detection() -> list[Metric]:
    def row(name: str, direction: Direction, definition: str, source: str, ties: str, undefined: str) -> Metric:
        return Metric(name, "detection", direction, "fraction", definition, source, ties, undefined)

    decided = "decided by score > threshold: a score equal to it is normal"
    return [
        row(
            "image_auroc", "higher", "chance that an anomalous image scores above a normal one", _ROC, _HALF, _ONE_CLASS
        ),
        row(
            "image_ap", "higher", "average precision: sum of recall steps times precision", _SKLEARN, _BLOCK, _ONE_CLASS
        ),
        row(
            "image_f1_max",
            "higher",
            "best F1 over all thresholds, chosen with test labels: an oracle",
            _RDBENCH,
            _BLOCK,
            _ONE_CLASS,
        ),
        row(
            "image_fpr_95",
            "lower",
            "false-positive rate at the first threshold with recall of at least 0.95",
            _ROC,
            _BLOCK,
            _ONE_CLASS,
        ),
        row("fpr", "lower", "share of normal images above the threshold", _CONFORMAL, decided, "no normal image"),
        row("fnr", "lower", "share of anomalous images not above it", _CONFORMAL, decided, "no anomalous image"),
    ]


def _localization() -> list[Metric]:
    def row(name: str, direction: Direction, definition: str, source: str, ties: str, undefined: str) -> Metric:
        return Metric(name, "localization", direction, "fraction", definition, source, ties, undefined)

    line = "straight line across tied values"
    return [
        row("pixel_auroc", "higher", "AUROC over all pixels of all test images", _ROC, _HALF, _ONE_CLASS),
        row("pixel_ap", "higher", "average precision over all pixels of all test images", _SKLEARN, _BLOCK, _ONE_CLASS),
        row(
            "aupro_30",
            "higher",
            "area under mean region overlap against FPR up to 0.30, divided by 0.30",
            _PRO,
            line,
            _ONE_CLASS,
        ),
        row(
            "aupro_05",
            "higher",
            "area under mean region overlap against FPR up to 0.05, divided by 0.05",
            _PRO,
            line,
            _ONE_CLASS,
        ),
        row(
            "aupimo",
            "higher",
            "mean over anomalous images of recall against log FPR of the normal images, FPR 1e-5 to 1e-4",
            "Bertoldo et al. 2024",
            line,
            "no normal or no anomalous image",
        ),
        row(
            "seg_f1",
            "higher",
            "F1 over all pixels at mean + 3 std of the calibration maps",
            "Heckler-Kram et al. 2025",
            "decided by value > threshold",
            "no anomalous pixel",
        ),
        Metric(
            "ause",
            "localization",
            "lower",
            "multiple of the mean error",
            "area between the sparsification curves of uncertainty map and error, relative to the mean error",
            "Ilg et al. 2018",
            _ORDERS,
            "no pixel error",
        ),
    ]


def _selective() -> list[Metric]:
    def row(name: str, direction: Direction, definition: str, source: str) -> Metric:
        return Metric(name, "selective", direction, "fraction", definition, source, _ORDERS, _NO_FAILURE, controls=True)

    return [
        Metric(
            "failures",
            "selective",
            "none",
            "count",
            "images whose decision is wrong; read every figure below beside it",
            _RDBENCH,
        ),
        Metric("error_rate", "selective", "lower", "fraction", "failures divided by images", _RDBENCH),
        row(
            "augrc",
            "lower",
            "area under (coverage, errors kept / n): the selective figure to lead with",
            "Traub et al. 2024",
        ),
        Metric(
            "augrc_saved",
            "selective",
            "higher",
            "difference",
            "augrc_margin minus augrc: above 0 the uncertainty is worth more than the free one",
            _RDBENCH,
            _ORDERS,
            _NO_FAILURE,
        ),
        row("aurc", "lower", "mean over k = 1..n of the error rate among the k least uncertain", _GEIFMAN),
        row(
            "e_aurc", "lower", "aurc minus the best aurc for as many errors among as many images", "Geifman et al. 2019"
        ),
        replace(
            row(
                "failure_auroc",
                "higher",
                "chance that a wrong decision is more uncertain than a right one",
                "Hendrycks & Gimpel 2017",
            ),
            ties=_HALF,
            undefined="no failures; all wrong",
        ),
        *(
            row(
                f"risk_at_{c}",
                "lower",
                f"error rate among the least uncertain {c} % (rounded up to whole images)",
                _GEIFMAN,
            )
            for c in (80, 90, 95)
        ),
        *(
            row(
                f"coverage_at_risk_{r}",
                "higher",
                f"largest share of least uncertain images with an error rate of at most {r} %",
                _GEIFMAN,
            )
            for r in (1, 5)
        ),
        *(
            row(
                f"errors_caught_{b}",
                "higher",
                f"share of all errors among the most uncertain {b} % (rounded down to whole images)",
                _RDBENCH,
            )
            for b in (5, 10, 20)
        ),
        *(
            Metric(
                f"expected_cost_{b}",
                "selective",
                "lower",
                "cost per image",
                f"mean cost after the most uncertain {b} % are sent to review, at costs 10, 1 and 0.5",
                "Chow 1970",
                _ORDERS,
                "never",
                controls=b > 0,
            )
            for b in (0, 5, 10, 20)
        ),
    ]


def _calibration() -> list[Metric]:
    def row(name: str, direction: Direction, unit: str, definition: str, source: str, ties: str = "-") -> Metric:
        undefined = "never" if name == "prevalence" else "a class in fewer than two parts"
        return Metric(name, "calibration", direction, unit, definition, source, ties, undefined)

    return [
        row(
            "prevalence",
            "none",
            "fraction",
            "share of anomalous test images, which the three figures below depend on",
            _RDBENCH,
        ),
        row(
            "ece",
            "lower",
            "fraction",
            "gap between cross-fitted probability and frequency, 15 bins of equal mass",
            "Naeini et al. 2015",
            "equal values share a bin",
        ),
        row("brier", "lower", "fraction", "mean squared error of the cross-fitted probability", "Brier 1950"),
        row("nll", "lower", "nats", "mean negative log-likelihood of the cross-fitted probability", "Platt 1999"),
        Metric(
            "false_alarm_gap",
            "calibration",
            "lower",
            "fraction",
            "mean distance of realised and nominal false-alarm rate on normal images, over levels k/(n+1) up to 0.20",
            _CONFORMAL,
            "a tie counts against the alarm",
            "no normal image; under 4 calibration images",
        ),
    ]


def _shift() -> list[Metric]:
    def row(name: str, direction: Direction, definition: str, ties: str, undefined: str) -> Metric:
        return Metric(name, "shift", direction, "fraction", definition, _RDBENCH, ties, undefined)

    return [
        replace(
            row(
                "shift_response",
                "higher",
                "Spearman correlation of uncertainty with the severity of the shift",
                "tied values share their mean rank",
                "one severity or one uncertainty only",
            ),
            unit="correlation",
        ),
        row(
            "shift_auroc",
            "higher",
            "chance that a shifted normal image is more uncertain than a clean one",
            _HALF,
            "no normal image",
        ),
        row("auroc_drop", "lower", "image_auroc on clean images minus image_auroc under the shift", _HALF, _ONE_CLASS),
        row(
            "fpr_deferred_10",
            "lower",
            "share of normal images above the threshold and not among the most uncertain 10 % sent to review",
            _ORDERS,
            "no normal image",
        ),
    ]


def _cost() -> list[Metric]:
    def row(name: str, unit: str, definition: str, better: Direction = "lower") -> Metric:
        return Metric(name, "cost", better, unit, definition, _RDBENCH, undefined="not measured")

    return [
        row("train_seconds", "s", "wall-clock training time of the method alone"),
        row("train_passes", "passes", "forward passes of training, images times epochs times networks"),
        row("inference_ms", "ms", "time per image, the method alone, teacher included"),
        row("teacher_passes", "passes per image", "forward passes of the teacher"),
        row("bottleneck_passes", "passes per image", "forward passes of the bottleneck"),
        row("decoder_passes", "passes per image", "forward passes of the decoder"),
        row("gflop", "GFLOP", "arithmetic per image, a multiply-add counted as 2: convolutions and matrix products"),
        row("throughput_1", "images per second", "images one at a time, the method alone, teacher included", "higher"),
        row(
            "throughput_best",
            "images per second",
            "the same at the best batch size of 1, the test's and, on a GPU, four times the test's",
            "higher",
        ),
        row("parameters", "count", "parameters kept for inference, the teacher's left out"),
        row("peak_memory_mb", "MB", "peak memory of inference on the device"),
    ]


ENTRIES = [*_detection(), *_localization(), *_selective(), *_calibration(), *_shift(), *_cost()]
