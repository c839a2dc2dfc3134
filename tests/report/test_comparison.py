"""Methods against each other over the cells that they have in common."""

import csv
import io
import json
import math

import numpy as np
import pytest
from rich.console import Console
from scipy.stats import binom, wilcoxon

from rdbench.benchmark.results import Figure
from rdbench.errors import InputError
from rdbench.metrics.catalog import METRICS as CATALOGUE
from rdbench.metrics.statistics import holm
from rdbench.report.comparison import METRICS, compare_methods, median_interval
from rdbench.report.entries import Source
from rdbench.report.figures import comparison_figure
from tests.made_up import make_cell

CATEGORIES, SEEDS = ("grid", "bolt", "can"), (0, 1, 2)
PLACES = [(category, seed) for category in CATEGORIES for seed in SEEDS]


def cells(method, values, metric="augrc", places=PLACES, **spec):
    """One source per place, with that value of the metric; None is undefined."""
    return [
        Source(make_cell(method, category, seed, figures={metric: value}, **spec), f"{method}/{category}-s{seed}")
        for (category, seed), value in zip(places, values, strict=True)
    ]


def numbers(seed, shift=0.0):
    return (np.random.default_rng(seed).uniform(0.1, 0.3, len(PLACES)) + shift).tolist()


def only(sources, *methods, metric="augrc", **more):
    [found] = compare_methods(sources, methods, [metric], **more).found
    return found


def shown(comparisons):
    console = Console(width=150, record=True, file=io.StringIO())
    console.print(comparisons)
    return console.export_text()


def test_scipy_agrees():
    a, b = numbers(0), numbers(1, shift=0.03)
    found = only(cells("tta", a) + cells("mc_dropout", b), "tta", "mc_dropout")
    expected = wilcoxon(np.array(b) - a)
    assert found.p_value == found.p_holm == pytest.approx(expected.pvalue)
    by_place = {(category, seed): y - x for (category, seed), x, y in zip(PLACES, a, b, strict=True)}
    for (_, category, seed), difference in zip(found.units, found.differences, strict=True):
        assert difference == pytest.approx(by_place[category, seed])
    assert (found.mean_reference, found.mean_other) == (pytest.approx(np.mean(a)), pytest.approx(np.mean(b)))
    assert found.median == pytest.approx(np.median(np.array(b) - a))


def test_a_known_answer():
    """Nine wins of ten, the loss smallest but one: W- = 2, so p = 2 P(W <= 2) = 2 * 3 / 2^10."""
    places = [(category, seed) for category in ("a", "b") for seed in range(5)]
    base, gaps = np.full(10, 0.5), np.array([0.01, -0.02, 0.03, 0.04, 0.05, 0.06, 0.07, 0.08, 0.09, 0.1])
    sources = cells("tta", base, places=places) + cells("mc_dropout", base + gaps, places=places)
    found = only(sources, "tta", "mc_dropout")
    assert found.p_value == pytest.approx(6 / 1024)
    assert found.effect == pytest.approx((53 - 2) / 55)
    assert found.won_tied_lost == (9, 0, 1)
    assert (found.median, found.low, found.high) == (pytest.approx(0.055), pytest.approx(0.01), pytest.approx(0.09))
    assert found.verdict == "tta is better"


@pytest.mark.parametrize(("metric", "wins"), [("augrc", "tta"), ("image_auroc", "mc_dropout")])
def test_the_direction_of_the_metric_is_respected(metric, wins):
    less, more = numbers(0), numbers(0, shift=0.1)
    sources = cells("tta", less, metric) + cells("mc_dropout", more, metric)
    found = only(sources, "tta", "mc_dropout", metric=metric)
    assert found.verdict == f"{wins} is better"
    assert found.effect == (1 if wins == "tta" else -1)
    back = only(sources, "mc_dropout", "tta", metric=metric)
    assert back.verdict == found.verdict
    assert (back.median, back.low, back.high) == (-found.median, -found.high, -found.low)


def test_every_main_metric_has_a_direction():
    assert all(CATALOGUE[name].direction in ("higher", "lower") for name in METRICS)


