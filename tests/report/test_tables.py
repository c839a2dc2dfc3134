"""The terminal's summary, as text of a given width."""

import re

import pytest
from rich.console import Console

from rdbench.benchmark.results import CellFailure
from rdbench.report.tables import summary_table


def shown(results, failures=(), width=120):
    console = Console(width=width, record=True, file=open("/dev/null", "w"))  # noqa: SIM115
    console.print(summary_table(results, failures))
    return console.export_text()


@pytest.mark.parametrize("width", [60, 80, 120, 200])
def test_every_line_fits_and_no_number_is_cut(results, width):
    text = shown(results, width=width)
    assert max(len(line.rstrip()) for line in text.splitlines()) <= width
    assert "…" not in text
    for word in ("Failures", "AUGRC", "(margin)"):
        assert word in text


def test_methods_controls_and_conditions_are_rows(results):
    lines = [line.split() for line in shown(results).splitlines()]
    first = [line[0] for line in lines if line]
    for name in ("clean", "lighting:3", "noise:3"):
        assert first.count(name) == 1
    for name in ("deterministic", "deep_ensemble", "mc_dropout", "tta", "chance", "margin", "oracle"):
        assert first.count(name) == 3


def test_no_failures_is_said_in_words(make_cell):
    text = shown([make_cell(failures=0)])
    assert "no failures" in text
    assert "0.000" not in text


def test_a_mean_over_some_of_the_cells_says_so(make_cell):
    text = shown(
        [make_cell(category="a", figures={"augrc": 0.1, "augrc_margin": 0.2}), make_cell(category="b", failures=0)]
    )
    assert "0.100 (0.200)*" in text


def test_alpha_is_in_the_title_and_a_level_that_is_not_attained_below(make_cell):
    assert "alpha" not in shown([make_cell()])
    cell = make_cell("tta", alpha=0.05)
    cell = cell.model_copy(update={"threshold": cell.threshold.model_copy(update={"level": 1 / 12, "attained": False})})
    text = shown([make_cell(), cell])
    assert re.findall(r"1 seed · (alpha [\d.]+)", text) == ["alpha 0.1", "alpha 0.05"]
    assert "Caution: alpha 0.05 is not attained" in text
    assert "keeps 0.0833 on grid." in " ".join(text.split())


def test_failed_cells_are_listed_with_their_reason(make_cell):
    cell = make_cell("mine")
    failure = CellFailure(spec=cell.spec, stage="fit", reason="NaN in [the] loss", traceback="", bad_input=False)
    text = shown([], [failure])
    assert "1 cell failed" in text
    assert "mine on toy/grid, seed 0" in text
    assert "NaN in [the] loss" in text


def test_nothing_yet():
    assert "no results yet" in shown([])


def test_markup_in_a_name_is_only_shown(make_cell):
    assert "[red]x[/red]" in shown([make_cell(dataset="[red]x[/red]")])


def test_figures_have_intervals_and_columns_a_direction_and_a_gloss(make_cell):
    text = shown([make_cell(figures={"image_auroc": 0.9, "augrc": 0.1, "augrc_margin": 0.2})])
    assert ".860\N{EN DASH}.930" in text
    assert ".060\N{EN DASH}.130" in text
    assert "AUROC \N{UPWARDS ARROW}" in text
    assert "AUGRC \N{DOWNWARDS ARROW}" in text
    assert "AUGRC: errors that are left" in text
    narrow = shown([make_cell()], width=60)
    assert "ECE:" not in narrow  # nor its column


def test_a_long_reason_is_broken_not_cut(make_cell):
    cell = make_cell(failures=0)
    reason = "a reason of quite a few words"
    figures = cell.image["clean"] | {"augrc": cell.image["clean"]["augrc"].model_copy(update={"note": reason})}
    text = shown([cell.model_copy(update={"image": {"clean": figures}})])
    assert all(word in text for word in reason.split())
    assert "…" not in text
