"""How sure a ranking is: ties with the best, rank intervals, the least difference, critical differences."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from rdbench.metrics import selective
from rdbench.report.boards import make_board
from rdbench.report.columns import DASH
from rdbench.report.compared import compared
from rdbench.report.curves import REVIEWED, read_evidence
from rdbench.report.entries import Source
from rdbench.report.mean_shifts import with_mean_shifts
from rdbench.report.rankings import make_rankings
from rdbench.report.standings import (
    best_and_tied,
    compared_by_lead,
    critical_difference,
    lead_replicates,
    least_difference,
    rank_methods,
)
from rdbench.report.views import table_rows


def ranking_of(make_cell, values, categories=("a", "b", "c", "d"), seeds=(0, 1)):
    """A ranking of methods whose AUGRC is given, with the intervals of `make_cell`: 0.04 below and 0.03 above."""
    [ranking] = make_rankings(
        make_cell(method, category, seed, figures={"augrc": value})
        for method, value in values.items()
        for category in categories
        for seed in seeds
    )
    return ranking


def ranks_of(ranking, condition=0, augrc=None):
    lead = compared_by_lead(ranking, condition)
    return rank_methods(lead, lead_replicates(lead, augrc))


def least_of(ranking, augrc=None):
    lead = compared_by_lead(ranking, 0)
    return least_difference(lead, lead_replicates(lead, augrc))


def test_the_tie_with_the_best_ends_where_the_difference_leaves_its_interval(make_cell):
    # four categories without spread over seeds: half widths 0.04 / 2 and 0.03 / 2, together hypot(0.02, 0.015) = 0.025
    for difference, expected in ((0.0249, True), (0.0251, False)):
        ranking = ranking_of(make_cell, {"best": 0.1, "other": 0.1 + difference})
        f = ranking.metrics.index("augrc")
        best, tied = best_and_tied(ranking, 0, ranking.metrics)
        assert best[:, f].tolist() == [True, False]
        assert tied[:, f].tolist() == [False, expected]


def test_a_cell_without_failures_lets_none_by(make_cell):
    """`good` has no failure in the easy category: the mean of its AUGRC is that of the hard one alone, and larger."""
    cells = []
    for seed in range(2):
        cells += [make_cell("good", "hard", seed, figures={"augrc": 0.30}), make_cell("good", "easy", seed, failures=0)]
        cells += [make_cell("bad", c, seed, figures={"augrc": v}) for c, v in (("hard", 0.31), ("easy", 0.02))]
    [ranking] = make_rankings(cells)
    f, good = ranking.metrics.index("augrc"), ranking.methods.index("good")
    value = ranking.mean().value[:, 0, f]
    assert value[good] == value.max()
    for category in (None, ranking.categories.index("easy"), ranking.categories.index("hard")):
        best, tied = best_and_tied(ranking, 0, ["augrc"], category)
        assert best[good].all()
        assert tied[1 - good].all()
    ranks = ranks_of(ranking)
    assert ranks[good].rank == 1


def with_failure_auroc(make_cell, values):
    """Cells of methods in categories a, b, c."""
    return [
        make_cell(method, category, figures={"failure_auroc": value})
        for method, each in values.items()
        for category, value in zip("abc", each, strict=False)
    ]


def test_a_figure_that_one_lacks_in_a_cell_is_compared_on_the_others(make_cell):
    """Of `x` the mean is over the cell in which all do well."""
    values = {"x": (0.9, None, 0.9), "y": (0.91, 0.5, 0.91)}
    [ranking] = make_rankings(with_failure_auroc(make_cell, values))
    f = ranking.metrics.index("failure_auroc")
    mean = ranking.mean().value[:, 0, f]
    assert mean[0] > mean[1]
    best, tied = best_and_tied(ranking, 0, ["failure_auroc"])
    assert best[:, 0].tolist() == [False, True]
    assert tied[:, 0].tolist() == [True, False]


def test_a_method_that_mostly_lacks_a_figure_takes_no_cells_from_the_others(make_cell):
    values = {"x": (0.9, 0.9, 0.9), "y": (0.1, 0.1, 0.1), "odd": (0.5, None, None)}
    [ranking] = make_rankings(with_failure_auroc(make_cell, values))
    found = compared(ranking, 0, ["failure_auroc"]).value[..., 0]
    assert not np.isnan(found[[ranking.methods.index(m) for m in ("x", "y")]]).any()
    assert np.isnan(found[ranking.methods.index("odd")]).all()


def test_a_method_with_fewer_seeds_or_conditions_than_most_is_not_ranked(make_cell):
    """And takes no seed from the others: it could have had the easiest one."""
    both = ("clean", "noise:1")
    cells = [make_cell("few", c, 0, conditions=both, figures={"augrc": 0.05}) for c in "ab"]
    for method, value in (("x", 0.2), ("y", 0.3)):
        cells += [make_cell(method, c, s, conditions=both, figures={"augrc": value}) for c in "ab" for s in (0, 1, 2)]
    cells += [
        make_cell("part", c, s, conditions=both if c == "a" else both[:1], figures={"augrc": 0.1})
        for c in "ab"
        for s in (0, 1, 2)
    ]
    [ranking] = make_rankings(cells)
    for condition, wanted in (("clean", ["part", "x", "y"]), ("noise:1", ["x", "y"])):
        k = ranking.conditions.index(condition)
        best, tied = best_and_tied(ranking, k, ["augrc"])
        ranks = ranks_of(ranking, k)
        assert [ranking.methods[m] for m in sorted(ranks)] == wanted
        assert not (best | tied)[ranking.methods.index("few")].any()
        assert best[ranking.methods.index(wanted[0])].all()
        assert [ranking.methods[m] for m in critical_difference(compared_by_lead(ranking, k)).methods] == wanted
    rows = {row.name: row for row in make_board(ranking).rows(ranking.conditions.index("noise:1"))}
    assert rows["few"].note == "1 of 3 seeds: not ranked"
    assert rows["part"].note == "3 of 6 cells: not ranked"
    assert rows["x"].note == ""


def shifted(make_cell, method, seed, by_condition):
    """A cell with an AUGRC under each shift, None for no failures."""
    cell = make_cell(method, "a", seed, conditions=("clean", *by_condition))
    image = dict(cell.image)
    for name, value in by_condition.items():
        ends = (None, None) if value is None else (value - 0.04, value + 0.03)
        figure = {"value": value, "low": ends[0], "high": ends[1], "note": "no failures" if value is None else ""}
        image[name] = image[name] | {"augrc": image[name]["augrc"].model_copy(update=figure)}
    return cell.model_copy(update={"image": image})


def test_means_over_shifts_are_compared_on_the_shifts_that_all_have(make_cell):
    cells = []
    for seed in range(3):
        cells.append(shifted(make_cell, "good", seed, {"blur:1": None, "blur:2": 0.300 + 0.001 * seed}))
        cells.append(shifted(make_cell, "bad", seed, {"blur:1": 0.01, "blur:2": 0.302 + 0.001 * seed}))
    ranking = with_mean_shifts(make_rankings(cells)[0])
    at, f, good = (
        ranking.conditions.index("blur:mean"), ranking.metrics.index("augrc"), ranking.methods.index("good"),
    )  # fmt: skip
    value = ranking.mean().value[:, at, f]
    assert value[good] > value[1 - good]
    best, tied = best_and_tied(ranking, at, ["augrc"])
    assert best[good].all()
    assert tied[1 - good].all()
    joint = np.full((*ranking.value.shape[:4], 50), 0.3)  # as predictions would give, equal for the two
    joint[good, ..., ranking.conditions.index("blur:1"), :] = joint[..., at, :] = np.nan
    lead = compared_by_lead(ranking, at)
    assert (lead_replicates(lead, joint) == 0.3).all()
    assert ranks_of(ranking, at, joint)[good].rank == 1
    assert critical_difference(lead).methods[0] == good


def test_nothing_is_best_where_the_chance_of_the_parts_is_not_known(make_cell):
    values = {"x": 0.1, "y": 0.5}
    cells = [make_cell(m, c, s, figures={"ece": v}) for m, v in values.items() for c in "ab" for s in (0, 1)]
    cells = [
        cell.model_copy(
            update={
                "image": {
                    "clean": cell.image["clean"]
                    | {"ece": cell.image["clean"]["ece"].model_copy(update={"low": None, "high": None})}
                }
            }
        )
        for cell in cells
    ]
    [ranking] = make_rankings(cells)
    best, tied = best_and_tied(ranking, 0, ["ece", "augrc"])
    assert not best[:, 0].any()
    assert not tied[:, 0].any()
    assert best[:, 1].any()


@pytest.mark.parametrize(
    ("categories", "spreads"), [("a", (1,)), ("abcde", (1, 1, 1, 1, 1)), ("abcde", (10, 1, 1, 1, 1))]
)
def test_of_equal_methods_hardly_one_is_called_worse_and_one_far_off_is(make_cell, categories, spreads):
    """22 methods, three seeds that alone make the difference: in 5 of 100 tables at most an equal one is not tied."""
    rng = np.random.default_rng(0)
    names = [f"m{i:02}" for i in range(22)]
    [ranking] = make_rankings(
        make_cell(name, category, seed, figures={"augrc": 0.5})
        for name in names
        for category in categories
        for seed in (0, 1, 2)
    )
    f, deviations = ranking.metrics.index("augrc"), 0.01 * np.array(spreads)[:, None, None]
    wrong = found = 0
    for _ in range(100):
        value = ranking.value.copy()
        value[..., f] = 0.5 + deviations * rng.standard_normal(value.shape[:4])
        value[-1, ..., f] += 200 * np.sqrt((deviations**2).sum() / 3) / len(categories)
        best, tied = best_and_tied(replace(ranking, value=value, low=value, high=value), 0, ["augrc"])
        wrong += bool((~best & ~tied)[:-1].any())
        found += bool(~tied[-1])
    assert wrong <= 12  # a chance of 5 % gives more in 1 of 100 runs
    assert found >= 95


def test_higher_is_better_where_the_catalogue_says_so(make_cell):
    cells = [make_cell(m, figures={"image_auroc": v}) for m, v in (("x", 0.6), ("y", 0.9))]
    [ranking] = make_rankings(cells)
    best, _ = best_and_tied(ranking, 0, ranking.metrics)
    assert best[:, ranking.metrics.index("image_auroc")].tolist() == [False, True]
    assert not best[:, ranking.metrics.index("failures")].any()


@pytest.mark.parametrize(("difference", "expected"), [(0.045, True), (0.055, False)])
def test_where_more_is_better_the_lower_arm_of_the_best_counts(make_cell, difference, expected):
    """Of the best, whose upper arm ends at 1, 0.04 below; of the other 0.03 above: together 0.05."""
    cells = [make_cell(m, figures={"image_auroc": v}) for m, v in (("best", 0.99), ("other", 0.99 - difference))]
    [ranking] = make_rankings(cells)
    _, tied = best_and_tied(ranking, 0, ["image_auroc"])
    assert tied[:, 0].tolist() == [False, expected]


def test_incomplete_methods_take_no_cell_from_the_others_however_many_they_are(make_cell):
    parts = {f"part{i}": (0.5,) for i in range(3)}
    cells = with_failure_auroc(make_cell, {"x": (0.9, 0.9, 0.9), "y": (0.1, 0.1, 0.1), **parts})
    [ranking] = make_rankings(cells)
    there = ~np.isnan(compared(ranking, 0, ["failure_auroc"]).value[:, :, 0, 0])
    found = dict(zip(ranking.methods, there.sum(axis=1).tolist(), strict=True))
    assert found == {"x": 3, "y": 3, **dict.fromkeys(parts, 0)}


def test_ranks_of_methods_far_apart_are_certain_and_of_equals_are_not(make_cell):
    apart = ranking_of(make_cell, {"x": 0.1, "y": 0.5, "z": 0.9})
    ranks = ranks_of(apart)
    assert [(r.low, r.high) for r in ranks.values()] == [(1, 1), (2, 2), (3, 3)]
    equal = ranking_of(make_cell, {"x": 0.3, "y": 0.3, "z": 0.3})
    ranks = ranks_of(equal)
    assert [(r.low, r.high) for r in ranks.values()] == [(1, 3)] * 3


def test_only_complete_methods_have_a_rank_and_one_without_failures_the_first(make_cell):
    cells = [make_cell(m, c) for m in ("x", "y") for c in ("a", "b")]
    cells += [make_cell("partial", "a"), *(make_cell("perfect", c, failures=0) for c in ("a", "b"))]
    [ranking] = make_rankings(cells)
    ranks = ranks_of(ranking)
    assert {ranking.methods[m] for m in ranks} == {"x", "y", "perfect"}
    assert ranks[ranking.methods.index("perfect")].rank == 1


def test_a_resample_without_a_failure_lets_no_failure_by(sources):
    """Two failures are missing from about every eighth resample, in which AUGRC is 0: the ranks stay wide."""
    few = []
    for source in sources:
        predictions = source.predictions()
        wrong = np.flatnonzero((predictions.scores[0] > source.result.threshold.value) != predictions.labels)
        kept = np.setdiff1d(np.arange(len(predictions.labels)), wrong[2:])
        some = replace(
            predictions,
            **{name: getattr(predictions, name)[kept] for name in ("parts", "labels", "defects", "lightings")},
            **{name: getattr(predictions, name)[..., kept] for name in ("scores", "uncertainties", "member_scores")},
            images=tuple(np.array(predictions.images)[kept].tolist()),
        )
        few.append(Source(source.result, source.origin, lambda some=some: some))
    [ranking] = make_rankings(few)
    drawn = read_evidence(ranking).augrc[..., 0, :]
    assert np.isfinite(drawn).all()
    assert 0.02 < (drawn == 0).mean() < 0.3
    ranks = ranks_of(ranking, 0, read_evidence(ranking).augrc)
    assert all(rank.high > rank.low for rank in ranks.values())


def test_two_that_share_the_first_place_are_first_to_second(make_cell):
    """Equal in every resample, so both have rank 1.5."""
    ranking = ranking_of(make_cell, {"x": 0.1, "y": 0.1, "z": 0.9})
    drawn = np.broadcast_to(ranking.value[..., ranking.metrics.index("augrc")][..., None], (3, 4, 2, 1, 50)).copy()
    ranks = ranks_of(ranking, 0, drawn)
    rows = table_rows(ranking, ranking.mean(), ["augrc"], 0, ranks)
    places = {row.name: row.figures[0].text for row in rows if row.method is not None}
    assert places == {"x": f"1{DASH}2", "y": f"1{DASH}2", "z": "3"}


def test_a_mean_over_shifts_that_lacks_one_says_so(make_cell):
    [ranking] = make_rankings([shifted(make_cell, "x", 0, {"blur:1": None, "blur:2": 0.3})])
    board = make_board(ranking)
    [row] = [row for row in board.rows(board.ranking.conditions.index("blur:mean")) if row.method is not None]
    assert row.figures[1 + board.columns.index("augrc")].note == "in 0 of 1 cells under every shift of the mean"


def test_the_rank_is_that_of_the_figures_that_are_shown(make_cell):
    ranking = ranking_of(make_cell, {"x": 0.1, "y": 0.11}, categories=("a",))
    drawn = np.full((2, 1, 2, 1, 50), 0.1)
    drawn[0] = 0.12  # as where a bootstrap is biased
    ranks = ranks_of(ranking, 0, drawn)
    assert [(r.rank, r.low, r.high) for r in ranks.values()] == [(1, 2, 2), (2, 1, 1)]


def test_the_least_difference_follows_from_the_intervals(make_cell):
    ranking = ranking_of(make_cell, {"x": 0.3, "y": 0.3})
    # a category's half width is 0.035 on the average; four of them, two methods: 0.035 / 2 * sqrt(2)
    least = least_of(ranking)
    assert least == pytest.approx(0.035 / 2 * np.sqrt(2), rel=0.2)


@pytest.mark.filterwarnings("error")
def test_methods_without_a_common_cell_have_no_least_difference(make_cell):
    [ranking] = make_rankings([make_cell("x", seed=0), make_cell("y", seed=1)])
    assert np.isnan(least_of(ranking))


def test_critical_differences_need_cells(make_cell):
    values = {"x": 0.1, "y": 0.2, "z": 0.3}

    def critical(values, categories):
        return critical_difference(compared_by_lead(ranking_of(make_cell, values, categories), 0))

    few = critical(values, "ab")
    assert few.groups == ((0, 2),)
    assert few.cells == 4
    many = critical(values, "abcdefgh")
    assert many.ranks == (1.0, 2.0, 3.0)
    assert many.groups == ()
    assert critical({"x": 0.1}, "abcd") is None


def test_predictions_make_ranks_narrower_than_independent_draws(sources):
    [ranking] = make_rankings(sources)
    evidence = read_evidence(ranking)
    joint = least_of(ranking, evidence.augrc)
    apart = least_of(ranking)
    assert 0 < joint < apart


def test_curves_agree_with_the_figures_of_the_table(sources):
    board = make_board(make_rankings(sources)[0])
    ranking = board.ranking
    for m, name in enumerate(ranking.methods):
        cells = [source for source in sources if source.result.spec.method == name]
        curves = board.evidence.curves[m, 0]
        error = np.mean([s.result.image["clean"]["error_rate"].value for s in cells])
        assert curves.risks["risk"][0] == pytest.approx(error)
        assert curves.risks["risk_oracle"][0] == pytest.approx(error)
        at = int(np.flatnonzero(np.isclose(REVIEWED, 0.2))[0])
        risk = np.mean([s.result.image["clean"]["risk_at_80"].value for s in cells])
        assert curves.risks["risk"][at] == pytest.approx(risk, abs=0.02)
        assert (curves.risks["risk_low"] <= curves.risks["risk"] + 1e-12).all()
        assert (curves.risks["risk"] <= curves.risks["risk_high"] + 1e-12).all()
        fnr = np.mean([s.result.image["clean"]["fnr"].value for s in cells])
        assert curves.shares["misses"][0] == pytest.approx(fnr)
        assert curves.shares["misses"][-1] == curves.shares["alarms"][-1] == 0
        assert curves.shares["reviewed_anomalous"][[0, -1]].tolist() == pytest.approx([0, 1])


def test_categories_do_not_share_their_draws(sources):
    """Parts of two categories have nothing to do with each other, though as many and named alike."""
    [ranking] = make_rankings(
        replace(source, result=source.result.model_copy(update={"spec": spec}))
        for source in sources
        for category in ("one", "two")
        for spec in [source.result.spec.model_copy(update={"category": category})]
    )
    drawn = read_evidence(ranking).augrc[:, :, :, 0]
    assert np.abs(np.corrcoef(drawn[0, 0, 0], drawn[0, 1, 0])[0, 1]) < 0.3
    assert np.corrcoef(drawn[0, 0, 0], drawn[1, 0, 0])[0, 1] > 0.3


def test_resampled_augrc_is_that_of_the_metrics(sources):
    [ranking] = make_rankings(sources)
    evidence = read_evidence(ranking)
    predictions, threshold = sources[0].predictions(), sources[0].result.threshold.value
    errors = (predictions.scores[0] > threshold) != (predictions.labels == 1)
    plain = selective.augrc(errors.astype(float), predictions.uncertainties[0])
    place = next(p for p, source in ranking.cells.items() if source is sources[0])
    replicates = evidence.augrc[(*place, 0)]
    assert np.nanmean(replicates) == pytest.approx(plain, rel=0.1)
