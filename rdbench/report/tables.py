"""Results as tables for a terminal."""

from __future__ import annotations

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
from rdbench.report.columns import UNDEFINED, title, written
from rdbench.report.rankings import Mean, Ranking, make_rankings

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
        _count(len(ranking.categories), "category", "categories"),
        _count(len(ranking.seeds), "seed", "seeds"),
    ]
    return " · ".join(words)


def _count(number: int, one: str, many: str) -> str:
    return f"{number} {one if number == 1 else many}"


def _ranking_table(ranking: Ranking, width: int) -> Table:
    mean = ranking.mean()
    label_width = min(30, max(len(name) for name in (*ranking.methods, *ranking.conditions)))
    room = width - label_width - 2
    shown: set[str] = set()
    for name in FIRST:
        if name in ranking.metrics and room >= _width(name) + 3:
            room -= _width(name) + 3
            shown.add(name)
    columns = [name for name in COLUMNS if name in shown]
    reference = ranking.methods.index("deterministic") if "deterministic" in ranking.methods else 0
    note = (
        f"Means over cells. In brackets: the free control, distance to the threshold, on the same predictions. "
        f"Chance, margin and oracle: for the predictions of {ranking.methods[reference]}."
    )
    if any(_value(ranking, mean, m, k, name)[1] for name in columns for m, k in np.ndindex(mean.value.shape[:2])):
        note += " *: over the cells that have the figure; see `rdbench results --format csv` for why others lack it."
    table = Table(
        title=escape(ranking_title(ranking)), title_justify="left", title_style="bold", box=box.SIMPLE_HEAD,
        padding=(0, 1), pad_edge=False, caption=escape(note), caption_justify="left", caption_style="dim",
    )  # fmt: skip
    table.add_column("Method", min_width=label_width, max_width=label_width, overflow="fold")
    for name in columns:
        table.add_column(_header(name), justify="right", min_width=_width(name), no_wrap=True)
    for k, condition in enumerate(ranking.conditions):
        if len(ranking.conditions) > 1:
            table.add_row(Text(condition, style="bold"))
        for m, method in enumerate(ranking.methods):
            if mean.defined[m, k].any():
                table.add_row(Text(method), *(_figure(ranking, mean, m, k, name) for name in columns))
        for control in CONTROLS:
            table.add_row(
                Text("chance" if control == "random" else control, style="dim"),
                *(_control(ranking, mean, reference, k, name, control) for name in columns),
            )
        table.add_section()
    return table


def _header(name: str) -> str:
    words = title(name) + (" (margin)" if name in WITH_MARGIN else "")
    return words.replace(" ", "\n", 1)


def _width(name: str) -> int:
    content = len("0.000 (0.000)*") if name in WITH_MARGIN else len("0.000")
    return max(content, *(len(line) for line in _header(name).split("\n")))


def _value(ranking: Ranking, mean: Mean, m: int, k: int, name: str) -> tuple[float, bool]:
    """The mean, and whether some cells lack the figure."""
    if name not in ranking.metrics:
        return float("nan"), False
    f = ranking.metrics.index(name)
    return float(mean.value[m, k, f]), bool(0 < mean.defined[m, k, f] < mean.defined[m, k].max())


def _figure(ranking: Ranking, mean: Mean, m: int, k: int, name: str) -> Text:
    value, partial = _value(ranking, mean, m, k, name)
    if np.isnan(value):
        return Text(ranking.why_undefined(m, k, ranking.metrics.index(name)) or UNDEFINED, style="dim")
    text = Text(written(name, value))
    if name in WITH_MARGIN:
        text.append(f" ({written(name, _value(ranking, mean, m, k, f'{name}_margin')[0])})", style="dim")
    return text.append("*") if partial else text


def _control(ranking: Ranking, mean: Mean, m: int, k: int, name: str, control: str) -> Text:
    value, _ = _value(ranking, mean, m, k, f"{name}_{control}")
    return Text("" if np.isnan(value) else written(name, value), style="dim")


def _failure_table(failures: Sequence[CellFailure]) -> Table:
    table = Table(
        title=f"{_count(len(failures), 'cell', 'cells')} failed", title_justify="left", title_style="bold red",
        box=box.SIMPLE_HEAD, padding=(0, 1), pad_edge=False,
    )  # fmt: skip
    for name in ("Cell", "Stage", "Reason"):
        table.add_column(name, overflow="fold")
    for failure in failures:
        table.add_row(Text(str(failure.spec)), Text(failure.stage), Text(failure.reason))
    return table
