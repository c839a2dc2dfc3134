import pytest
import torch

from rdbench.benchmark.cost import count_passes
from rdbench.rd.backbones import get_backbone
from rdbench.rd.student import build_student
from rdbench.uq.dropout import ChannelDropout

BACKBONE = get_backbone("embedded")
PLACEMENTS = ("features", "bottleneck", "embedding", "decoder", "all")


def pyramid(batch=3):
    generator = torch.Generator().manual_seed(0)
    sizes = zip(BACKBONE.channels, (16, 8, 4), strict=True)
    return tuple(torch.rand(batch, c, n, n, generator=generator) for c, n in sizes)


def sample(dropout, features, seeds):
    with torch.no_grad():
        return list(dropout.samples(features, seeds))


def equal(one, other):
    return all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


@pytest.fixture(params=PLACEMENTS)
def placed(request):
    student = build_student(BACKBONE, 0).eval()
    return student, ChannelDropout(student, request.param, 0.3)


def test_a_seed_is_one_network(placed):
    _, dropout = placed
    first, again, other = sample(dropout, pyramid(), [1, 1, 2])
    assert equal(first, again)
    assert not equal(first, other)


def test_a_sample_does_not_depend_on_the_batch(placed):
    _, dropout = placed
    features = pyramid(3)
    (together,) = sample(dropout, features, [1])
    for index in range(3):
        (alone,) = sample(dropout, [f[index : index + 1] for f in features], [1])
        for a, b in zip(alone, together, strict=True):
            torch.testing.assert_close(a[0], b[index])


def test_without_sampling_a_student_in_eval_mode_is_the_plain_one(placed):
    student, dropout = placed
    sample(dropout, pyramid(), [1])
    with torch.no_grad():
        assert equal(student(pyramid()), build_student(BACKBONE, 0).eval()(pyramid()))


def test_in_training_every_image_has_its_own_channels_dropped(placed):
    student, _ = placed
    features = [f[:1].expand(2, -1, -1, -1) for f in pyramid(1)]
    student.train()
    for module in student.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.eval()  # else the two images would mix
    torch.manual_seed(0)
    with torch.no_grad():
        assert not any(torch.equal(f[0], f[1]) for f in student(features))


def test_dropping_nothing_changes_nothing(placed):
    student, placement = build_student(BACKBONE, 0).eval(), "all"
    dropout = ChannelDropout(student, placement, 0.0)
    (drawn,) = sample(dropout, pyramid(), [1])
    assert equal(drawn, build_student(BACKBONE, 0).eval()(pyramid()))


def test_names_of_parameters_stay(placed):
    student, _ = placed
    assert student.state_dict().keys() == build_student(BACKBONE, 0).state_dict().keys()


@pytest.mark.parametrize(
    ("placement", "bottleneck"), [("features", 4), ("bottleneck", 4), ("embedding", 1), ("decoder", 1), ("all", 4)]
)
def test_what_lies_before_the_first_dropout_runs_once(placement, bottleneck):
    student = build_student(BACKBONE, 0).eval()
    dropout = ChannelDropout(student, placement, 0.3)
    with count_passes() as passes:
        sample(dropout, pyramid(1), range(4))
    assert passes == {"bottleneck": bottleneck, "decoder": 4}


def test_whole_channels_are_dropped_and_the_mean_is_kept():
    student = build_student(BACKBONE, 0).eval()
    dropout = ChannelDropout(student, "embedding", 0.25)
    seen = []
    student.decoder.coarse.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    sample(dropout, pyramid(1), range(100))
    with torch.no_grad():
        embedding = student.bottleneck(pyramid(1))
    ratio = torch.stack(seen)[:, 0].sum(dim=(2, 3)) / embedding[0].sum(dim=(1, 2))  # of each sample and channel
    ratio = ratio[:, embedding[0].sum(dim=(1, 2)) > 0]
    dropped = ratio == 0
    torch.testing.assert_close(ratio[~dropped], torch.full_like(ratio[~dropped], 1 / 0.75), rtol=1e-4, atol=1e-4)
    assert dropped.float().mean().item() == pytest.approx(0.25, abs=0.02)
