import math

import pytest
import torch
from torchvision.ops import drop_block2d

from rdbench.benchmark.cost import count_passes
from rdbench.rd.anomaly import distillation_loss
from rdbench.rd.backbones import get_backbone
from rdbench.rd.student import build_student
from rdbench.uq.dropout import Dropout, dropout_mask

BACKBONE = get_backbone("embedded")
PLACEMENTS = ("features", "bottleneck", "embedding", "decoder", "all")
KINDS = ("element", "channel", "block")


def pyramid(batch=3):
    generator = torch.Generator().manual_seed(0)
    sizes = zip(BACKBONE.channels, (16, 8, 4), strict=True)
    return tuple(torch.rand(batch, c, n, n, generator=generator) for c, n in sizes)


def sample(dropout, features, seeds):
    with torch.no_grad():
        return list(dropout.samples(features, seeds))


def equal(one, other):
    return all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


@pytest.fixture(params=[*((placement, "channel") for placement in PLACEMENTS), ("all", "element"), ("all", "block")])
def placed(request):
    student = build_student(BACKBONE, 0).eval()
    placement, kind = request.param
    return student, Dropout(student, placement, 0.3, kind)


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


def test_in_training_every_image_has_its_own_draw(placed):
    student, _ = placed
    features = [f[:1].expand(2, -1, -1, -1) for f in pyramid(1)]
    student.train()
    for module in student.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.eval()  # else the two images would mix
    torch.manual_seed(0)
    with torch.no_grad():
        assert not any(torch.equal(f[0], f[1]) for f in student(features))


@pytest.mark.parametrize("kind", KINDS)
def test_dropping_nothing_changes_nothing(kind):
    dropout = Dropout(build_student(BACKBONE, 0).eval(), "all", 0.0, kind)
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
    dropout = Dropout(student, placement, 0.3)
    with count_passes() as passes:
        sample(dropout, pyramid(1), range(4))
    assert passes == {"bottleneck": bottleneck, "decoder": 4}


def test_whole_channels_are_dropped_and_the_mean_is_kept():
    student = build_student(BACKBONE, 0).eval()
    dropout = Dropout(student, "embedding", 0.25)
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


@pytest.mark.parametrize("placement", ["bottleneck", "decoder"])
@pytest.mark.parametrize("name", ["embedded", "wide_resnet50_2"])
def test_channels_are_dropped_as_they_enter_each_blocks_second_convolution(placement, name):
    backbone = get_backbone(name)
    student, plain = (build_student(backbone, 0).eval() for _ in range(2))
    generator = torch.Generator().manual_seed(0)
    for norm in (module for module in plain.modules() if isinstance(module, torch.nn.BatchNorm2d)):
        for values in (norm.weight.data, norm.bias.data, norm.running_mean):
            values.normal_(generator=generator)
        norm.running_var.uniform_(0.5, 2, generator=generator)
    student.load_state_dict(plain.state_dict())
    features = tuple(torch.rand(2, c, n, n) for c, n in zip(backbone.channels, (8, 4, 2), strict=True))
    (drawn,) = sample(Dropout(student, placement, 0.3), features, [7])

    uniform = torch.Generator().manual_seed(7)

    def drop(_, inputs):
        (x,) = inputs
        return x * (torch.rand((1, x.shape[1], 1, 1), generator=uniform) >= 0.3) / 0.7

    for module_name, module in getattr(plain, placement).named_modules():
        if module_name.endswith("conv2"):
            module.register_forward_pre_hook(drop)
    with torch.no_grad():
        for found, expected in zip(drawn, plain(features), strict=True):
            torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4 * expected.std().item())


def bernoulli(seed=0):
    generator = torch.Generator().manual_seed(seed)
    return lambda shape, p: (torch.rand(shape, generator=generator) < p).float()


@pytest.mark.parametrize("kind", KINDS)
def test_masks_keep_the_mean(kind):
    mask = dropout_mask((200, 8, 16, 16), 0.2, bernoulli(), kind, 5)
    assert mask.mean().item() == pytest.approx(1, abs=0.02)
    assert (mask == 0).float().mean().item() == pytest.approx(0.2, abs=0.03)


