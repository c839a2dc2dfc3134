"""What the methods of one pass, of changed inputs and of held-out folds each promise."""

import math
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from scipy.spatial.distance import mahalanobis
from scipy.stats import binom, binomtest
from sklearn.covariance import LedoitWolf
from sklearn.neighbors import NearestNeighbors
from torch import nn

from rdbench.benchmark.cost import count_passes
from rdbench.errors import InputError
from rdbench.metrics.detection import conformal_threshold
from rdbench.protocol import Batch
from rdbench.rd.anomaly import anomaly_map, anomaly_score, scale_maps
from rdbench.rd.training import TrainingSettings, train_student
from rdbench.uq.conformal import cross_conformal_p_values, folds
from rdbench.uq.noise import NoiseHeads, noise_loss
from rdbench.uq.stability import log_instability

NO_GEOMETRY = {"flips": False, "rotation": 0.0, "shift": 0.0}
NO_LIGHT = {"brightness": 0.0, "contrast": 0.0}
CPU = torch.device("cpu")


@pytest.mark.parametrize(
    ("name", "passes"),
    [
        ("tta_geometric", (36, 36, 36)),
        ("tta_photometric", (20, 20, 20)),
        ("scale_disagreement", (4, 4, 4)),
        ("heteroscedastic", (4, 4, 4)),
        ("mahalanobis", (4, 4, 4)),
        ("knn", (4, 4, 4)),
        ("rejex", (4, 4, 4)),
        ("conformal", (4, 12, 12)),
    ],
)
def test_passes_of_four_images(name, passes, world, tmp_path):
    method = world.fitted(name, tmp_path, **({"folds": 3} if name == "conformal" else {}))
    with count_passes() as counted:
        world.predict(method)
    assert (counted["teacher"], counted["bottleneck"], counted["decoder"]) == passes


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("tta_geometric", {"rotation": 45.0}, r"rotation must be in \[0, 45\), got 45"),
        ("tta_photometric", {"brightness": -0.1}, r"brightness must be in \[0, 1\), got -0.1"),
        ("knn", {"k": 0}, "k must be at least 1, got 0"),
        ("rejex", {"alpha": 0.0}, r"alpha must be in \(0, 1\), got 0"),
        ("rejex", {"tolerance": -1.0}, "tolerance must be above 0, got -1"),
        ("conformal", {"folds": 1}, "folds must be at least 2, got 1"),
        ("conformal", {"alpha": 1.0}, r"alpha must be in \(0, 1\), got 1"),
    ],
)
def test_options_out_of_range(name, options, message, world):
    with pytest.raises(InputError, match=message):
        world.method(name, **options)


@pytest.mark.parametrize(("name", "options"), [("knn", {"k": 7}), ("conformal", {"folds": 7})])
def test_more_asked_for_than_there_are_training_images(name, options, world):
    with pytest.raises(InputError, match="is 7, but there are only 6 training images"):
        world.method(name, **options).fit(world.train, world.context)


@pytest.mark.parametrize("name", ["scale_disagreement", "heteroscedastic", "mahalanobis", "knn", "rejex"])
def test_map_and_score_are_the_deterministic_ones(name, world, deterministic, tmp_path):
    before = {key: value.clone() for key, value in world.student.state_dict().items()}
    prediction = world.predict(world.fitted(name, tmp_path))
    assert torch.equal(prediction.anomaly_map, deterministic.anomaly_map)
    assert torch.equal(prediction.anomaly_score, deterministic.anomaly_score)
    after = world.student.state_dict()
    assert all(torch.equal(value, after[key]) for key, value in before.items())
    assert not world.student.training


# Test-time augmentation


@pytest.mark.parametrize(("name", "none"), [("tta_geometric", NO_GEOMETRY), ("tta_photometric", NO_LIGHT)])
def test_no_view_is_deterministic(name, none, world, deterministic, tmp_path):
    prediction = world.predict(world.fitted(name, tmp_path, **none))
    assert torch.equal(prediction.anomaly_map, deterministic.anomaly_map)
    assert torch.equal(prediction.anomaly_score, deterministic.anomaly_score)
    assert not prediction.uncertainty.any()


def test_tta_is_the_union_of_geometric_and_photometric_views(world, tmp_path):
    members = {}
    for name in ("tta", "tta_geometric", "tta_photometric"):
        (tmp_path / name).mkdir()
        members[name] = world.predict(world.fitted(name, tmp_path / name)).member_scores
    geometric, photometric = members["tta_geometric"], members["tta_photometric"]
    assert torch.equal(geometric[0], photometric[0])  # the images as they are
    assert torch.equal(members["tta"], torch.cat([geometric, photometric[1:]]))


# Scales


