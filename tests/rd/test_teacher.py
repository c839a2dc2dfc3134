import hashlib
import os
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torchvision.models import resnet18
from torchvision.models.feature_extraction import create_feature_extractor

from rdbench.errors import InputError
from rdbench.rd.backbones import BACKBONES, get_backbone
from rdbench.rd.teacher import load_teacher

CPU = torch.device("cpu")
SHARED = Path(os.environ.get("RDBENCH_SHARED", Path(__file__).parents[2].parent / "shared"))
REAL_WEIGHTS = SHARED / "weights" / "resnet18_imagenet_layers1-3.pth"


@pytest.fixture(scope="module")
def network():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return resnet18(weights=None).eval()


@pytest.fixture
def state(network):
    return dict(network.state_dict())


def without_head(state):
    return {name: tensor for name, tensor in state.items() if not name.startswith(("layer4", "fc"))}


def test_pyramid_is_the_first_three_stages(network, state, tmp_path):
    torch.save(state, tmp_path / "whole.pth")
    images = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        expected = create_feature_extractor(network, ["layer1", "layer2", "layer3"])(images)
    teacher = load_teacher("resnet18", tmp_path / "whole.pth", CPU)
    features = teacher(images)
    assert [f.shape[1] for f in features] == list(get_backbone("resnet18").channels)
    for feature, wanted in zip(features, expected.values(), strict=True):
        torch.testing.assert_close(feature, wanted, atol=1e-4, rtol=1e-4)


def test_every_way_of_saving_one_network_gives_one_teacher(state, tmp_path):
    torch.save(state, tmp_path / "whole.pth")
    torch.save(without_head(state), tmp_path / "partial.pth")
    save_file(without_head(state), tmp_path / "partial.safetensors")
    old = {name: tensor for name, tensor in state.items() if "num_batches_tracked" not in name}
    torch.save(old, tmp_path / "old.pth")
    teachers = [load_teacher("resnet18", path, CPU) for path in sorted(tmp_path.iterdir())]
    assert len({teacher.weights_sha256 for teacher in teachers}) == 1
    assert teachers[1].weights_name == "file/partial.pth"
    changed = {**state, "layer3.1.bn2.bias": state["layer3.1.bn2.bias"] + 1}
    torch.save(changed, tmp_path / "changed.pth")
    assert load_teacher("resnet18", tmp_path / "changed.pth", CPU).weights_sha256 != teachers[0].weights_sha256


def test_teacher_is_frozen_for_good():
    teacher = load_teacher("embedded", "random", CPU)
    teacher.train()
    assert not any(module.training for module in teacher.modules())
    assert not any(parameter.requires_grad for parameter in teacher.parameters())
    assert not any(feature.requires_grad for feature in teacher(torch.randn(1, 3, 64, 64, requires_grad=True)))


def test_random_teacher_is_always_the_same_and_draws_nothing():
    before = torch.get_rng_state()
    first, second = load_teacher("resnet18", "random", CPU), load_teacher("resnet18", "random", CPU)
    assert torch.equal(torch.get_rng_state(), before)
    assert (first.weights_name, first.weights_sha256) == ("random", second.weights_sha256)


def test_embedded_teacher_comes_with_the_package():
    teacher = load_teacher("embedded", None, CPU)
    assert teacher.weights_name == "embedded"
    assert [f.shape for f in teacher(torch.zeros(1, 3, 64, 64))] == [(1, 32, 16, 16), (1, 64, 8, 8), (1, 128, 4, 4)]


def drop(state):
    del state["layer2.0.conv1.weight"]


def add(state):
    state["module.conv1.weight"] = state["conv1.weight"]


def reshape(state):
    state["conv1.weight"] = state["conv1.weight"][:, :1]


def spoil(state):
    state["bn1.bias"] = torch.full_like(state["bn1.bias"], float("nan"))


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        (drop, r"1 missing \(first: layer2.0.conv1.weight\)"),
        (add, r"1 unexpected \(first: module.conv1.weight\)"),
        (reshape, r"1 of another shape \(first: conv1.weight\)"),
        (spoil, r"1 not finite \(first: bn1.bias\)"),
    ],
)
def test_weights_that_do_not_fit(change, problem, state, tmp_path):
    change(state)
    torch.save(state, tmp_path / "w.pth")
    with pytest.raises(InputError, match=rf"w\.pth does not fit backbone resnet18: {problem}"):
        load_teacher("resnet18", tmp_path / "w.pth", CPU)


class Executed:
    def __reduce__(self):
        return os.mkdir, ("executed",)


@pytest.mark.parametrize("content", [b"", b"no weights at all", Executed(), [1, 2], {"epoch": 3}])
@pytest.mark.parametrize("name", ["w.pth", "w.safetensors"])
def test_file_that_is_no_state_dict(content, name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    if isinstance(content, bytes):
        Path(name).write_bytes(content)
    else:
        torch.save(content, name)
    with pytest.raises(InputError, match=rf"weights file {name} is no state dict"):
        load_teacher("resnet18", name, CPU)
    assert not Path("executed").exists()


@pytest.mark.parametrize("name", ["none.pth", "none.safetensors", "."])
def test_weights_file_that_cannot_be_read(name):
    with pytest.raises(InputError, match="cannot be read"):
        load_teacher("resnet18", name, CPU)


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """torch.hub's folder of weights, empty; the network is away."""

    def no_network(*_, **__):
        raise OSError("no route to host")

    monkeypatch.setattr("urllib.request.urlopen", no_network)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    folder = tmp_path / "hub" / "checkpoints"
    folder.mkdir(parents=True)
    return folder


def test_pretrained_weights_from_the_cache(cache, state, monkeypatch):
    torch.save(state, cache / "saved")
    digest = hashlib.sha256((cache / "saved").read_bytes()).hexdigest()[:8]
    (cache / "saved").rename(cache / f"resnet18-{digest}.pth")
    backbone = replace(get_backbone("resnet18"), weights_file=f"resnet18-{digest}.pth")
    monkeypatch.setitem(BACKBONES, "resnet18", backbone)
    assert load_teacher("resnet18", None, CPU).weights_name == f"torchvision/resnet18-{digest}.pth"


def test_no_weights_and_no_network(cache):
    with pytest.raises(InputError) as error:
        load_teacher("wide_resnet50_2", None, CPU)
    message = str(error.value)
    assert "\n" not in message
    for part in (str(cache / "wide_resnet50_2-95faca4d.pth"), "no route", "--weights FILE", "--backbone embedded"):
        assert part in message


def test_another_file_under_torchvisions_name(cache, state):
    torch.save(state, cache / "resnet18-f37072fd.pth")
    with pytest.raises(InputError, match="SHA-256 does not start with f37072fd"):
        load_teacher("resnet18", None, CPU)


@pytest.mark.skipif(not REAL_WEIGHTS.exists(), reason=f"{REAL_WEIGHTS} is absent: real weights are not tested")
def test_real_weights_fit():
    teacher = load_teacher("resnet18", REAL_WEIGHTS, CPU)
    assert teacher.weights_name == "file/resnet18_imagenet_layers1-3.pth"
    assert all(feature.isfinite().all() and feature.std() > 0 for feature in teacher(torch.randn(1, 3, 64, 64)))
