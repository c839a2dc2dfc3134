"""The leaderboard: a static site that opens from the file system and needs no network."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from rdbench import __version__
from rdbench.benchmark.results import PROTOCOL_VERSION, CellResult
from rdbench.errors import InputError
from rdbench.report.assets import leaderboard_directory
from rdbench.report.columns import describe, title, written
from rdbench.report.entries import read_entries as read_entries
from rdbench.report.rankings import Ranking, make_rankings
from rdbench.report.views import TRACK, Row, shown_columns, table_rows


def write_site(results: Sequence[CellResult], out: Path) -> Path:
    """Write the page and what it needs below `out`, and return the path of the page to open.

    Raises InputError if `out` cannot be written.
    """
    environment = Environment(
        loader=FileSystemLoader(leaderboard_directory("templates")),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.globals |= {"version": __version__, "protocol": PROTOCOL_VERSION, "track": TRACK}
    rankings = [_section(index, ranking) for index, ranking in enumerate(make_rankings(results))]
    page = environment.get_template("index.html").render(root="", rankings=rankings, reference="deterministic")
    try:
        out.mkdir(parents=True, exist_ok=True)
        shutil.copytree(leaderboard_directory("static"), out / "static", dirs_exist_ok=True)
        (out / "index.html").write_text(page, encoding="utf-8")
    except OSError as error:
        raise InputError(f"cannot write the site to {out}: {error.strerror}; choose another --out") from error
    return out / "index.html"


def _section(index: int, ranking: Ranking) -> dict[str, Any]:
    spec = ranking.spec
    height, width = spec.image_size
    columns = shown_columns(ranking)
    views = [table_rows(ranking, columns, condition) for condition in range(len(ranking.conditions))]
    badges = ["custom data"] if ranking.custom else []
    badges += [f"{spec.weights} teacher"] if spec.weights in ("embedded", "random") else []
    cells = list(ranking.cells.values())
    levels = sorted({cell.threshold.alpha for cell in cells})
    return {
        "id": f"ranking-{index}",
        "dataset": spec.dataset,
        "custom": ranking.custom,
        "badges": badges,
        "facts": [
            f"teacher {spec.backbone} ({spec.weights})",
            f"{width} x {height} px",
            f"{_count(len(ranking.methods), 'method')}",
            f"{_count(len(ranking.categories), 'category')}",
            f"{_count(len(ranking.seeds), 'seed')}",
            f"threshold at {' and '.join(f'{100 * level:g} %' for level in levels)} false alarms, from normal images",
            f"protocol {spec.protocol}",
        ],
        "conditions": ranking.conditions,
        "columns": [
            {
                "name": name,
                "title": title(name),
                "definition": describe(name).definition,
                "direction": describe(name).direction,
            }
            for name in columns
        ],
        "rows": views[0],
        "views": {name: [_row(row) for row in rows] for name, rows in zip(ranking.conditions, views, strict=True)},
        "methods": _methods(ranking, columns),
    }


def _count(number: int, noun: str) -> str:
    plural = noun[:-1] + "ies" if noun.endswith("y") else noun + "s"
    return f"{number} {noun if number == 1 else plural}"


def _row(row: Row) -> dict[str, Any]:
    """A row as the page's script takes it."""
    figures = [(f.value, f.text, f.interval, f.band, f.note) for f in row.figures]
    return {"name": row.name, "method": row.method, "note": row.note, "figures": figures}


def _methods(ranking: Ranking, columns: Sequence[str]) -> list[dict[str, Any]]:
    """Each method's figures per category on the clean test images, its cost, and where they come from."""
    by_category = [
        {row.method: row for row in table_rows(ranking, columns, 0, category)}
        for category in range(len(ranking.categories))
    ]
    mean = ranking.mean()
    costs = [(f, name) for f, name in enumerate(ranking.metrics) if describe(name).family == "cost"]
    methods = []
    for m, name in enumerate(ranking.methods):
        cells = ranking.cells_of(m)
        methods.append(
            {
                "index": m,
                "name": name,
                "categories": [
                    {
                        "name": category,
                        "seeds": sum(place[:2] == (m, c) for place in ranking.cells),
                        "figures": by_category[c][m].figures,
                    }
                    for c, category in enumerate(ranking.categories)
                    if m in by_category[c]
                ],
                "cost": [(title(cost), written(cost, mean.value[m, 0, f])) for f, cost in costs],
                "provenance": _provenance(cells),
            }
        )
    return methods


def _provenance(cells: Sequence[CellResult]) -> list[tuple[str, str]]:
    """Where a method's results come from; what differs between its cells is listed."""

    def all_of(values: list[str]) -> str:
        return ", ".join(dict.fromkeys(value for value in values if value)) or "unknown"

    made = [cell.provenance for cell in cells]
    specs = [cell.spec for cell in cells]
    return [
        ("Options", all_of([", ".join(f"{k}={v}" for k, v in spec.options.items()) for spec in specs])),
        ("Training", all_of([f"{s.epochs} epochs, batch {s.batch_size}, {s.precision}" for s in specs])),
        ("Calibration images", all_of([cell.split.calibration_source for cell in cells])),
        ("Intervals of cells", all_of([cell.interval for cell in cells])),
        ("Made", all_of([p.created[:10] for p in made])),
        ("Device", all_of([p.device for p in made])),
        ("rdbench", all_of([p.rdbench for p in made])),
        ("Packages", all_of([", ".join(f"{k} {v}" for k, v in p.packages.items()) for p in made])),
        ("Commit", all_of([p.git_commit[:12] + (" with changes" if p.git_dirty else "") for p in made])),
        ("Method source", all_of([spec.method_sha256[:12] for spec in specs])),
        ("Predictions", f"{len(cells)} cells; first {cells[0].predictions_sha256[:12]}"),
    ]
