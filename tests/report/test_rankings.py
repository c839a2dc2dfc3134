"""What may be ranked together, and means over cells with their intervals."""

import numpy as np
import pytest
from scipy import stats

from rdbench.report.mean_shifts import with_mean_shifts
from rdbench.report.rankings import make_rankings
from tests.figures.chance import by_category, drawn, holds


def mean_of(ranking, metric, method=0, condition=0, category=None):
    mean = ranking.mean(category)
    place = (method, condition, ranking.metrics.index(metric))
    return tuple(float(array[place]) for array in (mean.value, mean.low, mean.high))


@pytest.mark.parametrize(
    "difference",
    [
        {"dataset": "mvtec_ad"},
        {"backbone": "resnet50"},
        {"weights": "random", "weights_sha256": "f" * 64},
        {"image_size": (512, 512)},
        {"protocol": 2},
        {"custom": "not an official category"},
        {"alpha": 0.05},
    ],
)
def test_what_differs_in_data_teacher_size_alpha_or_protocol_never_shares_a_ranking(make_cell, difference):
    rankings = make_rankings([make_cell("tta"), make_cell("deterministic"), make_cell("tta", **difference)])
    assert sorted(len(ranking.cells) for ranking in rankings) == [1, 2]


def test_alpha_is_said_where_it_is_not_the_usual_one_or_not_the_only_one(make_cell):
    usual, other = make_cell("tta"), make_cell("deterministic", alpha=0.05)
    assert [ranking.level for ranking in make_rankings([usual])] == [""]
    assert [ranking.level for ranking in make_rankings([other])] == ["alpha 0.05"]
    assert [ranking.level for ranking in make_rankings([other, usual])] == ["alpha 0.1", "alpha 0.05"]


def test_a_category_of_other_images_is_another_category(make_cell):
    [ranking] = make_rankings([make_cell("tta"), make_cell("deterministic", fingerprint="9" * 64)])
    assert len(ranking.categories) == 2
    assert not ranking.complete.any()


def test_a_method_that_lacks_a_category_is_not_complete(make_cell):
    cells = [make_cell("tta", "grid"), make_cell("tta", "bolt"), make_cell("deterministic", "grid")]
    [ranking] = make_rankings(cells)
    assert dict(zip(ranking.methods, ranking.complete, strict=True)) == {"deterministic": False, "tta": True}


def test_a_cell_that_is_there_twice_counts_once_and_the_one_with_more_conditions_is_kept(make_cell):
    few = make_cell(figures={"image_auroc": 0.8})
    more = make_cell(conditions=("clean", "noise:3"), figures={"image_auroc": 0.8})
    [ranking] = make_rankings([few, more, few])
    assert [source.result for source in ranking.cells.values()] == [more]
    assert ranking.conditions == ("clean", "noise:3")


def test_cells_with_other_shifts_are_shown_side_by_side(make_cell):
    blur = make_cell(conditions=("clean", "blur:3"))
    noise = make_cell(conditions=("clean", "noise:3"))
    [ranking] = make_rankings([blur, noise])
    assert len(ranking.cells) == 2
    assert [method.split("[")[1] for method in ranking.methods] == ["shifts=blur:3]", "shifts=noise:3]"]


def test_one_cell_keeps_its_own_interval(make_cell):
    [ranking] = make_rankings([make_cell(figures={"image_auroc": 0.9})])
    assert mean_of(ranking, "image_auroc") == pytest.approx((0.9, 0.86, 0.93))


def test_seeds_and_parts_combine_as_squares(make_cell):
    values = (0.80, 0.84, 0.85)
    [ranking] = make_rankings([make_cell(seed=i, figures={"image_auroc": v}) for i, v in enumerate(values)])
    seeds = stats.t.ppf(0.975, 2) * np.std(values, ddof=1) / np.sqrt(3)
    expected = (np.mean(values), np.mean(values) - np.hypot(0.04, seeds), np.mean(values) + np.hypot(0.03, seeds))
    assert mean_of(ranking, "image_auroc") == pytest.approx(expected)


def test_categories_weigh_the_same_however_many_seeds_they_have(make_cell):
    cells = [make_cell(seed=i, category="grid", figures={"image_auroc": 0.9}) for i in range(3)]
    [ranking] = make_rankings([*cells, make_cell(category="bolt", figures={"image_auroc": 0.7})])
    value, low, high = mean_of(ranking, "image_auroc")
    assert value == pytest.approx(0.8)
    assert (low, high) == pytest.approx((0.8 - 0.04 / np.sqrt(2), 0.8 + 0.03 / np.sqrt(2)))
    assert mean_of(ranking, "image_auroc", category=ranking.categories.index("bolt"))[0] == pytest.approx(0.7)


