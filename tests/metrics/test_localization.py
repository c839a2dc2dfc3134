import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import average_precision_score, f1_score, roc_auc_score

from rdbench.metrics.localization import (
    PixelAccumulator,
    aupimo,
    aupro,
    ause,
    find_regions,
    pixel_auroc,
    pixel_average_precision,
    seg_f1,
)

from .definitions import flood_regions, random_images, slow_aupimo, slow_aupro


def pooled(arrays):
    return np.concatenate([np.ravel(a) for a in arrays])


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("ties", [False, True])
def test_pixel_figures_agree_with_scikit_learn(seed, ties):
    masks, maps = random_images(seed, ties=ties)
    labels, values = pooled(masks), pooled(maps)
    assert pixel_auroc(masks, maps) == pytest.approx(roc_auc_score(labels, values), abs=1e-12)
    assert pixel_average_precision(masks, maps) == pytest.approx(average_precision_score(labels, values), abs=1e-12)
    assert seg_f1(masks, maps, 4.0) == pytest.approx(f1_score(labels, values > 4.0), abs=1e-12)


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("ties", [False, True])
@pytest.mark.parametrize("limit", [0.05, 0.3, 1.0])
def test_aupro_agrees_with_its_definition(seed, ties, limit):
    masks, maps = random_images(seed, ties=ties)
    assert aupro(masks, maps, limit) == pytest.approx(slow_aupro(masks, maps, limit), abs=1e-9)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("ties", [False, True])
@pytest.mark.parametrize("bounds", [(1e-4, 1e-2), (1e-3, 0.3)])
def test_aupimo_agrees_with_its_definition(seed, ties, bounds):
    masks, maps = random_images(seed, ties=ties)
    found = aupimo(masks, maps, bounds)
    expected = slow_aupimo(masks, maps, *bounds)
    np.testing.assert_allclose(found.per_image[2:], expected, atol=1e-9)
    assert np.isnan(found.per_image[:2]).all()  # the two normal images
    assert found.mean == pytest.approx(np.mean(expected), abs=1e-9)


def test_aupimo_at_its_usual_bounds_agrees_with_its_definition():
    """1e-5 to 1e-4 of a million normal pixels: the 10th to the 105th highest, held one by one and in bins."""
    rng = np.random.default_rng(0)
    masks = [np.zeros((512, 512), np.uint8) for _ in range(4)] + [np.zeros((40, 60), np.uint8) for _ in range(2)]
    for mask in masks[4:]:
        mask[5:25, 10:40] = 1
    maps = [rng.gamma(2.0, size=mask.shape) + mask * rng.gamma(4.0, 3.0, size=mask.shape) for mask in masks]
    maps = [values.astype(np.float32).astype(np.float64) for values in maps]
    expected = slow_aupimo(masks, maps, 1e-5, 1e-4)
    assert 0.1 < min(expected) < max(expected) < 0.9
    found = aupimo(masks, maps)
    np.testing.assert_allclose(found.per_image[4:], expected, atol=1e-9)
    assert found.mean == pytest.approx(np.mean(expected), abs=1e-9)
    streamed = PixelAccumulator()
    for mask, values in zip(masks, maps, strict=True):
        streamed.update(mask, values)
    assert streamed.aupimo() == pytest.approx(np.mean(expected), abs=1e-3)


@given(st.integers(0, 2**25 - 1))
@settings(max_examples=80)
def test_regions_are_8_connected(bits):
    mask = np.array([(bits >> i) & 1 for i in range(25)], dtype=bool).reshape(5, 5)
    regions = find_regions(np.pad(mask, ((1, 2), (3, 0))))
    flooded = flood_regions(mask)
    assert regions.count == len(flooded)
    assert len(regions.pixels) == mask.sum()
    assert regions.overlap.sum() == pytest.approx(len(flooded))
    areas = {divmod(int(p), 8): 1 / w for p, w in zip(regions.pixels, regions.overlap, strict=True)}
    for region in flooded:
        assert all(areas[r + 1, c + 3] == pytest.approx(len(region)) for r, c in region)


