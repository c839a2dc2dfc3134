"""The site as files: what may share a table, what a reader is told, and that foreign text is only shown."""

import html
import json
import re
import shutil
from html.parser import HTMLParser

import numpy as np
import pandas as pd
import pytest

from rdbench.errors import InputError
from rdbench.report.columns import TIMES
from rdbench.report.entries import published
from rdbench.report.leaderboard import write_site
from rdbench.report.pages import reflowed

HOSTILE = '<img src=x onerror="alert(1)"></script><script>alert(2)</script>{{ 7*7 }}'


def site(cells, tmp_path):
    return write_site(cells, tmp_path / "site").read_text()


def received(tmp_path):
    """What the data files hand to the page, by name."""
    found = {}
    for path in (tmp_path / "site" / "data").rglob("*.js"):
        name, content = re.fullmatch(r'rdbench\.receive\("(.*?)", (.*)\);\n', path.read_text(), re.S).groups()
        found[name] = json.loads(json.loads(content))
    return found


def shown(tmp_path, condition="clean", category=""):
    """The only board's rows: (method, or -1 to -3 for the controls; note; figures)."""
    part = f"{condition}/categories" if category else condition
    [content] = [content for name, content in received(tmp_path).items() if name.endswith(f"/{part}")]
    return content[category] if category else content["rows"]


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


def test_another_alpha_is_another_table_and_one_that_is_not_attained_is_a_caveat(make_cell, tmp_path):
    cell = make_cell("tta", alpha=0.05)
    threshold = cell.threshold.model_copy(update={"level": 1 / 12, "attained": False})
    page = site([make_cell("tta"), cell.model_copy(update={"threshold": threshold})], tmp_path)
    assert re.findall('<span class="badge">(.*?)</span>', page) == ["alpha 0.1", "alpha 0.05"]
    assert "resnet18, 256 x 256 px, alpha 0.05</option>" in page
    words = "alpha 0.05 is not attained: too few calibration images, the threshold keeps 0.0833 on grid"
    pages = [path.read_text() for path in (tmp_path / "site" / "methods").iterdir()]
    assert page.count(words) == 1
    assert sorted(words in text for text in pages) == [False, True]
    boards = json.loads((tmp_path / "site" / "leaderboard.json").read_text())["boards"]
    assert [(board["alpha"], board["unattained"]) for board in boards] == [(0.1, ""), (0.05, words)]
    rows = pd.read_csv(tmp_path / "site" / "leaderboard.csv")
    assert rows.groupby("board")["alpha"].unique().map(list).tolist() == [[0.1], [0.05]]


def test_a_shift_that_did_nothing_is_a_caveat_of_its_table_and_pages(make_cell, tmp_path):
    made = {"conditions": ("clean", "blur:2", "noise:1")}
    page = site([make_cell("tta", image_size=(64, 64), **made), make_cell("tta", **made)], tmp_path)
    words = '<p class="caveat">Caution: blur:2 leaves images of 64 x 64 pixels as they are: figures under it are'
    assert page.count(words) == page.count("Caution: ") == 1
    pages = [path.read_text() for path in (tmp_path / "site" / "methods").iterdir()]
    assert sorted(words in text for text in pages) == [False, True]
    boards = json.loads((tmp_path / "site" / "leaderboard.json").read_text())["boards"]
    rows = pd.read_csv(tmp_path / "site" / "leaderboard.csv", keep_default_na=False)
    for board in boards:
        idle = board["image_size"] == [64, 64]
        assert board["idle"].startswith("blur:2 leaves images of 64 x 64") == idle
        assert set(rows["idle"][rows["board"] == board["id"]]) == {board["idle"]}


def test_rows_are_sorted_by_augrc_with_the_controls_among_them(make_cell, tmp_path):
    controls = {"augrc_random": 0.2, "augrc_margin": 0.1, "augrc_oracle": 0.01}
    results = [
        make_cell("deterministic", figures={"augrc": 0.15, **controls}),
        make_cell("tta", figures={"augrc": 0.05}),
        make_cell("mine", failures=0),
    ]
    page = site(results, tmp_path)
    order = ["oracle", "tta", "threshold margin", "deterministic", "chance", "mine"]
    methods = ["deterministic", "mine", "tta"]
    controls = {-1: "chance", -2: "threshold margin", -3: "oracle"}
    assert [methods[m] if m >= 0 else controls[m] for m, _, _ in shown(tmp_path)] == order
    assert re.findall(r'<th scope="row" data-order="(.*?)">', page) == order


