"""The leaderboard: a static site that opens from the file system and needs no network."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterable
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from rdbench import __version__
from rdbench.benchmark.results import PROTOCOL_VERSION, CellResult
from rdbench.benchmark.store import refuse_within
from rdbench.errors import InputError
from rdbench.registry import find_methods
from rdbench.report.assets import leaderboard_directory
from rdbench.report.boards import Board, make_board
from rdbench.report.data_files import data_scripts
from rdbench.report.entries import Source
from rdbench.report.libraries import write_libraries
from rdbench.report.machine import leaderboard_csv, leaderboard_json
from rdbench.report.pages import gallery, method_page, section
from rdbench.report.rankings import make_rankings
from rdbench.report.views import TRACK


def write_site(
    cells: Iterable[CellResult | Source],
    out: Path,
    advance: Callable[[], None] = lambda: None,
    *,
    with_pictures: bool = True,
) -> Path:
    """Write the site below `out` and return the path of the page to open.

    Cells may be bare results; as `Source`s, with their stored predictions, they also give curves, the decision
    explorer and jointly drawn rank intervals. `advance` is called once per cell, for a progress bar. `with_pictures`
    copies the pictures that runs of one's own kept. Raises InputError if `out` lies in a store or cannot be written, or
    stored predictions are not what a result was made from.
    """
    refuse_within(out)
    boards = [make_board(ranking, advance) for ranking in make_rankings(cells)]
    try:
        _write(boards, out, with_pictures)
    except OSError as error:
        raise InputError(f"cannot write the site to {out}: {error.strerror}; choose another --out") from error
    return out / "index.html"


def _write(boards: list[Board], out: Path, with_pictures: bool) -> None:
    environment = Environment(
        loader=FileSystemLoader(leaderboard_directory("templates")),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.policies["json.dumps_kwargs"] = {"sort_keys": False}  # the order of conditions is meant
    environment.globals |= {"version": __version__, "protocol": PROTOCOL_VERSION, "track": TRACK}
    (out / "static").mkdir(parents=True, exist_ok=True)
    shutil.copytree(leaderboard_directory("static"), out / "static", dirs_exist_ok=True)
    write_libraries(out / "static")
    files = find_methods()
    template = environment.get_template("method.html")
    for board in boards:
        for path, script in data_scripts(board).items():
            _write_text(out / path, script)
        for m in range(len(board.ranking.methods)):
            kept = gallery(board, m) if with_pictures else {}
            page = template.render(root="../", board=board.id, method=method_page(board, m, files, kept))
            _write_text(out / board.page_of(m), page)
            for name, picture in kept.items():
                (out / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(picture.path, out / name)
    sections = [section(board) for board in boards]
    _write_text(out / "index.html", environment.get_template("index.html").render(root="", rankings=sections))
    _write_text(out / "leaderboard.json", json.dumps(leaderboard_json(boards), ensure_ascii=False))
    _write_text(out / "leaderboard.csv", leaderboard_csv(boards))


def _write_text(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