def test_scales_are_standardised_by_the_calibration_images(world, tmp_path):
    def scales(images, indices):
        batch = images.batch(indices)
        with torch.inference_mode():
            maps = scale_maps(batch.features, world.student(batch.features))
            zero = [torch.zeros_like(m) for m in maps]
            # A cosine error e alone is the anomaly map of unit vectors at that cosine.
            return np.stack([_map_alone(maps, zero, scale) for scale in range(3)])

    calibration, test = scales(world.calibration, list(range(5))), scales(world.test, [0, 1, 2, 3])
    prediction = world.predict(world.fitted("scale_disagreement", tmp_path))
    highest = calibration.max(axis=(2, 3))
    z = (test.max(axis=(2, 3)) - highest.mean(axis=1)[:, None]) / highest.std(axis=1)[:, None]
    np.testing.assert_allclose(prediction.uncertainty, z.std(axis=0, ddof=1), rtol=2e-3)
    z = (test - calibration.mean(axis=(1, 2, 3))[:, None, None, None]) / calibration.std(axis=(1, 2, 3))[
        :, None, None, None
    ]
    np.testing.assert_allclose(prediction.uncertainty_map, z.std(axis=0, ddof=1), rtol=2e-3, atol=1e-3)


def _map_alone(maps, zero, scale):
    """What one scale adds to the anomaly map, by pyramids that differ at that scale only."""
    errors = [maps[i] if i == scale else zero[i] for i in range(3)]
    teacher = [torch.stack([torch.ones_like(e), torch.zeros_like(e)], dim=1) for e in errors]
    student = [torch.stack([1 - e, (1 - (1 - e) ** 2).clamp_min(0).sqrt()], dim=1) for e in errors]
    return anomaly_map(teacher, student, (64, 64)).numpy()


# Planted noise


