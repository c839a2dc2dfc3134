import re
import subprocess
import sys
from pathlib import Path

import pytest

from rdbench.metrics.catalog import CONTROLS, FAMILIES, METRICS, better, table

PAGE = Path(__file__).parents[2] / "docs" / "metrics.md"


@pytest.mark.parametrize("family", FAMILIES)
def test_the_page_carries_the_table_of_the_catalogue(family):
    assert f"## {FAMILIES[family]}\n" in PAGE.read_text(encoding="utf-8")
    assert table(family) in PAGE.read_text(encoding="utf-8"), f"paste `catalog.table({family!r})` into the page"


def test_the_page_defines_exactly_the_metrics_of_the_catalogue():
    rows = re.findall(r"^\| `(\w+)`( \(\+ controls\))? \|", PAGE.read_text(encoding="utf-8"), re.MULTILINE)
    named = {name for name, _ in rows} | {f"{name}_{c}" for name, controls in rows if controls for c in CONTROLS}
    assert named == set(METRICS)


def test_every_entry_is_complete():
    for name, metric in METRICS.items():
        assert metric.name == name
        assert metric.family in FAMILIES
        assert metric.direction in ("higher", "lower", "none")
        assert metric.definition
        assert metric.unit


def test_better_follows_the_direction():
    assert better("image_auroc", 0.9, 0.8)
    assert better("augrc", 0.1, 0.2)
    assert not better("failures", 1, 2)
    assert not better("failures", 2, 1)


def test_importing_the_catalogue_imports_nothing_heavy_and_the_metrics_no_torch_or_scikit_learn():
    heavy = "import sys, rdbench.metrics.catalog; print(*[m for m in ('numpy', 'scipy', 'torch') if m in sys.modules])"
    assert subprocess.check_output([sys.executable, "-c", heavy], text=True).split() == []
    modules = ["calibration", "cell", "detection", "localization", "selective", "shift", "statistics", "streaming"]
    imports = ", ".join(f"rdbench.metrics.{m}" for m in modules)
    heavy = f"import sys, {imports}; print(*[m for m in ('scipy', 'sklearn', 'torch') if m in sys.modules])"
    assert subprocess.check_output([sys.executable, "-c", heavy], text=True).split() == []
