"""Figures of comparisons and curves, each one HTML file that needs no network."""

from __future__ import annotations

import math
from collections.abc import Sequence
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rdbench.benchmark.store import refuse_within, write_text
from rdbench.errors import InputError
from rdbench.report import member_curve
from rdbench.report.columns import describe, title
from rdbench.report.comparison import Comparison, Comparisons, unit_name, written_p
from rdbench.report.reread import Reread

if TYPE_CHECKING:
    from plotly.graph_objects import Figure

COLOURS = ("#0072b2", "#d55e00", "#009e73", "#b0538f", "#a87900", "#7a4a1e", "#1d2125")
"""After Okabe and Ito; dashes and symbols go on where they repeat."""
DASHES = ("solid", "dash", "dot", "dashdot")
INK, SOFT, LINE = "#1d2125", "#5b646d", "#e2e3de"
PANEL = 300
"""Height of a curve's panel in pixels."""
HEAD = '<meta name="viewport" content="width=device-width"><style>body {min-width: 50rem}</style>'
"""Two panels beside each other need that width; a narrower window scrolls."""


def check_figure_path(path: Path | None) -> None:
    """Raise InputError unless a figure can be written under that name."""
    if path is not None and path.suffix.lower() not in (".html", ".htm"):
        raise InputError(f"--out {path}: figures are written as .html")
    if path is not None:
        refuse_within(path)


def write_figure(figure: Figure, path: Path, name: str) -> None:
    """Write the figure as one HTML file whose title is `name`. Raises InputError if that cannot be done."""
    config = {"displayModeBar": False, "responsive": True}
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        page = figure.to_html(include_plotlyjs=True, full_html=True, config=config)
        head = f"<head><title>{escape(name)}</title>{HEAD}"
        write_text(path, page.replace("<html>", '<html lang="en">', 1).replace("<head>", head, 1))
        path.chmod(0o644)
    except OSError as error:
        raise InputError(f"cannot write {path}: {error.strerror}") from error


