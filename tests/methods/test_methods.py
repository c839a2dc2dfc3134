"""What holds for every method, and what each one promises."""

import pytest
import torch

from rdbench.benchmark.cost import count_passes
from rdbench.benchmark.predicting import check_prediction
from rdbench.errors import InputError
from rdbench.metrics.detection import conformal_threshold
from rdbench.rd.anomaly import anomaly_map, anomaly_score
from rdbench.uq.checkpoints import load_student
from rdbench.uq.seeds import member_seeds
from tests.methods.conftest import METHODS, Images

SMALL = {
    "conformal": {"folds": 3},
    "deep_ensemble": {"members": 3},
    "decoder_ensemble": {"members": 2},
    "snapshot_ensemble": {"members": 2},
    "bootstrap_ensemble": {"members": 2},
    "packed_ensemble": {"members": 2},
    "batch_ensemble": {"members": 2},
    "masksembles": {"members": 2},
    "laplace": {"samples": 3, "draws": 2},
    "mc_batchnorm": {"samples": 3, "batch": 3},
    "mc_dropout": {"samples": 3},
    "noise_tta": {"samples": 3},
    "swag": {"samples": 3},
}
"""Options that make a method quick; the defaults serve for the others."""


@pytest.fixture(scope="module", params=sorted(METHODS))
def fitted(request, world, tmp_path_factory):
    """(name, method, directory) of a fitted, saved and loaded method."""
    directory = tmp_path_factory.mktemp(request.param)
    return request.param, world.fitted(request.param, directory, **SMALL.get(request.param, {})), directory


def test_prediction_keeps_the_protocol(fitted, world):
    _, method, _ = fitted
    prediction = world.predict(method)
    shapes = {"anomaly_map": (4, 64, 64), "anomaly_score": (4,), "uncertainty": (4,), "uncertainty_map": (4, 64, 64)}
    for name, shape in shapes.items():
        value = getattr(prediction, name)
        if value is not None:
            assert (value.shape, value.dtype) == (shape, torch.float32)
            assert value.isfinite().all()
            assert value.min() >= 0
    if prediction.member_scores is not None:
        torch.testing.assert_close(prediction.member_scores.mean(dim=0), prediction.anomaly_score)
        assert prediction.uncertainty.min() > 0


def test_a_saved_method_predicts_the_same_bit_for_bit(fitted, world):
    name, method, directory = fitted
    one, other = world.predict(method), world.predict(world.loaded(name, directory, **SMALL.get(name, {})))
    for value, again in zip(vars(one).values(), vars(other).values(), strict=True):
        assert (value is None and again is None) or torch.equal(value, again)


