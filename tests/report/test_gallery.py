"""Pictures: which images are chosen, how values become colours, and that the site shows what a run kept."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from rdbench.benchmark.gallery import GALLERY, choose, read_gallery, write_gallery
from rdbench.errors import InputError
from rdbench.pictures import PANEL, draw, figure
from rdbench.report.leaderboard import write_site
from tests.made_up import make_predictions, make_source


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
    found = {choice.rule: choice.index for choice in choose(made, 1.0)}
    assert found == {
        "most certain, right": 2, "most certain, wrong": 3, "most uncertain, right": 5, "most uncertain, wrong": 1,
    }  # fmt: skip


def test_without_a_wrong_decision_there_is_no_picture_of_one():
    rules = [choice.rule for choice in choose(predictions([0, 1], [0, 2], [1, 1]), 1.0)]
    assert rules == ["most certain, right", "most uncertain, right"]


def test_the_scale_of_a_map_ends_where_it_is_said_to():
    image = np.full((40, 80, 3), 200, np.uint8)
    maps = np.zeros((10, 20)) + np.array([0.0, 1.0, 2.0, 9.0]).repeat(5)
    strip = np.asarray(draw(image, maps, anomaly_end=2.0))
    assert strip.shape == (PANEL, 2 * 512 + 4, 3)
    assert (strip[:, :500] == 200).all()
    row = strip[PANEL // 2, 512 + 4 :]
    low, middle, high, beyond = (row[x].tolist() for x in (40, 192, 320, 480))
    assert low == [0, 34, 78]
    assert middle == [124, 123, 120]
    assert high == beyond == [255, 234, 70]


def test_an_uncertainty_map_is_a_third_panel_and_may_be_empty():
    strip = draw(np.zeros((8, 8, 3), np.uint8), np.zeros((8, 8)), 2.0, np.zeros((8, 8)))
    assert strip.size == (3 * PANEL + 8, PANEL)


def test_a_figure_has_room_for_words_titles_and_scales():
    image = np.full((64, 64, 3), 90, np.uint8)
    plain = draw(image, np.zeros((8, 8)), 2.0, np.zeros((8, 8)))
    drawn = figure(image, np.zeros((8, 8)), 1.0, np.ones((8, 8)), ["a name that is quite long " * 10, "normal"])
    assert drawn.width > plain.width
    assert drawn.height > plain.height + 80
    without = figure(image, np.zeros((8, 8)), 1.0, None, ["normal"])
    assert without.width < plain.width


def kept(source, cell, uncertainty_maps=True):
    """Pictures of a made-up cell, as a run keeps them."""
    made, threshold = source.predictions(), source.result.threshold.value
    choices = choose(made, threshold)
    maps = np.linspace(0, 1, len(choices), dtype=np.float32)[:, None, None] + np.zeros((1, 8, 8), np.float32)
    (cell / GALLERY).mkdir(parents=True)
    write_gallery(
        cell / GALLERY, choices, np.zeros((len(choices), 8, 8, 3), np.uint8), maps,
        maps if uncertainty_maps else None, made, threshold,
    )  # fmt: skip
    return made, choices


def test_what_a_picture_shows_stands_beside_it(tmp_path):
    source = make_source("tta")
    made, choices = kept(source, tmp_path)
    gallery = read_gallery(tmp_path)
    assert gallery.threshold == source.result.threshold.value
    assert gallery.uncertainty_end == 1.0
    assert [picture.rule for picture in gallery.pictures] == [choice.rule for choice in choices]
    for picture, choice in zip(gallery.pictures, choices, strict=True):
        i = choice.index
        assert (picture.image, picture.label) == (made.images[i], made.labels[i])
        assert (picture.score, picture.uncertainty) == (made.scores[0, i], made.uncertainties[0, i])
        assert picture.anomalous == (picture.score > gallery.threshold)
        assert (picture.anomalous == picture.label) == choice.rule.endswith("right")
        assert (tmp_path / GALLERY / picture.file).stat().st_size < 50_000


def test_a_run_without_pictures_has_none_and_damaged_ones_are_named(tmp_path):
    assert read_gallery(tmp_path) is None
    (tmp_path / GALLERY).mkdir()
    (tmp_path / GALLERY / "gallery.json").write_text("{")
    with pytest.raises(InputError, match=r"gallery\.json"):
        read_gallery(tmp_path)


@pytest.mark.parametrize("maps", [True, False])
def test_the_site_shows_what_a_run_kept(tmp_path, maps):
    source = make_source("tta")
    made, choices = kept(source, tmp_path / "cell", uncertainty_maps=maps)
    page = write_site([replace(source, directory=tmp_path / "cell")], tmp_path / "site")
    text = next((page.parent / "methods").glob("*.html")).read_text()
    for choice in choices:
        assert made.images[choice.index] in text
        assert choice.rule in text
    assert text.count("<img ") == len(choices) == len(list((page.parent / "gallery").rglob("*.jpg")))
    assert text.count("<span>uncertainty map<") == (len(choices) if maps else 0)


def test_a_site_without_pictures_keeps_none_of_an_earlier_one(tmp_path):
    source = make_source("tta")
    kept(source, tmp_path / "cell")
    own = replace(source, directory=tmp_path / "cell")
    site = write_site([own], tmp_path / "site").parent
    assert list(site.rglob("*.jpg"))
    write_site([own], site, with_pictures=False)
    assert not (site / "gallery").exists()


def test_a_site_without_pictures_is_not_written_where_others_lie(tmp_path):
    """Of a site from before, say, whose list of files a later one has replaced; or somebody's own."""
    source = make_source("tta")
    kept(source, tmp_path / "cell")
    own = replace(source, directory=tmp_path / "cell")
    site = write_site([own], tmp_path / "site").parent
    (site / "gallery" / "old").mkdir()
    (site / "gallery" / "old" / "one.jpg").write_bytes(b"")
    before = sorted(site.rglob("*"))
    with pytest.raises(InputError, match=r"old/one\.jpg is no picture of the site that .* names.*another --out"):
        write_site([own], site, with_pictures=False)
    assert sorted(site.rglob("*")) == before
    write_site([own], site)
    assert sorted(site.rglob("*")) == before


def test_pictures_are_left_out_when_asked_or_when_the_threshold_is_another(tmp_path):
    source = make_source("tta")
    kept(source, tmp_path / "cell")
    own = replace(source, directory=tmp_path / "cell")
    write_site([own], tmp_path / "without", with_pictures=False)
    threshold = own.result.threshold.model_copy(update={"value": 9.0})
    moved = replace(own, result=own.result.model_copy(update={"threshold": threshold}))
    write_site([moved], tmp_path / "moved")
    for site in ("without", "moved"):
        assert not list((tmp_path / site).rglob("*.jpg"))
        assert "<img" not in next((tmp_path / site / "methods").glob("*.html")).read_text()
