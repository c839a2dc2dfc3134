"""The packaged teacher: small, cheap, loaded without pickle, alive; and the recipe that made it."""

import json
import struct
import sys
from importlib.resources import files
from types import SimpleNamespace

import pytest
import torch
import torchvision
from safetensors.torch import load_file
from torch.nn.functional import conv2d
from torch.utils.flop_counter import FlopCounterMode

from rdbench.rd.backbones import IMAGENET_MEAN, IMAGENET_STD
from rdbench.rd.distill import Drawings, main
from rdbench.rd.embedded import EmbeddedNet
from rdbench.rd.layerwise import fit_layers, linear_map
from rdbench.rd.teacher import ResNetPyramid, load_teacher
from rdbench.rd.textures import FAMILIES, GROUP, Dice, draw

WEIGHTS = files("rdbench.rd") / "embedded.safetensors"


@pytest.fixture(scope="module")
def network() -> EmbeddedNet:
    return EmbeddedNet.load()


def drawn(seed: int, count: int = GROUP, size: int = 128) -> torch.Tensor:
    return draw(count, size, torch.Generator().manual_seed(seed))


def test_the_file_is_small_half_precision_safetensors():
    content = WEIGHTS.read_bytes()
    assert len(content) <= 4_000_000
    (length,) = struct.unpack("<Q", content[:8])
    header = json.loads(content[8 : 8 + length])
    kinds = {entry["dtype"] for name, entry in header.items() if not name.endswith("num_batches_tracked")}
    assert kinds == {"F16"}