class PlantedNoise:
    """Features of two kinds of texture, left and right, under Gaussian noise of two levels."""

    levels = (0.05, 0.12)
    channels = (4, 8, 16)

    def __init__(self, count):
        draw = torch.Generator().manual_seed(0)
        self.clean, self.features = [], []
        for width, side in zip(self.channels, (8, 8, 4), strict=True):
            clean = torch.zeros(1, width, side, side)
            clean[:, 0, :, : side // 2] = 1
            clean[:, 1, :, side // 2 :] = 1
            level = torch.full((side,), self.levels[0])
            level[side // 2 :] = self.levels[1]
            self.clean.append(clean)
            self.features.append(clean + level * torch.randn(count, width, side, side, generator=draw))

    def __len__(self):
        return len(self.features[0])

    def batch(self, indices):
        chosen = tuple(scale[indices] for scale in self.features)
        return Batch(torch.zeros(len(chosen[0]), 3, 64, 64), lambda: chosen)

    def batches(self, size):
        for indices in torch.arange(len(self)).split(size):
            yield self.batch(indices)


class Denoiser(nn.Module):
    """A student that has learned its lesson: it gives back the texture without the noise."""

    def __init__(self, clean):
        super().__init__()
        self.clean = clean

    def forward(self, features):
        return tuple(scale.expand(len(features[0]), -1, -1, -1) for scale in self.clean)


def test_heteroscedastic_recovers_planted_noise(world):
    """As fitted: at each scale, and in the map that it predicts."""
    images = PlantedNoise(32)
    student = Denoiser(images.clean)

    def train(model, images, seed, *, loss):
        return train_student(model, images, TrainingSettings(epochs=100, batch_size=8), seed, CPU, loss=loss)

    teacher = SimpleNamespace(backbone=SimpleNamespace(channels=images.channels))
    method = world.method("heteroscedastic")
    method.fit(images, replace(world.context, teacher=teacher, train=train, trained=lambda seed: student))
    with torch.no_grad():
        errors = scale_maps(images.features, student(images.features))
        predicted_logs = method.heads(tuple(images.clean))
        for width, error, predicted in zip(images.channels, errors, predicted_logs, strict=True):
            half = error.shape[-1] // 2
            for side, level in zip((slice(None, half), slice(half, None)), images.levels, strict=True):
                mean = predicted.exp()[0, :, side].mean().item()
                assert mean == pytest.approx(error[:, :, side].mean().item(), rel=0.05)
                # Noise of variance v in d dimensions, one of which is along the unit vector itself.
                assert mean == pytest.approx((width - 1) * level**2 / 2, rel=0.2)
        noise = method.predict(images.batch([0, 1])).uncertainty_map
    for side, level in zip((slice(None, 8), slice(-8, None)), images.levels, strict=True):  # clear of the seam
        total = sum((width - 1) * level**2 / 2 for width in images.channels)
        assert noise[:, :, side].mean().item() == pytest.approx(total, rel=0.2)


def test_heads_start_as_equal_noise_everywhere(world):
    batch = world.test.batch([0, 1])
    heads = NoiseHeads(world.teacher.backbone.channels)
    heads.start.copy_(torch.tensor([-1.0, -2.0, -3.0]))
    for log, start in zip(heads(world.student(batch.features)), (-1, -2, -3), strict=True):
        assert (log == start).all()


def test_noise_loss_by_hand():
    teacher, student = torch.tensor([1.0, 0]).view(1, 2, 1, 1), torch.tensor([3.0, 4]).view(1, 2, 1, 1)  # e = 0.4
    logs = [torch.full((1, 1, 1), math.log(v)) for v in (0.4, 0.8)]
    values = [noise_loss((teacher,), ((student,), (log,))).item() for log in logs]
    assert values == pytest.approx([1 + math.log(0.4), 0.5 + math.log(0.8)], abs=1e-6)


def test_heteroscedastic_uncertainty_is_that_of_the_highest_pixel(world, tmp_path):
    prediction = world.predict(world.fitted("heteroscedastic", tmp_path))
    for uncertainty, noise, anomaly in zip(
        prediction.uncertainty, prediction.uncertainty_map, prediction.anomaly_map, strict=True
    ):
        assert uncertainty == noise.flatten()[anomaly.flatten().argmax()]
    assert prediction.uncertainty_map.std() > 0


# Distances


def _embeddings(world, images):
    with torch.inference_mode():
        features = images.batch(list(range(len(images)))).features
        return world.student.bottleneck(features).mean(dim=(2, 3)).numpy().astype(np.float64)


def test_mahalanobis_is_scipys_distance_under_scikit_learns_covariance(world, tmp_path):
    prediction = world.predict(world.fitted("mahalanobis", tmp_path))
    gaussian = LedoitWolf().fit(_embeddings(world, world.train))
    expected = [mahalanobis(x, gaussian.location_, gaussian.precision_) for x in _embeddings(world, world.test)]
    np.testing.assert_allclose(prediction.uncertainty, expected, rtol=1e-4)


@pytest.mark.parametrize("k", [1, 5])
def test_knn_is_scikit_learns_kth_neighbour_at_unit_length(k, world, tmp_path):
    prediction = world.predict(world.fitted("knn", tmp_path, k=k))
    train, test = (
        e / np.linalg.norm(e, axis=1, keepdims=True)
        for e in (_embeddings(world, world.train), _embeddings(world, world.test))
    )
    distances, _ = NearestNeighbors(n_neighbors=k).fit(train).kneighbors(test)
    np.testing.assert_allclose(prediction.uncertainty, distances[:, -1], rtol=1e-3, atol=1e-6)


# ExCeeD and RejEx


def test_exceed_by_hand():
    """Three scores, threshold the second: p = 1/5 ... 4/5, P = p^3 + 3 p^2 (1 - p)."""
    p = np.array([0.2, 0.4, 0.6, 0.8])
    anomalous = p**3 + 3 * p**2 * (1 - p)
    stability = 1 - np.exp(log_instability(3, 2))
    np.testing.assert_allclose(anomalous, [0.104, 0.352, 0.648, 0.896])
    np.testing.assert_allclose(stability, [0.792, 0.296, 0.296, 0.792])


def test_exceed_as_its_authors_compute_it():
    n, contamination = 200, 0.10
    p = (1 + np.arange(n + 1)) / (2 + n)
    anomalous = 1 - binom.cdf(n - int(n * contamination), n, p)
    found = log_instability(n, n - int(n * contamination) + 1)
    np.testing.assert_allclose(1 - np.exp(found), np.abs(2 * anomalous - 1), atol=1e-12)
    assert np.isfinite(log_instability(2000, 1801)).all()


def rejected(log_instability, tolerance):
    """RejEx's rule: whether stability <= 1 - 2 exp(-tolerance)."""
    return log_instability >= np.log(2) - tolerance


def test_rejex_threshold_by_hand():
    """T = 2: rejected at stability 1 - 2 exp(-2) = 0.7293 and below; T = 1.5: at 0.5537 and below."""
    instability = np.log(1 - np.array([0.72, 0.7294, 0.56, 0.55]))
    assert rejected(instability, 2.0).tolist() == [True, False, True, True]
    assert rejected(instability, 1.5).tolist() == [False, False, False, True]
    assert rejected(log_instability(3, 2), 2.0).tolist() == [False, True, True, False]


def test_rejex_counts_calibration_scores_and_is_at_least_one_where_it_rejects(world, deterministic, tmp_path):
    method = world.fitted("rejex", tmp_path, alpha=0.4, tolerance=2.0)
    batch = world.calibration.batch(list(range(5)))
    with torch.inference_mode():
        scores = anomaly_score(anomaly_map(batch.features, world.student(batch.features), (64, 64))).numpy()
    rank = conformal_threshold(scores, 0.4).rank
    assert rank == 4
    below = (scores[:, None] <= deterministic.anomaly_score.numpy()).sum(axis=0)
    instability = log_instability(5, rank)[below]
    uncertainty = world.predict(method).uncertainty.numpy()
    np.testing.assert_allclose(uncertainty, 2 / (np.log(2) - instability), rtol=1e-6)
    for tolerance in (0.5, 1.0, 2.0, 4.0):
        again = world.predict(world.loaded("rejex", tmp_path, alpha=0.4, tolerance=tolerance)).uncertainty.numpy()
        assert ((again >= 1) == rejected(instability, tolerance)).all()


# Cross-conformal p-values


def test_p_values_by_hand():
    """Fold 1 has scores 1, 3 and fold 2 has 2, 4, 6; a test score that ties counts against the image."""
    out_of_fold = [torch.tensor([1.0, 3.0]), torch.tensor([2.0, 4.0, 6.0])]
    scores = torch.tensor([[0.0, 3.0, 9.0], [0.0, 5.0, 9.0]])
    assert cross_conformal_p_values(out_of_fold, scores).tolist() == pytest.approx([6 / 6, 3 / 6, 1 / 6])


def test_folds_hold_every_image_once():
    parts = folds(11, 4, seed=3)
    assert sorted(map(len, parts)) == [2, 3, 3, 3]
    assert sorted(torch.cat(parts).tolist()) == list(range(11))
    assert folds(11, 4, seed=3)[0].tolist() == parts[0].tolist()
    assert folds(11, 4, seed=4)[0].tolist() != parts[0].tolist()


@pytest.mark.parametrize("level", [1, 2, 4])
def test_false_alarms_on_exchangeable_scores_are_binomial(level):
    """One detector in all folds: then p <= k/(n + 1) has probability k/(n + 1) exactly, in every new draw."""
    n, trials = 19, 1000
    draw = torch.Generator().manual_seed(level)
    alarms = 0
    for _ in range(trials):
        normal, new = torch.randn(n, generator=draw), torch.randn(1, generator=draw)
        out_of_fold = [normal[part].sort().values for part in folds(n, 5, seed=0)]
        p = cross_conformal_p_values(out_of_fold, new.expand(5, 1))
        alarms += int(p <= level / (n + 1) + 1e-6)
    assert binomtest(alarms, trials, level / (n + 1)).pvalue > 0.001


def test_false_alarms_with_detectors_fitted_to_the_other_folds():
    """Detectors |x - mean of the other folds|: no exact law, but a bound above twice the level, and near the level."""
    n, count, trials, alpha = 30, 5, 1000, 0.10
    draw = torch.Generator().manual_seed(0)
    parts = folds(n, count, seed=0)
    alarms = 0
    for _ in range(trials):
        x, new = torch.randn(n, generator=draw), torch.randn((), generator=draw)
        means = [(x.sum() - x[part].sum()) / (n - len(part)) for part in parts]
        out_of_fold = [(x[part] - mean).abs().sort().values for part, mean in zip(parts, means, strict=True)]
        scores = torch.stack([(new - mean).abs() for mean in means])[:, None]
        alarms += int(cross_conformal_p_values(out_of_fold, scores) <= alpha)
    interval = binomtest(alarms, trials).proportion_ci(0.999)
    assert interval.high < 2 * alpha + 2 * (1 - alpha) * (count - 1) / (n + count)
    assert interval.low - 0.02 < alpha < interval.high + 0.02


def test_conformal_students_score_the_fold_that_they_have_not_seen(world):
    trained = []
    everything = [round(float(batch.images.sum()), 3) for batch in world.train.batches(1)]
    assert len(set(everything)) == 6

    def train(student, images, seed):
        trained.append({everything.index(round(float(batch.images.sum()), 3)) for batch in images.batches(1)})
        return world.context.train(student, images, seed)

    method = world.method("conformal", folds=3)
    method.fit(world.train, replace(world.context, train=train))
    left_out = [set(range(6)) - seen for seen in trained]
    assert [len(fold) for fold in left_out] == [2, 2, 2]
    assert set.union(*left_out) == set(range(6))
    for student, fold, scores in zip(method.students, left_out, method.out_of_fold, strict=True):
        batch = world.train.batch(sorted(fold))
        with torch.no_grad():
            wanted = anomaly_score(anomaly_map(batch.features, student(batch.features), (64, 64)))
        torch.testing.assert_close(scores, wanted.sort().values)


def test_conformal_uncertainty_is_highest_at_alpha(world, tmp_path):
    method = world.fitted("conformal", tmp_path, folds=3)
    for level in range(1, 8):
        again = world.loaded("conformal", tmp_path, folds=3, alpha=level / 8)
        p = cross_conformal_p_values(again.out_of_fold, world.predict(method).member_scores)
        expected = 1 / (1 + (p / (level / 8)).log().abs())
        torch.testing.assert_close(world.predict(again).uncertainty, expected)
