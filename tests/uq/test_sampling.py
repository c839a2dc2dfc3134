import numpy as np
import pytest
import torch

from rdbench.uq.sampling import RunningMoments, predict_from_samples
from rdbench.uq.seeds import derive_seed, member_seeds


def test_moments_are_numpys():
    values = np.random.default_rng(0).normal(100, 1, (50, 3, 4))  # far from zero, where naive sums lose digits
    moments = RunningMoments()
    for value in values:
        moments.add(torch.from_numpy(value).float())
    np.testing.assert_allclose(moments.mean, values.mean(axis=0), rtol=1e-6)
    np.testing.assert_allclose(moments.std(), values.std(axis=0, ddof=1), rtol=1e-3)


def test_moments_count_only_what_is_valid():
    rng = np.random.default_rng(1)
    values, valid = rng.normal(size=(20, 2, 5, 6)), rng.random((20, 5, 6)) < 0.5
    valid[0], valid[:, 0, 0], valid[3, 0, 0], valid[0, 0, 0] = True, False, True, False  # one pixel is seen once
    moments = RunningMoments()
    for value, mask in zip(values, valid, strict=True):
        moments.add(torch.from_numpy(value), torch.from_numpy(mask))
    masked = np.ma.array(values, mask=~np.broadcast_to(valid[:, None], values.shape))
    np.testing.assert_allclose(moments.mean, masked.mean(axis=0), rtol=1e-6)
    np.testing.assert_allclose(moments.std(), masked.std(axis=0, ddof=1).filled(0), rtol=1e-6)
    assert moments.std()[:, 0, 0].tolist() == [0, 0]


def test_equal_values_have_exactly_their_mean_and_no_deviation():
    value = torch.rand(100, generator=torch.Generator().manual_seed(0))
    moments = RunningMoments()
    for _ in range(7):
        moments.add(value)
    assert torch.equal(moments.mean, value)
    assert not moments.std().any()


def test_prediction_from_two_samples_by_hand():
    first, second = torch.zeros(2, 4, 4), torch.zeros(2, 4, 4)
    first[0, 0, 0], second[0, 3, 3], second[1, 1, 1] = 2, 4, 6
    prediction = predict_from_samples(iter([first, second]))
    assert prediction.member_scores.tolist() == [[2, 0], [4, 6]]
    assert prediction.anomaly_score.tolist() == [3, 3]  # of the scores: the mean map's maxima are 2 and 3
    torch.testing.assert_close(prediction.uncertainty, torch.tensor([2**0.5, 18**0.5]))
    assert prediction.anomaly_map[0, 3, 3] == 2
    assert prediction.uncertainty_map[0, 3, 3] == pytest.approx(8**0.5)
    assert prediction.uncertainty_map[0, 2, 2] == 0


def test_one_sample_is_certain():
    maps = torch.rand(2, 4, 4)
    prediction = predict_from_samples([maps])
    assert torch.equal(prediction.anomaly_map, maps)
    assert not prediction.uncertainty.any()
    assert not prediction.uncertainty_map.any()


def test_pixels_that_a_sample_does_not_show_are_left_to_the_others():
    shown = torch.tensor([[True, False], [True, True]])
    first, second, third = torch.full((1, 2, 2), 1.0), torch.full((1, 2, 2), 3.0), torch.full((1, 2, 2), 5.0)
    first[0, 0, 1], second[0, 0, 1], third[0, 0, 1] = 4, 99, 99
    prediction = predict_from_samples([first, (second, shown), (third, shown)])
    assert prediction.anomaly_map.tolist() == [[[3, 4], [3, 3]]]
    assert prediction.uncertainty_map.tolist() == [[[2, 0], [2, 2]]]
    assert prediction.member_scores.tolist() == [[4], [4], [5]]  # the first one's 4 stands in at that pixel


def test_member_seeds_start_with_the_runs_own_and_are_shared_by_no_two_runs():
    assert member_seeds(7, 1) == [7]
    seeds = [seed for run in range(20) for seed in member_seeds(run, 20)]
    assert len(set(seeds)) == len(seeds)
    assert all(0 <= seed < 2**63 for seed in seeds)
    assert member_seeds(3, 5) == member_seeds(3, 9)[:5]
    assert derive_seed(3, 4) == member_seeds(3, 5)[4]
