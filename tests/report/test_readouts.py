"""Readouts of stored members, and the curve over the number of members."""

import csv
import io
import json
from dataclasses import replace

import numpy as np
import pytest
from rich.console import Console

from rdbench.benchmark.evaluate import evaluate_predictions
from rdbench.benchmark.store import Store, read_predictions
from rdbench.errors import InputError
from rdbench.metrics import selective
from rdbench.metrics.catalog import CONTROLS
from rdbench.metrics.readouts import READOUTS, first_members, read_out
from rdbench.report.entries import Source
from rdbench.report.figures import curve_figure
from rdbench.report.member_curve import MEASURED, member_curves, why_no_curve
from rdbench.report.readouts import METRICS, compare_readouts
from tests.command import QUICK, start
from tests.datasets import trees
from tests.made_up import make_cell, make_predictions


def with_members(method="mc_dropout", category="grid", seed=0, members=5):
    """A source whose score and uncertainty are mean and standard deviation of made-up members."""
    plain = make_predictions(method, category, seed)
    random = np.random.default_rng([seed, *category.encode()])
    noise = random.normal(0, 0.6, (members, *plain.scores.shape))
    said = (plain.scores + noise).astype(np.float32)
    normal = (plain.calibration_scores + random.normal(0, 0.6, (members, 24))).astype(np.float32)
    *_, (scores, std) = first_members(said)
    *_, (calibration, unsure) = first_members(normal)
    made = replace(
        plain, scores=scores, uncertainties=std, member_scores=said.swapaxes(0, 1), calibration_members=normal,
        calibration_scores=calibration, calibration_uncertainties=unsure,
    )  # fmt: skip
    return as_source(made, method, category, seed)


def as_source(predictions, method="mc_dropout", category="grid", seed=0):
    threshold, image = evaluate_predictions(predictions, 0.1, 0)
    cell = make_cell(method, category, seed, conditions=predictions.conditions)
    cell = cell.model_copy(update={"threshold": threshold, "image": image})
    return Source(cell, f"toy/{category}/{method}-s{seed}", lambda: predictions)


@pytest.fixture(scope="module")
def some():
    return [with_members(category=c, seed=s) for c in ("grid", "bolt") for s in (0, 1)]


def text_of(shown):
    console = Console(width=160, record=True, file=io.StringIO())
    console.print(shown)
    return console.export_text()


def test_every_readout_is_a_row_beside_the_methods_own_and_the_controls(some):
    rows = compare_readouts(some).rows
    readouts = [name for name in READOUTS if name != "margin"]
    assert list(rows["readout"]) == ["own", *readouts, "chance", "margin", "oracle"]
    assert list(rows["kind"]) == ["own"] + ["readout"] * len(readouts) + ["control"] * len(CONTROLS)
    by_name = rows.set_index("readout")
    for metric in METRICS:
        assert by_name[metric]["own"] == pytest.approx(by_name[metric]["std"], abs=1e-9)


def test_figures_are_means_over_categories_and_seeds_of_each_cells_own(some):
    row = compare_readouts(some).rows.set_index("readout").loc["standardised_margin"]
    values, failures = [], 0.0
    for source in some:
        p, tau = source.predictions(), source.result.threshold.value
        errors = ((p.scores[0] > tau) != (p.labels == 1)).astype(int)
        values.append(
            selective.augrc(errors, read_out("standardised_margin", p.member_scores[0], p.scores[0], tau, 0.0))
        )
        failures += errors.sum() / 2  # two seeds
    assert row["augrc"] == pytest.approx(np.mean(values))
    assert (row["failures"], row["cells"], row["cells_with_failures"]) == (pytest.approx(failures), 4, 4)


def test_levels_are_those_of_the_calibration_images(some):
    row = compare_readouts(some).rows.set_index("readout").loc["centred_std"]
    values = []
    for source in some:
        p, tau = source.predictions(), source.result.threshold.value
        errors = ((p.scores[0] > tau) != (p.labels == 1)).astype(int)
        centred = p.member_scores[0] - p.calibration_members.mean(axis=1, keepdims=True)
        values.append(selective.augrc(errors, centred.std(axis=0, ddof=1)))
    assert row["augrc"] == pytest.approx(np.mean(values), abs=1e-6)