def test_no_failures_is_said_and_never_a_number(make_cell, tmp_path):
    site([make_cell("deterministic", failures=0)], tmp_path)
    [(_, _, figures)] = shown(tmp_path)
    texts = [figure[1] for figure in figures[1:] if figure[0] is None]
    assert texts.count("no failures") >= 4
    assert set(texts) <= {"no failures", "\N{EN DASH}"}


def test_figures_carry_mean_interval_and_place(make_cell, tmp_path):
    results = [make_cell("deterministic", figures={"image_auroc": 0.9}), make_cell("tta", figures={"image_auroc": 0.8})]
    site(results, tmp_path)
    found = {tuple(figure[:3]): figure[3] for _, _, figures in shown(tmp_path) for figure in figures if len(figure) > 3}
    # the column reaches from 0.76, the lowest low, to 0.93, the highest high
    assert found[0.9, "0.900", ".860\N{EN DASH}.930"] == [round(10 / 17 * 100), round(14 / 17 * 100), 100]
    assert found[0.8, "0.800", ".760\N{EN DASH}.830"] == [0, round(4 / 17 * 100), round(7 / 17 * 100)]


def test_a_method_that_lacks_categories_is_marked(make_cell, tmp_path):
    results = [make_cell("tta", "grid"), make_cell("tta", "bolt"), make_cell("deterministic", "bolt")]
    assert "1 of 2 categories: not ranked" in site(results, tmp_path)


def test_foreign_text_is_only_shown(make_cell, tmp_path):
    cell = make_cell(HOSTILE, HOSTILE, dataset=HOSTILE, backbone=HOSTILE, weights=HOSTILE, custom=HOSTILE)
    page = site([cell.model_copy(update={"interval": HOSTILE})], tmp_path)
    tags = read_tags(page)
    assert not {tag for tag, _ in tags} & {"img", "iframe", "object", "base"}
    assert not [name for _, attributes in tags for name in attributes if name.startswith("on")]
    styles = [attributes["style"] for _, attributes in tags if "style" in attributes]
    assert all(re.fullmatch(r"--low: \d+; --at: \d+; --high: \d+", style) for style in styles)
    scripts = [attributes for tag, attributes in tags if tag == "script"]
    assert scripts[0] == {"type": "application/json", "class": "board-data"}
    assert all(list(script) == ["src"] and script["src"].startswith("static/") for script in scripts[1:])
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
    for path in [tmp_path / "site" / "index.html", *(tmp_path / "site" / "methods").glob("*.html")]:
        assert "default-src 'none'; script-src 'self'" in path.read_text()
        links = [a.get("src") or a.get("href") or "" for _, a in read_tags(path.read_text())]
        assert not [link for link in links if link.startswith(("//", "http:", "https:"))]


def test_without_results_the_page_says_what_to_do(tmp_path):
    assert "No results yet" in site([], tmp_path)


def test_writing_again_replaces_the_page(make_cell, tmp_path):
    site([make_cell("method_a")], tmp_path)
    page = site([make_cell("method_b", image_size=(64, 64))], tmp_path)
    assert "method_b" in page
    assert "method_a" not in page
    fresh = write_site([make_cell("method_b", image_size=(64, 64))], tmp_path / "fresh").parent
    again, anew = ({path.relative_to(folder) for path in folder.rglob("*")} for folder in (tmp_path / "site", fresh))
    assert again == anew


def test_what_others_have_beside_the_page_stays(make_cell, tmp_path):
    """In a web root, say; and whatever a list of files says that is not ours."""
    out = tmp_path / "site"
    site([make_cell()], tmp_path)
    [board] = [path.name for path in (out / "data").iterdir()]
    theirs = ["methods/how.html", "data/own.js", f"data/{board}/own.txt", "gallery/holiday.jpg", "notes.html"]
    for name in theirs:
        (out / name).parent.mkdir(exist_ok=True)
        (out / name).write_text("theirs")
    site([make_cell(image_size=(64, 64))], tmp_path)
    assert [(out / name).read_text() for name in theirs] == ["theirs"] * len(theirs)


