"""What the pages' templates are given: plain values, already written."""

from __future__ import annotations

import re
import shlex
from collections.abc import Container, Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from rdbench.benchmark.results import CLEAN, CellResult, slug
from rdbench.method_file import MethodFile
from rdbench.report.boards import TEACHERS_APART, Board
from rdbench.report.columns import TIMES, describe, title, written, written_interval
from rdbench.report.derived import COST_RATIOS
from rdbench.report.entries import Source
from rdbench.report.gallery import Shown, pictures
from rdbench.report.rankings import Ranking
from rdbench.report.standings import LEAD
from rdbench.report.views import CONTROL_NAMES, Written
from rdbench.words import count

Facts = list[tuple[str, str]]
SAME_UNDER_ALL_CONDITIONS = ("image_auroc_shifted", "image_auroc_lightings", *COST_RATIOS)
"""Columns that would say one thing in every row of a table by condition."""
NO_BREAK_HYPHEN = "\N{NON-BREAKING HYPHEN}"


def columns(board: Board) -> list[dict[str, str]]:
    """The table's columns after the method's name."""
    rank = {
        "name": "rank", "title": "Rank", "direction": "lower",
        "definition": "95 % interval of the rank by AUGRC, over test parts and seeds",
    }  # fmt: skip
    described = [describe(name) for name in board.columns]
    return [
        rank,
        *(
            {"name": m.name, "title": unbroken(title(m.name)), "direction": m.direction, "definition": m.definition}
            for m in described
        ),
    ]


def unbroken(words: str) -> str:
    """A column's title that breaks at whole words only, and never before a lone sign."""
    return re.sub(f" (?=[{TIMES}%])", "\N{NO-BREAK SPACE}", words.replace("-", NO_BREAK_HYPHEN))


def under(ranking: Ranking, condition: str) -> str:
    """A condition in words."""
    if condition == CLEAN:
        return "all lightings" if ranking.lightings else CLEAN
    if condition in ranking.lightings:
        return f"lighting: {condition}"
    return condition


def section(board: Board) -> dict[str, Any]:
    """A board as the first page shows it, under its first condition."""
    ranking = board.ranking
    return {
        "id": board.id,
        "label": ", ".join([ranking.spec.backbone, _pixels(board), *badges(board)]),
        "dataset": ranking.spec.dataset,
        "name": ranking.name,
        "custom": ranking.custom,
        "cautions": ranking.cautions,
        "badges": badges(board),
        "facts": [count(len(ranking.methods), "method"), *facts(board)],
        "columns": columns(board),
        "rows": board.rows(0),
        "sureness": sureness(board, 0),
        "reference": ranking.methods[ranking.reference(0)],
        "methods": [
            {"name": name, "page": board.page_of(m), "index": m} for m, name in enumerate(ranking.methods)
        ],
        "script": script_data(board),
    }  # fmt: skip


def script_data(board: Board) -> dict[str, Any]:
    """What the page's script must know of a board before it fetches a condition's file."""
    return {
        "columns": [{"name": c["name"], "title": c["title"], "direction": c["direction"]} for c in columns(board)],
        "methods": [[name, board.page_of(m)] for m, name in enumerate(board.ranking.methods)],
        "controls": list(CONTROL_NAMES.values()),
        "reference": board.ranking.reference(0),
        "conditions": {
            name: [board.data_path(name), board.data_path(name, "categories"), under(board.ranking, name)]
            for name in board.ranking.conditions
        },
        "trends": board.data_path("", "trends"),
        "categories": board.ranking.categories,
    }


def badges(board: Board) -> list[str]:
    """Marks of results that are not to be mistaken for the usual ones."""
    weights = board.ranking.spec.weights
    marks = [f"{weights} teacher"] if weights in TEACHERS_APART else []
    return marks + ([board.ranking.level] if board.ranking.level else [])


def facts(board: Board) -> list[str]:
    """What the results of a board have in common."""
    ranking = board.ranking
    backbone, weights = ranking.spec.backbone, ranking.spec.weights
    return [
        f"teacher {backbone}" + (f" ({weights})" if weights != backbone else ""),
        _pixels(board),
        ranking.extent,
        count(len(ranking.seeds), "seed"),
        f"threshold at {100 * ranking.alpha:g} % false alarms, from normal images",
        f"protocol {ranking.spec.protocol}",
    ]


