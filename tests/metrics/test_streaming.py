import copy
import math

import numpy as np
import pytest

from rdbench.metrics import localization as exact
from rdbench.metrics._histogram import BINS, Histogram, bit_patterns
from rdbench.metrics.localization import (
    AuseAccumulator,
    PixelAccumulator,
    PixelMoments,
    SegF1Accumulator,
    find_regions,
)

BOUNDS = (1e-3, 1e-1)

SHAPES = {
    "plain": lambda x: x,
    "tiny": lambda x: x * 1e-9,
    "skewed over 100 powers of two": lambda x: np.exp(5 * x),
    "a thousandth around one": lambda x: 1 + x / 1e4,
    "with zeros": lambda x: np.maximum(x - 1, 0),
    "of few values": lambda x: np.round(x * 8) / 8,
}


def images(shape: str = "plain", count: int = 8):
    rng = np.random.default_rng(3)
    masks, maps = [], []
    for i in range(count):
        mask = np.zeros((90 + i, 110), dtype=bool)
        for _ in range(i % 4):
            r, c = rng.integers(70, size=2)
            mask[r : r + rng.integers(2, 15), c : c + rng.integers(2, 15)] = True
        values = rng.gamma(2.0, size=mask.shape) + mask * rng.gamma(2.0, size=mask.shape)
        masks.append(mask)
        maps.append(SHAPES[shape](values).astype(np.float32))
    return masks, maps


def accumulated(masks, maps):
    accumulator = PixelAccumulator()
    for mask, values in zip(masks, maps, strict=True):
        accumulator.update(mask, values)
    return accumulator


def figures(a):
    return [a.pixel_auroc(), a.pixel_average_precision(), a.aupro(), a.aupro(0.05), a.aupimo(BOUNDS)]


@pytest.mark.parametrize("shape", SHAPES)
def test_streaming_agrees_with_exact_to_1e_4_whatever_the_range(shape):
    masks, maps = images(shape)
    accumulator = accumulated(masks, maps)
    expected = [
        exact.pixel_auroc(masks, maps),
        exact.pixel_average_precision(masks, maps),
        exact.aupro(masks, maps),
        exact.aupro(masks, maps, 0.05),
        exact.aupimo(masks, maps, BOUNDS).mean,
    ]
    np.testing.assert_allclose(figures(accumulator), expected, atol=1e-4)
    if shape not in ("with zeros", "of few values"):  # those have true ties
        assert abs(accumulator.pixel_auroc() - expected[0]) <= accumulator.resolution() < 1e-4
    assert accumulator._histogram.width <= BINS


def test_image_aupimo_agrees_with_exact_once_the_normal_images_are_in():
    masks, maps = images()
    accumulator = accumulated(masks, maps)
    per_image = exact.aupimo(masks, maps, BOUNDS).per_image
    found = [accumulator.image_aupimo(m, v, BOUNDS) for m, v in zip(masks, maps, strict=True)]
    np.testing.assert_allclose(found, per_image, atol=1e-3)
    assert np.nanmean(found) == pytest.approx(accumulator.aupimo(BOUNDS), abs=1e-9)


@pytest.mark.parametrize("other", list(SHAPES))
def test_merging_is_as_good_as_one_accumulator(other):
    first, second = images(), images(other)
    whole = accumulated(first[0] + second[0], first[1] + second[1])
    a, b = accumulated(*first), accumulated(*second)
    before = copy.deepcopy(b)
    for left, right in ((copy.deepcopy(a), b), (copy.deepcopy(b), a)):
        left.merge(right)
        np.testing.assert_allclose(figures(left), figures(whole), atol=1e-4)
    np.testing.assert_array_equal(b._histogram.table, before._histogram.table)
    empty = PixelAccumulator()
    empty.merge(a)
    assert figures(empty) == figures(a)
    a.merge(PixelAccumulator())
    assert figures(empty) == figures(a)


def test_regions_may_be_found_beforehand():
    masks, maps = images()
    assert figures(accumulated([find_regions(m) for m in masks], maps)) == figures(accumulated(masks, maps))


def test_memory_does_not_grow_with_the_images():
    masks, maps = images()
    accumulator = accumulated(masks, maps)
    size = accumulator._histogram.table.nbytes
    for mask, values in zip(masks, maps, strict=True):
        accumulator.update(mask, values)
    assert accumulator._histogram.table.nbytes == size <= 5 * 8 * (BINS + 1)


def test_the_histogram_loses_no_count_while_it_grows_and_coarsens():
    rng = np.random.default_rng(0)
    histogram = Histogram(rows=1)
    parts = [np.exp(rng.normal(size=500) * k).astype(np.float32) for k in (0.001, 1, 0.1, 20)] + [np.zeros(3)]
    for values in parts:
        bits = bit_patterns("values", values)
        histogram.cover(bits)
        histogram.table[0] += histogram.counts(bits)
    bits = bit_patterns("values", np.concatenate(parts))
    expected = np.bincount(histogram.columns(bits), minlength=1 + histogram.width)
    np.testing.assert_array_equal(histogram.table[0], expected)
    assert histogram.table[0, 0] == 3