def test_holm_is_over_the_methods_compared():
    sources = cells("a", numbers(0)) + cells("b", numbers(1, 0.05)) + cells("c", numbers(2, 0.04))
    found = compare_methods(sources, ["a", "b", "c"], ["augrc", "aurc"]).found
    assert [(c.metric, c.other) for c in found] == [("augrc", "b"), ("augrc", "c"), ("aurc", "b"), ("aurc", "c")]
    for pair in (found[:2], found[2:]):
        np.testing.assert_allclose([c.p_holm for c in pair], holm([c.p_value for c in pair]))


@pytest.mark.parametrize("n", [6, 7, 12, 25])
def test_the_interval_of_the_median_has_its_level(n):
    values = np.random.default_rng(n).permutation(np.arange(n, dtype=float))
    low, high = median_interval(values)
    below = int(low)  # values below the lower end
    assert high == n - 1 - below
    assert 1 - 2 * binom.cdf(below, n, 0.5) >= 0.95
    assert 1 - 2 * binom.cdf(below + 1, n, 0.5) < 0.95
    assert all(map(math.isnan, median_interval(values[:5])))


def test_ties_and_too_few_pairs_are_said_in_words():
    a = numbers(0)
    same = only(cells("a", a) + cells("b", a), "a", "b")
    assert (same.verdict, same.p_value, same.won_tied_lost) == ("equal in all 9 pairs", 1.0, (0, 9, 0))
    few = only(cells("a", a) + cells("b", [x + 0.1 * (i < 5) for i, x in enumerate(a)]), "a", "b")
    assert few.verdict == "too few pairs: 5 differ, 6 are needed"
    assert few.won_tied_lost == (5, 4, 0)
    one = only(cells("a", a[:1], places=PLACES[:1]) + cells("b", a[:1], places=PLACES[:1]), "a", "b")
    assert one.verdict == "equal in the only pair"


def test_an_advantage_without_an_interval_says_why_and_the_first_columns_what_they_are():
    def said(pairs):
        places = PLACES[:pairs]
        sources = cells("a", numbers(0)[:pairs], places=places) + cells("b", numbers(1)[:pairs], places=places)
        return " ".join(shown(compare_methods(sources, ["a", "b"], ["augrc"])).split())

    why = "which takes 6 pairs and is not there with fewer"
    assert why in said(5)
    assert why not in said(6)
    assert "The first two columns: means over pairs" in said(6)


def test_pairs_that_lack_the_figure_are_left_out_and_counted():
    a, b = numbers(0), [None, None, *numbers(1, 0.1)[2:]]
    found = compare_methods(cells("a", a) + cells("b", b), ["a", "b"], ["augrc"])
    assert (len(found.found[0].differences), found.found[0].left_out) == (7, 2)
    assert "2 left out: made undefined" in " ".join(shown(found).split())
    none = only(cells("a", a) + cells("b", [None] * 9), "a", "b")
    assert none.verdict == "no pair: made undefined"
    assert math.isnan(none.p_value)


def test_cells_without_a_partner_are_named():
    sources = cells("a", numbers(0)) + cells("b", numbers(1)[2:], places=PLACES[2:])
    found = compare_methods(sources, ["a", "b"])
    assert found.words == ["cells of a without b, left out: toy/grid seed 0, toy/grid seed 1"]
    assert {len(c.differences) for c in found.found} == {7}
    with pytest.raises(InputError, match="a and b have no cell"):
        compare_methods(cells("a", [0.1], places=PLACES[:1]) + cells("b", [0.1], places=PLACES[1:2]), ["a", "b"])


def test_data_sets_are_pooled_and_never_paired_with_each_other():
    both = [("toy", 0.1), ("mvtec_ad", 0.2)]
    sources = [
        source
        for dataset, shift in both
        for source in cells("a", numbers(0, shift), dataset=dataset) + cells("b", numbers(1, shift), dataset=dataset)
    ]
    found = compare_methods(sources, ["a", "b"], ["augrc"])
    assert len(found.found[0].differences) == 18
    assert found.words[0].startswith("pairs come from mvtec_ad")
    assert np.abs(found.found[0].differences).max() <= 0.2


def test_means_over_shifts_are_a_condition_of_their_own():
    conditions = ("clean", "noise:1", "noise:3")
    sources = [
        Source(make_cell(method, category, seed, conditions=conditions), "x")
        for method in ("a", "b")
        for category, seed in PLACES
    ]
    found = only(sources, "a", "b", conditions=["shifts:mean"])
    value = {
        (s.result.spec.method, s.result.spec.category, s.result.spec.seed): np.mean(
            [s.result.image[name]["augrc"].value for name in conditions[1:]]
        )
        for s in sources
    }
    for (_, category, seed), difference in zip(found.units, found.differences, strict=True):
        assert difference == pytest.approx(value["b", category, seed] - value["a", category, seed])