@pytest.mark.parametrize(
    "listed",
    [
        "not json", "[]", '{"scores": [1, 2]}', '{"boards": [{"id": "..", "methods": []}]}',
        '{"boards": [{"id": "a", "methods": [{"page": "methods/../../notes.html"}]}]}',
        '{"boards": [{"id": "a", "methods": [{"page": "/notes.html"}]}]}',
    ],
)  # fmt: skip
def test_a_list_of_files_that_is_not_ours_removes_nothing(make_cell, tmp_path, listed):
    out = tmp_path / "site"
    (out / "data").mkdir(parents=True)
    theirs = [tmp_path / "notes.html", out / "own.js", out / "data" / "own.js"]
    for path in theirs:
        path.write_text("theirs")
    (out / "leaderboard.json").write_text(listed)
    site([make_cell()], tmp_path)
    assert [path.read_text() for path in theirs] == ["theirs"] * 3


def test_a_place_that_cannot_be_written_is_named(make_cell, tmp_path):
    (tmp_path / "site").write_text("a file")
    with pytest.raises(InputError, match="cannot write the site to"):
        site([make_cell()], tmp_path)


def test_a_disk_that_fills_up_under_a_site_is_said_in_words(make_cell, tmp_path, monkeypatch):
    def full(source, target, **_):
        raise shutil.Error([(str(source), str(target), "No space left on device")])

    monkeypatch.setattr("shutil.copytree", full)
    with pytest.raises(InputError, match=r"cannot write the site to .*site: No space left on device; choose another"):
        site([make_cell()], tmp_path)


def write_entry(directory, made, name="tta.json", **other):
    path = directory / "toy" / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"schema": 1, "cells": [json.loads(c.model_dump_json()) for c in made]} | other))
    return path


def test_published_entries_are_read_back_as_they_were(make_cell, tmp_path):
    cells = [make_cell("tta", seed=seed) for seed in (0, 1)]
    write_entry(tmp_path, cells)
    assert [source.result for source in published(tmp_path)] == cells
    with pytest.raises(InputError, match="no such directory"):
        published(tmp_path / "nothing")


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
        published(tmp_path)
    assert str(path) in str(caught.value)
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


def test_an_entry_out_of_place_of_two_methods_or_without_clean_is_refused(make_cell, tmp_path):
    write_entry(tmp_path, [make_cell("mine")])
    with pytest.raises(InputError, match=r"'mine' on 'toy' is toy/mine\.json"):
        published(tmp_path)
    write_entry(tmp_path, [make_cell("tta"), make_cell("mine")])
    with pytest.raises(InputError, match="holds 2 methods or datasets"):
        published(tmp_path)
    write_entry(tmp_path, [make_cell("tta")])
    path = tmp_path / "toy/tta.json"
    path.write_text(path.read_text().replace('"clean"', '"noise:3"'))
    with pytest.raises(InputError, match=r"cells\.0: Value error, image: the condition 'clean' is missing"):
        published(tmp_path)