def comparison_figure(comparisons: Comparisons) -> Figure:
    """One panel per condition and metric: every pair's difference, and their median with its interval."""
    found = [c for c in comparisons.found if len(c.differences)]
    if not found:
        raise InputError("there is no pair to draw")
    places = list(dict.fromkeys((c.condition, c.metric) for c in found))
    others = list(dict.fromkeys(c.other for c in found))
    several = len({condition for condition, _ in places}) > 1
    height = 70 + 42 * len(others)
    figure, rows = _panels([_panel_title(c, m, several) for c, m in places], height, gap=65, shared_y=True)
    for i, (condition, metric) in enumerate(places):
        at = {"row": i // 2 + 1, "col": i % 2 + 1}
        shown = [c for c in found if (c.condition, c.metric) == (condition, metric)]
        for c in shown:
            _draw_pairs(figure, c, others.index(c.other), at)
        reach = 1.15 * max(max(abs(d) for d in c.differences.tolist()) for c in shown) or 1.0
        figure.update_xaxes(range=[-reach, reach], **at)
        figure.add_vline(x=0, line={"color": SOFT, "width": 1}, **at)
    ticks = {"tickvals": list(range(len(others))), "ticktext": [_short(name) for name in others]}
    figure.update_yaxes(range=[len(others) - 0.4, -0.6], showgrid=False, **ticks)
    figure.update_xaxes(nticks=5)
    reference = escape(found[0].reference)
    words = f"{reference} against {escape(', '.join(others))}"
    note = (
        f"Differences per pair (dataset, category, seed); right of the line <b>{reference}</b> is better.<br>"
        "Diamond and bar: median and its 95 % interval (from six pairs on).<br>p: Wilcoxon's signed rank, after Holm."
    )
    _dress(figure, words, note, rows * height, legend=False)
    return figure


def _draw_pairs(figure: Figure, c: Comparison, y: int, at: dict[str, int]) -> None:
    import plotly.graph_objects as go

    colour = COLOURS[y % len(COLOURS)]
    spread = [((j * 0.618) % 1 - 0.5) * 0.36 for j in range(len(c.differences))]  # so that equal pairs stay apart
    hover = [f"{escape(unit_name(unit))}: {d:+.4g}" for unit, d in zip(c.units, c.differences.tolist(), strict=True)]
    marker = {"color": colour, "opacity": 0.45, "size": 7}
    figure.add_trace(
        go.Scatter(
            x=c.differences, y=[y + s for s in spread], mode="markers", marker=marker, text=hover,
            hovertemplate="%{text}<extra></extra>",
        ), **at,
    )  # fmt: skip
    error = None if math.isnan(c.low) else {
        "type": "data", "symmetric": False, "array": [c.high - c.median], "arrayminus": [c.median - c.low],
        "thickness": 2, "width": 5, "color": INK,
    }  # fmt: skip
    figure.add_trace(
        go.Scatter(
            x=[c.median], y=[y], error_x=error, mode="markers",
            marker={"color": INK, "size": 10, "symbol": "diamond", "line": {"color": "white", "width": 1}},
            text=[escape(c.verdict)], hovertemplate="median %{x:.4g}: %{text}<extra></extra>",
        ), **at,
    )  # fmt: skip
    p = "no p" if math.isnan(c.p_holm) else f"p {written_p(c.p_holm)}"
    figure.add_annotation(
        x=1,
        xref="x domain",
        xanchor="left",
        xshift=6,
        y=y,
        text=p,
        showarrow=False,
        font={"size": 11, "color": SOFT},
        **at,
    )


def curve_figure(curves: Reread) -> Figure:
    """One panel per metric: its mean over the number of members, with the standard deviation over seeds behind it."""
    if not curves.tables:
        raise InputError("there is no curve to draw")
    import plotly.graph_objects as go

    kinds = [
        "method",
        *(c for c in ("condition", "dataset", "backbone", "weights", "width") if curves.rows[c].nunique() > 1),
    ]
    figure, rows = _panels([_panel_title("", m, several=False) for m in member_curve.METRICS], PANEL, gap=95)
    for i, (_, table) in enumerate(curves.tables):
        name = escape(" · ".join(str(table[kind].iloc[0]) for kind in kinds))
        colour, dash = COLOURS[i % len(COLOURS)], DASHES[i // len(COLOURS) % len(DASHES)]
        for j, metric in enumerate(member_curve.METRICS):
            at = {"row": j // 2 + 1, "col": j % 2 + 1}
            points = table[table["metric"] == metric].dropna(subset=["value"])
            band = points.dropna(subset=["std"])
            if len(band):
                high, low = band["value"] + band["std"], band["value"] - band["std"]
                x, y = [*band["members"], *band["members"][::-1]], [*high, *low[::-1]]
                figure.add_trace(
                    go.Scatter(
                        x=x, y=y, fill="toself", fillcolor=colour, opacity=0.15, mode="lines", line={"width": 0},
                        hoverinfo="skip", legendgroup=name, showlegend=False,
                    ), **at,
                )  # fmt: skip
            figure.add_trace(
                go.Scatter(
                    x=points["members"], y=points["value"], name=name, legendgroup=name, showlegend=j == 0,
                    mode="lines+markers", line={"color": colour, "dash": dash, "width": 2}, marker={"size": 6},
                    hovertemplate="%{x} members: %{y:.4f}<extra>" + name + "</extra>",
                ), **at,
            )  # fmt: skip
    step = math.ceil(int(curves.rows["members"].max()) / 10)  # whole: of three members plotly would mark halves
    figure.update_xaxes(title={"text": "members k", "font": {"size": 12}}, rangemode="tozero", dtick=step)
    _dress(
        figure,
        "Figures over the number of members",
        escape(member_curve.NOTE).replace(". ", ".<br>"),
        rows * PANEL,
        legend=True,
    )
    return figure


def _panels(titles: Sequence[str], height: int, gap: int, *, shared_y: bool = False) -> tuple[Figure, int]:
    """An empty figure of two columns, rows of `height` with `gap` pixels between them, and how many rows it has."""
    from plotly.subplots import make_subplots

    rows = math.ceil(len(titles) / 2)
    figure = make_subplots(
        rows=rows, cols=2, subplot_titles=titles, shared_yaxes=shared_y,
        vertical_spacing=gap / (rows * height), horizontal_spacing=0.1,
    )  # fmt: skip
    return figure, rows


def _panel_title(condition: str, metric: str, several: bool) -> str:
    arrow = {"higher": " \u2191", "lower": " \u2193"}.get(describe(metric).direction, "")
    return escape(title(metric)) + arrow + (f" · {escape(condition)}" if several else "")


def _short(name: str) -> str:
    """A label that leaves room for the panels."""
    return escape(name).replace("[", "<br>[", 1)


def _dress(figure: Figure, words: str, note: str, height: int, *, legend: bool) -> None:
    """Title, note, fonts and lines, the same for all figures."""
    heading: dict[str, Any] = {
        "text": f"{words}<br><span style='font-size:12px;color:{SOFT}'>{note}</span>",
        "x": 0.01, "xanchor": "left", "y": 1, "yref": "container", "yanchor": "top", "pad": {"t": 18},
        "font": {"size": 18, "color": INK},
    }  # fmt: skip
    figure.update_layout(
        title=heading, template="simple_white", height=height + 240, showlegend=legend,
        margin={"l": 20, "r": 70, "t": 150, "b": 90},
        font={"family": "system-ui, sans-serif", "size": 12, "color": INK},
        legend={"orientation": "h", "y": 0, "yref": "container", "yanchor": "bottom", "x": 0},
    )  # fmt: skip
    figure.update_xaxes(showgrid=True, gridcolor=LINE, automargin=True)
    figure.update_yaxes(gridcolor=LINE, automargin=True)
    figure.update_annotations(font_size=13, selector={"xanchor": "center"})