def test_block_masks_keep_the_mean_of_every_image_exactly():
    mask = dropout_mask((20, 8, 16, 16), 0.3, bernoulli(), "block", 5)
    torch.testing.assert_close(mask.mean(dim=(1, 2, 3)), torch.ones(20))
    kept = mask != 0  # and one factor does that for the whole image
    for image, where in zip(mask, kept, strict=True):
        torch.testing.assert_close(image[where], image[where][:1].expand(int(where.sum())))


@pytest.mark.parametrize("size", [1, 2, 3, 4, 7])
def test_a_block_is_a_square_of_the_size_said_wholly_within_the_map(size):
    def one_corner(shape, p):
        corners = torch.zeros(shape)
        corners[0, 1, -1, 2] = 1
        return corners

    dropped = dropout_mask((1, 3, 9, 12), 0.1, one_corner, "block", size) == 0
    wanted = torch.zeros(1, 3, 9, 12, dtype=torch.bool)
    wanted[0, 1, 9 - size :, 2 : 2 + size] = True
    assert torch.equal(dropped, wanted)


def test_a_map_smaller_than_a_block_is_dropped_whole():
    dropped = dropout_mask((50, 8, 3, 4), 0.2, bernoulli(), "block", 7) == 0
    assert torch.equal(dropped.any(dim=2), dropped.all(dim=2))  # every column is dropped whole or not at all
    assert 0.1 < dropped.float().mean() < 0.25


def test_blocks_of_one_are_elements():
    blocks, elements = (dropout_mask((2, 8, 6, 6), 0.2, bernoulli(), kind, 1) == 0 for kind in ("block", "element"))
    assert torch.equal(blocks, elements)


def test_blocks_are_as_dense_as_torchvisions():
    torch.manual_seed(0)
    theirs = drop_block2d(torch.ones(300, 8, 15, 15), 0.2, 5) == 0
    ours = dropout_mask((300, 8, 15, 15), 0.2, bernoulli(), "block", 5) == 0
    assert ours.float().mean().item() == pytest.approx(theirs.float().mean().item(), abs=0.005)
    torch.testing.assert_close(ours.float().mean(dim=(0, 1)), theirs.float().mean(dim=(0, 1)), atol=0.06, rtol=0)


@pytest.mark.parametrize("kind", KINDS)
def test_concrete_rates_follow_the_loss(kind):
    """Entropy pulls every p to 1/2 where dropping costs nothing; a loss that dropping raises pushes p down."""
    moved = {}
    for name, weight in {"free": 0.0, "dear": 100.0}.items():
        torch.manual_seed(0)
        dropout = Dropout(build_student(BACKBONE, 0), "decoder", 0.2, kind, 3, concrete=True).train()
        assert dropout.rates().tolist() == pytest.approx([0.2] * 6)
        optimizer = torch.optim.Adam([dropout.logits], lr=0.05)
        loss = dropout.concrete_loss(images=10)
        for _ in range(3):
            features = pyramid()
            optimizer.zero_grad()
            value = loss(features, dropout(features)) + weight * dropout.logits.sigmoid().sum()
            value.backward()
            optimizer.step()
        moved[name] = dropout.rates()
    assert ((moved["free"] > 0.2) & (moved["free"] < 0.5)).all()
    assert ((moved["dear"] < 0.2) & (moved["dear"] > 0)).all()


def test_concrete_regulariser_by_hand():
    dropout = Dropout(build_student(BACKBONE, 0), "embedding", 0.25, concrete=True)
    features = pyramid()
    loss = distillation_loss(features, [f.flip(1) for f in features])
    entropy = -(0.25 * math.log(0.25) + 0.75 * math.log(0.75))
    wanted = loss - 2 * loss / 3 / 40 * (2 * BACKBONE.channels[2]) * entropy
    torch.testing.assert_close(dropout.concrete_loss(40)(features, tuple(f.flip(1) for f in features)), wanted)


def test_concrete_samples_drop_at_the_learned_rates():
    student = build_student(BACKBONE, 0).eval()
    dropout = Dropout(student, "embedding", [0.4])
    seen = []
    student.decoder.coarse.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    sample(dropout, pyramid(1), range(50))
    with torch.no_grad():
        alive = student.bottleneck(pyramid(1)).sum(dim=(2, 3)) > 0
    dropped = torch.cat([(x.sum(dim=(2, 3)) == 0)[alive] for x in seen])
    assert dropped.float().mean().item() == pytest.approx(0.4, abs=0.03)
