"""A board of one custom category under real lightings: what its pages say and draw."""

from __future__ import annotations

import json
import re

import numpy as np
import pandas as pd
import pytest

from rdbench.report.boards import make_board
from rdbench.report.leaderboard import write_site
from rdbench.report.rankings import make_rankings
from rdbench.report.standings import best_and_tied
from tests.report.test_leaderboard import received

NAME = "tile (custom data, laid out as mvtec_ad2)"


@pytest.fixture(scope="module")
def site(lit, tmp_path_factory):
    return write_site(lit, tmp_path_factory.mktemp("lit") / "site").parent


def script(site):
    """What the first page hands to its script of the only board."""
    page = (site / "index.html").read_text()
    return json.loads(re.search(r'class="board-data">(.*?)</script>', page, re.S).group(1))


def test_custom_data_is_called_by_its_own_name(site):
    page = (site / "index.html").read_text()
    assert f">{NAME}</h2>" in page
    assert f">{NAME}: resnet18, 256 x 256 px</option>" in page
    method = next((site / "methods").glob("*tta.html")).read_text()
    assert f"<title>tta on {NAME} \N{EN DASH} rdbench</title>" in method
    assert f">Leaderboard, {NAME}</a>" in method
    assert "4 methods" in page
    assert "4 methods" not in method


def test_with_real_lightings_the_whole_test_set_is_not_called_clean(site):
    words = [condition[2] for condition in script(site)["conditions"].values()]
    assert words == ["all lightings", "lighting: regular", "lighting: overexposed", "lighting: underexposed"]
    method = next((site / "methods").glob("*tta.html")).read_text()
    assert "By category, all lightings" in method
    assert re.findall(r'<th scope="row">(lighting: \w+|all lightings|clean)</th>', method) == words
    assert "clean test images" not in method


def test_figures_are_drawn_over_the_lightings_the_regular_one_first(lit, site, tmp_path):
    [trends] = [content for name, content in received(site.parent).items() if name.endswith("/trends")]
    assert trends["kinds"] == {"real lightings": ["regular", "overexposed", "underexposed"]}
    ranking = make_board(make_rankings(lit)[0]).ranking
    m = ranking.methods.index("mc_dropout")
    for at, lighting in enumerate(trends["kinds"]["real lightings"]):
        cells = [s.result.image[lighting]["augrc"].value for s in lit if s.result.spec.method == "mc_dropout"]
        assert trends["points"]["augrc"]["real lightings"][m][at][0] == pytest.approx(np.mean(cells), abs=1e-4)


def test_auroc_under_the_other_lights_leaves_out_the_regular_one(lit):
    [ranking] = make_rankings(lit)
    f = ranking.metrics.index("image_auroc_lightings")
    image = lit[0].result.image
    expected = (image["overexposed"]["image_auroc"].value + image["underexposed"]["image_auroc"].value) / 2
    assert ranking.value[0, 0, 0, :, f] == pytest.approx(np.full(4, expected))
    assert np.isnan(ranking.value[..., ranking.metrics.index("image_auroc_shifted")]).all()


def test_failures_say_of_how_many_images(lit):
    board = make_board(make_rankings(lit)[0])
    for condition, images in (("clean", 120), ("regular", 40)):
        rows = board.rows(board.ranking.conditions.index(condition))
        texts = [row.figures[1 + board.columns.index("failures")].text for row in rows if row.method is not None]
        assert [text.partition("/")[2] for text in texts] == [str(images)] * 4


def test_equal_figures_are_all_the_best(lit):
    [ranking] = make_rankings(lit)
    best, tied = best_and_tied(ranking, 0, ranking.metrics)
    f = ranking.metrics.index("image_auroc")
    twins = [ranking.methods.index(name) for name in ("deterministic", "twin")]
    assert best[twins, f].tolist() in ([True, True], [False, False])
    f = ranking.metrics.index("augrc")
    value = ranking.mean().value[:, 0, f]
    assert best[:, f].tolist() == np.isclose(value, value.min()).tolist()
    assert not (best & tied).any()


def test_nothing_is_best_in_cost_and_what_was_not_measured_says_so(lit, site):
    [ranking] = make_rankings(lit)
    best, tied = best_and_tied(ranking, 0, ranking.metrics)
    for name in ("train_ratio", "inference_ratio", "train_seconds"):
        assert not (best | tied)[:, ranking.metrics.index(name)].any()
    board = make_board(ranking)
    assert "memory_ratio" in board.columns
    at = 1 + board.columns.index("memory_ratio")
    assert {row.figures[at].text for row in board.rows(0) if row.method is not None} == {"measured on a GPU only"}
    assert "measured on a GPU only" in next((site / "methods").glob("*tta.html")).read_text()


def test_what_trains_no_less_than_deterministic_does_not_look_cheaper(make_cell):
    def cell(method, seconds, passes, parameters):
        made = make_cell(method)
        costs = {"train_seconds": seconds, "train_passes": passes, "parameters": parameters}
        return made.model_copy(
            update={"cost": made.cost | {k: made.cost["train_seconds"].model_copy(update={"value": float(v)})
                                         for k, v in costs.items()}}
        )  # fmt: skip

    cells = [
        cell("deterministic", 100, 10, 5),
        cell("smaller", 50, 10, 4),
        cell("tta", 90, 10, 5),
        cell("x", 300, 30, 5),
    ]
    [ranking] = make_rankings(cells)
    ratios = ranking.value[:, 0, 0, 0, ranking.metrics.index("train_ratio")]
    assert dict(zip(ranking.methods, ratios.tolist(), strict=True)) == pytest.approx(
        {"deterministic": 1, "smaller": 0.5, "tta": 1, "x": 3}
    )


def test_the_files_for_machines_hold_the_caveats_and_the_mean_ranks(site):
    table = pd.read_csv(site / "leaderboard.csv")
    assert table["ranked"].all()
    assert "unattained" in table
    [board] = json.loads((site / "leaderboard.json").read_text())["boards"]
    found = board["standing"]["clean"]["critical_difference"]
    assert found["cells"] == 2
    assert set(found["mean_ranks"]) == {"deterministic", "mc_dropout", "tta", "twin"}
    assert found["alike"] == [list(found["mean_ranks"])]
