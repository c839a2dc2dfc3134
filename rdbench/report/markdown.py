"""Stored results as Markdown tables, for documents."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from rdbench.metrics.catalog import CONTROLS
from rdbench.report.columns import title, written, written_interval
from rdbench.report.entries import Source
from rdbench.report.margin import Saved, saved_over_margin
from rdbench.report.means import Mean
from rdbench.report.rankings import Ranking, make_rankings
from rdbench.report.reread import pick_conditions
from rdbench.report.standings import LEAD
from rdbench.report.tables import NOT_THE_SAME, WITH_MARGIN

COLUMNS = (
    "image_auroc", "failures", "augrc", "aurc", "failure_auroc", "errors_caught_10", "ece", "false_alarm_gap",
    "train_ratio", "inference_ratio", "gflop",
)  # fmt: skip
WITH_INTERVAL = ("image_auroc", "augrc")
SAVED = "AUGRC saved over the margin"


def markdown(sources: Sequence[Source], conditions: Sequence[str] = ()) -> str:
    """One table per ranking and condition, by AUGRC: `COLUMNS`, and whether each method beats the threshold margin.

    Raises InputError for an unknown condition or predictions that cannot be used.
    """
    rankings = make_rankings(sources)
    under = pick_conditions(rankings, conditions)
    tables = [
        _table(ranking, ranking.conditions.index(condition))
        for ranking in rankings
        for condition in under
        if condition in ranking.conditions
    ]
    return "\n".join(tables)


def _table(ranking: Ranking, k: int) -> str:
    mean, condition = ranking.mean(), ranking.conditions[k]
    columns = [name for name in COLUMNS if name in ranking.metrics]
    lead = mean.value[:, k, ranking.metrics.index(LEAD)]
    methods = sorted(ranking.rows(k), key=lambda m: (bool(ranking.share(m, k)), np.nan_to_num(lead[m], nan=np.inf)))
    named = {m: f"`{ranking.methods[m]}`" + (f" ({s})" if (s := ranking.share(m, k)) else "") for m in methods}
    saved = {m: saved_over_margin(ranking, m, condition) for m in methods}
    head = [title(name) + (" (margin)" if name in (*WITH_MARGIN, "errors_caught_10") else "") for name in columns]
    at = columns.index(LEAD) + 1
    head.insert(at, SAVED)
    lines = [
        f"**{ranking.title} \N{MIDDLE DOT} {condition}**",
        "",
        f"| Method | {' | '.join(head)} |",
        "|---" * (len(head) + 1) + "|",
    ]
    for m in methods:
        cells = [_figure(ranking, mean, m, k, name) for name in columns]
        cells.insert(at, _saved(saved[m]))
        lines.append(f"| {named[m]} | {' | '.join(cells)} |")
    reference = ranking.reference(k)
    for control in CONTROLS:
        cells = [_control(ranking, mean, reference, k, name, control) for name in columns]
        cells.insert(at, "")
        lines.append(f"| {'chance' if control == 'random' else control} | {' | '.join(cells)} |")
    caveat = [f"{ranking.unattained}.", ""] if ranking.unattained else []
    caveat += [NOT_THE_SAME, ""] if any(ranking.share(m, k) for m in methods) else []
    lines += ["", *caveat, *_verdicts(named, saved), ""]
    return "\n".join(lines)


def _verdicts(named: dict[int, str], saved: dict[int, Saved]) -> list[str]:
    words = {
        "better": "Better than the margin (the interval lies above 0)",
        "as good": "The same as the margin",
        "cannot be told": "Cannot be told from the margin",
        "worse": "Worse than the margin",
        "no failures": "No failures to rank",
    }
    lines = []
    for verdict, said in words.items():
        names = [named[m] for m, found in saved.items() if found.verdict == verdict]
        lines.append(f"- {said}: {', '.join(names) or 'none'}.")
    return lines


def _saved(saved: Saved) -> str:
    if np.isnan(saved.value):
        return saved.verdict
    return f"{saved.value:+.3f} ({saved.low:+.3f} to {saved.high:+.3f})"


def _mean(ranking: Ranking, mean: Mean, m: int, k: int, name: str) -> str:
    if name not in ranking.metrics:
        return ""
    return written(name, float(mean.value[m, k, ranking.metrics.index(name)]))


def _figure(ranking: Ranking, mean: Mean, m: int, k: int, name: str) -> str:
    text = _mean(ranking, mean, m, k, name)
    f = ranking.metrics.index(name)
    if name in WITH_INTERVAL and (
        interval := written_interval(name, float(mean.low[m, k, f]), float(mean.high[m, k, f]))
    ):
        text += f" ({interval})"
    if margin := _mean(ranking, mean, m, k, f"{name}_margin"):
        text += f" ({margin})"
    return text


def _control(ranking: Ranking, mean: Mean, m: int, k: int, name: str, control: str) -> str:
    return _mean(ranking, mean, m, k, f"{name}_{control}")
