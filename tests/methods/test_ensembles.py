"""The ensembles: what each one's paper says it is, and what an ensemble of one comes to."""

import sys
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from rdbench.benchmark.cost import count_passes
from rdbench.errors import InputError
from rdbench.rd.anomaly import anomaly_map, anomaly_score, distillation_loss
from rdbench.rd.student import Student
from rdbench.uq.members import member_loss, member_pyramids, repeat_images
from rdbench.uq.seeds import member_seeds
from tests.methods.conftest import EPOCHS, METHODS

PASSES = {
    "decoder_ensemble": (4, 4, 8),
    "snapshot_ensemble": (4, 8, 8),
    "bootstrap_ensemble": (4, 8, 8),
    "packed_ensemble": (4, 4, 4),
    "batch_ensemble": (4, 8, 8),
    "masksembles": (4, 4, 8),
}
"""Of teacher, bottleneck and decoder for four images, with two members."""

TRAINING = {
    "decoder_ensemble": 1,
    "snapshot_ensemble": 1,
    "bootstrap_ensemble": 2,
    "packed_ensemble": 1,
    "batch_ensemble": 2,
    "masksembles": 1,
}
"""Trainings with two members, in passes of the decoder; the deterministic student that is shared is left out."""


@pytest.fixture(scope="module", params=sorted(PASSES))
def pair(request, world, tmp_path_factory):
    """(name, method of two members, decoder passes of its training)."""
    world.context.deterministic()
    directory = tmp_path_factory.mktemp(request.param)
    with count_passes() as counted:
        method = world.fitted(request.param, directory, members=2)
    return request.param, method, counted["decoder"]


def plain_scores(student, batch):
    """The scores of one plain network, a map from the teacher's pyramid to another."""
    with torch.inference_mode():
        return anomaly_score(anomaly_map(batch.features, student(batch.features), (64, 64)))


def test_members_differ(pair, world):
    _, method, _ = pair
    scores = world.predict(method).member_scores
    assert scores.shape == (2, 4)
    assert ((scores[0] - scores[1]).abs() > 1e-4).all()


def test_passes_of_four_images(pair, world):
    name, method, _ = pair
    with count_passes() as counted:
        world.predict(method)
    assert (counted["teacher"], counted["bottleneck"], counted["decoder"]) == PASSES[name]


def test_training_costs_what_is_documented(pair, world):
    name, _, decoder_passes = pair
    assert decoder_passes == TRAINING[name] * EPOCHS * len(world.train)


@pytest.mark.parametrize("name", sorted(PASSES))
def test_no_members_are_refused(name, world):
    with pytest.raises(InputError, match="members must be at least 1, got 0"):
        world.method(name, members=0)


# Decoders on one bottleneck.


def test_decoders_share_the_deterministic_bottleneck(world, deterministic, tmp_path):
    before = {name: value.clone() for name, value in world.student.state_dict().items()}
    method = world.fitted("decoder_ensemble", tmp_path, members=3)
    after = world.student.state_dict()
    assert all(torch.equal(value, after[name]) for name, value in before.items())
    assert torch.equal(world.predict(method).member_scores[0], deterministic.anomaly_score)


def test_one_decoder_is_deterministic(world, deterministic, tmp_path):
    prediction = world.predict(world.fitted("decoder_ensemble", tmp_path, members=1))
    assert torch.equal(prediction.anomaly_map, deterministic.anomaly_map)
    assert torch.equal(prediction.anomaly_score, deterministic.anomaly_score)
    assert not prediction.uncertainty.any()


# Snapshots.


def test_rate_falls_to_zero_in_each_cycle(world):
    asked = []

    def train(student, images, seed, *, epochs, rate):
        asked.append((epochs, [rate(done) for done in (0, 1 / 3, 1 / 2, 2 / 3)], rate(0.999)))
        return student

    method = world.method("snapshot_ensemble", members=4)
    method.fit(world.train, replace(world.context, train=train))
    assert len(method.students) == len(asked) == 4
    for epochs, rates, last in asked:
        assert epochs == 1 / 4
        assert rates == pytest.approx([1, 0.75, 0.5, 0.25])
        assert last < 1e-5