def test_the_interval_covers_as_it_says():
    """95 % of intervals from simulated cells hold the true mean over the same categories."""
    from rdbench.report.means import mean_interval

    rng = np.random.default_rng(0)
    covered, trials, categories, seeds = 0, 2000, 5, 3
    truth = rng.uniform(0.7, 0.8, categories)
    for _ in range(trials):
        parts = rng.normal(0, 0.02, (1, categories, 1, 1))
        value = truth[None, :, None, None] + parts + rng.normal(0, 0.01, (1, categories, seeds, 1))
        _, low, high = mean_interval(value, value - 1.96 * 0.02, value + 1.96 * 0.02)
        covered += bool(low[0, 0] <= truth.mean() <= high[0, 0])
    assert 0.94 < covered / trials < 0.985


def test_nothing_known_of_chance_is_no_interval_and_not_one_of_no_width():
    """A figure of one seed whose cell has no interval, beside one whose cell has and one of two seeds."""
    from rdbench.report.means import mean_interval

    value = np.array([[[0.3, np.nan]], [[0.3, np.nan]], [[0.3, 0.5]]])
    low, high = (np.array([[[np.nan, np.nan]], [[end, np.nan]], [[np.nan, np.nan]]]) for end in (0.2, 0.4))
    mean, below, above = mean_interval(value, low, high)
    assert mean.tolist() == pytest.approx([0.3, 0.3, 0.4])
    assert np.isnan([below[0], above[0]]).all()
    assert (below[1], above[1]) == pytest.approx((0.2, 0.4))
    assert below[2] < 0.4 < above[2]


def coverage(deviations, seeds, level=0.95, trials=4000):
    """Of intervals for means over categories with these standard deviations over seeds, and no chance of parts."""
    values = drawn(np.random.default_rng(0), trials, deviations, np.broadcast_to(seeds, len(deviations)))
    return holds(values, lambda given: by_category(given, level)).mean()


def test_the_interval_covers_also_where_one_category_is_noisier_than_the_others():
    assert 0.94 < coverage([1] * 5, 3) < 0.98
    assert 0.92 < coverage([10, 1, 1, 1, 1], 3) < 0.96
    assert 0.92 < coverage([20] + [1] * 14, 3) < 0.96
    assert 0.94 < coverage([1, 1, 1, 1, 1], [3, 1, 1, 1, 1]) < 0.97
    assert 0.94 < coverage([1, 1], [2, 1]) < 0.97


def test_intervals_of_another_level():
    assert 0.985 < coverage([1] * 5, 3, 0.99) < 0.999


def test_a_category_with_one_seed_takes_the_spread_of_the_others(make_cell):
    figures = {("a", 0): 0.80, ("a", 1): 0.84, ("b", 0): 0.90}
    [ranking] = make_rankings(
        [make_cell(category=c, seed=s, figures={"image_auroc": v}) for (c, s), v in figures.items()]
    )
    value, low, _ = mean_of(ranking, "image_auroc")
    variance = np.var([0.80, 0.84], ddof=1)
    seeds = stats.t.ppf(0.975, 1) * np.sqrt(variance / 2 + variance)  # one number is known of either's spread
    assert value - low == pytest.approx(np.sqrt(2 * 0.04**2 + seeds**2) / 2)


def test_undefined_cells_are_left_out_of_the_mean_and_counted(make_cell):
    cells = [make_cell(category="grid", figures={"augrc": 0.1}), make_cell(category="bolt", failures=0)]
    [ranking] = make_rankings(cells)
    assert mean_of(ranking, "augrc")[0] == pytest.approx(0.1)
    assert ranking.mean().defined[0, 0, ranking.metrics.index("augrc")] == 1
    assert "no failures" in ranking.notes.values()


def test_without_any_failure_the_mean_stays_undefined(make_cell):
    [ranking] = make_rankings([make_cell(failures=0)])
    assert np.isnan(mean_of(ranking, "augrc")).all()


def test_failures_are_summed_over_categories_and_averaged_over_seeds(make_cell):
    cells = [make_cell(category=c, seed=s, failures=n) for c, s, n in (("a", 0, 4), ("a", 1, 6), ("b", 0, 3))]
    [ranking] = make_rankings(cells)
    assert mean_of(ranking, "failures")[0] == pytest.approx(8)


def test_derived_figures_are_made_cell_by_cell(make_cell):
    cells = [
        make_cell("deterministic", conditions=("clean", "noise:3", "noise:5", "overexposed")),
        make_cell("tta", conditions=("clean", "noise:3")),
    ]
    [ranking] = make_rankings(cells)
    tta = ranking.methods.index("tta")
    ratio = cells[1].cost["train_seconds"].value / cells[0].cost["train_seconds"].value
    assert mean_of(ranking, "train_ratio", tta, ranking.conditions.index("noise:3"))[0] == pytest.approx(ratio)
    shifted = np.mean([cells[0].image[name]["image_auroc"].value for name in ("noise:3", "noise:5")])
    assert mean_of(ranking, "image_auroc_shifted")[0] == pytest.approx(shifted)


