"""Results as tables for a terminal."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from rich import box
from rich.console import Console, ConsoleOptions, RenderResult
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from rdbench.benchmark.results import CLEAN, CellFailure, CellResult
from rdbench.metrics.catalog import CONTROLS
from rdbench.report.columns import UNDEFINED, describe, title, written, written_interval
from rdbench.report.mean_shifts import ALL_SHIFTS, with_mean_shifts
from rdbench.report.means import Mean
from rdbench.report.rankings import Ranking, make_rankings
from rdbench.report.reread import measured, nothing_under, pick_conditions
from rdbench.words import count

COLUMNS = (
    "image_auroc", "pixel_auroc", "aupro_30", "fpr", "fnr", "failures", "augrc", "aurc", "failure_auroc", "ece",
    "false_alarm_gap", "train_seconds", "inference_ms",
)  # fmt: skip
FIRST = (
    ("image_auroc",), ("failures",), ("augrc",), ("aupro_30",), ("inference_ms",), ("train_seconds",),
    ("failure_auroc",), ("fpr", "fnr"), ("pixel_auroc",), ("ece",), ("false_alarm_gap",), ("aurc",),
)  # fmt: skip
"""Which columns are kept when the terminal is narrow; those that say little apart go together."""
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
MANY = 20
"""With more conditions than these, a run ends with two of them."""
NOT_THE_SAME = (
    "x of y cells: not on the same cells as the others, which may be harder or easier; such a method stands last, and "
    "its figures are not to be compared with theirs."
)
PARTIAL = (
    "*: over the cells, and the shifts of a mean, that have the figure; `rdbench results --format csv` says why others "
    "lack it."
)


@dataclass(frozen=True)
class Summary:
    """Rankings, each under conditions by index, as wide as the console: what does not fit is left out."""

    shown: Sequence[tuple[Ranking, Sequence[int]]]
    failures: Sequence[CellFailure]

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        for ranking, conditions in self.shown:
            yield _ranking_table(ranking, conditions, options.max_width)
            yield Text()
        if self.failures:
            yield _failure_table(self.failures)
        elif not self.shown:
            yield Text("no results yet")


def summary_table(
    results: Iterable[CellResult],
    failures: Iterable[CellFailure] = (),
    conditions: Sequence[str] = (),
    *,
    brief: bool = False,
) -> Summary:
    """One table per ranking, one block per condition, one row per method: figures are means over cells.

    Args:
        conditions: these alone, see `pick_conditions`; every measured one if none is given.
        brief: of more than `MANY` conditions show the clean one and the mean over all shifts alone.

    Raises InputError for an unknown condition.
    """
    rankings = make_rankings(results)
    under = pick_conditions(rankings, conditions) if conditions else ()
    shown = []
    for ranking in rankings:
        names = under or ((CLEAN, ALL_SHIFTS) if brief and len(ranking.conditions) > MANY else ranking.conditions)
        ranking = with_mean_shifts(ranking)
        shown.append((ranking, measured(ranking, names)))
    if under and not any(chosen for _, chosen in shown):
        raise nothing_under(under)
    return Summary([(ranking, chosen) for ranking, chosen in shown if chosen], list(failures))


def _ranking_table(ranking: Ranking, conditions: Sequence[int], width: int) -> Table:
    mean = ranking.mean()
    reference = ranking.reference(conditions[0])
    methods = {k: ranking.rows(k) for k in conditions}
    shares = {(m, k): ranking.share(m, k) for k in conditions for m in methods[k]}
    there = [name for names in FIRST for name in names if name in ranking.metrics]
    figures = {name: {place: _figure(ranking, mean, *place, name) for place in shares} for name in there}
    first_column = (*ranking.methods, *(ranking.conditions[k] for k in conditions), *shares.values())
    label_width = min(30, max(map(len, first_column)))
    room = width - label_width - 2
    widths: dict[str, int] = {}
    for names in FIRST:
        wanted = {name: _width(_header(name), figures[name].values()) for name in names if name in figures}
        if room >= (needed := sum(wanted.values()) + 3 * len(wanted)):
            widths |= wanted
            room -= needed
    columns = [name for name in COLUMNS if name in widths]
    notes = [
        *_notes(ranking, conditions, ranking.methods[reference]),
        *([NOT_THE_SAME] if any(shares.values()) else []),
        *([PARTIAL] if any("*" in figures[name][place].plain for name in columns for place in shares) else []),
        *(f"{title(name)}: {GLOSSES[name]}." for name in columns if name in GLOSSES),
    ]
    if left_out := [title(name) for name in COLUMNS if name in figures and name not in widths]:
        notes.append(f"Left out for width: {', '.join(left_out)}; `rdbench results --format csv` has all.")
    table = Table(
        title=escape(ranking.title), title_justify="left", title_style="bold", box=box.SIMPLE_HEAD,
        padding=(0, 1), pad_edge=False, caption=escape("\n".join(notes)), caption_justify="left", caption_style="dim",
    )  # fmt: skip
    table.add_column("Method", min_width=label_width, max_width=label_width, overflow="fold")
    for name in columns:
        table.add_column(_header(name), justify="right", min_width=widths[name], no_wrap=True)
    for k in conditions:
        if len(ranking.conditions) > 1:
            table.add_row(Text(ranking.conditions[k], style="bold"))
        for m in methods[k]:
            label = Text(ranking.methods[m])
            if shares[m, k]:
                label.append(f"\n{shares[m, k]}", style="dim")
            table.add_row(label, *(figures[name][m, k] for name in columns))
        for control in CONTROLS:
            table.add_row(
                Text("chance" if control == "random" else control, style="dim"),
                *(_control(ranking, mean, reference, k, name, control) for name in columns),
            )
        table.add_section()
    return table


def _width(header: str, figures: Iterable[Text]) -> int:
    return max(len(line) for text in (header, *(figure.plain for figure in figures)) for line in text.split("\n"))


def _notes(ranking: Ranking, conditions: Sequence[int], reference: str) -> Iterator[str]:
    """What the figures are, and which conditions are not shown."""
    yield (
        "Means over cells, below them their 95 % intervals. (margin): the free control, distance to the threshold, on "
        f"the same predictions. Chance, margin and oracle: for the predictions of {reference}."
    )
    hidden = [name for k, name in enumerate(ranking.conditions) if k not in conditions and k not in ranking.pooled]
    if hidden:
        yield (
            f"{count(len(hidden), 'further condition')}: `rdbench results` shows all, `rdbench results --condition "
            f"{hidden[0]}` one."
        )
    for caution in ranking.cautions:
        yield f"Caution: {caution}."


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
    return float(mean.value[m, k, f]), bool(mean.defined[m, k, f] < mean.defined[m, k].max())


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
