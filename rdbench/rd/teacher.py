"""The frozen teacher: the first three stages of a pretrained residual network."""

from __future__ import annotations

import hashlib
import pickle
import sys
import urllib.request
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from rdbench.errors import InputError, reason
from rdbench.rd.backbones import Backbone, get_backbone

CONNECT_SECONDS = 5.0
"""How long to wait for the server of torchvision's weights before saying that there is no network."""


class Teacher(nn.Module):
    """A pretrained pyramid that is never trained: in eval mode for good, without gradients.

    Attributes:
        backbone: its shape.
        weights_name: where the weights are from: "torchvision/<file>", "file/<file>", "embedded" or "random".
        weights_sha256: SHA-256 over the tensors in use: for each by name, its name, shape and float32 bytes.
    """

    role = "teacher"

    def __init__(self, backbone: Backbone, network: nn.Module, weights_name: str) -> None:
        super().__init__()
        self.backbone = backbone
        self.network = network.requires_grad_(False).eval()
        self.weights_name = weights_name
        self.weights_sha256 = _sha256(network.state_dict())

    def train(self, mode: bool = True) -> Teacher:
        """Stays in eval mode whatever is asked, also as a part of a module in training."""
        return super().train(False)

    @torch.no_grad()
    def forward(self, images: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Normalised images (B, 3, H, W) -> pyramid of (B, C_i, H / s, W / s) with s = 4, 8, 16."""
        fine, middle, coarse = self.network(images.contiguous(memory_format=torch.channels_last))
        return fine, middle, coarse


class ResNetPyramid(nn.Module):
    """Stem and first three stages of torchvision's `name`, with torchvision's parameter names, untrained."""

    def __init__(self, name: str) -> None:
        super().__init__()
        import torchvision  # takes as long as torch itself: where a network is built, not where one is planned

        resnet = torchvision.models.get_model(name, weights=None)
        self.conv1, self.bn1, self.relu, self.maxpool = resnet.conv1, resnet.bn1, resnet.relu, resnet.maxpool
        self.layer1, self.layer2, self.layer3 = resnet.layer1, resnet.layer2, resnet.layer3

    def forward(self, images: Tensor) -> list[Tensor]:
        """Images (B, 3, H, W) -> (B, C_i, H / s, W / s) with s = 4, 8, 16."""
        fine = self.layer1(self.maxpool(self.relu(self.bn1(self.conv1(images)))))
        middle = self.layer2(fine)
        return [fine, middle, self.layer3(middle)]


def load_teacher(name: str, weights: str | Path | None, device: torch.device) -> Teacher:
    """The teacher of backbone `name` on `device`, in channels_last.

    Args:
        weights: None for the pretrained weights of the backbone (torchvision's from its cache, else fetched), a local
            state dict (.pth or .safetensors; layer4 and fc may be absent), or "random" for an untrained teacher, the
            same every time, for smoke tests only.

    Raises:
        InputError: the name is unknown, no weights can be had, or they do not fit.
    """
    backbone = get_backbone(name)
    if weights == "random":
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(0)
            network = _network(backbone)
        weights_name = "random"
    elif weights is not None:
        path = Path(weights)
        network, weights_name = _load_network(backbone, path), f"file/{path.name}"
    elif name == "embedded":
        from rdbench.rd.embedded import EmbeddedNet

        network, weights_name = EmbeddedNet.load(), "embedded"
    else:
        path = _pretrained_file(backbone)
        network, weights_name = _load_network(backbone, path), f"torchvision/{path.name}"
    teacher = Teacher(backbone, network, weights_name)
    teacher.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    return teacher


def _network(backbone: Backbone) -> nn.Module:
    if backbone.name == "embedded":
        from rdbench.rd.embedded import EmbeddedNet

        embedded: nn.Module = EmbeddedNet()
        return embedded
    return ResNetPyramid(backbone.name)


def _pretrained_file(backbone: Backbone) -> Path:
    """torchvision's weights file in torch.hub's cache, fetched if it is not there."""
    path = Path(torch.hub.get_dir()) / "checkpoints" / backbone.weights_file
    digest = path.stem.rsplit("-")[-1]  # torchvision ends its file names with the start of their SHA-256
    if not path.exists():
        import torchvision

        url = torchvision.models.get_model_weights(backbone.name)["IMAGENET1K_V1"].url
        try:
            urllib.request.urlopen(url, timeout=CONNECT_SECONDS).close()  # torch.hub itself would wait for ever
            path.parent.mkdir(parents=True, exist_ok=True)
            torch.hub.download_url_to_file(url, str(path), hash_prefix=digest, progress=sys.stderr.isatty())
        except (OSError, RuntimeError) as error:
            raise InputError(
                f"no weights for backbone {backbone.name}: {path} does not exist and fetching it failed ({error}); "
                f"put {path.name} there, or give a local copy with --weights FILE, or use --backbone embedded, "
                "whose weights come with rdbench"
            ) from error
    with path.open("rb") as file:
        if not hashlib.file_digest(file, "sha256").hexdigest().startswith(digest):
            raise InputError(
                f"{path} is not torchvision's file: its SHA-256 does not start with {digest}; "
                "delete it to have it fetched again, or give other weights with --weights FILE"
            )
    return path


def _read_state(path: Path) -> dict[str, Tensor]:
    """The tensors of a state dict on disk; nothing in the file is executed."""
    try:
        if path.suffix == ".safetensors":
            state = load_file(path)
        else:
            state = torch.load(path, map_location="cpu", weights_only=True)
    except OSError as error:
        raise InputError(f"weights file {path} cannot be read: {reason(error)}") from error
    except (pickle.UnpicklingError, SafetensorError, RuntimeError, EOFError, ValueError) as error:
        raise InputError(
            f"weights file {path} is no state dict that can be loaded safely; "
            "save one with torch.save(model.state_dict(), FILE) or as .safetensors"
        ) from error
    if not isinstance(state, Mapping) or not all(isinstance(tensor, Tensor) for tensor in state.values()):
        raise InputError(f"weights file {path} is no state dict (names to tensors); save model.state_dict() alone")
    return dict(state)


def _load_network(backbone: Backbone, path: Path) -> nn.Module:
    """The network with the state dict at `path`, which must fit name by name, layer4 and fc left out."""
    given = {name: tensor for name, tensor in _read_state(path).items() if not name.startswith(("layer4.", "fc."))}
    network = _network(backbone)
    wanted = network.state_dict()
    counted = {name for name in wanted if name.endswith("num_batches_tracked")}  # absent in old files, and unused
    wrong = {
        "missing": sorted(wanted.keys() - given.keys() - counted),
        "unexpected": sorted(given.keys() - wanted.keys()),
        "of another shape": sorted(n for n in wanted.keys() & given.keys() if wanted[n].shape != given[n].shape),
        "not finite": sorted(n for n in wanted.keys() & given.keys() if not given[n].isfinite().all()),
    }
    if any(wrong.values()):
        problems = ", ".join(f"{len(names)} {what} (first: {names[0]})" for what, names in wrong.items() if names)
        raise InputError(
            f"weights file {path} does not fit backbone {backbone.name}: {problems}; "
            "give the state dict of torchvision's network of that name, or the --backbone that the file is of"
        )
    network.load_state_dict(given, strict=False)
    return network


def _sha256(state: Mapping[str, Tensor]) -> str:
    digest = hashlib.sha256()
    for name, tensor in sorted(state.items()):
        if not name.endswith("num_batches_tracked"):
            digest.update(f"{name}{tuple(tensor.shape)}".encode())
            digest.update(tensor.float().contiguous().numpy().tobytes())
    return digest.hexdigest()
