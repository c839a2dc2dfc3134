"""The site as files: what may share a table, what a reader is told, and that foreign text is only shown."""

import json
import re
from html.parser import HTMLParser

import numpy as np
import pytest

from rdbench.errors import InputError
from rdbench.report.entries import read_entries
from rdbench.report.leaderboard import write_site

HOSTILE = '<img src=x onerror="alert(1)"></script><script>alert(2)</script>{{ 7*7 }}'


def site(results, tmp_path):
    return write_site(results, tmp_path / "site").read_text()


def views(page):
    return [json.loads(text) for text in re.findall(r'class="views">(.*?)</script>', page, re.S)]


def test_every_ranking_has_its_table_and_says_what_it_is(make_cell, tmp_path):
    page = site(
        [
            make_cell("tta"),
            make_cell("tta", backbone="embedded", weights="embedded", weights_sha256="1" * 64),
            make_cell("tta", weights="random", weights_sha256="2" * 64),
            make_cell("tta", custom="only 10 test images"),
            make_cell("tta", image_size=(128, 256)),
        ],
        tmp_path,
    )
    assert page.count('<table class="board">') == 5
    for words in ("embedded teacher", "random teacher", "custom data", "only 10 test images", "256 x 128 px"):
        assert words in page


def test_rows_are_sorted_by_augrc_with_the_controls_among_them(make_cell, tmp_path):
    controls = {"augrc_random": 0.2, "augrc_margin": 0.1, "augrc_oracle": 0.01}
    results = [
        make_cell("deterministic", figures={"augrc": 0.15, **controls}),
        make_cell("tta", figures={"augrc": 0.05}),
        make_cell("mine", failures=0),
    ]
    [view] = views(site(results, tmp_path))
    order = [row["name"] for row in view["clean"]]
    assert order == ["oracle", "tta", "threshold margin", "deterministic", "chance", "mine"]


def test_no_failures_is_said_and_never_a_number(make_cell, tmp_path):
    page = site([make_cell("deterministic", failures=0)], tmp_path)
    [view] = views(page)
    [row] = view["clean"]
    texts = [figure[1] for figure in row["figures"] if figure[0] is None]
    assert texts.count("no failures") >= 4
    assert set(texts) == {"no failures"}


def test_figures_carry_mean_interval_and_place(make_cell, tmp_path):
    results = [make_cell("deterministic", figures={"image_auroc": 0.9}), make_cell("tta", figures={"image_auroc": 0.8})]
    [view] = views(site(results, tmp_path))
    found = {tuple(figure[:3]): figure[3] for row in view["clean"] for figure in row["figures"]}
    # the column reaches from 0.76, the lowest low, to 0.93, the highest high
    assert found[0.9, "0.900", "0.860\N{EN DASH}0.930"] == [round(10 / 17 * 100), round(14 / 17 * 100), 100]
    assert found[0.8, "0.800", "0.760\N{EN DASH}0.830"] == [0, round(4 / 17 * 100), round(7 / 17 * 100)]


def test_a_method_that_lacks_categories_is_marked(make_cell, tmp_path):
    results = [make_cell("tta", "grid"), make_cell("tta", "bolt"), make_cell("deterministic", "bolt")]
    assert "1 of 2 categories: not ranked" in site(results, tmp_path)


def test_foreign_text_is_only_shown(make_cell, tmp_path):
    cell = make_cell(HOSTILE, HOSTILE, dataset=HOSTILE, backbone=HOSTILE, weights=HOSTILE, custom=HOSTILE)
    page = site([cell.model_copy(update={"interval": HOSTILE})], tmp_path)
    tags = read_tags(page)
    assert not {tag for tag, _ in tags} & {"img", "iframe", "object", "base", "form"}
    assert not [name for _, attributes in tags for name in attributes if name.startswith("on") or name == "style"]
    scripts = [attributes for tag, attributes in tags if tag == "script"]
    assert scripts == [{"type": "application/json", "class": "views"}, {"src": "static/page.js"}]
    assert "&lt;img src=x onerror=" in page
    assert "{{ 7*7 }}" in page


def read_tags(page):
    """Every start tag that a browser would see, with its attributes."""
    tags = []
    parser = HTMLParser()
    parser.handle_starttag = lambda tag, attributes: tags.append((tag, dict(attributes)))
    parser.feed(page)
    return tags


def test_the_page_asks_nothing_of_anyone(results, tmp_path):
    page = site(results, tmp_path)
    assert "Content-Security-Policy" in page
    assert "default-src 'none'" in page
    assert not re.search(r"(?:src|href)=\"(?:https?:)?//", page)
    assert " style=" not in page


def test_without_results_the_page_says_what_to_do(tmp_path):
    assert "No results yet" in site([], tmp_path)


def test_writing_again_replaces_the_page(make_cell, tmp_path):
    site([make_cell("older")], tmp_path)
    page = site([make_cell("newer")], tmp_path)
    assert "newer" in page
    assert "older" not in page


def test_a_place_that_cannot_be_written_is_named(make_cell, tmp_path):
    (tmp_path / "site").write_text("a file")
    with pytest.raises(InputError, match="cannot write the site to"):
        site([make_cell()], tmp_path)


def write_entry(directory, made, name="tta.json", **other):
    path = directory / "toy" / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"schema": 1, "cells": [json.loads(c.model_dump_json()) for c in made]} | other))
    return path


def test_published_entries_are_read_back_as_they_were(make_cell, tmp_path):
    cells = [make_cell("tta", seed=seed) for seed in (0, 1)]
    write_entry(tmp_path, cells)
    assert read_entries(tmp_path) == cells
    with pytest.raises(InputError, match="no such directory"):
        read_entries(tmp_path / "nothing")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"schema": 2}, "schema: Input should be 1"),
        ({"cells": []}, "cells: "),
        ({"extra": 1}, "extra: Extra inputs are not permitted"),
        ({"cells": [{"spec": {}}]}, "cells.0.spec.protocol: Field required"),
    ],
)
def test_a_broken_entry_is_named_with_the_first_thing_wrong(make_cell, tmp_path, change, words):
    path = write_entry(tmp_path, [make_cell("tta")], **change)
    with pytest.raises(InputError) as caught:
        read_entries(tmp_path)
    assert str(path) in str(caught.value)
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


def test_an_entry_of_two_methods_or_without_clean_is_refused(make_cell, tmp_path):
    write_entry(tmp_path, [make_cell("tta"), make_cell("mine")])
    with pytest.raises(InputError, match="holds 2 methods or datasets"):
        read_entries(tmp_path)
    write_entry(tmp_path, [make_cell("tta", conditions=("noise:3",))])
    with pytest.raises(InputError, match=r"cells\.0\.image: the condition 'clean' is missing"):
        read_entries(tmp_path)


def test_no_torch_is_imported():
    import subprocess
    import sys

    code = (
        "import sys, rdbench.report.leaderboard, rdbench.report.tables, rdbench.report.tidy, rdbench.report.entries;"
        "sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_bands_are_whole_numbers_on_the_track(results, tmp_path):
    for view in views(site(results, tmp_path)):
        bands = [figure[3] for rows in view.values() for row in rows for figure in row["figures"] if figure[3]]
        assert bands
        array = np.array(bands)
        assert ((array >= 0) & (array <= 100)).all()
        assert (np.diff(array, axis=1) >= 0).all()
