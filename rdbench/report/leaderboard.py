"""The leaderboard: a static site that opens from the file system and needs no network."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from pydantic import BaseModel, Field, ValidationError

from rdbench import __version__
from rdbench.benchmark.results import PROTOCOL_VERSION, CellResult
from rdbench.benchmark.store import refuse_within
from rdbench.errors import InputError, reason
from rdbench.reading import read_bounded
from rdbench.report.assets import leaderboard_directory
from rdbench.report.boards import Board, make_board
from rdbench.report.data_files import data_scripts
from rdbench.report.entries import Source
from rdbench.report.libraries import write_libraries
from rdbench.report.machine import leaderboard_csv, leaderboard_json
from rdbench.report.pages import gallery, method_page, section
from rdbench.report.rankings import make_rankings
from rdbench.report.variants import files_at_hand
from rdbench.report.views import TRACK

FIGURES = "leaderboard.json"


def write_site(
    cells: Iterable[CellResult | Source],
    out: Path,
    advance: Callable[[], None] = lambda: None,
    *,
    with_pictures: bool = True,
) -> Path:
    """Write the site below `out`, in place of one that is there, and return the path of the page to open.

    Cells may be bare results; as `Source`s, with their stored predictions, they also give curves, the decision
    explorer and jointly drawn rank intervals. `advance` is called once per cell, for a progress bar. `with_pictures`
    copies the pictures that runs of one's own kept. Raises InputError if `out` lies in a store or cannot be written,
    stored predictions are not what a result was made from, or a site without pictures would have some.
    """
    refuse_within(out)
    boards = [make_board(ranking, advance) for ranking in make_rankings(cells)]
    try:
        _remove_earlier(out, with_pictures)
        _write(boards, out, with_pictures)
    except OSError as error:
        raise InputError(f"cannot write the site to {out}: {reason(error)}; choose another --out") from error
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
    # Before what it names: the next call removes that, though this one be killed halfway.
    _write_text(out / FIGURES, json.dumps(leaderboard_json(boards), ensure_ascii=False))
    shutil.copytree(leaderboard_directory("static"), out / "static", dirs_exist_ok=True)
    write_libraries(out / "static")
    files = files_at_hand()
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
    _write_text(out / "leaderboard.csv", leaderboard_csv(boards))


class _EarlierPage(BaseModel):
    page: str = Field(pattern=r"^methods/[A-Za-z0-9_-]+\.html$")


class _EarlierBoard(BaseModel):
    id: str = Field(pattern=r"^[A-Za-z0-9_-]+$")
    methods: list[_EarlierPage]


class _EarlierSite(BaseModel):
    """What `leaderboard.json` tells of the files beside it; paths in it are followed no further than these patterns."""

    boards: list[_EarlierBoard]


def _remove_earlier(out: Path, with_pictures: bool) -> None:
    """Remove the pages, data and pictures of an earlier site in `out`, and nothing else: it may be a whole web root.

    Raises InputError, before anything is removed, if pictures that are not the earlier site's would be in one without.
    """
    earlier = _earlier(out)
    if not with_pictures and (others := {p for p in (out / "gallery").rglob("*") if p.is_file()} - {*earlier}):
        raise InputError(
            f"{min(others)} is no picture of the site that {out / FIGURES} names, so it would stay in the site without "
            "pictures; remove it, or choose another --out"
        )
    for path in earlier:
        path.unlink(missing_ok=True)
    folders = {folder for path in earlier for folder in path.relative_to(out).parents if folder.name}
    for folder in sorted(folders, reverse=True):  # those within before those around them
        with suppress(OSError):  # somebody else's files are in it
            (out / folder).rmdir()


def _earlier(out: Path) -> list[Path]:
    """Pages, data and pictures that an earlier call wrote below `out`, by its `leaderboard.json`."""
    try:
        boards = _EarlierSite.model_validate_json(read_bounded(out / FIGURES)).boards
    except (OSError, ValidationError):
        return []
    pages = [out / method.page for board in boards for method in board.methods]
    data = [path for board in boards for path in (out / "data" / board.id).glob("*.js")]
    return [*pages, *data, *(path for page in pages for path in (out / "gallery" / page.stem).glob("*.jpg"))]


def _write_text(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
