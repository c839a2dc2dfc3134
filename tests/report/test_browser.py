"""The first page and a method's page in a real browser."""

from __future__ import annotations

import time
from importlib.resources import files
from urllib.parse import unquote

import numpy as np
import pytest

from rdbench.report.leaderboard import write_site
from tests.report.browser import NARROW, WIDE, ActionChains, Browser, Keys, Select, WebDriverWait

pytestmark = pytest.mark.long


@pytest.mark.parametrize("window", [WIDE, NARROW])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_it_loads_without_complaint_and_asks_nobody(chrome, page, window, scheme):
    browser = Browser(chrome, window, scheme).open(page)
    for plot in ("pareto", "risk", "trend", "response", "reliability", "cost"):
        assert browser.all(f"#plot-{plot} .plotly"), plot
    assert "can tell no two methods apart; it takes six" in browser.one("#plot-critical").text
    assert browser.complaints() == []
    requests = browser.requests()
    assert requests
    root = page.parent.as_uri()
    assert [url for url in requests if not url.startswith(root)] == []
    width = chrome.execute_script("return [document.documentElement.scrollWidth, innerWidth]")
    assert width[0] <= width[1]
    background = chrome.execute_script("return getComputedStyle(document.body).backgroundColor")
    light = sum(int(part) for part in background[4:-1].split(",")) > 382
    assert light == (scheme == "light")


def test_a_method_page_scrolls_its_tables_not_itself(chrome, page):
    Browser(chrome, NARROW).open(next(page.parent.glob("methods/*.html")))
    width, window = chrome.execute_script("return [document.documentElement.scrollWidth, innerWidth]")
    assert width <= window
    frames = "return [...document.querySelectorAll('.scroll')].map((frame) => frame.scrollWidth > frame.clientWidth)"
    assert any(chrome.execute_script(frames))


@pytest.mark.parametrize("window", [WIDE, NARROW])
def test_no_words_of_a_plot_lie_upon_each_other(chrome, many, window):
    browser = Browser(chrome, window).open(many)
    script = """
        const boxes = [...arguments[0].querySelectorAll("text")].filter((text) => text.textContent.trim())
            .map((text) => [text.textContent, text.getBoundingClientRect()]).filter(([, box]) => box.width > 0);
        const frame = arguments[0].getBoundingClientRect();
        const beside = (a, b) => a.right <= b.left + 2 || a.bottom <= b.top + 3;
        const over = (a, b) => !beside(a, b) && !beside(b, a);
        const pairs = boxes.flatMap(([t, a], i) =>
            boxes.slice(i + 1).filter(([, b]) => over(a, b)).map(([u]) => [t, u]));
        const cut = boxes.filter(([, box]) =>
            box.left < frame.left - 1 || box.right > frame.right + 1 || box.bottom > frame.bottom + 1);
        return [...pairs, ...cut.map(([t]) => [t])];
    """
    for plot in browser.all(".plot"):
        assert chrome.execute_script(script, plot) == []


def test_the_first_lines_of_a_plot_have_colours_of_their_own(chrome, many):
    Browser(chrome).open(many)
    script = """
        const lines = document.querySelector("#plot-risk .plot").data.filter((line) => line.legendgroup && !line.fill);
        return lines.filter((line) => line.visible === true).map((line) => line.line.color);
    """
    colours = chrome.execute_script(script)
    assert len(colours) >= 6
    assert len(set(colours[:6])) == 6


def test_all_columns_fit_a_window_of_1300_pixels(chrome, page):
    browser = Browser(chrome, (1300, 900)).open(page)
    assert "Memory" in browser.one("section.ranking:not([hidden]) thead").text
    table = browser.one("section.ranking:not([hidden]) .scroll")
    width, room = (
        chrome.execute_script(f"return arguments[0].{name}", table) for name in ("scrollWidth", "clientWidth")
    )
    assert width <= room


