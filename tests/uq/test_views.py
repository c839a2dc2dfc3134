import pytest
import torch
import torch.nn.functional as F
from torchvision.transforms.functional import InterpolationMode, rotate

from rdbench.rd.backbones import IMAGENET_MEAN, IMAGENET_STD
from rdbench.uq.sampling import predict_from_samples
from rdbench.uq.views import brightness, contrast, flip, rotation, shift

RIGID = [flip(-1), flip(-2), rotation(5), rotation(-12), shift(0.1, 0.05), shift(-0.1, 0.05)]


def smooth_images(height=128, width=192):
    """(2, 3, H, W), smooth and unlike at every border."""
    coarse = torch.randn(2, 3, 5, 7, generator=torch.Generator().manual_seed(0))
    return F.interpolate(coarse, size=(height, width), mode="bicubic", align_corners=True)


@pytest.mark.parametrize("view", RIGID, ids=lambda view: view.name)
def test_restoring_undoes_the_view_where_it_shows_the_image(view):
    images = smooth_images()
    restored, shown = view.restore(view.transform(images)[:, 0])
    error = ((restored - images[:, 0]).abs() * shown).max()
    assert error < 0.02
    assert shown.float().mean() > 0.4


@pytest.mark.parametrize("view", RIGID, ids=lambda view: view.name)
def test_views_change_the_image_and_are_the_same_under_bf16_autocast(view):
    images = smooth_images()
    changed = view.transform(images)
    assert (changed - images).abs().mean() > 0.05
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(view.transform(images), changed)
        assert torch.equal(view.restore(images[:, 0])[0], view.restore(images[:, 0])[0])


def test_a_detector_of_single_pixels_is_certain_everywhere_also_at_the_border():
    images = smooth_images() + 5
    samples = [images[:, 0], *(view.restore(view.transform(images)[:, 0]) for view in RIGID)]
    prediction = predict_from_samples(samples)
    torch.testing.assert_close(prediction.anomaly_map, images[:, 0], atol=0.01, rtol=0)
    assert prediction.uncertainty_map.max() < 0.02


def test_shift_moves_by_whole_pixels_and_does_not_count_near_a_border():
    images = smooth_images(60, 80)
    moved = shift(0.1, -0.05).transform(images)  # 6 pixels down, 4 to the left
    torch.testing.assert_close(moved[:, :, 6:, :-4], images[:, :, :-6, 4:], atol=1e-4, rtol=0)
    torch.testing.assert_close(moved[:, :, :6, :-4], images[:, :, :6, 4:].flip(2), atol=1e-4, rtol=0)  # mirrored
    _, shown = shift(0.1, -0.05).restore(moved[:, 0])
    expected = torch.zeros(60, 80, dtype=torch.bool)
    expected[16 : -16 - 6, 16 + 4 : -16] = True  # 16 pixels from the image's border and from the view's
    assert torch.equal(shown, expected)


def test_rotation_is_torchvisions():
    images = smooth_images(64, 96)
    ours = rotation(10).transform(images)
    theirs = rotate(images, 10, interpolation=InterpolationMode.BILINEAR)
    inside = rotate(torch.ones_like(images), 10, interpolation=InterpolationMode.BILINEAR) == 1
    assert inside.float().mean() > 0.7
    assert ((ours - theirs).abs() * inside).max() < 1e-3


@pytest.mark.parametrize(("view", "expected"), [(brightness(1.5), (0.3, 0.9, 1.0)), (contrast(0.5), None)])
def test_photometric_views_act_on_values_between_zero_and_one(view, expected):
    mean, std = torch.tensor(IMAGENET_MEAN).view(3, 1, 1), torch.tensor(IMAGENET_STD).view(3, 1, 1)
    values = torch.tensor([0.2, 0.6, 0.8]).repeat(2, 3, 4, 1)  # (2, 3, 4, 3) columns of grey
    if expected is None:
        expected = tuple(0.5 * v + 0.5 * (0.2 + 0.6 + 0.8) / 3 for v in (0.2, 0.6, 0.8))
    seen = view.transform((values - mean) / std) * std + mean
    torch.testing.assert_close(seen, torch.tensor(expected).expand_as(seen), atol=2e-4, rtol=0)
    restored, shown = view.restore(values[:, 0])
    assert torch.equal(restored, values[:, 0])
    assert shown.all()