def test_minus_zero_is_zero():
    bits = bit_patterns("values", np.array([-0.0, 0.0, 1.0], dtype=np.float32))
    assert bits[0] == bits[1] == 0


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64, np.uint8])
def test_other_dtypes_are_read_as_float32(dtype):
    values = np.arange(12).reshape(3, 4).astype(dtype)
    mask = values > 8
    assert accumulated([mask], [values]).pixel_auroc() == 1


@pytest.mark.parametrize(
    ("mask", "values", "named"),
    [
        (np.zeros((1, 2)), np.array([[1.0, -1.0]]), "anomaly_map: negative"),
        (np.zeros((1, 2)), np.array([[1.0, np.nan]]), "anomaly_map: NaN"),
        (np.zeros((1, 2)), np.array([[1.0, -np.nan]]), "anomaly_map: negative or NaN"),
        (np.zeros((1, 2)), np.array([[1.0, np.inf]]), "anomaly_map: NaN"),
        (np.zeros((1, 2)), np.array([[1.0]]), "shapes differ"),
        (np.full((1, 2), 255), np.ones((1, 2)), "mask"),
        (np.zeros((0, 2)), np.ones((0, 2)), "mask"),
    ],
)
def test_bad_input_is_an_error_that_names_the_argument(mask, values, named):
    with pytest.raises(ValueError, match=named):
        PixelAccumulator().update(mask, values)


def test_nothing_is_an_error_and_one_class_is_nan():
    with pytest.raises(ValueError, match="empty"):
        PixelAccumulator().pixel_auroc()
    with pytest.raises(ValueError, match="empty"):
        AuseAccumulator().ause()
    accumulator = accumulated([np.zeros((2, 2))], [np.ones((2, 2))])
    assert all(math.isnan(value) for value in figures(accumulator))
    assert math.isnan(accumulator.resolution())
    assert math.isnan(SegF1Accumulator(1.0).f1())


def test_moments_and_seg_f1_are_exact_and_merge():
    masks, maps = images()
    pixels = np.concatenate([v.ravel() for v in maps]).astype(np.float64)
    moments = [PixelMoments(), PixelMoments()]
    for i, values in enumerate(maps):
        moments[i % 2].update(values)
    moments[0].merge(moments[1])
    assert moments[0].mean() == pytest.approx(pixels.mean(), rel=1e-12)
    assert moments[0].std() == pytest.approx(pixels.std(), rel=1e-12)
    threshold = moments[0].mean() + 3 * moments[0].std()
    halves = [SegF1Accumulator(threshold), SegF1Accumulator(threshold)]
    for i, (mask, values) in enumerate(zip(masks, maps, strict=True)):
        halves[i % 2].update(mask, values)
    halves[0].merge(halves[1])
    assert halves[0].f1() == pytest.approx(exact.seg_f1(masks, maps, threshold), abs=1e-12)
    with pytest.raises(ValueError, match="threshold"):
        halves[0].merge(SegF1Accumulator(0.0))


def test_ause_agrees_with_exact_and_merges():
    masks, maps = images()
    errors = [np.abs(m - v / 20).astype(np.float32) for m, v in zip(masks, maps, strict=True)]
    halves = [AuseAccumulator(), AuseAccumulator()]
    for i, (error, uncertainty) in enumerate(zip(errors, maps, strict=True)):
        halves[i % 2].update(error, uncertainty)
    halves[0].merge(halves[1])
    pooled = [np.concatenate([np.ravel(x) for x in arrays]) for arrays in (errors, maps)]
    assert halves[0].ause() == pytest.approx(exact.ause(*pooled), abs=1e-4)
    with pytest.raises(ValueError, match="uncertainty"):
        halves[0].update(errors[0], -maps[0])
    with pytest.raises(ValueError, match="shapes differ"):
        halves[0].update(errors[0], maps[0].T)


def test_seg_f1_does_not_round_its_threshold_to_the_precision_of_the_map():
    mask = np.array([[True, False]])
    for dtype in (np.float16, np.float32, np.float64):
        assert exact.seg_f1([mask], [np.array([[0.5, 0.0]], dtype)], 0.5 - 1e-12) == 1


@pytest.mark.parametrize("blank", [0, 1])
def test_images_without_a_signal_may_come_first(blank):
    masks, maps = images(count=4)
    maps[blank] = np.zeros_like(maps[blank])
    order = [blank, *(i for i in range(4) if i != blank)]
    accumulator, ause = PixelAccumulator(), AuseAccumulator()
    for i in order:
        accumulator.update(masks[i], maps[i])
        ause.update(maps[i], maps[i])
    assert accumulator.pixel_auroc() == pytest.approx(exact.pixel_auroc(masks, maps), abs=1e-4)
    assert ause.ause() == pytest.approx(0, abs=1e-9)