def test_a_window_of_900_pixels_has_the_board_in_small_type_and_scrolls_no_page(chrome, many):
    Browser(chrome, (900, 900)).open(many)
    size = "return getComputedStyle(document.querySelector('table.board')).fontSize"
    assert chrome.execute_script(size) == "12.8px"
    assert chrome.execute_script("return document.documentElement.scrollWidth <= innerWidth")


def test_columns_sort_both_ways_with_undefined_figures_last(chrome, page):
    browser = Browser(chrome).open(page)
    first = [float(text) for text in browser.column("AUGRC")]
    assert first == sorted(first)
    for _ in range(2):
        browser.sort("Image AUROC")
        texts = browser.column("Image AUROC")
        numbers = [float(text) for text in texts if text]
        assert texts[len(numbers) :] == [""] * 3  # the controls have none
        downwards = browser.one("th[aria-sort]").get_attribute("aria-sort") == "descending"
        assert numbers == sorted(numbers, reverse=downwards)
    assert browser.complaints() == []


def test_sorting_by_keyboard(chrome, page):
    browser = Browser(chrome).open(page)
    head = browser.one("section.ranking:not([hidden]) thead th:nth-child(2) [role=button]")
    head.send_keys(Keys.ENTER)
    sorted_by = "section.ranking:not([hidden]) thead th:nth-child(2)"
    WebDriverWait(chrome, 10).until(lambda _: browser.one(sorted_by).get_attribute("aria-sort"))


def test_the_skip_link_keeps_the_view(chrome, page):
    browser = Browser(chrome).open(page, "find=ens&sort=image_auroc:asc")
    ActionChains(chrome).send_keys(Keys.TAB, Keys.ENTER).perform()
    WebDriverWait(chrome, 10).until(lambda _: chrome.execute_script("return scrollY") > 0)
    WebDriverWait(chrome, 10).until(lambda _: "find=ens" in chrome.current_url)
    assert "sort=image_auroc:asc" in unquote(chrome.current_url)
    assert browser.one("[name=find]").get_attribute("value") == "ens"
    assert browser.column("Method") == ["deep_ensemble"]
    browser.open(page, "main")
    assert len(browser.column("Method")) == 6
    browser.change(lambda: browser.one("[name=find]").send_keys("ens"))
    assert "#find=ens&" in chrome.current_url


def test_search_narrows_the_rows(chrome, page):
    browser = Browser(chrome).open(page)
    browser.change(lambda: browser.one("[name=find]").send_keys("ens"))
    browser.settle(browser.draws())
    assert browser.column("Method")[-1:] == ["deep_ensemble"]
    assert len(browser.column("Method")) == 1


def test_conditions_and_categories_change_the_figures_and_the_address_keeps_the_view(chrome, page):
    browser = Browser(chrome).open(page)
    clean = browser.column("AUGRC")
    browser.choose("images", "lighting:")
    assert Select(browser.one("[name=severity]")).first_selected_option.text == "mean"
    browser.choose("severity", "lighting:3")
    shifted = browser.column("AUGRC")
    assert shifted != clean
    browser.choose("category", "bolt")
    bolt = browser.column("AUGRC")
    assert bolt not in (clean, shifted)
    browser.sort("Method")
    order, sent = browser.column("Method"), unquote(chrome.current_url)
    for part in ("images=lighting:3", "category=bolt", "sort=method:"):
        assert part in sent
    again = Browser(chrome).open(page, chrome.current_url.partition("#")[2])
    assert again.column("Method") == order
    assert sorted(again.column("AUGRC")) == sorted(bolt)
    assert again.complaints() == []


def test_another_dataset_is_another_table(chrome, page):
    browser = Browser(chrome).open(page)
    select = Select(browser.one("[name=results]"))
    [other] = [option.get_attribute("value") for option in select.options if "visa" in option.text]
    browser.choose("results", other)
    assert [s.get_attribute("id") for s in browser.all("section.ranking") if s.is_displayed()] == [other]
    assert {"deterministic", "tta"} < set(browser.column("Method"))
    assert "Needs stored predictions" in browser.one("#plot-risk").text
    assert browser.complaints() == []


