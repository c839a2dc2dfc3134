"""The site in a real browser, from the file system. Skipped, loudly, where Debian's chromium and driver are absent."""

from __future__ import annotations

import json
import shutil
import time
from importlib.resources import files
from urllib.parse import unquote

import numpy as np
import pytest

from rdbench.report.leaderboard import write_site

selenium = pytest.importorskip("selenium", reason="selenium is not installed: the site is not tested in a browser")
CHROMIUM, DRIVER = shutil.which("chromium"), shutil.which("chromedriver")
if not CHROMIUM or not DRIVER:
    pytest.skip("no chromium and chromedriver here: the site is not tested in a browser", allow_module_level=True)

from selenium import webdriver  # noqa: E402
from selenium.webdriver.common.by import By  # noqa: E402
from selenium.webdriver.common.keys import Keys  # noqa: E402
from selenium.webdriver.support.select import Select  # noqa: E402
from selenium.webdriver.support.wait import WebDriverWait  # noqa: E402

pytestmark = pytest.mark.long

QUIET = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync",
    "--disable-background-networking", "--disable-component-update", "--disable-dev-shm-usage",
)  # fmt: skip
WIDE, NARROW = (1440, 1000), (360, 800)


def new_chrome(profile):
    """A browser with an empty profile, which keeps a log of complaints and of requests."""
    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM
    for argument in (*QUIET, f"--user-data-dir={profile}"):
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    return webdriver.Chrome(options=options, service=webdriver.ChromeService(DRIVER))


@pytest.fixture(scope="module")
def chrome(tmp_path_factory):
    driver = new_chrome(tmp_path_factory.mktemp("profile"))
    yield driver
    driver.quit()


@pytest.fixture(scope="module")
def page(sources, tmp_path_factory):
    from tests.made_up import make_cell

    other = [make_cell(method, dataset="visa", conditions=("clean",)) for method in ("deterministic", "tta")]
    return write_site([*sources, *other], tmp_path_factory.mktemp("site"))


@pytest.fixture(scope="module")
def many(tmp_path_factory):
    """A ranking of as many methods as come with rdbench, and more."""
    from tests.made_up import make_source

    names = ["deterministic", "a_rather_long_name[placement=decoder, p=0.35]", *(f"method_{m:02d}" for m in range(22))]
    return write_site([make_source(name, seed=s) for name in names for s in (0, 1)], tmp_path_factory.mktemp("many"))


@pytest.fixture(scope="module")
def lit_page(lit, tmp_path_factory):
    return write_site(lit, tmp_path_factory.mktemp("lit"))


class Browser:
    """The page at one window size, and what a reader does with it."""

    def __init__(self, chrome, window=WIDE, scheme="light"):
        self.chrome = chrome
        width, height = window
        size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": False}
        chrome.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
        features = [{"name": "prefers-color-scheme", "value": scheme}]
        chrome.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})

    def open(self, page, state=""):
        self.chrome.get("about:blank")
        for kind in ("browser", "performance"):
            self.chrome.get_log(kind)  # of an earlier page
        self.chrome.get(page.as_uri() + (f"#{state}" if state else ""))
        if page.name == "index.html":
            self.settle()
        return self

    def settle(self, draws=1):
        """Until the page has been drawn that often."""
        WebDriverWait(self.chrome, 20).until(
            lambda chrome: int(chrome.execute_script("return document.documentElement.dataset.drawn || 0")) >= draws
        )

    def draws(self):
        return int(self.chrome.execute_script("return document.documentElement.dataset.drawn"))

    def change(self, act):
        """Do something that draws the page anew, and wait for that."""
        before = self.draws()
        act()
        self.settle(before + 1)

    def all(self, selector):
        return self.chrome.find_elements(By.CSS_SELECTOR, selector)

    def one(self, selector):
        return self.chrome.find_element(By.CSS_SELECTOR, selector)

    def choose(self, name, value):
        self.change(lambda: Select(self.one(f"[name={name}]")).select_by_value(value))

    def column(self, title):
        """The shown board's column of that title, top to bottom."""
        script = """
            const table = document.querySelector("section.ranking:not([hidden]) table.board");
            const heads = [...table.tHead.rows[0].cells].map((head) => head.textContent.trim());
            const at = heads.findIndex((head) => head === arguments[0] || head.startsWith(arguments[0] + " "));
            const told = (cell) => cell.querySelector("a") ?? (cell.querySelector(".value, .why") ?? cell).firstChild;
            const text = (cell) => told(cell)?.textContent.trim() ?? "";
            return [...table.tBodies[0].rows].map((row) => text(row.cells[at]));
        """
        return self.chrome.execute_script(script, title)

    def sort(self, title):
        heads = self.all("section.ranking:not([hidden]) table.board thead th")
        head = next(head for head in heads if head.text.replace("\n", " ").startswith(title))
        before = head.get_attribute("aria-sort")
        head.click()
        WebDriverWait(self.chrome, 10).until(lambda _: head.get_attribute("aria-sort") not in (None, before))

    def slide(self, name, value):
        script = "arguments[0].value = arguments[1]; arguments[0].dispatchEvent(new Event('input', {bubbles: true}))"
        self.chrome.execute_script(script, self.one(f".sliders [name={name}]"), value)

    def complaints(self):
        return [entry["message"] for entry in self.chrome.get_log("browser")]

    def requests(self):
        """Addresses that the page asked for."""
        events = [json.loads(entry["message"])["message"] for entry in self.chrome.get_log("performance")]
        sent = [e["params"]["request"]["url"] for e in events if e["method"] == "Network.requestWillBeSent"]
        return [url for url in sent if not url.startswith("data:")]


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
