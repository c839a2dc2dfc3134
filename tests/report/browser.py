"""The site in a real browser, from the file system. Skipped, loudly, where Debian's chromium and driver are absent."""

from __future__ import annotations

import json
import shutil

import pytest

selenium = pytest.importorskip("selenium", reason="selenium is not installed: the site is not tested in a browser")
CHROMIUM, DRIVER = shutil.which("chromium"), shutil.which("chromedriver")
if not CHROMIUM or not DRIVER:
    pytest.skip("no chromium and chromedriver here: the site is not tested in a browser", allow_module_level=True)

from selenium import webdriver  # noqa: E402
from selenium.webdriver.common.action_chains import ActionChains  # noqa: E402, F401
from selenium.webdriver.common.by import By  # noqa: E402
from selenium.webdriver.common.keys import Keys  # noqa: E402, F401
from selenium.webdriver.support.select import Select  # noqa: E402
from selenium.webdriver.support.wait import WebDriverWait  # noqa: E402

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