def test_a_method_leads_to_its_page_and_back(chrome, page):
    browser = Browser(chrome).open(page)
    browser.all("section.ranking:not([hidden]) tbody a")[0].click()
    WebDriverWait(chrome, 10).until(lambda c: "/methods/" in c.current_url)
    assert "rdbench run --method" in browser.one("#again + pre").text
    assert len(browser.all("table.cells tbody tr")) == 4
    assert browser.complaints() == []
    browser.one(".crumb a").click()
    browser.settle()
    assert "index.html" in chrome.current_url


def explorer_costs(sources, method, miss, alarm, review, defective):
    """Least mean cost over budgets, straight from the predictions, images without ties reviewed one by one."""
    grid = np.linspace(0, 1, 51)
    curves = []
    for source in sources:
        if source.result.spec.method != method:
            continue
        p, tau = source.predictions(), source.result.threshold.value
        scores, u, y = p.scores[0].astype(float), p.uncertainties[0].astype(float), p.labels == 1
        wrong = (scores > tau) != y
        kept = np.argsort(np.argsort(u))  # 0 for the least uncertain
        rows = []
        for share in grid:
            fraction = np.clip((1 - share) * len(u) - kept, 0, 1)  # of each image that is kept
            rows.append([np.sum(fraction * wrong * y) / y.sum(), np.sum(fraction * wrong * ~y) / (~y).sum(),
                         1 - np.sum(fraction * y) / y.sum(), 1 - np.sum(fraction * ~y) / (~y).sum()])  # fmt: skip
        curves.append(rows)
    misses, alarms, anomalous, normal = np.mean(curves, axis=0).T
    budget = defective * anomalous + (1 - defective) * normal
    cost = defective * miss * misses + (1 - defective) * alarm * alarms + review * budget
    return cost.min(), cost[0]


@pytest.mark.parametrize("window", [WIDE, NARROW])
def test_the_explorer_answers_the_sliders(chrome, page, sources, window):
    browser = Browser(chrome, window).open(page)
    read = lambda: {r.text.split("\n")[0].split(" ")[0]: r.text for r in browser.all(".costs tbody tr")}  # noqa: E731
    verdicts = [browser.one(".verdict").text]
    for name, value in (("miss", 60), ("alarm", 4), ("review", 1.5), ("defective", 30)):
        browser.slide(name, value)
        assert browser.one(f"output[name={name}-value]").text.startswith(str(value))
        verdicts.append(browser.one(".verdict").text)
    assert len(set(verdicts)) == len(verdicts)
    rows = read()
    for method in ("deterministic", "mc_dropout", "deep_ensemble"):
        least, first = explorer_costs(sources, method, 60, 4, 1.5, 0.3)
        numbers = rows[method].replace("%", "").split()[1:]
        assert float(numbers[1]) == pytest.approx(least, rel=0.01)
        assert float(numbers[2]) == pytest.approx(100 * (1 - least / first), abs=0.6)
    verdict, sent = browser.one(".verdict").text, chrome.current_url.partition("#")[2]
    again = Browser(chrome, window).open(page, sent)
    assert again.one(".verdict").text == verdict
    assert again.one("output[name=miss-value]").text == "60"
    assert again.complaints() == []


def test_the_sliders_have_names_and_say_their_units(chrome, page):
    browser = Browser(chrome).open(page)
    browser.slide("defective", 20)
    sliders = browser.all(".sliders input")
    assert [slider.accessible_name for slider in sliders] == [
        "A missed defect costs", "A false alarm costs", "A review costs", "Parts that are defective",
    ]  # fmt: skip
    assert [slider.get_attribute("aria-valuetext") for slider in sliders] == ["10", "1", "0.5", "20 %"]


