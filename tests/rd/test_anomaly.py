import numpy as np
import pytest
import torch
import torch.nn.functional as F
from scipy.ndimage import gaussian_filter

from rdbench.protocol import Batch
from rdbench.rd.anomaly import AT_ONCE, anomaly_map, anomaly_score, distillation_loss, enlarge_and_smooth, scale_maps


def one_scale(*positions):
    """A (1, C, 1, n) feature map whose n positions have these channel vectors."""
    return torch.tensor(positions, dtype=torch.float32).T[None, :, None, :]


def random_pyramid(seed, batch=2, height=64, width=96, dtype=torch.float32):
    generator = torch.Generator().manual_seed(seed)
    return tuple(
        torch.randn(batch, c, height // s, width // s, generator=generator).to(dtype)
        for c, s in ((8, 4), (16, 8), (32, 16))
    )


def large_pyramid(seed, images, dtype=torch.float32):
    """Of 512 x 512 pixels, channels last as a teacher's."""
    pyramid = random_pyramid(seed, images, 512, 512, dtype)
    return tuple(scale.contiguous(memory_format=torch.channels_last) for scale in pyramid)


def test_loss_flattens_channels_and_positions():
    teacher = one_scale((1, 0), (0, 1))
    student = one_scale((1, 0), (0, 3))  # every position has cosine 1; flattened it is 4 / sqrt(2 * 10)
    assert distillation_loss([teacher], [student]).item() == pytest.approx(1 - 4 / 20**0.5, abs=1e-6)


def test_loss_is_mean_over_images_and_sum_over_scales():
    teacher = torch.cat([one_scale((1, 0)), one_scale((1, 0))])
    student = torch.cat([one_scale((0, 1)), one_scale((-1, 0))])  # 1 - cosine: 1 and 2
    assert distillation_loss([teacher] * 3, [student] * 3).item() == pytest.approx(3 * 1.5)


def test_scale_maps_of_equal_orthogonal_and_opposite_vectors():
    teacher = one_scale((1, 0), (1, 0), (1, 0), (3, 4))
    student = one_scale((2, 0), (0, 5), (-1, 0), (4, 3))
    (maps,) = scale_maps([teacher], [student])
    assert maps.shape == (1, 1, 4)
    torch.testing.assert_close(maps[0, 0], torch.tensor([0.0, 1.0, 2.0, 1 - 24 / 25]))


def test_cosines_are_torchs_also_of_zero_vectors():
    teacher, student = random_pyramid(7), random_pyramid(8)
    teacher[0][:, :, 2, 3] = 0
    for maps, t, s in zip(scale_maps(teacher, student), teacher, student, strict=True):
        torch.testing.assert_close(maps, 1 - F.cosine_similarity(t, s, dim=1), atol=1e-6, rtol=0)
    expected = sum(
        1 - F.cosine_similarity(t.flatten(1), s.flatten(1)).mean() for t, s in zip(teacher, student, strict=True)
    )
    torch.testing.assert_close(distillation_loss(teacher, student), expected, atol=1e-6, rtol=0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_large_batch_gives_every_image_its_own_map_to_the_bit(dtype):
    images = 9
    teacher, student = large_pyramid(7, images, dtype), large_pyramid(8, images, dtype)
    assert teacher[0].numel() > AT_ONCE > teacher[0][0].numel() > AT_ONCE / images
    together = scale_maps(teacher, student)
    alone = [scale_maps([t[i, None] for t in teacher], [s[i, None] for s in student]) for i in range(images)]
    assert all(torch.equal(maps, torch.cat(own)) for maps, own in zip(together, zip(*alone, strict=True), strict=True))
    with torch.inference_mode():
        kept = Batch(torch.zeros(images, 3, 512, 512), lambda: teacher).features
        assert all(torch.equal(one, other) for one, other in zip(scale_maps(kept, student), together, strict=True))
    first = [s.contiguous() for s in student]
    torch.testing.assert_close(scale_maps(teacher, first), together, atol=1e-6, rtol=0)


def test_a_student_of_another_number_of_images_is_no_silent_mistake():
    with pytest.raises(RuntimeError, match="size"):
        scale_maps(large_pyramid(7, 9), large_pyramid(8, 4))  # in pieces of four, four of the nine would have one


def test_the_loss_of_a_student_that_is_all_zero_has_finite_gradients():
    teacher = random_pyramid(9)
    student = [torch.zeros_like(t, requires_grad=True) for t in teacher]
    distillation_loss(teacher, student).backward()
    assert all(s.grad.isfinite().all() for s in student)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_maps_of_equal_pyramids_are_zero_and_never_negative(dtype):
    pyramid = random_pyramid(0, dtype=dtype)
    maps = anomaly_map(pyramid, pyramid, (64, 96))
    assert maps.dtype == torch.float32
    assert maps.min() >= 0
    assert maps.max() < 1e-6


def test_constant_maps_stay_constant_up_to_the_border():
    teacher = [torch.stack([torch.ones(1, n, n), torch.zeros(1, n, n)], dim=1) for n in (16, 8, 4)]
    student = [t.flip(1) for t in teacher]
    torch.testing.assert_close(anomaly_map(teacher, student, (64, 64)), torch.full((1, 64, 64), 3.0))


def test_map_is_the_smoothed_sum_of_enlarged_scales():
    teacher, student = random_pyramid(1), random_pyramid(2)
    enlarged = sum(
        F.interpolate(m[:, None], size=(64, 96), mode="bilinear", align_corners=True)[:, 0]
        for m in scale_maps(teacher, student)
    )
    expected = np.stack([gaussian_filter(m, sigma=4) for m in enlarged.double().numpy()])
    np.testing.assert_allclose(anomaly_map(teacher, student, (64, 96)).numpy(), expected, atol=1e-5)


@pytest.mark.parametrize("size", [(48, 80), (9, 33)])
def test_smoothing_is_scipys_gaussian_filter(size):
    maps = np.random.default_rng(0).random((3, *size))
    expected = np.stack([gaussian_filter(m, sigma=4) for m in maps])
    np.testing.assert_allclose(
        enlarge_and_smooth([torch.from_numpy(maps).float()], size)[0].numpy(), expected, atol=1e-6
    )


def test_score_is_the_maximum_of_each_map():
    maps = torch.zeros(2, 4, 5)
    maps[0, 3, 1], maps[1, 0, 0] = 7, 2
    assert anomaly_score(maps).tolist() == [7, 2]


def test_bf16_autocast_leaves_the_arithmetic_alone():
    teacher, student = random_pyramid(3), random_pyramid(4)
    expected = anomaly_map(teacher, student, (64, 96)), distillation_loss(teacher, student)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        result = anomaly_map(teacher, student, (64, 96)), distillation_loss(teacher, student)
    assert torch.equal(result[0], expected[0])
    assert torch.equal(result[1], expected[1])


def test_map_has_gradients_also_after_it_was_used_in_inference_mode():
    teacher, student = random_pyramid(5, height=32, width=32), random_pyramid(6, height=32, width=32)
    with torch.inference_mode():
        anomaly_map(teacher, student, (32, 32))
    student = [s.requires_grad_() for s in student]
    anomaly_score(anomaly_map(teacher, student, (32, 32))).sum().backward()
    assert all(s.grad is not None and s.grad.abs().sum() > 0 for s in student)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_what_a_batch_keeps_of_the_teacher_changes_no_bit(dtype):
    teacher, student = random_pyramid(0, dtype=dtype), random_pyramid(1, dtype=dtype)
    batch = Batch(torch.zeros(2, 3, 64, 96), lambda: teacher)
    wanted = anomaly_map(teacher, student, (64, 96))
    with torch.inference_mode():
        assert all(torch.equal(anomaly_map(batch.features, student, (64, 96)), wanted) for _ in range(2))
    assert all(torch.equal(one, other) for one, other in zip(teacher, random_pyramid(0, dtype=dtype), strict=True))
    student[0].requires_grad_()
    anomaly_map(batch.features, student, (64, 96)).sum().backward()
    assert student[0].grad.abs().max() > 0