def test_costs_are_compared_with_deterministic_on_the_same_machine_only(make_cell):
    here = [make_cell(method, seed=seed) for method in ("deterministic", "tta") for seed in (0, 1)]
    elsewhere = here[3].provenance.model_copy(update={"device": "NVIDIA H100"})
    threads = here[3].provenance.model_copy(update={"threads": 16})
    for made in (elsewhere, threads):
        [ranking] = make_rankings([*here[:3], here[3].model_copy(update={"provenance": made})])
        tta, f = ranking.methods.index("tta"), ranking.metrics.index("inference_ratio")
        ratio = here[2].cost["inference_ms"].value / here[0].cost["inference_ms"].value
        assert mean_of(ranking, "inference_ratio", tta)[0] == pytest.approx(ratio)  # of seed 0 alone
        assert ranking.mean().defined[tta, 0, f] == 1
    moved = [cell.model_copy(update={"provenance": elsewhere}) for cell in here[2:]]
    [ranking] = make_rankings([*here[:2], *moved])
    assert np.isnan(mean_of(ranking, "inference_ratio", tta)).all()
    assert ranking.why_undefined(tta, 0, f) == "no deterministic on the same machine"


def test_counts_by_category_are_not_below_zero(make_cell):
    cells = [make_cell(seed=seed, failures=n) for seed, n in ((0, 0), (1, 9))]
    [ranking] = make_rankings(cells)
    assert mean_of(ranking, "failures", category=0)[1] >= 0


def test_a_number_beyond_all_use_is_undefined(make_cell):
    [ranking] = make_rankings([make_cell(figures={"image_auroc": 1e300})])
    assert np.isnan(mean_of(ranking, "image_auroc")).all()
    assert "not a usable number" in ranking.notes.values()


def test_means_over_severities_and_over_all_shifts_are_made_cell_by_cell(make_cell):
    names = ("clean", "noise:1", "noise:3", "blur:5", "overexposed")
    cell = make_cell(conditions=names)
    [ranking] = make_rankings([cell])
    pooled = with_mean_shifts(ranking)
    assert pooled.conditions == ("clean", "overexposed", "blur:5", "noise:1", "noise:3", "noise:mean", "shifts:mean")
    values = {name: cell.image[name]["image_ap"].value for name in names}
    at = pooled.conditions.index("noise:mean")
    expected = (values["noise:1"] + values["noise:3"]) / 2
    assert mean_of(pooled, "image_ap", condition=at) == pytest.approx((expected, expected - 0.04, expected + 0.03))
    expected = (values["noise:1"] + values["noise:3"] + values["blur:5"]) / 3
    assert mean_of(pooled, "image_ap", condition=at + 1)[0] == pytest.approx(expected)


def test_a_mean_over_shifts_needs_every_shift(make_cell):
    names = ("clean", "noise:1", "noise:3")
    [ranking] = make_rankings([make_cell("all", conditions=names), make_cell("mild", conditions=names[:2])])
    pooled = with_mean_shifts(ranking)
    at, metric = pooled.conditions.index("noise:mean"), pooled.metrics.index("image_ap")
    assert np.isfinite(pooled.value[0, 0, 0, at, metric])
    assert np.isnan(pooled.value[1, 0, 0, at]).all()
    assert pooled.why_undefined(1, at, metric) == "not measured under every shift of the mean"
    shifted = pooled.metrics.index("image_auroc_shifted")
    assert np.isfinite(pooled.value[0, 0, 0, 0, shifted])
    assert np.isnan(pooled.value[1, 0, 0, 0, shifted])


def test_a_mean_over_shifts_that_lacks_a_figure_under_one_is_counted_as_lacking(make_cell):
    conditions = ("clean", "noise:1", "noise:3")
    cell = make_cell(conditions=conditions, figures={"augrc": 0.2})
    mild = cell.image["noise:1"]["augrc"].model_copy(update={"value": None, "low": None, "high": None, "note": "none"})
    lacks = cell.model_copy(
        update={"image": cell.image | {"noise:1": cell.image["noise:1"] | {"augrc": mild}}},
    )
    pooled = with_mean_shifts(make_rankings([lacks])[0])
    at, f = pooled.conditions.index("noise:mean"), pooled.metrics.index("augrc")
    mean = pooled.mean()
    assert mean.value[0, at, f] == pytest.approx(0.2)
    assert mean.defined[0, at, f] == 0
    assert mean.defined[0, at].max() == 1


def test_pooled_shifts_without_failures_say_why_they_are_undefined(make_cell):
    [ranking] = make_rankings([make_cell(conditions=("clean", "noise:1", "noise:3"), failures=0)])
    pooled = with_mean_shifts(ranking)
    metric = pooled.metrics.index("augrc")
    assert pooled.why_undefined(0, pooled.conditions.index("noise:mean"), metric) == "no failures"