def test_snapshots_are_stages_of_one_training(world, tmp_path):
    starts = []

    def train(student, *arguments, **options):
        starts.append(student.decoder.fine[0].conv2.weight.clone())
        return world.context.train(student, *arguments, **options)

    method = world.method("snapshot_ensemble", members=3)
    method.fit(world.train, replace(world.context, train=train))
    ends = [student.decoder.fine[0].conv2.weight for student in method.students]
    assert torch.equal(ends[0], starts[1])
    assert torch.equal(ends[1], starts[2])
    assert not torch.equal(ends[1], ends[2])


# The bootstrap.


def test_members_see_images_drawn_with_replacement(world):
    seen = []

    def train(student, images, seed):
        batches = torch.cat([batch.images for batch in images.batches(4)])
        assert torch.equal(batches, images.batch(range(len(images))).images)
        assert torch.equal(batches[[5, 0]], images.batch(torch.tensor([5, 0])).images)
        equal = (batches[:, None] == world.train.images[None]).flatten(2).all(dim=2)
        assert (equal.sum(dim=1) == 1).all()  # each is one of the training images
        seen.append((seed, equal.sum(dim=0).tolist()))
        return student

    world.method("bootstrap_ensemble", members=8).fit(world.train, replace(world.context, train=train))
    assert [seed for seed, _ in seen] == member_seeds(0, 8)
    assert {sum(counts) for _, counts in seen} == {len(world.train)}
    assert max(max(counts) for _, counts in seen) > 1
    assert len({tuple(counts) for _, counts in seen}) > 1


# Members side by side in one network.


def test_member_pyramids_undo_repeating(world):
    features = world.test.batch([0, 1]).features
    for own in member_pyramids(repeat_images(features, 3), 3):
        assert all(torch.equal(scale, again) for scale, again in zip(features, own, strict=True))


def test_member_loss_is_the_mean_of_the_members_losses(world):
    teacher = world.test.batch([0, 1]).features
    first, second = world.test.batch([2, 3]).features, world.test.batch([1, 0]).features
    both = tuple(torch.cat(scales) for scales in zip(first, second, strict=True))
    expected = (distillation_loss(teacher, first) + distillation_loss(teacher, second)) / 2
    torch.testing.assert_close(member_loss(2)(teacher, both), expected)


def conv_and_norm(channels_in, channels_out, **options):
    return nn.Conv2d(channels_in, channels_out, bias=False, **options), nn.BatchNorm2d(channels_out), nn.ReLU()


class SlimStudent(nn.Module):
    """A plain student of `width` times RD's width, on the teacher's own features, with 1 x 1 layers at its two ends."""

    def __init__(self, backbone, width, groups):
        super().__init__()
        slim = Student(replace(backbone, base=int(width * backbone.base)))
        fine, middle, coarse = backbone.channels
        own_fine, own_middle, own_coarse = (int(width * c) for c in backbone.channels)
        self.bottleneck, self.decoder = slim.bottleneck, slim.decoder
        if groups > 1:
            for module in slim.modules():
                for name, layer in module.named_children():
                    if isinstance(layer, nn.Conv2d | nn.ConvTranspose2d):
                        shape = {key: getattr(layer, key) for key in ("kernel_size", "stride", "padding")}
                        new = type(layer)(layer.in_channels, layer.out_channels, groups=groups, bias=False, **shape)
                        setattr(module, name, new)
        halving = {"kernel_size": 3, "stride": 2, "padding": 1, "bias": False}
        self.bottleneck.fuse_fine[0] = nn.Conv2d(fine, own_middle, **halving)
        self.bottleneck.fuse_middle[0] = nn.Conv2d(middle, own_coarse, **halving)
        self.entry = nn.Sequential(*conv_and_norm(coarse, own_coarse, kernel_size=1))
        widths = zip((own_fine, own_middle, own_coarse), backbone.channels, strict=True)
        self.heads = nn.ModuleList(nn.Conv2d(own, full, 1) for own, full in widths)
        self.groups = groups

    def forward(self, features):
        fine, middle, coarse = features
        parts = (self.bottleneck.fuse_fine(fine), self.bottleneck.fuse_middle(middle), self.entry(coarse))
        pieces = [part.chunk(self.groups, dim=1) for part in parts]
        fused = torch.cat([piece for group in zip(*pieces, strict=True) for piece in group], dim=1)
        slim = self.decoder(self.bottleneck.embed(fused))
        return [head(scale) for head, scale in zip(self.heads, slim, strict=True)]


