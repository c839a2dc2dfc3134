"""Several slim students packed into one network of grouped convolutions; they disagree where unsure.

Laurent et al., "Packed-Ensembles for Efficient Uncertainty Estimation", ICLR 2023, on torch-uncertainty's layers. The
student is made `alpha` times as wide and its convolutions grouped, so that it is M students that share nothing, each
alpha / M as wide as RD's. With alpha^2 = M its grouped convolutions have a plain student's parameters and FLOPs.

Adapted: all three of the teacher's scales enter by a packed network's first layer, which every member sees whole (for
the coarse one a 1 x 1 convolution is added), and the members' slim scales leave by its last, a 1 x 1 convolution that
brings each to the teacher's channels. The loss is the mean of the members' RD losses. `gamma` is taken as given: the
library's minimum of 64 channels per group is off, at which gamma would do nothing here.

Cost: E + B + D per image and one training: a pass is counted for the packed network, M members at once; it costs
alpha^2 / (M gamma) of a plain pass, and its first and last layers.
Uncertainty: standard deviation of the members' scores, the spread of the outputs that the paper averages.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from rdbench.errors import InputError
from rdbench.protocol import Batch, FitContext, NormalImages, Prediction
from rdbench.rd.anomaly import anomaly_map
from rdbench.rd.backbones import Backbone
from rdbench.rd.student import Pyramid, Student
from rdbench.uq.checkpoints import load_network, save_student
from rdbench.uq.members import member_loss, member_pyramids, replace_layers
from rdbench.uq.sampling import predict_from_samples


@dataclass
class PackedEnsemble:
    members: int = 4
    "students in the packed network"
    alpha: float = 2.0
    "width of the packed network relative to a plain student"
    gamma: int = 1
    "groups into which each member's own convolutions are divided"

    def __post_init__(self) -> None:
        for name in ("members", "gamma"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        if not self.alpha > 0:
            raise ValueError(f"alpha must be above 0, got {self.alpha:g}")
        import torch_uncertainty.layers  # noqa: F401  takes seconds, and fit is timed

    def fit(self, train: NormalImages, context: FitContext) -> None:
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(context.seed)
            self.student = PackedStudent(context.teacher.backbone, self.members, self.alpha, self.gamma)
        context.train(self.student, train, context.seed, loss=member_loss(self.members))

    def predict(self, batch: Batch) -> Prediction:
        size = batch.images.shape[-2:]
        pyramids = member_pyramids(self.student(batch.features), self.members)
        return predict_from_samples(anomaly_map(batch.features, pyramid, size) for pyramid in pyramids)

    def save(self, directory: Path) -> None:
        save_student(self.student, directory / "student.safetensors")

    def load(self, directory: Path, context: FitContext) -> None:
        with torch.device("meta"):
            student = PackedStudent(context.teacher.backbone, self.members, self.alpha, self.gamma)
        self.student = load_network(student, directory / "student.safetensors", context)


class PackedStudent(nn.Module):
    """Teacher's pyramid of B images -> the members' pyramids side by side, M B images.

    Member m's part of every parameter and buffer is the m-th of M equal parts along its first axis.
    """

    def __init__(self, backbone: Backbone, members: int, alpha: float, gamma: int) -> None:
        from torch_uncertainty.layers import PackedConv2d, PackedConvTranspose2d

        super().__init__()
        width = alpha * backbone.base
        if width % (members * gamma):
            raise InputError(
                f"packed_ensemble: {width:g} channels (alpha {alpha:g} x {backbone.base} of backbone {backbone.name}) "
                f"cannot be divided into {members * gamma} groups (members {members} x gamma {gamma}); change one"
            )
        student = Student(backbone)
        firsts = (student.bottleneck.fuse_fine[0], student.bottleneck.fuse_middle[0])
        packing = {"alpha": alpha, "num_estimators": members, "minimum_channels_per_group": 1}

        def packed(layer: nn.Module) -> nn.Module | None:
            if isinstance(layer, nn.BatchNorm2d):
                return nn.BatchNorm2d(int(alpha * layer.num_features))
            if not isinstance(layer, nn.Conv2d | nn.ConvTranspose2d):
                return None
            kind = PackedConv2d if isinstance(layer, nn.Conv2d) else PackedConvTranspose2d
            shape = {name: getattr(layer, name) for name in ("kernel_size", "stride", "padding")}
            first = layer in firsts
            grouping = {"gamma": 1 if first else gamma, "first": first, "bias": False}
            new = kind(layer.in_channels, layer.out_channels, **shape, **grouping, **packing)
            if isinstance(layer, nn.Conv2d):  # each group as a network of its own is
                for part in new.conv.weight.chunk(members if first else members * gamma):
                    nn.init.kaiming_normal_(part, mode="fan_out", nonlinearity="relu")
            return new  # type: ignore[no-any-return]

        replace_layers(student, packed)
        coarse = backbone.channels[2]
        self.entry = nn.Sequential(
            PackedConv2d(coarse, coarse, 1, first=True, bias=False, **packing),
            nn.BatchNorm2d(int(alpha * coarse)),
            nn.ReLU(inplace=True),
        )
        self.bottleneck, self.decoder = student.bottleneck, student.decoder
        self.bottleneck.embed.insert(0, _ByGroup(members * gamma))
        self.heads = nn.ModuleList(PackedConv2d(c, c, 1, last=True, **packing) for c in backbone.channels)

    def forward(self, features: Sequence[Tensor]) -> Pyramid:
        fine, middle, coarse = features
        slim = self.decoder(self.bottleneck((fine, middle, self.entry(coarse))))
        return tuple(head(scale) for head, scale in zip(self.heads, slim, strict=True))


class _ByGroup(nn.Module):
    """Three scales one after the other, (B, 3 C, h, w) -> each group's part of all three together."""

    def __init__(self, groups: int) -> None:
        super().__init__()
        self.groups = groups

    def forward(self, fused: Tensor) -> Tensor:
        images, channels, *size = fused.shape
        parts = fused.reshape(images, 3, self.groups, channels // (3 * self.groups), *size)
        return parts.transpose(1, 2).flatten(1, 3)