@pytest.mark.parametrize("window", [WIDE, NARROW])
def test_real_lightings_are_offered_and_drawn_and_empty_plots_are_not(chrome, lit_page, window):
    browser = Browser(chrome, window).open(lit_page)
    options = [option.text for option in Select(browser.one("[name=images]")).options]
    assert options == ["all lightings", "lighting: regular", "lighting: overexposed", "lighting: underexposed"]
    assert not browser.one("[name=category]").is_displayed()
    lines = "return document.querySelector('#plot-trend .plot').data.filter((line) => !line.fill).map((line) => line.x)"
    assert {tuple(x) for x in chrome.execute_script(lines)} == {("regular", "overexposed", "underexposed")}
    assert not browser.one("#plot-response").is_displayed()
    assert "With 2 cells" in browser.one("#plot-critical").text
    browser.choose("images", "regular")
    assert "images=regular" in chrome.current_url
    assert browser.complaints() == []


def test_the_explorer_treats_equals_as_equals_and_names_who_is_within_chance(chrome, lit_page):
    browser = Browser(chrome).open(lit_page)
    marks = """return Object.fromEntries([...document.querySelectorAll(".costs tbody tr:not(.control)")].map(
        ({ cells }) => [cells[0].textContent, [cells[1].textContent, cells[2].textContent, cells[2].className]]))"""
    for miss in (0, 1, 10, 100):
        browser.slide("miss", miss)
        found, verdict = chrome.execute_script(marks), browser.one(".verdict").text
        assert found["deterministic"] == found["twin"]
        bests = [name for name, (_, _, mark) in found.items() if mark == "best"]
        assert bests
        assert verdict.startswith("Best methods, equal: " if len(bests) > 1 else "Best method: ")
        assert all(name in verdict.partition(", reviewing")[0] for name in bests)
        close = [name for name, (_, _, mark) in found.items() if mark == "tied"]
        assert ("Within chance of it" in verdict) == bool(close)
        assert "No method beats" not in verdict


def test_a_second_link_says_all_prices_and_nonsense_says_none(chrome, page):
    browser = Browser(chrome).open(page, "miss=60&alarm=3")
    read = lambda: [browser.one(f"output[name={name}-value]").text for name in ("miss", "alarm")]  # noqa: E731
    assert read() == ["60", "3"]
    browser.change(lambda: chrome.execute_script("location.hash = 'alarm=5'"))
    assert read() == ["10", "5"]
    Browser(chrome).open(page, "miss=abc&alarm=1e9")
    assert read() == ["10", "20"]


@pytest.mark.parametrize("window", [WIDE, NARROW])
def test_a_legend_says_how_many_methods_it_leaves_out_and_never_the_reference(chrome, many, window):
    Browser(chrome, window).open(many, "find=method_")
    names = "return [...new Set(document.querySelector('#plot-risk .plot').data.map((line) => line.name))]"
    assert "12 of 22 methods" in chrome.execute_script(names)
    Browser(chrome, window).open(many)
    assert "deterministic" in chrome.execute_script(names)


def test_lines_fill_their_plot_also_where_some_are_left_out(chrome, many):
    Browser(chrome).open(many)
    low, high = chrome.execute_script("return document.querySelector('#plot-trend .plot').layout.yaxis.range")
    assert 0.5 < low < high <= 1


def test_critical_differences_say_how_many_methods_they_leave_out(chrome, make_cell, tmp_path):
    names = [f"method_{m:02d}" for m in range(14)]
    cells = [make_cell(name, category, seed) for name in names for category in ("grid", "bolt") for seed in range(3)]
    browser = Browser(chrome).open(write_site(cells, tmp_path / "fourteen"))
    assert "seeds; the best 12 of 14 methods are drawn. Bars" in browser.one("#plot-critical").text
    browser.open(write_site(cells[:72], tmp_path / "twelve"))
    assert "categories and seeds. Bars" in browser.one("#plot-critical").text