@pytest.mark.parametrize(("members", "alpha", "gamma"), [(4, 2.0, 1), (2, 1.5, 3)])
def test_packed_members_are_separate_networks(members, alpha, gamma, world, tmp_path):
    packed = world.fitted("packed_ensemble", tmp_path, members=members, alpha=alpha, gamma=gamma)
    batch = world.test.batch([0, 1, 2, 3])
    together = world.predict(packed)
    for member, scores in enumerate(together.member_scores):
        own = {}
        for name, value in packed.student.state_dict().items():
            plain = name.replace(".conv.", ".").replace(".conv_transpose.", ".")
            parts = plain.split(".")
            if parts[:2] == ["bottleneck", "embed"]:  # one place later than in a plain student
                plain = ".".join([*parts[:2], str(int(parts[2]) - 1), *parts[3:]])
            own[plain] = value if value.ndim == 0 else value.chunk(members)[member]
        network = SlimStudent(world.teacher.backbone, alpha / members, gamma)
        network.load_state_dict(own)
        torch.testing.assert_close(plain_scores(network.eval(), batch), scores, atol=1e-5, rtol=0)


def test_packed_network_with_alpha_squared_members_is_about_as_large_as_one_student(world, tmp_path):
    packed = world.fitted("packed_ensemble", tmp_path)
    parameters = [sum(p.numel() for p in network.parameters()) for network in (packed.student, world.student)]
    assert parameters[0] == pytest.approx(parameters[1], rel=0.1)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"gamma": 0}, "gamma must be at least 1, got 0"),
        ({"alpha": 0.0}, "alpha must be above 0, got 0"),
        ({"alpha": float("nan")}, "alpha must be above 0, got nan"),
    ],
)
def test_packed_options_out_of_range(options, message, world):
    with pytest.raises(InputError, match=message):
        world.method("packed_ensemble", **options)


def test_channels_that_cannot_be_packed(world, tmp_path):
    message = (
        r"64 channels \(alpha 2 x 32 of backbone embedded\) cannot be divided into 5 groups \(members 5 x gamma 1\)"
    )
    with pytest.raises(InputError, match=message):
        world.fitted("packed_ensemble", tmp_path, members=5)


def test_batch_members_are_separate_networks(world, tmp_path):
    method = world.fitted("batch_ensemble", tmp_path, members=3)
    batch = world.test.batch([0, 1, 2, 3])
    together = world.predict(method)
    kept = method.student.student.state_dict()
    for member, scores in enumerate(together.member_scores):
        own = {}
        for name, value in kept.items():
            if name.endswith((".conv.weight", ".conv_transpose.weight")):
                layer = name.rsplit(".", 2)[0]
                r, s = kept[f"{layer}.r_group"][member], kept[f"{layer}.s_group"][member]
                transposed = name.endswith(".conv_transpose.weight")  # (in, out, ...), else (out, in, ...)
                factor = torch.outer(r, s) if transposed else torch.outer(s, r)
                own[f"{layer}.weight"] = value * factor[:, :, None, None]
            elif not name.endswith(("_group",)):
                own[name] = value
        network = Student(world.teacher.backbone)
        network.load_state_dict(own)
        torch.testing.assert_close(plain_scores(network.eval(), batch), scores, atol=1e-5, rtol=0)


# Masks.


@pytest.fixture(scope="module")
def draw_masks(world):
    return sys.modules[type(world.method("masksembles")).__module__].draw_masks


