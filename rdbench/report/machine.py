"""The page's figures for machines: `leaderboard.json` and `leaderboard.csv`."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Iterator, Sequence
from typing import Any

from rdbench.report.boards import Board
from rdbench.report.rankings import Ranking
from rdbench.report.standings import CriticalDifference, best_and_tied
from rdbench.report.tidy import no_formula
from rdbench.report.views import BEST, TIED

COLUMNS = (
    "board", "dataset", "custom", "backbone", "weights", "width", "height", "alpha", "protocol", "unattained", "idle",
    "method", "ranked", "condition", "metric", "value", "low", "high", "cells", "of_cells", "rank_low", "rank_high",
    "mark", "note",
)  # fmt: skip


def leaderboard_json(boards: Sequence[Board]) -> dict[str, Any]:
    """Every board with its methods, the cells that they come from, and every mean with interval, counts and caveats."""
    interval = "95 %, over test parts and seeds; over seeds alone for figures whose cells have none"
    return {"schema": 1, "interval": interval, "boards": [_board(board) for board in boards]}


def leaderboard_csv(boards: Sequence[Board]) -> str:
    """The means as rows, one per board, method, condition and metric; undefined numbers are empty."""
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(COLUMNS)
    for board in boards:
        spec, height_width = board.ranking.spec, board.ranking.spec.image_size
        shared = (
            board.id, spec.dataset, board.ranking.custom, spec.backbone, spec.weights, height_width[1], height_width[0],
            board.ranking.alpha, spec.protocol, board.ranking.unattained, board.ranking.idle,
        )  # fmt: skip
        for method, condition, figure in _figures(board):
            rank = board.standings[board.ranking.conditions.index(condition)].ranks.get(method)
            ranks = (rank.low, rank.high) if rank and figure["metric"] == "augrc" else (None, None)
            values = (figure[key] for key in ("metric", "value", "low", "high", "cells", "of_cells"))
            name, ranked = board.ranking.methods[method], bool(board.ranking.complete[method])
            row = (*shared, name, ranked, condition, *values, *ranks, figure["mark"], figure["note"])
            writer.writerow(map(no_formula, row))
    return buffer.getvalue()


def _board(board: Board) -> dict[str, Any]:
    ranking = board.ranking
    spec = ranking.spec
    figures: dict[int, dict[str, list[dict[str, Any]]]] = {}
    for method, condition, figure in _figures(board):
        figures.setdefault(method, {}).setdefault(condition, []).append(figure)
    return {
        "id": board.id,
        "dataset": spec.dataset,
        "custom": ranking.custom,
        "backbone": spec.backbone,
        "weights": spec.weights,
        "weights_sha256": spec.weights_sha256,
        "image_size": list(spec.image_size),
        "alpha": ranking.alpha,
        "unattained": ranking.unattained,
        "idle": ranking.idle,
        "protocol": spec.protocol,
        "categories": list(ranking.categories),
        "seeds": list(ranking.seeds),
        "standing": {
            condition: {
                "least_difference": None if math.isnan(standing.least) else standing.least,
                "ranks": {ranking.methods[m]: [rank.low, rank.high] for m, rank in standing.ranks.items()},
                "critical_difference": _critical(ranking, standing.critical),
            }
            for condition, standing in zip(ranking.conditions, board.standings, strict=True)
        },
        "methods": [
            {
                "name": name,
                "page": board.page_of(m),
                "ranked": bool(ranking.complete[m]),
                "cells": [
                    {
                        "origin": source.origin,
                        "category": source.result.spec.category,
                        "seed": source.result.spec.seed,
                        "spec": source.result.spec.digest(),
                        "predictions_sha256": source.result.predictions_sha256,
                    }
                    for source in ranking.cells_of(m)
                ],
                "figures": figures.get(m, {}),
            }
            for m, name in enumerate(ranking.methods)
        ],
    }


def _critical(ranking: Ranking, found: CriticalDifference | None) -> dict[str, Any] | None:
    """Mean ranks by method, best first, and the groups in which no two methods differ."""
    if found is None:
        return None
    names = [ranking.methods[m] for m in found.methods]
    return {
        "cells": found.cells,
        "mean_ranks": dict(zip(names, found.ranks, strict=True)),
        "alike": [names[first : last + 1] for first, last in found.groups],
    }


def _figures(board: Board) -> Iterator[tuple[int, str, dict[str, Any]]]:
    """Method, condition and figure of every mean that the board has, or has a reason not to have."""
    ranking, mean = board.ranking, board.mean
    for k, condition in enumerate(ranking.conditions):
        best, tied = best_and_tied(ranking, k, ranking.metrics)
        for m in range(len(ranking.methods)):
            cells = int(mean.defined[m, k].max())
            arrays = (mean.value[m, k], mean.low[m, k], mean.high[m, k], mean.defined[m, k], best[m], tied[m])
            for f, (metric, *numbers, defined, is_best, is_tied) in enumerate(
                zip(ranking.metrics, *(array.tolist() for array in arrays), strict=True)
            ):
                note = ranking.why_undefined(m, k, f)
                value, low, high = (None if math.isnan(number) else number for number in numbers)
                if value is None and not note:
                    continue
                yield (
                    m,
                    condition,
                    {
                        "metric": metric,
                        "value": value,
                        "low": low,
                        "high": high,
                        "cells": defined,
                        "of_cells": cells,
                        "mark": BEST if is_best else TIED if is_tied else "",
                        "note": note,
                    },
                )