def test_controls_are_those_of_the_stored_figures(some):
    by_name = compare_readouts(some).rows.set_index("readout")
    for control, name in (("random", "chance"), ("margin", "margin"), ("oracle", "oracle")):
        stored = [source.result.image["clean"][f"augrc_{control}"].value for source in some]
        assert by_name["augrc"][name] == pytest.approx(np.mean(stored))
    assert by_name["augrc"]["own"] == pytest.approx(np.mean([s.result.image["clean"]["augrc"].value for s in some]))


def test_conditions_are_chosen_by_name(some):
    found = compare_readouts(some, conditions=["all"]).rows
    assert set(found["condition"]) == {"clean", "lighting:1", "lighting:3", "noise:3", "lighting:mean", "shifts:mean"}
    assert set(compare_readouts(some, conditions=["noise:3"]).rows["condition"]) == {"noise:3"}
    with pytest.raises(InputError, match=r"unknown condition 'noise:4'; did you mean noise:3"):
        compare_readouts(some, conditions=["noise:4"])


def test_methods_without_members_are_left_out_and_named(some):
    plain = as_source(make_predictions("deterministic", "grid", 0), "deterministic")
    alone = with_members("tta", members=1)
    found = compare_readouts([*some, plain, alone])
    assert set(found.rows["method"]) == {"mc_dropout"}
    assert found.words == [
        "left out: deterministic, its predictions have no members",
        "left out: tta, one member alone has nothing to disagree with",
    ]
    assert compare_readouts([plain]).rows.empty


def test_the_table_says_what_is_what(some):
    text = text_of(compare_readouts(some))
    for word in ("the method's own", "standardised_margin", "chance (control)", "margin (control)", "4 of 4"):
        assert word in text


def test_no_failures_are_no_numbers():
    predictions = with_members().predictions()
    apart = predictions.labels * 100.0
    members = predictions.member_scores / 1000 + apart
    easy = replace(
        predictions,
        member_scores=members.astype("f4"),
        scores=members.mean(axis=1).astype("f4"),
        calibration_scores=np.full(24, 50, "f4"),
    )
    found = compare_readouts([as_source(easy)])
    assert found.rows["augrc"].isna().all()
    assert "0 of 1" in text_of(found)


def test_the_curve_ends_at_the_stored_figures(some):
    rows = member_curves(some).rows
    assert set(rows["members"]) == {1, 2, 3, 4, 5}
    last = rows[rows["members"] == 5].set_index("metric")
    for metric in MEASURED:
        stored = np.array([source.result.image["clean"][metric].value for source in some]).reshape(2, 2)
        factor = 2 if metric == "failures" else 1  # summed over categories
        assert last["value"][metric] == pytest.approx(factor * stored.mean())
        assert last["std"][metric] == pytest.approx(stored.mean(axis=0).std(ddof=1))
    assert rows[(rows["members"] == 1) & (rows["metric"] == "failure_auroc")]["value"].item() == 0.5  # all tied
    assert "±" in text_of(member_curves(some))


@pytest.mark.parametrize(("most", "step"), [(3, 1), (10, 1), (20, 2)])
def test_the_curve_is_drawn_over_whole_members(some, most, step):
    curves = member_curves(some)
    heading, rows = curves.tables[0]
    rows = rows.assign(members=rows["members"].clip(upper=most).replace(5, most))
    figure = curve_figure(replace(curves, rows=rows, tables=((heading, rows),)))
    assert {axis.dtick for axis in figure.select_xaxes()} == {step}


def test_the_curve_marks_figures_that_some_cells_lack(some):
    curves = member_curves(some)
    assert "*:" in text_of(curves)
    assert "* \u00b1" not in text_of(curves)
    heading, rows = curves.tables[0]
    fewer = rows.assign(cells=rows["cells"] - (rows["metric"] == "augrc"))
    marked = text_of(replace(curves, tables=((heading, fewer),)))
    assert marked.count("* \u00b1") == rows["members"].nunique()