@pytest.mark.parametrize(("channels", "members", "scale"), [(32, 4, 2.0), (128, 4, 1.5), (512, 8, 3.0), (16, 2, 6.0)])
def test_masks_keep_equally_many_channels_and_each_channel_is_kept_by_one(channels, members, scale, draw_masks):
    masks = draw_masks(channels, members, scale, np.random.default_rng(0))
    assert masks.shape == (members, channels)
    # The paper's count: `ones` per mask cover ones * scale * (1 - (1 - 1 / scale) ** members) channels on average.
    ones = round(channels / (scale * (1 - (1 - 1 / scale) ** members)))
    assert masks.sum(axis=1).tolist() == [ones] * members
    assert masks.any(axis=0).all()


def test_masks_are_found_or_refused_in_words(draw_masks):
    """(128, 8, 1.3) asks for fewer positions than channels by the paper's formula."""
    for members in (1, 2, 5, 8, 16, 32):
        for scale in (1.0, 1.3, 2.0, 3.7, 6.0):
            try:
                masks = draw_masks(128, members, scale, np.random.default_rng(0))
            except InputError as error:
                refusal = str(error)
            else:
                assert masks.shape == (members, 128)
                assert masks.any(axis=0).all()
                continue
            assert f"no {members} masks of scale {scale:g} over 128 channels" in refusal
    assert draw_masks(128, 8, 1.3, np.random.default_rng(0)).shape == (8, 128)


def test_masks_overlap_less_as_the_scale_grows(draw_masks):
    def overlap(scale):
        masks = draw_masks(256, 2, scale, np.random.default_rng(1))
        return (masks[0] & masks[1]).sum() / masks[0].sum()

    assert overlap(1.0) == 1
    assert overlap(2.0) == pytest.approx(1 / 2, abs=0.1)  # two random masks share 1 / scale of what they keep
    assert overlap(5.0) == pytest.approx(1 / 5, abs=0.1)


@pytest.mark.parametrize("placement", ["bottleneck", "all"])
def test_masked_members_are_the_networks_with_those_channels_off(placement, world, tmp_path):
    method = world.fitted("masksembles", tmp_path, members=2, placement=placement)
    batch = world.test.batch([0, 1, 2, 3])
    together = world.predict(method)
    kept = method.student.state_dict()
    for member, scores in enumerate(together.member_scores):
        own = {}
        for name, value in kept.items():
            if name.endswith("conv2.1.weight"):
                mask = kept[name.replace("conv2.1.weight", "conv2.0.masks")][member]
                own[name.replace("conv2.1", "conv2")] = value * mask[None, :, None, None]
            elif not name.endswith(".masks"):
                own[name] = value
        network = Student(world.teacher.backbone)
        network.load_state_dict(own)
        torch.testing.assert_close(plain_scores(network.eval(), batch), scores, atol=1e-5, rtol=0)


def test_each_image_of_a_training_batch_has_a_mask_of_its_own(world, tmp_path):
    method = world.fitted("masksembles", tmp_path, members=2)
    place = method.places[0].train()
    x = torch.ones(3, place.masks.shape[1], 1, 1)
    assert torch.equal(place(x)[:, :, 0, 0], place.masks[[0, 1, 0]].float())


def test_masks_that_keep_everything_are_deterministic(world, deterministic, tmp_path):
    for options in ({"scale": 1.0, "members": 2}, {"members": 1}):
        prediction = world.predict(world.fitted("masksembles", tmp_path, **options))
        assert torch.equal(prediction.anomaly_map, deterministic.anomaly_map)
        assert torch.equal(prediction.anomaly_score, deterministic.anomaly_score)
        assert not prediction.uncertainty.any()


@pytest.mark.parametrize("scale", [0.5, 7.0, float("nan")])
def test_scales_out_of_range(scale, world):
    with pytest.raises(InputError, match=r"scale must be in \[1, 6\], got"):
        world.method("masksembles", scale=scale)


def test_every_ensemble_says_what_it_is():
    for name in PASSES:
        assert not METHODS[name].problem
        assert "Cost: E + " in METHODS[name].description