def test_means_over_shifts_are_over_those_in_which_both_have_the_figure():
    """A method without a failure under the mild shift is not compared by its severe one with both of the other."""
    conditions = ("clean", "noise:1", "noise:3")

    def source(method, mild, severe):
        cell = make_cell(method, conditions=conditions)
        image = {name: dict(figures) for name, figures in cell.image.items()}
        image["noise:1"]["augrc"], image["noise:3"]["augrc"] = Figure(value=mild), Figure(value=severe)
        return Source(cell.model_copy(update={"image": image}), "x")

    found = only([source("a", None, 0.2), source("b", 0.1, 0.2)], "a", "b", conditions=["noise:mean"])
    assert found.won_tied_lost == (0, 1, 0)
    assert (found.mean_reference, found.mean_other) == (0.2, 0.2)


@pytest.mark.parametrize(
    ("methods", "metrics", "says"),
    [
        (["tta", "mc_dropuot"], (), "unknown method 'mc_dropuot'; did you mean mc_dropout"),
        (["tta", "TTA"], (), "unknown method 'TTA'"),
        (["tta", "tta"], (), "two or more different methods"),
        (["tta"], (), "two or more different methods"),
        (["tta", "mc_dropout"], ["augcr"], "did you mean augrc"),
        (["tta", "mc_dropout"], ["failures"], "unknown metric that has a better and a worse 'failures'"),
    ],
)
def test_errors_in_words(methods, metrics, says):
    with pytest.raises(InputError, match=says):
        compare_methods(cells("tta", numbers(0)) + cells("mc_dropout", numbers(1)), methods, metrics)


def test_markup_in_a_name_is_only_shown():
    sources = cells("[red]x[/red]", numbers(0)) + cells("<b>y</b>", numbers(1))
    found = compare_methods(sources, ["[red]x[/red]", "<b>y</b>"])
    assert "[red]x[/red]" in shown(found)
    assert "<b>y</b>" not in comparison_figure(found).to_json().replace("\\u003c", "<")


def test_the_figure_holds_every_pair_and_median():
    found = compare_methods(cells("a", numbers(0)) + cells("b", numbers(1)), ["a", "b"])
    traces = comparison_figure(found).data
    assert len(traces) == 2 * len(found.found)
    np.testing.assert_allclose(traces[0].x, found.found[0].differences)
    assert traces[1].x[0] == found.found[0].median


@pytest.fixture
def store(tmp_path):
    """A run's directory with cells whose labels have brackets and commas."""
    for options in ({"p": 0.3, "samples": 5, "placement": "decoder"}, {}):
        for source in cells("mc_dropout", numbers(len(options)), options=options):
            directory = tmp_path / "runs" / source.result.spec.path
            directory.mkdir(parents=True)
            (directory / "result.json").write_text(source.result.model_dump_json())
    return tmp_path / "runs"


def test_the_command(rdbench, store, tmp_path):
    given = ("compare", "mc_dropout[p=0.3, samples=5]", "mc_dropout", "--runs", store)
    done = rdbench(*given, "--out", tmp_path / "figures" / "c.html")
    assert done.code == 0, done.err
    assert "too few" in done.out or "no difference" in done.out or "is better" in done.out
    page = (tmp_path / "figures" / "c.html").read_text()
    assert "<title>mc_dropout[p=0.3, samples=5] against mc_dropout</title>" in page
    assert 'src="http' not in page
    assert '<html lang="en">' in page
    assert '<meta name="viewport"' in page
    rows = json.loads(rdbench(*given, "--format", "json").out)
    assert [row["metric"] for row in rows] == list(METRICS)
    assert {(row["reference"], row["other"], row["pairs"]) for row in rows} == {(given[1], given[2], 9)}
    assert len(list(csv.DictReader(io.StringIO(rdbench(*given, "--format", "csv", "--metric", "fpr").out)))) == 1
    assert "did you mean mc_dropout[p=0.3, samples=5]" in rdbench(*given[:1], "mc_dropout[p=0.3]", *given[2:]).error()