def sureness(board: Board, condition: int) -> str:
    """What the board can tell apart under one condition, in a sentence."""
    standing = board.standings[condition]
    if np.isnan(standing.least):
        return "One method or no failures: there is nothing to rank."
    ranked = count(len(standing.ranks), "method")
    return (
        f"With these parts and seeds a difference to the best of less than about {written(LEAD, standing.least)} in "
        f"AUGRC cannot be told from chance; {ranked} ranked."
    )


def _pixels(board: Board) -> str:
    height, width = board.ranking.spec.image_size
    return f"{width} x {height} px"


def method_page(
    board: Board, method: int, files: Mapping[str, MethodFile], kept: Mapping[str, Shown]
) -> dict[str, Any]:
    """All of one method on one board: what it is, per category and condition, cost, provenance, cells."""
    ranking, mean = board.ranking, board.mean
    sources = ranking.cells_of(method)
    cells = [source.result for source in sources]
    file = files.get(cells[0].spec.method)
    elsewhere = file is None or not file.is_installed
    at_hand = file is not None and {cell.spec.method_sha256 for cell in cells} == {file.sha256}
    return {
        "name": ranking.methods[method],
        "dataset": ranking.name,
        "badges": badges(board),
        "facts": facts(board),
        "cautions": ranking.cautions,
        "description": reflowed(file.description) if file is not None and at_hand else "",
        "options": _options(cells, file if at_hand else None),
        "condition_columns": _table_columns(board, SAME_UNDER_ALL_CONDITIONS),
        "by_condition": [
            (under(ranking, name), _figures(board, row.figures, SAME_UNDER_ALL_CONDITIONS))
            for k, name in enumerate(ranking.conditions)
            for row in board.rows(k)
            if row.method == method
        ],
        "images": "all lightings" if ranking.lightings else "clean test images",
        "category_columns": _table_columns(board, COST_RATIOS),
        "by_category": [
            (name, ranking.seeds_of(method, c), _figures(board, row.figures, COST_RATIOS))
            for c, name in enumerate(ranking.categories)
            for row in board.rows(0, c)
            if row.method == method
        ],
        "cost": [
            (title(name), note or written(name, value), written_interval(name, low, high), describe(name).definition)
            for f, name in enumerate(ranking.metrics)
            for value, low, high in [(array[method, 0, f] for array in (mean.value, mean.low, mean.high))]
            for note in [ranking.why_undefined(method, 0, f) if np.isnan(value) else ""]
            if (describe(name).family == "cost" or name.endswith("_ratio")) and (note or not np.isnan(value))
        ],
        "provenance": provenance(cells),
        "commands": commands(cells, elsewhere=elsewhere),
        "needs": f"{cells[0].spec.method}.py" if elsewhere else "",
        "gallery": [
            {
                "path": path,
                "rule": f"{picture.category}, {picture.rule}.",
                "text": picture.text,
                "panels": list(zip(("anomaly map", "uncertainty map"), picture.scales, strict=False)),
                "alt": f"Image and maps of {picture.text}",
            }
            for path, picture in kept.items()
        ],
        "cells": [
            {
                "category": source.result.spec.category,
                "seed": source.result.spec.seed,
                "origin": source.origin,
                "spec": source.result.spec.digest(),
                "predictions": source.result.predictions_sha256,
                "threshold": f"{source.result.threshold.value:.4g}",
                "level": f"{100 * source.result.threshold.level:.3g} %",
                "images": f"{source.result.split.test} ({source.result.split.test_anomalous} anomalous)",
            }
            for source in sources
        ],
    }


def reflowed(text: str) -> str:
    """Paragraphs without the line breaks of the source; lines that are indented or listed keep theirs."""
    return re.sub(r"(?<=\S)\n(?=[^\s*-])", " ", text)


def _table_columns(board: Board, left_out: Container[str]) -> list[dict[str, str]]:
    """The board's columns for a table of one method, which needs no rank."""
    return [column for column in columns(board)[1:] if column["name"] not in left_out]


def _figures(board: Board, figures: Sequence[Written], left_out: Container[str]) -> list[Written]:
    """A row's figures in those columns."""
    return [figure for name, figure in zip(board.columns, figures[1:], strict=True) if name not in left_out]


