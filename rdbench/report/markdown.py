"""Stored results as Markdown tables, for documents."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from rdbench.metrics.catalog import CONTROLS
from rdbench.report.columns import title, written, written_interval
from rdbench.report.entries import Source
from rdbench.report.mean_shifts import with_mean_shifts
from rdbench.report.means import Mean
from rdbench.report.rankings import Ranking, make_rankings
from rdbench.report.reread import measured, nothing_under, pick_conditions
from rdbench.report.standings import LEAD
from rdbench.report.tables import NOT_THE_SAME, PARTIAL, WITH_MARGIN

COLUMNS = (
    "image_auroc", "failures", "augrc", "augrc_saved", "aurc", "failure_auroc", "errors_caught_10", "ece",
    "false_alarm_gap", "train_ratio", "inference_ratio", "gflop",
)  # fmt: skip
SAVED = "augrc_saved"
WITH_INTERVAL = ("image_auroc", "augrc", SAVED)
BETTER = "Better than the margin (the interval lies above 0)"
SAME = "The same as the margin"
UNDECIDED = "Cannot be told from the margin"
WORSE = "Worse than the margin"
NO_FAILURES = "No failures to rank"
NO_INTERVAL = "Not known without intervals (`rdbench evaluate` computes them)"
NOT_MEASURED = "Without figures to compare"
NOT_EVALUATED = "Not known, their figures are of an older rdbench (`rdbench evaluate` computes them)"


def markdown(sources: Sequence[Source], conditions: Sequence[str] = ()) -> str:
    """One table per ranking and condition, by AUGRC: `COLUMNS`, and whether each method beats the threshold margin.

    Raises InputError for an unknown condition.
    """
    rankings = make_rankings(sources)
    under = pick_conditions(rankings, conditions)
    tables = [_table(ranking, k) for ranking in map(with_mean_shifts, rankings) for k in measured(ranking, under)]
    if not tables:
        raise nothing_under(under)
    return "\n".join(tables)


def _table(ranking: Ranking, k: int) -> str:
    mean, condition = ranking.mean(), ranking.conditions[k]
    columns = [name for name in COLUMNS if name in ranking.metrics]
    lead = mean.value[:, k, ranking.metrics.index(LEAD)]
    methods = sorted(ranking.rows(k), key=lambda m: (bool(ranking.share(m, k)), np.nan_to_num(lead[m], nan=np.inf)))
    named = {m: f"`{ranking.methods[m]}`" + (f" ({s})" if (s := ranking.share(m, k)) else "") for m in methods}
    head = [title(name) + (" (margin)" if name in (*WITH_MARGIN, "errors_caught_10") else "") for name in columns]
    lines = [
        f"**{ranking.title} \N{MIDDLE DOT} {condition}**",
        "",
        f"| Method | {' | '.join(head)} |",
        "|---" * (len(head) + 1) + "|",
    ]
    for m in methods:
        cells = [_figure(ranking, mean, m, k, name) for name in columns]
        lines.append(f"| {named[m]} | {' | '.join(cells)} |")
    reference = ranking.reference(k)
    for control in CONTROLS:
        cells = [_mean(ranking, mean, reference, k, f"{name}_{control}") for name in columns]
        lines.append(f"| {'chance' if control == 'random' else control} | {' | '.join(cells)} |")
    caveat = [line for caution in ranking.cautions for line in (f"Caution: {caution}.", "")]
    caveat += [NOT_THE_SAME, ""] if any(ranking.share(m, k) for m in methods) else []
    partial = (mean.defined[:, k] < mean.defined[:, k].max(axis=1, keepdims=True)) & ~np.isnan(mean.value[:, k])
    caveat += (
        [f"\\{PARTIAL}", ""] if partial[np.ix_(methods, [ranking.metrics.index(n) for n in columns])].any() else []
    )
    groups: dict[str, list[str]] = {said: [] for said in (BETTER, SAME, UNDECIDED, WORSE, NO_FAILURES)}
    for m in methods:
        groups.setdefault(_verdict(ranking, mean, m, k), []).append(named[m])
    lines += ["", *caveat, *(f"- {said}: {', '.join(names) or 'none'}." for said, names in groups.items()), ""]
    return "\n".join(lines)


def _verdict(ranking: Ranking, mean: Mean, m: int, k: int) -> str:
    """Whether the method's uncertainty beats the margin, in words."""
    if SAVED not in ranking.metrics:
        return NOT_EVALUATED
    f = ranking.metrics.index(SAVED)
    low, high = float(mean.low[m, k, f]), float(mean.high[m, k, f])
    if np.isnan(mean.value[m, k, f]):
        if ranking.why_undefined(m, k, f):
            return NO_FAILURES
        return NOT_MEASURED if np.isnan(mean.value[m, k, ranking.metrics.index(LEAD)]) else NOT_EVALUATED
    if np.isnan(ranking.low[m, :, :, k, f][~np.isnan(ranking.value[m, :, :, k, f])]).any():
        return NO_INTERVAL  # seeds alone would make it surer than the parts allow
    if low > 0:
        return BETTER
    return WORSE if high < 0 else SAME if low == high == 0 else UNDECIDED


def _mean(ranking: Ranking, mean: Mean, m: int, k: int, name: str) -> str:
    if name not in ranking.metrics:
        return ""
    return written(name, float(mean.value[m, k, ranking.metrics.index(name)]))


def _figure(ranking: Ranking, mean: Mean, m: int, k: int, name: str) -> str:
    text = _mean(ranking, mean, m, k, name)
    f = ranking.metrics.index(name)
    if mean.defined[m, k, f] < mean.defined[m, k].max() and not np.isnan(mean.value[m, k, f]):
        text += "\\*"
    if name in WITH_INTERVAL and (
        interval := written_interval(name, float(mean.low[m, k, f]), float(mean.high[m, k, f]))
    ):
        text += f" ({interval})"
    if margin := _mean(ranking, mean, m, k, f"{name}_margin"):
        text += f" ({margin})"
    return text