@pytest.mark.parametrize("width", [360, 420, 500, 1440])
def test_a_legend_takes_no_height_from_what_is_drawn(chrome, many, width):
    Browser(chrome, (width, 900)).open(many)
    drawn = """return Object.fromEntries([...document.querySelectorAll(".plot")].filter((plot) => plot.data).map(
        (plot) => [plot.parentElement.id || plot.id, plot.querySelector(".nsewdrag").getBBox().height]))"""
    time.sleep(2)
    heights = chrome.execute_script(drawn)
    assert len(heights) > 3
    assert all(225 < each < 265 for each in heights.values()), heights


def test_paper_is_light_whatever_the_screen_and_nothing_is_closed_on_it(chrome, page):
    Browser(chrome, WIDE, "dark").open(page)
    look = """return [getComputedStyle(document.body).color, document.querySelector("details").open,
        document.querySelector("#plot-risk .plot").data.find((line) => line.legendgroup && !line.fill).line.color]"""
    screen = chrome.execute_script(look)
    chrome.execute_async_script(
        "dispatchEvent(new Event('beforeprint')); setTimeout(arguments[arguments.length - 1], 500)"
    )
    assert chrome.execute_script(look) == ["rgb(29, 33, 37)", True, "#0072b2"]
    chrome.execute_async_script(
        "dispatchEvent(new Event('afterprint')); setTimeout(arguments[arguments.length - 1], 500)"
    )
    assert chrome.execute_script(look) == screen
    assert screen[1:] == [False, "#56b4e9"]


def test_paper_has_all_rows_and_the_screen_its_page_of_them(chrome, make_cell, tmp_path):
    browser = Browser(chrome).open(write_site([make_cell(f"method_{m:02d}") for m in range(40)], tmp_path))
    browser.one(".dt-paging [aria-label=Next]").send_keys(Keys.ENTER)
    screen = browser.column("Method")
    assert 0 < len(screen) < 30
    rows = "document.querySelectorAll('table.board tbody tr:not(.control)').length"
    chrome.execute_script(f"addEventListener('beforeprint', () => (window.printed = {rows}))")
    chrome.print_page()
    assert chrome.execute_script("return window.printed") == 40
    assert browser.column("Method") == screen


@pytest.mark.parametrize("content", [None, "rdbench.receive("])
def test_a_data_file_that_is_not_there_is_named(chrome, make_cell, tmp_path, content):
    page = write_site([make_cell(name, conditions=("clean", "noise:3")) for name in ("a", "deterministic")], tmp_path)
    [path] = page.parent.glob("data/*/noise-3-????????.js")
    path.unlink()
    if content is not None:
        path.write_text(content)
    browser = Browser(chrome).open(page)
    assert browser.all("main > .caveat") == []
    Select(browser.one("[name=images]")).select_by_value("noise:")
    [note] = WebDriverWait(chrome, 10).until(lambda _: browser.all("main > .caveat"))
    assert path.relative_to(page.parent).as_posix() in note.text
    browser.choose("images", "clean")
    assert browser.all("main > .caveat") == []


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_nothing_serious(chrome, page, scheme):
    pytest.importorskip("axe_core_python", reason="axe-core-python is not installed: accessibility is not tested")
    script = (files("axe_core_python") / "axe.min.js").read_text(encoding="utf-8")
    method = sorted((page.parent / "methods").glob("*.html"))[0]
    windows = (WIDE, NARROW) if scheme == "light" else (NARROW, WIDE)
    for path, window in zip((page, method), windows, strict=True):
        browser = Browser(chrome, window, scheme).open(path)
        chrome.execute_script(script)
        found = chrome.execute_async_script("axe.run().then(arguments[arguments.length - 1])")
        serious = [
            (violation["id"], [node["target"] for node in violation["nodes"]][:5])
            for violation in found["violations"]
            if violation["impact"] in ("serious", "critical")
        ]
        assert serious == [], path.name
        assert browser.complaints() == []
