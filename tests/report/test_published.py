"""What is published: the entries in `leaderboard/results/`, and the site that `make site` writes of them."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest

from tests.command import Command

LEADERBOARD = Path(__file__).parents[2] / "leaderboard"
ENTRIES = sorted((LEADERBOARD / "results").glob("*/*.json"))
LIBRARIES = {Path("static/datatables.js"), Path("static/plotly.js")}
FRACTION = re.compile(r"\d+\.\d+(?:e[+-]?\d+)?")


@pytest.fixture
def written(rdbench: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)  # where no runs are
    assert rdbench("leaderboard", "--results", LEADERBOARD / "results", "--out", tmp_path / "site").code == 0
    return tmp_path / "site"


def files_in(site: Path) -> set[Path]:
    return {path.relative_to(site) for path in site.rglob("*") if path.is_file()} - LIBRARIES


def test_every_published_entry_is_sound(rdbench: Command) -> None:
    assert len(ENTRIES) >= 22, "those of the magnetic tiles"
    done = rdbench("validate", *ENTRIES)
    assert done.code == 0, done.err
    assert done.out.count(": sound") == len(ENTRIES)


def test_the_published_site_is_what_its_entries_give(written: Path) -> None:
    """Word for word; fractions to rounding, which differs between processors."""
    site = LEADERBOARD / "site"
    assert files_in(site) == files_in(written), "make site writes it again"
    for name in sorted(files_in(site)):
        there, now = ((folder / name).read_text(encoding="utf-8") for folder in (site, written))
        assert FRACTION.sub("#", there) == FRACTION.sub("#", now), f"{name}: make site writes it again"
        numbers = [np.array(FRACTION.findall(text), dtype=float) for text in (there, now)]
        np.testing.assert_allclose(*numbers, rtol=1e-6, atol=1e-9, err_msg=str(name))
