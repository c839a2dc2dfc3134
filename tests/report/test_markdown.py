"""Whether an uncertainty is worth more than the free one, and the Markdown tables that say so."""

from dataclasses import replace

import numpy as np
import pytest

from rdbench.benchmark.evaluate import evaluate_predictions
from rdbench.errors import InputError
from rdbench.report.entries import Source
from rdbench.report.markdown import markdown
from tests.made_up import make_predictions, make_source


def with_uncertainty(kind, category="grid", seed=0, method="deterministic"):
    """A source whose uncertainty is the errors themselves, their opposite, or the margin."""
    source = make_source(method, category, seed)
    made = make_predictions(method, category, seed)
    threshold = source.result.threshold.value
    errors = (made.scores > threshold) != made.labels
    noise = np.random.default_rng(seed).random(made.scores.shape)
    uncertainties = {
        "errors": errors + 0.01 * noise,
        "opposite": 1.01 - errors + 0.01 * noise,
        "margin": 1 / (1 + np.abs(made.scores.astype(float) - threshold)),
    }[kind]
    changed = replace(made, uncertainties=uncertainties.astype(made.scores.dtype))
    image = evaluate_predictions(changed, 0.1, 100)[1]
    return replace(source, result=source.result.model_copy(update={"image": image}), predictions=lambda: changed)


@pytest.mark.parametrize(
    ("kind", "verdict"),
    [
        ("errors", "Better than the margin (the interval lies above 0)"),
        ("opposite", "Worse than the margin"),
        ("margin", "The same as the margin"),
    ],
)
def test_verdicts_on_uncertainties_whose_worth_is_known(kind, verdict):
    sources = [with_uncertainty(kind, category, seed) for category in ("grid", "tile") for seed in (0, 1)]
    lines = markdown(sources).splitlines()
    assert f"- {verdict}: `deterministic`." in lines
    saved = [s.result.image["clean"]["augrc_saved"].value for s in sources]
    [row] = [line.split("|") for line in lines if line.startswith("| `")]
    [head] = [line.split("|") for line in lines if line.startswith("| Method")]
    assert row[head.index(" AUGRC saved ")].split()[0] == f"{np.mean(saved):+.3f}"


def test_tables_hold_every_method_and_a_verdict_for_each():
    sources = [with_uncertainty("errors", seed=s) for s in range(4)]
    sources += [with_uncertainty("opposite", seed=s, method="tta") for s in range(4)]
    text = markdown(sources)
    lines = text.splitlines()
    header = next(line for line in lines if line.startswith("| Method"))
    rows = [line for line in lines if line.startswith("|") and "---" not in line]
    assert {row.count("|") for row in rows} == {header.count("|")}
    assert [row.split("|")[1].strip() for row in rows[1:]] == ["`deterministic`", "`tta`", "chance", "margin", "oracle"]
    assert "- Better than the margin (the interval lies above 0): `deterministic`." in lines
    assert "- Worse than the margin: `tta`." in lines


def test_an_unknown_condition_is_named():
    with pytest.raises(InputError, match="unknown condition 'claen'; did you mean clean"):
        markdown([make_source("tta")], ["claen"])


def test_a_method_on_fewer_cells_stands_last_and_says_how_many():
    cells = [make_source("tta", category) for category in ("grid", "bolt")]
    text = markdown([*cells, make_source("deterministic", "grid")])
    rows = [line.split("|")[1].strip() for line in text.splitlines() if line.startswith("| `")]
    assert rows == ["`tta`", "`deterministic` (1 of 2 cells)"]
    assert "not on the same cells as the others" in text
    [verdict] = [line for line in text.splitlines() if line.startswith("- ") and "`deterministic`" in line]
    assert "`deterministic` (1 of 2 cells)" in verdict
    assert "same cells" not in markdown(cells)


def test_nothing_is_judged_without_intervals():
    sources = [make_source("deterministic", seed=seed) for seed in range(3)]
    without = []
    for source in sources:
        image = evaluate_predictions(source.predictions(), 0.1, resamples=0)[1]
        without.append(replace(source, result=source.result.model_copy(update={"image": image})))
    for some in (without[:1], without):
        assert "Not known without intervals (`rdbench evaluate` computes them): `deterministic`." in markdown(some)
    assert "Not known" not in markdown(sources)


def test_figures_of_an_older_version_are_not_judged(make_cell):
    text = markdown([make_cell("tta"), make_source("deterministic")])
    assert "(`rdbench evaluate` computes them): `tta`." in text
    assert "`rdbench evaluate`" not in markdown([make_source("deterministic")])


def test_a_mean_over_fewer_cells_than_the_method_has_is_marked(make_cell):
    cells = [make_cell("a", "x"), make_cell("a", "y", failures=0), make_cell("b", "x"), make_cell("b", "y")]
    text = markdown([Source(cell, "") for cell in cells])
    rows = {line.split("|")[1].strip(): line for line in text.splitlines() if line.startswith("| `")}
    assert r"\* (" in rows["`a`"]
    assert r"\*" not in rows["`b`"]
    assert r"\*: over the cells" in text
    assert r"\*: over" not in markdown([Source(cell, "") for cell in cells[2:]])