def test_an_image_is_predicted_alike_in_any_batch(fitted, world):
    _, method, _ = fitted
    together, alone = world.predict(method), world.predict(method, [3])
    torch.testing.assert_close(alone.anomaly_map[0], together.anomaly_map[3], atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(alone.uncertainty[0], together.uncertainty[3], atol=1e-5, rtol=1e-3)


def test_images_need_not_be_square(fitted, world):
    _, method, _ = fitted
    wide = Images(world.test.images[..., :32, :].contiguous(), world.teacher)
    with torch.inference_mode():
        together, alone = method.predict(wide.batch([0, 1])), method.predict(wide.batch([1]))
    check_prediction(together, 2, (32, 64), torch.device("cpu"))
    torch.testing.assert_close(alone.anomaly_map[0], together.anomaly_map[1], atol=1e-5, rtol=1e-4)


def test_damaged_student_is_named(fitted, world, tmp_path):
    name, _, directory = fitted
    for file in directory.iterdir():
        content = file.read_bytes()
        (tmp_path / file.name).write_bytes(content[: len(content) // 2] if file.suffix == ".safetensors" else content)
    with pytest.raises(InputError, match=r"\.safetensors is damaged"):
        world.loaded(name, tmp_path, **SMALL.get(name, {}))


def test_what_save_did_not_write_is_named(world, tmp_path):
    with pytest.raises(InputError, match=r"student\.safetensors does not exist: the method's save has not written it"):
        load_student(tmp_path / "student.safetensors", world.context)


@pytest.mark.parametrize(
    ("name", "passes"),
    [("deterministic", (4, 4, 4)), ("deep_ensemble", (4, 12, 12)), ("mc_dropout", (4, 4, 12)), ("tta", (52, 52, 52))],
)
def test_passes_of_four_images(name, passes, world, tmp_path):
    method = world.fitted(name, tmp_path, **SMALL.get(name, {}))
    with count_passes() as counted:
        world.predict(method)
    assert (counted["teacher"], counted["bottleneck"], counted["decoder"]) == passes


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("deep_ensemble", {"members": 0}, "members must be at least 1, got 0"),
        ("mc_dropout", {"p": 1.5}, r"p must be in \[0, 1\), got 1.5"),
        ("mc_dropout", {"p": float("nan")}, "p must be"),
        ("mc_dropout", {"samples": 0}, "samples must be at least 1, got 0"),
        ("tta", {"rotation": -1.0}, r"rotation must be in \[0, 45\), got -1"),
        ("tta", {"shift": 0.5}, r"shift must be in \[0, 0.5\), got 0.5"),
        ("tta", {"contrast": 1.0}, r"contrast must be in \[0, 1\), got 1"),
    ],
)
def test_options_out_of_range(name, options, message, world):
    with pytest.raises(InputError, match=message):
        world.method(name, **options)


def test_deterministic_is_plain_reverse_distillation(world, deterministic):
    batch = world.test.batch([0, 1, 2, 3])
    with torch.inference_mode():
        maps = anomaly_map(batch.features, world.student(batch.features), (64, 64))
    assert torch.equal(deterministic.anomaly_map, maps)
    assert torch.equal(deterministic.anomaly_score, anomaly_score(maps))


def test_deterministic_uncertainty_ranks_as_the_margin(world, deterministic, tmp_path):
    with torch.inference_mode():
        batch = world.calibration.batch(list(range(5)))
        calibration = anomaly_score(anomaly_map(batch.features, world.student(batch.features), (64, 64)))
    margin = -(deterministic.anomaly_score - conformal_threshold(calibration.numpy(), 0.10).value).abs()
    assert torch.equal(deterministic.uncertainty.argsort(), margin.argsort())
    assert deterministic.uncertainty.max() <= 1
    method = world.fitted("deterministic", tmp_path)
    method.threshold = float(deterministic.anomaly_score[0])
    assert world.predict(method).uncertainty[0] == 1  # no decision is less sure than one at the threshold


def test_ensemble_of_one_is_deterministic(world, deterministic, tmp_path):
    prediction = world.predict(world.fitted("deep_ensemble", tmp_path, members=1))
    assert torch.equal(prediction.anomaly_map, deterministic.anomaly_map)
    assert torch.equal(prediction.anomaly_score, deterministic.anomaly_score)
    assert not prediction.uncertainty.any()


def test_ensembles_of_one_group_share_their_members(world, deterministic, tmp_path):
    world.fitted("deep_ensemble", tmp_path, members=2)
    prediction = world.predict(world.fitted("deep_ensemble", tmp_path, members=3))
    assert [world.trained.count(seed) for seed in member_seeds(0, 3)[1:]] == [1, 1]
    assert torch.equal(prediction.member_scores[0], deterministic.anomaly_score)
    assert (prediction.member_scores.std(dim=0) > 0).all()


@pytest.mark.parametrize("placement", ["features", "decoder", "all"])
def test_dropping_nothing_is_deterministic(placement, world, deterministic, tmp_path):
    prediction = world.predict(world.fitted("mc_dropout", tmp_path, p=0.0, placement=placement, samples=3))
    assert torch.equal(prediction.anomaly_map, deterministic.anomaly_map)
    assert torch.equal(prediction.anomaly_score, deterministic.anomaly_score)
    assert not prediction.uncertainty.any()


def test_more_dropout_samples_keep_the_first_ones(world, tmp_path):
    method = world.fitted("mc_dropout", tmp_path, samples=2)
    many = world.predict(world.loaded("mc_dropout", tmp_path, samples=4))
    assert torch.equal(many.member_scores[:2], world.predict(method).member_scores)


def test_augmentation_by_nothing_is_deterministic(world, deterministic, tmp_path):
    none = {"flips": False, "rotation": 0.0, "shift": 0.0, "brightness": 0.0, "contrast": 0.0}
    prediction = world.predict(world.fitted("tta", tmp_path, **none))
    assert torch.equal(prediction.anomaly_map, deterministic.anomaly_map)
    assert not prediction.uncertainty.any()


def test_augmentation_looks_at_the_image_itself_first(world, deterministic, tmp_path):
    prediction = world.predict(world.fitted("tta", tmp_path))
    assert prediction.member_scores.shape == (13, 4)
    assert torch.equal(prediction.member_scores[0], deterministic.anomaly_score)