def test_loading_needs_no_pickle(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(torch, "load", lambda *_, **__: pytest.fail("torch.load called"))
    monkeypatch.setitem(sys.modules, "pickle", None)
    EmbeddedNet.load()


def test_loaded_frozen_and_in_float32(network):
    assert not network.training
    assert not any(parameter.requires_grad for parameter in network.parameters())
    assert {parameter.dtype for parameter in network.parameters()} == {torch.float32}
    assert all(value.isfinite().all() for value in network.state_dict().values())


def test_a_quarter_of_resnet18s_flops(network):
    resnet = torchvision.models.resnet18()
    first_stages = torch.nn.Sequential(*list(resnet.children())[:7])
    image = torch.zeros(1, 3, 256, 256)
    counts = []
    for module in (network, first_stages):
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            module(image)
        counts.append(counter.get_total_flops())
    assert counts[1] == pytest.approx(3.66e9, rel=0.01)
    assert counts[0] <= counts[1] / 4


def test_pyramid_of_three_scales(network):
    features = network(drawn(0, size=96))
    assert [tuple(f.shape) for f in features] == [(4, 32, 24, 24), (4, 64, 12, 12), (4, 128, 6, 6)]
    for feature in features:
        assert feature.isfinite().all()
        assert (feature >= 0).all(), "the student ends in ReLU and could not follow below zero"
        assert (feature.flatten(2).std(2) > 0).any(1).float().mean() == 1, "no image is flat"
        alive = (feature.amax((0, 2, 3)) > 0).float().mean()
        assert alive > 0.9, "few channels are dead"


def test_features_tell_textures_apart(network):
    """The left half of an image resembles its right half more than it resembles any other image's."""
    images = torch.cat([drawn(seed, 16) for seed in range(2)])
    with torch.no_grad():
        halves = [network(half)[2].mean((2, 3)) for half in (images[..., :64], images[..., 64:])]
    left, right = (torch.nn.functional.normalize(half - half.mean(0), dim=1) for half in halves)
    nearest = (left @ right.T).argmax(1)
    assert (nearest == torch.arange(len(images))).float().mean() > 0.8


@pytest.mark.parametrize("family", dict.fromkeys(FAMILIES), ids=lambda family: family.__name__)
def test_each_family_draws_patterns_of_its_own(family):
    dice = Dice(64, torch.Generator().manual_seed(3))
    fields = torch.cat([family(dice) for _ in range(3)])
    assert fields.shape == (12, 1, 64, 64)
    assert fields.isfinite().all()
    assert (fields.flatten(1).std(1) > 1e-3).float().mean() > 0.6
    assert len(torch.unique(fields.flatten(1), dim=0)) > 6


def test_drawn_images_are_pictures_and_a_function_of_the_seed():
    images = drawn(7, 8, 64)
    assert images.shape == (8, 3, 64, 64)
    assert ((images >= 0) & (images <= 1)).all()
    assert torch.equal(images, drawn(7, 8, 64))
    assert not torch.equal(images, drawn(8, 8, 64))


def test_a_linear_map_is_found_again():
    generator = torch.Generator().manual_seed(0)
    features, planted = torch.rand(4, 6, 8, 8, generator=generator), torch.randn(9, 6, 1, 1, generator=generator)
    found = linear_map(features, conv2d(features, planted))
    torch.testing.assert_close(found, planted, rtol=0, atol=0.02)  # the ridge's share


def test_a_network_of_the_same_shape_is_found_again():
    """On images that it was not fitted on; all channels are kept, so that only the ridge is between them."""
    torch.manual_seed(0)
    planted, found = EmbeddedNet().eval(), EmbeddedNet().eval()
    for norm in (module for module in planted.modules() if isinstance(module, torch.nn.BatchNorm2d)):
        norm.weight.data.uniform_(0.5, 1.5)
        norm.bias.data.normal_()
    convolution, norm, _, pool = planted.stem
    layers = {"layer1": planted.fine, "layer2": planted.middle, "layer3": planted.coarse}
    images, others = torch.randn(48, 3, 64, 64), torch.randn(4, 3, 64, 64)
    fit_layers(found, SimpleNamespace(conv1=convolution, bn1=norm, maxpool=pool, **layers), images)
    with torch.no_grad():
        for scale, wanted in zip(found(others), planted(others), strict=True):
            error = float((scale - wanted).square().mean() / wanted.var())
            assert error < 1e-4


def test_fitted_layers_follow_the_network_they_are_fitted_to():
    """On images that they were not fitted on, beyond what the random weights of a new network give."""
    torch.manual_seed(0)
    resnet = ResNetPyramid("resnet18").eval()
    images, others = (torch.cat([drawn(seed, 16, 64) for seed in seeds]) for seeds in ((0, 1), (2,)))
    fitted, unfitted = EmbeddedNet().eval(), EmbeddedNet().eval()
    fit_layers(fitted, resnet, images)
    assert all(value.isfinite().all() for value in fitted.state_dict().values())
    with torch.no_grad():
        pyramids = [(network(images), network(others)) for network in (fitted, unfitted, resnet)]
        errors = [
            [
                float((conv2d(other, linear_map(seen, wanted)) - asked).square().mean() / asked.var())
                for seen, other, wanted, asked in zip(*pyramid, *pyramids[2], strict=True)
            ]
            for pyramid in pyramids[:2]
        ]
    for after, before in zip(*errors, strict=True):
        assert after < 0.7 * before


def test_the_recipe_begins_at_the_fit_and_goes_on_where_it_stopped(tmp_path):
    torch.manual_seed(0)
    weights, out = tmp_path / "resnet18.pth", tmp_path / "small.safetensors"
    torch.save(torchvision.models.resnet18().state_dict(), weights)
    settings = {"batch_size": 8, "size": 64, "workers": 0, "device": "cpu", "start_images": 8}
    main(weights, out, steps=1, **settings)
    first = out.read_bytes()
    after_one_step = load_file(out)
    fitted = EmbeddedNet().eval()
    images = next(iter(Drawings(8, 64, 1, 0, "cpu")))
    mean, std = torch.tensor(IMAGENET_MEAN).view(3, 1, 1), torch.tensor(IMAGENET_STD).view(3, 1, 1)
    fit_layers(fitted, load_teacher("resnet18", weights, torch.device("cpu")).network, (images - mean) / std)
    for name, parameter in fitted.named_parameters():
        torch.testing.assert_close(after_one_step[name].float(), parameter.data, rtol=1e-3, atol=1e-4, msg=name)
    main(weights, out, steps=2, **settings)
    assert out.read_bytes() != first
    assert torch.load(out.with_suffix(".checkpoint"), weights_only=True)["step"] == 2
    EmbeddedNet().load_state_dict(load_file(out))
