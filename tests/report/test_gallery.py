"""Pictures: which images are chosen, how values become colours, and that the site shows what a run kept."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from rdbench.report.gallery import GALLERY, PANEL, choose, draw
from rdbench.report.leaderboard import write_site
from tests.report.conftest import make_predictions, make_source


def predictions(labels, scores, uncertainties):
    count = len(labels)
    made = make_predictions("tta", "grid", 0, images=count)
    spread = np.ones((len(made.conditions), 1), np.float32)
    return replace(
        made,
        labels=np.array(labels, np.int8),
        scores=spread * np.array(scores, np.float32),
        uncertainties=spread * np.array(uncertainties, np.float32),
    )


def test_the_extremes_of_right_and_wrong_decisions_are_chosen():
    made = predictions(
        [0, 0, 1, 1, 0, 1], [0, 2, 2, 0, 0, 2], [5, 4, 1, 3, 2, 6]
    )  # right, wrong, right, wrong, right x 2
    found = {choice.role: choice.index for choice in choose(made, 1.0)}
    assert found == {
        "most certain, right": 2, "most certain, wrong": 3, "most uncertain, right": 5, "most uncertain, wrong": 1,
    }  # fmt: skip


def test_without_a_wrong_decision_there_is_no_picture_of_one():
    roles = [choice.role for choice in choose(predictions([0, 1], [0, 2], [1, 1]), 1.0)]
    assert roles == ["most certain, right", "most uncertain, right"]


def test_the_middle_of_the_scale_is_the_threshold():
    image = np.full((40, 80, 3), 200, np.uint8)
    maps = np.zeros((10, 20)) + np.array([0.0, 1.0, 2.0, 9.0]).repeat(5)
    strip = np.asarray(draw(image, maps, threshold=1.0))
    assert strip.shape == (PANEL, 2 * 512 + 4, 3)
    assert (strip[:, :500] == 200).all()
    row = strip[PANEL // 2, 512 + 4 :]
    low, middle, high, beyond = (row[x].tolist() for x in (40, 192, 320, 480))
    assert low == [0, 34, 78]
    assert middle == [124, 123, 120]
    assert high == beyond == [255, 234, 70]


def test_an_uncertainty_map_is_a_third_panel_and_may_be_empty():
    strip = draw(np.zeros((8, 8, 3), np.uint8), np.zeros((8, 8)), 1.0, np.zeros((8, 8)))
    assert strip.size == (3 * PANEL + 8, PANEL)


def test_the_site_shows_what_a_run_kept(tmp_path):
    source = make_source("tta")
    cell = replace(source, directory=tmp_path / "cell")
    (tmp_path / "cell" / GALLERY).mkdir(parents=True)
    made = source.predictions()
    choices = choose(made, source.result.threshold.value)
    for choice in choices:
        strip = draw(np.zeros((8, 8, 3), np.uint8), np.zeros((8, 8)), 1.0)
        strip.save(tmp_path / "cell" / GALLERY / choice.file)
    page = write_site([cell], tmp_path / "site")
    text = next((page.parent / "methods").glob("*.html")).read_text()
    for choice in choices:
        assert made.images[choice.index] in text
        assert choice.role in text
    assert text.count("<img ") == len(choices) == len(list((page.parent / "gallery").rglob("*.jpg")))