def gallery(board: Board, method: int) -> dict[str, Shown]:
    """The pictures of the method's first seed in each category, by their path below the site."""
    first: dict[str, Source] = {}
    for source in board.ranking.cells_of(method):
        first.setdefault(source.result.spec.category, source)
    folder = f"gallery/{board.id}-{slug(board.ranking.methods[method])}"
    return {
        f"{folder}/{slug(category)}-{picture.path.name}": picture
        for category, source in first.items()
        for picture in pictures(source)
    }


def _options(cells: Sequence[CellResult], file: MethodFile | None) -> list[tuple[str, str, str]]:
    """Name, value and help of each option."""
    helps = {option.name: option.help for option in file.options} if file else {}
    values: dict[str, list[str]] = {}
    for cell in cells:
        for name, value in cell.spec.options.items():
            values.setdefault(name, []).append(str(value))
    return [(name, _each(found), helps.get(name, "")) for name, found in values.items()]


def provenance(cells: Sequence[CellResult]) -> Facts:
    """Where a method's results come from; what differs between its cells is listed."""
    made = [cell.provenance for cell in cells]
    specs = [cell.spec for cell in cells]
    return [
        ("Training", _each(f"{count(s.epochs, 'epoch')}, batch {s.batch_size}, {s.precision}" for s in specs)),
        ("Calibration images", _each(cell.split.calibration_source for cell in cells)),
        ("Intervals of cells", _each(cell.interval for cell in cells)),
        ("Made", _each(p.created[:10] for p in made)),
        ("Device", _each(f"{p.device}, {count(p.threads, 'thread')}, {p.platform}" for p in made)),
        ("rdbench", _each(f"{p.rdbench}, protocol {s.protocol}" for p, s in zip(made, specs, strict=True))),
        ("Packages", _each(", ".join(f"{k} {v}" for k, v in p.packages.items()) for p in made)),
        ("Commit", _each(p.git_commit[:12] + (" with uncommitted changes" if p.git_dirty else "") for p in made)),
        ("Source of the method", _each(f"SHA-256 {spec.method_sha256}" for spec in specs)),
        ("Weights of the teacher", _each(f"{spec.weights}, SHA-256 {spec.weights_sha256}" for spec in specs)),
    ]


def _each(values: Iterable[str]) -> str:
    """The distinct values, in order."""
    return "; ".join(dict.fromkeys(value for value in values if value)) or "unknown"


def commands(cells: Sequence[CellResult], *, elsewhere: bool) -> list[str]:
    """The commands that make these cells again, one for each set of settings.

    `elsewhere`: the method's file is neither built in nor a package's, so that its folder must be named.
    """
    settings: dict[tuple[str, ...], tuple[dict[str, None], dict[str, None]]] = {}
    for cell in cells:
        spec = cell.spec
        height, width = spec.image_size
        words = ["--backbone", spec.backbone]
        if spec.weights == "random" or spec.weights.startswith("file/"):
            words += ["--weights", spec.weights.removeprefix("file/")]
        words += ["--image-size", str(width) if width == height else f"{width}x{height}"]
        if spec.map_size is not None:
            words += ["--map-size", f"{spec.map_size[1]}x{spec.map_size[0]}"]
        words += ["--epochs", str(spec.epochs), "--batch-size", str(spec.batch_size), "--precision", spec.precision]
        words += ["--alpha", f"{cell.threshold.alpha:g}"]
        words += [word for name in spec.conditions if ":" in name for word in ("--shift", name)]
        words += [word for key, value in spec.options.items() for word in ("-o", f"{key}={value}")]
        categories, seeds = settings.setdefault(tuple(words), ({}, {}))
        categories[spec.category] = None
        seeds[str(spec.seed)] = None
    method, dataset = cells[0].spec.method, cells[0].spec.dataset
    folder = ["--methods-dir", "METHODS"] if elsewhere else []
    root = [] if dataset == "toy" else ["--root", "DATA"]
    return [
        shlex.join(
            ["rdbench", "run", "--method", method, *folder, "--dataset", dataset, *root]
            + [word for name in categories for word in ("--category", name)]
            + [word for seed in seeds for word in ("--seed", seed)]
            + list(words)
        )
        for words, (categories, seeds) in settings.items()
    ]
