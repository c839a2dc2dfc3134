import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from rdbench.errors import InputError
from rdbench.rd.backbones import BACKBONES, get_backbone
from rdbench.rd.student import Student, build_student


def on_meta(name):
    with torch.device("meta"):
        return Student(get_backbone(name)).eval()


def pyramid_for(name, size=256, device="meta"):
    channels = get_backbone(name).channels
    return [torch.empty(1, c, size // s, size // s, device=device) for c, s in zip(channels, (4, 8, 16), strict=True)]


def parameters(module):
    return sum(p.numel() for p in module.parameters())


@pytest.mark.parametrize(
    ("name", "bottleneck", "unused", "decoder"),
    [
        # The released networks have 12.2 M + 3.7 M and 67.3 M + 24.9 M; unused is their conv4 and bn4.
        ("resnet18", 12_205_312, 1024 * 512 + 2 * 512, 3_703_168),
        ("wide_resnet50_2", 67_277_824, 4096 * 2048 + 2 * 2048, 24_917_504),
    ],
)
def test_parameters_are_the_released_ones_without_the_unused(name, bottleneck, unused, decoder):
    student = on_meta(name)
    assert parameters(student.bottleneck) == bottleneck - unused
    assert parameters(student.decoder) == decoder


@pytest.mark.parametrize(("name", "bottleneck", "decoder"), [("resnet18", 1.86, 3.12), ("wide_resnet50_2", 14.6, 22.3)])
def test_arithmetic_at_256_pixels(name, bottleneck, decoder):
    student, features = on_meta(name), pyramid_for(name)
    with FlopCounterMode(display=False) as first:
        embedding = student.bottleneck(features)
    with FlopCounterMode(display=False) as second:
        student.decoder(embedding)
    assert first.get_total_flops() / 1e9 == pytest.approx(bottleneck, rel=0.005)
    assert second.get_total_flops() / 1e9 == pytest.approx(decoder, rel=0.005)


@pytest.mark.parametrize("name", BACKBONES)
def test_student_gives_the_pyramid_that_it_is_given(name):
    student, features = on_meta(name), pyramid_for(name, size=64)
    assert [r.shape for r in student(features)] == [f.shape for f in features]
    assert student.bottleneck(features).shape == (1, 2 * get_backbone(name).channels[2], 2, 2)


def test_decoder_does_not_mirror_the_number_of_blocks():
    decoder = on_meta("wide_resnet50_2").decoder
    assert [len(stage) for stage in (decoder.coarse, decoder.middle, decoder.fine)] == [3, 4, 6]


def test_roles_name_the_parts_whose_passes_are_counted():
    student = on_meta("resnet18")
    assert (student.bottleneck.role, student.decoder.role) == ("bottleneck", "decoder")
    assert [m.role for m in student.modules() if hasattr(m, "role")] == ["bottleneck", "decoder"]


def test_initialisation_is_the_released_one():
    student = build_student(get_backbone("embedded"), 0)
    convolution = student.bottleneck.embed[1].conv1  # 256 -> 256, 3 x 3
    assert convolution.weight.std().item() == pytest.approx((2 / (256 * 9)) ** 0.5, rel=0.02)
    double = student.decoder.coarse[0].conv1  # torch's default: uniform within 1 / sqrt(channels_out * 2 * 2)
    assert isinstance(double, nn.ConvTranspose2d)
    assert double.weight.abs().max().item() == pytest.approx((128 * 4) ** -0.5, rel=0.01)


def test_seed_decides_the_student_and_leaves_the_callers_random_state():
    backbone = get_backbone("embedded")
    torch.manual_seed(5)
    before = torch.get_rng_state()
    one, same, other = (build_student(backbone, seed).state_dict() for seed in (1, 1, 2))
    assert torch.equal(torch.get_rng_state(), before)
    assert all(torch.equal(one[name], same[name]) for name in one)
    assert not torch.equal(one["bottleneck.fuse_fine.0.weight"], other["bottleneck.fuse_fine.0.weight"])


def test_misspelt_backbone_gets_the_nearest_name():
    with pytest.raises(InputError, match=r"unknown backbone 'resnet81'.*resnet18"):
        get_backbone("resnet81")