def test_known_answers():
    mask = np.zeros((10, 10), dtype=bool)
    mask[2, 2] = mask[5:8, 5:8] = True
    assert aupro([mask], [mask * 1.0], 0.3) == pytest.approx(1)
    assert pixel_auroc([mask], [1.0 - mask]) == 0
    # A constant map is one straight line: overlap equals FPR, and the area up to the limit is limit / 2.
    assert aupro([mask], [np.ones((10, 10))], 0.3) == pytest.approx(0.15)
    # Recall equals FPR between the bounds: the mean over ln(FPR) is (high - low) / ln(high / low).
    normal = np.zeros((10, 10), dtype=bool)
    found = aupimo([mask, normal], [np.ones((10, 10))] * 2, (0.01, 0.1))
    assert found.mean == pytest.approx(0.09 / math.log(10))
    assert seg_f1([mask], [mask * 1.0], 0.5) == 1


def test_monotone_transforms_and_image_order_do_not_matter():
    masks, maps = random_images(5)
    for figure in (pixel_auroc, pixel_average_precision, aupro, lambda m, v: aupimo(m, v, (1e-3, 1e-1)).mean):
        value = figure(masks, maps)
        assert figure(masks[::-1], maps[::-1]) == pytest.approx(value, abs=1e-12)
        assert figure(masks, [np.exp(v) for v in maps]) == pytest.approx(value, abs=1e-12)
        assert figure([find_regions(m) for m in masks], maps) == value


def test_ause_of_the_error_itself_is_zero_and_of_a_constant_is_the_expectation():
    rng = np.random.default_rng(0)
    error = rng.random(50)
    assert ause(error, error) == pytest.approx(0, abs=1e-12)
    drawn = [ause(error, rng.random(50)) for _ in range(3000)]
    assert ause(error, np.zeros(50)) == pytest.approx(np.mean(drawn), abs=4 * np.std(drawn) / 3000**0.5)
    assert math.isnan(ause(np.zeros(5), np.arange(5.0)))


def test_one_class_is_nan():
    values = np.random.default_rng(0).random((4, 4))
    for mask in (np.zeros((4, 4)), np.ones((4, 4))):
        for figure in (pixel_auroc, pixel_average_precision, aupro):
            assert math.isnan(figure([mask], [values]))
        assert math.isnan(aupimo([mask], [values]).mean)
    assert math.isnan(seg_f1([np.zeros((4, 4))], [values], 0.5))


@pytest.mark.parametrize(
    ("masks", "maps", "named"),
    [
        ([], [], "empty"),
        ([np.zeros((2, 2))], [], "lengths differ|not empty"),
        ([np.full((2, 2), 255)], [np.ones((2, 2))], "mask"),
        ([np.array([[0.0, np.nan]])], [np.ones((1, 2))], "mask"),
        ([np.zeros(4)], [np.ones(4)], "mask"),
        ([np.zeros((2, 2))], [np.ones((2, 3))], "shapes differ"),
        ([np.zeros((1, 2))], [np.array([[1.0, np.nan]])], "map"),
        ([np.zeros((1, 2))], [np.array([[1.0, np.inf]])], "map"),
    ],
)
def test_bad_input_is_an_error_that_names_the_argument(masks, maps, named):
    for figure in (pixel_auroc, aupro, aupimo, lambda m, v: seg_f1(m, v, 0.5)):
        with pytest.raises(ValueError, match=named):
            figure(masks, maps)


def test_limits_out_of_range_are_errors():
    masks, maps = random_images(0)
    with pytest.raises(ValueError, match="fpr_limit"):
        aupro(masks, maps, 0.0)
    with pytest.raises(ValueError, match="fpr_bounds"):
        aupimo(masks, maps, (0.0, 0.1))
    with pytest.raises(ValueError, match="error"):
        ause([-1.0, 1.0], [0.0, 1.0])
    for error, uncertainty in (([1.0], [0.0, 1.0]), (np.ones((2, 3)), np.ones((3, 2)))):
        with pytest.raises(ValueError, match="shapes differ"):
            ause(error, uncertainty)
