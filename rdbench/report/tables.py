"""Results as tables for a terminal."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from rich import box
from rich.console import Console, ConsoleOptions, RenderResult
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from rdbench.benchmark.results import CellFailure, CellResult
from rdbench.metrics.catalog import CONTROLS
from rdbench.report.columns import UNDEFINED, describe, title, written, written_interval
from rdbench.report.derived import REFERENCE
from rdbench.report.means import Mean
from rdbench.report.rankings import Ranking, make_rankings
from rdbench.words import count

COLUMNS = (
    "image_auroc", "pixel_auroc", "aupro_30", "fpr", "fnr", "failures", "augrc", "aurc", "failure_auroc", "ece",
    "false_alarm_gap", "train_seconds", "inference_ms",
)  # fmt: skip
FIRST = (
    "image_auroc", "failures", "augrc", "aupro_30", "inference_ms", "train_seconds", "failure_auroc", "fpr", "fnr",
    "pixel_auroc", "ece", "false_alarm_gap", "aurc",
)  # fmt: skip
"""Which columns are kept when the terminal is narrow."""
WITH_MARGIN = ("augrc", "aurc", "failure_auroc")
"""Figures written beside what the free control, the threshold margin, reaches on the same predictions."""
GLOSSES = {
    "failures": "wrong decisions at the threshold, summed over categories",
    "augrc": "errors that are left, averaged over how much is reviewed, the most uncertain first",
    "aurc": "error rate among what is not reviewed, averaged likewise",
    "failure_auroc": "chance that a wrong decision is more uncertain than a right one",
    "ece": "gap between the stated and the observed probability of a defect",
    "false_alarm_gap": "gap between promised and realised false alarms on normal images",
}
"""What a column says, for those whose title does not."""
REASON_WIDTH = 14


@dataclass(frozen=True)
class Summary:
    """What `rdbench run` ends with, as wide as the console: what does not fit is left out."""

    results: Sequence[CellResult]
    failures: Sequence[CellFailure]

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        for ranking in make_rankings(self.results):
            yield _ranking_table(ranking, options.max_width)
            yield Text()
        if self.failures:
            yield _failure_table(self.failures)
        elif not self.results:
            yield Text("no results yet")


def summary_table(results: Iterable[CellResult], failures: Iterable[CellFailure] = ()) -> Summary:
    """One table per ranking, one block per condition, one row per method: figures are means over cells."""
    return Summary(list(results), list(failures))


def ranking_title(ranking: Ranking) -> str:
    """What the results of a ranking have in common, in one line."""
    spec = ranking.spec
    height, width = spec.image_size
    words = [
        spec.dataset + (" (custom data)" if ranking.custom else ""),
        spec.backbone if spec.weights == spec.backbone else f"{spec.backbone}, weights {spec.weights}",
        f"{width} x {height} px",
        count(len(ranking.categories), "category"),
        count(len(ranking.seeds), "seed"),
        *([ranking.level] if ranking.level else []),
    ]
    return " · ".join(words)


def _ranking_table(ranking: Ranking, width: int) -> Table:
    mean = ranking.mean()
    methods = {
        (m, k): method
        for k in range(len(ranking.conditions))
        for m, method in enumerate(ranking.methods)
        if mean.defined[m, k].any()
    }
    figures = {
        name: {place: _figure(ranking, mean, *place, name) for place in methods}
        for name in FIRST
        if name in ranking.metrics
    }
    label_width = min(30, max(len(name) for name in (*ranking.methods, *ranking.conditions)))
    room = width - label_width - 2
    widths: dict[str, int] = {}
    for name, column in figures.items():
        lines = [
            line for text in (_header(name), *(figure.plain for figure in column.values())) for line in text.split("\n")
        ]
        if room >= max(map(len, lines)) + 3:
            widths[name] = max(map(len, lines))
            room -= widths[name] + 3
    columns = [name for name in COLUMNS if name in widths]
    reference = ranking.methods.index(REFERENCE) if REFERENCE in ranking.methods else 0
    partial = any("*" in figures[name][place].plain for name in columns for place in methods)
    table = Table(
        title=escape(ranking_title(ranking)), title_justify="left", title_style="bold", box=box.SIMPLE_HEAD,
        padding=(0, 1), pad_edge=False, caption=escape(_caption(columns, ranking, ranking.methods[reference], partial)),
        caption_justify="left", caption_style="dim",
    )  # fmt: skip
    table.add_column("Method", min_width=label_width, max_width=label_width, overflow="fold")
    for name in columns:
        table.add_column(_header(name), justify="right", min_width=widths[name], no_wrap=True)
    for k, condition in enumerate(ranking.conditions):
        if len(ranking.conditions) > 1:
            table.add_row(Text(condition, style="bold"))
        for place, method in methods.items():
            if place[1] == k:
                table.add_row(Text(method), *(figures[name][place] for name in columns))
        for control in CONTROLS:
            table.add_row(
                Text("chance" if control == "random" else control, style="dim"),
                *(_control(ranking, mean, reference, k, name, control) for name in columns),
            )
        table.add_section()
    return table


def _caption(columns: Sequence[str], ranking: Ranking, reference: str, partial: bool) -> str:
    """What the figures are, and what each column says."""
    notes = [
        "Means over cells, below them their 95 % intervals. (margin): the free control, distance to the threshold, on "
        f"the same predictions. Chance, margin and oracle: for the predictions of {reference}."
    ]
    if ranking.unattained:
        notes.append(f"Caution: {ranking.unattained}.")
    if partial:
        notes.append("*: over the cells that have the figure; `rdbench results --format csv` says why others lack it.")
    return "\n".join([*notes, *(f"{title(name)}: {GLOSSES[name]}." for name in columns if name in GLOSSES)])


def _header(name: str) -> str:
    arrow = {"higher": " \N{UPWARDS ARROW}", "lower": " \N{DOWNWARDS ARROW}"}.get(describe(name).direction, "")
    if name in WITH_MARGIN:
        return f"{title(name)}{arrow}\n(margin)"
    return (title(name) + arrow).replace(" ", "\n", 1) if " " in title(name) else title(name) + arrow


def _value(ranking: Ranking, mean: Mean, m: int, k: int, name: str) -> tuple[float, bool]:
    """The mean, and whether some cells lack the figure."""
    if name not in ranking.metrics:
        return float("nan"), False
    f = ranking.metrics.index(name)
    return float(mean.value[m, k, f]), bool(0 < mean.defined[m, k, f] < mean.defined[m, k].max())


def _figure(ranking: Ranking, mean: Mean, m: int, k: int, name: str) -> Text:
    value, partial = _value(ranking, mean, m, k, name)
    if np.isnan(value):
        reason = ranking.why_undefined(m, k, ranking.metrics.index(name)) or UNDEFINED
        return Text("\n".join(textwrap.wrap(reason, REASON_WIDTH)), style="dim")
    text = Text(written(name, value))
    if name in WITH_MARGIN:
        text.append(f" ({written(name, _value(ranking, mean, m, k, f'{name}_margin')[0])})", style="dim")
    if partial:
        text.append("*")
    f = ranking.metrics.index(name)
    interval = written_interval(name, float(mean.low[m, k, f]), float(mean.high[m, k, f]))
    return text.append(f"\n{interval}", style="dim") if interval else text


def _control(ranking: Ranking, mean: Mean, m: int, k: int, name: str, control: str) -> Text:
    value, _ = _value(ranking, mean, m, k, f"{name}_{control}")
    return Text("" if np.isnan(value) else written(name, value), style="dim")


def _failure_table(failures: Sequence[CellFailure]) -> Table:
    table = Table(
        title=f"{count(len(failures), 'cell')} failed", title_justify="left", title_style="bold red",
        box=box.SIMPLE_HEAD, padding=(0, 1), pad_edge=False,
    )  # fmt: skip
    for name in ("Cell", "Stage", "Reason"):
        table.add_column(name, overflow="fold")
    for failure in failures:
        table.add_row(Text(str(failure.spec)), Text(failure.stage), Text(failure.reason))
    return table