def test_no_torch_is_imported():
    import subprocess
    import sys

    code = (
        "import sys, rdbench.report.leaderboard, rdbench.report.tables, rdbench.report.tidy, rdbench.report.entries;"
        "sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_bands_are_whole_numbers_on_the_track(results, tmp_path):
    site(results, tmp_path)
    bands = [figure[3] for _, _, figures in shown(tmp_path) for figure in figures if len(figure) > 3 and figure[3]]
    assert bands
    array = np.array(bands)
    assert ((array >= 0) & (array <= 100)).all()
    assert (np.diff(array, axis=1) >= 0).all()


def test_every_condition_and_category_has_its_view(results, tmp_path):
    site(results, tmp_path)
    data = {name.partition("/")[2]: content for name, content in received(tmp_path).items()}
    conditions = {"clean", "lighting:3", "noise:3", "shifts:mean"}
    assert set(data) == conditions | {f"{name}/categories" for name in conditions} | {"trends"}
    for name in conditions:
        assert set(data[f"{name}/categories"]) == {"bolt", "grid", "label"}


def test_the_view_of_a_category_is_the_mean_over_its_seeds(make_cell, tmp_path):
    values = {("grid", 0): 0.8, ("grid", 1): 0.9, ("bolt", 0): 0.5, ("bolt", 1): 0.5}
    site([make_cell("tta", c, s, figures={"image_auroc": v}) for (c, s), v in values.items()], tmp_path)
    for category, value in (("grid", "0.850"), ("bolt", "0.500"), ("", "0.675")):
        figures = next(row[2] for row in shown(tmp_path, category=category) if row[0] == 0)
        assert value in [figure[1] for figure in figures]


def test_method_pages_trace_every_figure_to_its_cells(sources, tmp_path):
    write_site(sources, tmp_path / "site")
    [page] = (tmp_path / "site" / "methods").glob("*mc_dropout.html")
    text = page.read_text()
    for source in sources:
        present = source.result.spec.method == "mc_dropout"
        assert (source.origin in text) == present
        assert (source.result.spec.digest() in text) == present
    assert "rdbench run --method mc_dropout --dataset toy --category bolt --category grid --seed 0 --seed 1" in text
    assert "torch 2.8.0" in text
    assert "d" * 12 in text


def test_a_method_page_does_not_repeat_what_all_conditions_share(sources, tmp_path):
    write_site(sources, tmp_path / "site")
    [page] = (tmp_path / "site" / "methods").glob("*mc_dropout.html")
    text = page.read_text()
    conditions = text[text.index('id="conditions"') : text.index('id="categories"')]
    categories = text[text.index('id="categories"') : text.index('id="cost"')]
    cost = text[text.index('id="cost"') : text.index('id="again"')]
    assert "AUROC shifted" not in conditions
    assert "AUROC shifted" in categories
    for ratio in (f"{cost} {TIMES}" for cost in ("Training", "Inference", "Memory")):
        assert ratio not in conditions + categories
        assert ratio in cost


def test_a_description_flows_and_keeps_its_paragraphs_and_lists():
    assert reflowed("One line\nand its end.\n\nAnother:\n- a\n- b\n    code") == (
        "One line and its end.\n\nAnother:\n- a\n- b\n    code"
    )


def test_a_command_is_quoted_for_the_shell(make_cell, tmp_path):
    site([make_cell("mine", options={"name": "a b; rm -rf ~"})], tmp_path)
    [page] = (tmp_path / "site" / "methods").glob("*.html")
    assert "-o 'name=a b; rm -rf ~'" in html.unescape(page.read_text())


def test_the_figures_for_machines_are_those_of_the_page(sources, tmp_path):
    write_site(sources, tmp_path / "site")
    table = pd.read_csv(tmp_path / "site" / "leaderboard.csv", keep_default_na=False, na_values=[""])
    content = json.loads((tmp_path / "site" / "leaderboard.json").read_text())
    [board] = content["boards"]
    expected = np.mean(
        [s.result.image["clean"]["augrc"].value for s in sources if s.result.spec.method == "mc_dropout"]
    )
    row = table[(table.method == "mc_dropout") & (table.condition == "clean") & (table.metric == "augrc")].iloc[0]
    assert row.value == pytest.approx(expected)
    assert (row.cells, row.of_cells) == (4, 4)
    [method] = [m for m in board["methods"] if m["name"] == "mc_dropout"]
    [figure] = [f for f in method["figures"]["clean"] if f["metric"] == "augrc"]
    assert (figure["value"], figure["low"]) == (row.value, row.low)
    assert board["standing"]["clean"]["ranks"]["mc_dropout"] == [row.rank_low, row.rank_high]
    least = board["standing"]["clean"]["least_difference"]
    words = f"a difference to the best of less than about {least:.3f} in AUGRC cannot be told from chance"
    assert words in (tmp_path / "site" / "index.html").read_text()
    assert len(method["cells"]) == 4
    assert {cell["predictions_sha256"] for cell in method["cells"]} == {"e" * 64}


def test_a_formula_in_a_name_stays_text_in_a_spreadsheet(make_cell, tmp_path):
    site([make_cell("=HYPERLINK(1)")], tmp_path)
    assert set(pd.read_csv(tmp_path / "site" / "leaderboard.csv").method) == {"'=HYPERLINK(1)"}


def test_libraries_come_from_the_installed_packages(make_cell, tmp_path):
    site([make_cell()], tmp_path)
    static = tmp_path / "site" / "static"
    assert "window.DataTable = " in (static / "datatables.js").read_text()
    assert "plotly.js v" in (static / "plotly.js").read_text()[:500]
    assert not re.search(r"^export|^import", (static / "datatables.js").read_text(), re.M)
