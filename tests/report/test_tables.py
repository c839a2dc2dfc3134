"""The terminal's summary, as text of a given width."""

import re

import pytest
from rich.console import Console

from rdbench.benchmark.results import CellFailure
from rdbench.errors import InputError
from rdbench.report.entries import Source
from rdbench.report.markdown import markdown
from rdbench.report.tables import summary_table


def shown(results, failures=(), width=120, **options):
    console = Console(width=width, record=True, file=open("/dev/null", "w"))  # noqa: SIM115
    console.print(summary_table(results, failures, **options))
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


@pytest.mark.parametrize("show", [shown, lambda cells: markdown([Source(cell, "") for cell in cells])])
def test_a_shift_that_did_nothing_at_the_image_size_is_a_caution(make_cell, show):
    """By what is stored; a name that no shift of this rdbench has is passed over."""
    names = ("clean", "blur:2", "blur:5", "motion:1", "noise:1", "blur:9", "fog:1")
    small, usual = (
        " ".join(show([make_cell(conditions=names, image_size=size)]).split()) for size in ((64, 96), (256, 256))
    )
    assert (
        "Caution: blur:2, motion:1 leave images of 96 x 64 pixels as they are: figures under them are those of clean "
        "images, also in the means over shifts." in small
    )
    assert "Caution" not in usual


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


def test_a_method_on_fewer_cells_stands_last_and_says_how_many(make_cell):
    """It ran the easy category alone, and looks better for it."""
    cells = [make_cell("tta", category, seed) for category in ("a", "b") for seed in (0, 1)]
    text = shown([*cells, make_cell("deterministic", "a", figures={"image_auroc": 0.99})])
    lines = [line.split("  ")[0].strip() for line in text.splitlines()]
    assert lines.index("tta") < lines.index("deterministic") == lines.index("1 of 4 cells") - 1
    assert "not on the same cells as the others" in text
    assert "for the predictions of tta" in " ".join(text.split())
    assert "same cells as the others" not in shown(cells)


def test_versions_of_a_category_are_no_categories(make_cell):
    versions = [make_cell(fingerprint=letter * 64) for letter in "cd"]
    assert "grid (2 versions of its images) · 1 seed" in shown(versions, width=160)
    assert "2 categories, with grid (2 versions of its images)" in shown(
        [*versions, make_cell(category="bolt")], width=160
    )
    assert "2 categories · 1 seed" in shown([*versions[1:], make_cell(category="bolt")])


def left_out(text):
    found = re.search(r"Left out for width: (.*); `rdbench results --format csv` has all", " ".join(text.split()))
    return found[1].split(", ") if found else []


@pytest.mark.parametrize("width", [60, 70, 80, 90, 100, 110, 120, 130, 140, 150, 160])
def test_columns_that_do_not_fit_are_named(make_cell, width):
    text = shown([make_cell()], width=width)
    missing = left_out(text)
    head = text.split("deterministic")[0].replace("\n", " ")
    for column in ("Training", "Pixel", "ECE", "AURC", "FPR", "FNR"):
        assert (re.search(rf"\b{column}\b", head) is None) == any(name.startswith(column) for name in missing), column
    assert ("FPR at τ" in missing) == ("FNR at τ" in missing)


def test_all_columns_fit_into_a_wide_terminal(make_cell):
    assert left_out(shown([make_cell()], width=200)) == []


KINDS = ("blur", "gain", "noise", "tilt")
CONDITIONS = ("clean", *(f"{kind}:{severity}" for kind in KINDS for severity in range(1, 6)))


def blocks(text):
    return [line.strip() for line in text.splitlines() if line.strip() in (*CONDITIONS, "blur:mean", "shifts:mean")]


def test_a_mean_condition_that_no_cell_has_is_not_shown(make_cell):
    """Two methods under one shift each: no cell was measured under both."""
    cells = [make_cell("x", conditions=("clean", "blur:3")), make_cell("y", conditions=("clean", "noise:3"))]
    assert blocks(shown(cells, conditions=["clean", "shifts:mean"])) == ["clean"]
    for show in (summary_table, lambda cells, conditions: markdown([Source(cell, "") for cell in cells], conditions)):
        with pytest.raises(InputError, match="no cell was measured under shifts:mean"):
            show(cells, conditions=["shifts:mean"])


def test_the_mean_over_shifts_is_a_markdown_table_too(make_cell):
    cells = [make_cell("x", conditions=("clean", "blur:3", "noise:3"))]
    text = markdown([Source(cell, "") for cell in cells], ["shifts:mean"])
    assert [line.strip("*").split()[-1] for line in text.splitlines() if line.startswith("**")] == ["shifts:mean"]


def test_a_run_with_many_conditions_ends_with_clean_and_the_mean_over_shifts(make_cell):
    def brief(conditions):
        return shown([make_cell(conditions=conditions)], brief=True)

    assert blocks(brief(CONDITIONS)) == ["clean", "shifts:mean"]
    said = "20 further conditions: `rdbench results` shows all, `rdbench results --condition blur:1` one"
    assert said in " ".join(brief(CONDITIONS).split())
    assert blocks(brief(CONDITIONS[:20])) == list(CONDITIONS[:20])
    assert "further" not in brief(CONDITIONS[:20])


def test_conditions_are_picked_by_name(make_cell):
    cell = make_cell(conditions=CONDITIONS)
    assert blocks(shown([cell])) == list(CONDITIONS)
    assert blocks(shown([cell], conditions=["noise:1", "blur:mean"])) == ["noise:1", "blur:mean"]
    with pytest.raises(InputError, match="did you mean noise:1"):
        summary_table([cell], conditions=["nose:1"])
