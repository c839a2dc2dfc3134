"""Names in a real browser: found word by word, never markup, and none wider than its place."""

from __future__ import annotations

import pytest

from rdbench.report.leaderboard import write_site
from tests.made_up import make_cell, make_source
from tests.report.browser import NARROW, WIDE, Browser

pytestmark = pytest.mark.long

DRAWN = ("pareto", "risk", "trend", "response", "reliability", "cost")
LINK, BOLD = '<a href="http://example.com">z</a>', "<b>x</b> &amp; y"


@pytest.fixture(scope="module")
def marked_up(tmp_path_factory):
    """Two boards: methods whose names are markup, and methods under a shift whose name is."""
    methods = [
        make_source(name, category, seed)
        for name in (LINK, BOLD, "deterministic")
        for category in ("grid", "bolt")
        for seed in (0, 1, 2)
    ]
    shift = [make_cell("deterministic", dataset="visa", conditions=("clean", f"{BOLD}:1", f"{BOLD}:2"))]
    return write_site([*methods, *shift], tmp_path_factory.mktemp("marked_up"))


def texts(browser, plot):
    """What a plot says, with what stands by its first method under the pointer."""
    script = """
        const plot = document.querySelector(arguments[0]);
        for (const curveNumber of plot.data.keys())
            if (plot.data[curveNumber].hoverinfo !== "skip") Plotly.Fx.hover(plot, [{ curveNumber, pointNumber: 0 }]);
        return [...plot.querySelectorAll("svg text")].map((text) => text.textContent);
    """
    return browser.chrome.execute_script(script, f"#plot-{plot}.plot, #plot-{plot} .plot")


MARKUP = ".plot svg a, .plot svg [style*=bold], .plot svg [style*=italic]"


def test_plots_show_names_as_they_are_and_make_nothing_of_them(chrome, marked_up):
    browser = Browser(chrome).open(marked_up)
    for plot in (*DRAWN, "critical"):
        shown = " ".join(texts(browser, plot))
        assert BOLD in shown, plot
        assert LINK[:20] in shown, plot
    assert [found.get_attribute("outerHTML") for found in browser.all(MARKUP)] == []
    [other] = [o.get_attribute("value") for o in browser.all("[name=results] option") if "visa" in o.text]
    browser.choose("results", other)
    assert f"Severity of {BOLD}" in texts(browser, "trend")
    assert [found.get_attribute("outerHTML") for found in browser.all(MARKUP)] == []
    assert browser.complaints() == []


def drawn(browser, plot):
    """Names of the methods drawn in a plot, or what stands in its place."""
    script = """
        const plot = document.querySelector(arguments[0]);
        return plot.classList.contains("nothing") ? plot.textContent : [...new Set(
            plot.data.filter((line) => line.legendgroup || line.customdata).map((line) => line.name))];
    """
    return browser.chrome.execute_script(script, f"#plot-{plot}.plot, #plot-{plot} .plot")


def test_find_takes_the_words_of_a_name_in_table_plots_and_explorer(chrome, page):
    browser = Browser(chrome).open(page)
    verdict = browser.one(".verdict").text
    browser.change(lambda: browser.one("[name=find]").send_keys("Ens deep"))
    browser.settle(browser.draws())
    assert browser.column("Method") == ["deep_ensemble"]
    assert {plot: drawn(browser, plot) for plot in DRAWN} == {plot: ["deep_ensemble"] for plot in DRAWN}
    assert [row.text.split()[0] for row in browser.all(".costs tbody tr")] == ["deep_ensemble"]
    assert browser.one(".verdict").text == verdict


@pytest.mark.parametrize("words", ["resnet18", "href", "deep_ensemble mc"])
def test_find_finds_nothing_where_no_name_has_the_words(chrome, page, words):
    browser = Browser(chrome).open(page, f"find={words}")
    assert browser.one("section.ranking:not([hidden]) tbody").text == "No method is found."
    assert {plot: drawn(browser, plot) for plot in DRAWN} == dict.fromkeys(DRAWN, "No method is found.")
    assert browser.all(".costs tbody tr") == []


@pytest.mark.parametrize("window", [WIDE, NARROW])
def test_long_names_stay_in_their_places(chrome, tmp_path, window):
    names = {"bootstrap_ensemble": {"members": 10}, "anamethatnobodywouldgiveamethodbutsomebodydid": {}}
    site = write_site([make_source(name, options=options) for name, options in names.items()], tmp_path)
    overflow = """
        const cells = [...document.querySelectorAll(".costs th, table.board th, h1, .verdict")];
        return [document.documentElement.scrollWidth > innerWidth,
            cells.filter((cell) => cell.scrollWidth > cell.clientWidth + 1).map((cell) => cell.textContent)];
    """
    for path in (site, *site.parent.glob("methods/*.html")):
        browser = Browser(chrome, window).open(path)
        assert chrome.execute_script(overflow) == [False, []], path.name
    assert len(browser.all("h1")) == 1