def test_one_seed_has_no_spread(some):
    assert member_curves(some[:1]).rows["std"].isna().all()


def test_what_is_not_mean_and_spread_of_its_members_has_no_curve(some):
    p = some[0].predictions()
    assert why_no_curve(p) == ""
    wrong = {
        "scores": "its score on test images is not the mean",
        "uncertainties": "its uncertainty on test images is not the standard deviation",
        "calibration_scores": "its score on calibration images is not the mean",
        "calibration_uncertainties": "its uncertainty on calibration images",
    }
    for name, why in wrong.items():
        assert why in why_no_curve(replace(p, **{name: getattr(p, name) + np.float32(0.01)}))
    found = member_curves([as_source(replace(p, scores=p.scores + 1))])
    assert found.rows.empty
    assert found.words[0].startswith("left out: mc_dropout, its score on test images")


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """One training of a student with dropout, sampled two and four times, and the deterministic student."""
    root = tmp_path_factory.mktemp("ad2")
    trees.mvtec_ad2(root)
    data, methods = ("--dataset", "mvtec_ad2", "--root", root), ("-m", "mc_dropout,deterministic", "-o", "samples=2,4")
    done = start("run", *data, *QUICK, *methods, "--out", root.parent / "runs").done()
    assert done.code == 0, done.err
    return root.parent / "runs"


def test_the_curve_at_k_is_a_run_with_k_samples(rdbench, runs):
    cells = {result.spec.options.get("samples"): (path, result) for path, result in Store(runs).results()}
    two, four = (read_predictions(*cells[k]) for k in (2, 4))
    for members, scores, std in (
        (four.member_scores.swapaxes(0, 1), two.scores, two.uncertainties),
        (four.calibration_members, two.calibration_scores, two.calibration_uncertainties),
    ):
        _, (mean, spread), *_ = first_members(members)
        np.testing.assert_array_equal(mean, scores)
        np.testing.assert_allclose(spread, std, rtol=2e-7)
    done = rdbench("curve", "--runs", runs, "--method", "mc_dropout[samples=4]", "--format", "csv")
    assert done.code == 0
    curve = {(int(r["members"]), r["metric"]): r["value"] for r in csv.DictReader(io.StringIO(done.out))}
    for k in (2, 4):
        for metric in MEASURED:
            assert float(curve[k, metric]) == cells[k][1].image["clean"][metric].value


def test_the_commands_print_tables_and_rows(rdbench, runs, tmp_path):
    table = rdbench("readouts", "--runs", runs)
    assert (table.code, "left out: deterministic" in table.out) == (0, True)
    machine = rdbench("readouts", "--runs", runs, "--format", "json")
    assert {row["method"] for row in json.loads(machine.out)} == {"mc_dropout[samples=2]", "mc_dropout[samples=4]"}
    assert "left out: deterministic" in machine.err
    done = rdbench("curve", "--runs", runs, "--out", tmp_path / "curve.html")
    assert done.code == 0
    assert "Plotly.newPlot" in (tmp_path / "curve.html").read_text()


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("readouts", "--method", "mc_dropout[samples=3]"), "did you mean mc_dropout[samples="),
        (("curve", "--method", "MC_dropout[samples=4]"), "unknown method 'MC_dropout[samples=4]'; did you mean"),
        (("curve", "--condition", "claen"), "did you mean clean"),
        (("curve", "--method", "deterministic", "--out", "x.html"), "there is no curve to draw"),
        (("curve", "--out", "curve.png"), "figures are written as .html"),
        (("readouts", "--format", "xml"), "table, csv or json"),
        (("curve", "--runs", "nowhere"), "no results at nowhere"),
    ],
)
def test_errors_are_one_line(rdbench, runs, arguments, says):
    given = arguments if "--runs" in arguments else (*arguments, "--runs", runs)
    done = rdbench(*given)
    assert done.code == 2
    assert says in done.error()
