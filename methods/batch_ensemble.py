"""Students that share their weights but for a rank-one factor on each layer; they disagree where unsure.

Wen, Tran and Ba, "BatchEnsemble: an Alternative Approach to Efficient Ensemble and Lifelong Learning", ICLR 2020, on
torch-uncertainty's layers. Member m's weight of a convolution is the shared one times s_m r_m^T, output by input
channel; r and s start from a normal distribution of mean 1 and standard deviation 0.5, the library's choice.

Adapted: RD has no likelihood, so scores and maps are averaged and the loss is the mean of the members' RD losses. Batch
norm is shared, as in the library: with one for each member it would undo the scale of s.

Cost: E + M (B + D) per image and M trainings, in passes: every image goes through the network once for each member.
What it saves is memory: the parameters are one student's, and M (inputs + outputs) for each convolution.
Uncertainty: standard deviation of the members' scores, the spread of the outputs that the paper averages.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from rdbench.protocol import Batch, FitContext, NormalImages, Prediction
from rdbench.rd.anomaly import anomaly_map
from rdbench.rd.student import Pyramid, Student
from rdbench.uq.checkpoints import load_network, save_student
from rdbench.uq.members import member_loss, member_pyramids, repeat_images, replace_layers
from rdbench.uq.sampling import predict_from_samples


@dataclass
class BatchEnsemble:
    members: int = 4
    "members, each with rank-one factors of its own"

    def __post_init__(self) -> None:
        if self.members < 1:
            raise ValueError(f"members must be at least 1, got {self.members}")
        import torch_uncertainty.layers  # noqa: F401  takes seconds, and fit is timed

    def fit(self, train: NormalImages, context: FitContext) -> None:
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(context.seed)
            self.student = BatchStudent(context.new_student(context.seed), self.members)
        context.train(self.student, train, context.seed, loss=member_loss(self.members))

    def predict(self, batch: Batch) -> Prediction:
        size = batch.images.shape[-2:]
        pyramids = member_pyramids(self.student(batch.features), self.members)
        return predict_from_samples(anomaly_map(batch.features, pyramid, size) for pyramid in pyramids)

    def save(self, directory: Path) -> None:
        save_student(self.student, directory / "student.safetensors")

    def load(self, directory: Path, context: FitContext) -> None:
        with torch.device("meta"):
            student = BatchStudent(Student(context.teacher.backbone), self.members)
        self.student = load_network(student, directory / "student.safetensors", context)


class BatchStudent(nn.Module):
    """Teacher's pyramid of B images -> the members' pyramids side by side, M B images. Takes `student`'s layers."""

    def __init__(self, student: Student, members: int) -> None:
        from torch_uncertainty.layers import BatchConv2d, BatchConvTranspose2d

        super().__init__()
        self.members = members
        self.student = student

        def batched(layer: nn.Module) -> nn.Module | None:
            if isinstance(layer, nn.Conv2d):
                new: nn.Module = BatchConv2d.from_conv2d(layer, members)
                new.conv.weight = layer.weight  # type: ignore[union-attr]
            elif isinstance(layer, nn.ConvTranspose2d):
                new = BatchConvTranspose2d.from_conv_transpose2d(layer, members)
                new.conv_transpose.weight = layer.weight  # type: ignore[union-attr]
            else:
                return None
            return new

        replace_layers(student, batched)

    def forward(self, features: Sequence[Tensor]) -> Pyramid:
        pyramid: Pyramid = self.student(repeat_images(features, self.members))
        return pyramid
