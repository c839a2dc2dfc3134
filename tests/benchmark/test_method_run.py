"""What is kept of a method's predictions."""

from dataclasses import dataclass
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn

from rdbench.benchmark.method_run import MethodRun, Said
from rdbench.errors import BrokenMethod
from rdbench.protocol import Prediction
from rdbench.rd.teacher import load_teacher

CPU = torch.device("cpu")


def prediction(members: int) -> Prediction:
    scores = torch.rand(members, 2) if members else None
    return Prediction(torch.zeros(2, 4, 4), torch.rand(2), torch.rand(2), None, scores)


@pytest.mark.parametrize(("first", "second"), [(0, 3), (3, 0), (3, 4)])
def test_members_are_as_many_in_every_batch(first: int, second: int) -> None:
    said = Said.empty(1, 4)
    said.record(0, np.array([0, 1]), prediction(first))
    with pytest.raises(BrokenMethod, match=f"{second} members in a batch after {first} in another"):
        said.record(0, np.array([2, 3]), prediction(second))


def test_parameters_that_members_share_are_counted_once() -> None:
    """A bottleneck that two members share, one member held twice, a tied weight, and the teacher, which is none's."""
    shared, heads = nn.Linear(3, 4), [nn.Linear(4, 2), nn.Linear(4, 2)]
    heads[1].bias = heads[0].bias
    members = [nn.Sequential(shared, head) for head in heads]
    teacher = load_teacher("embedded", "random", torch.device("cpu"))
    method = SimpleNamespace(members=[*members, members[0]], best={"of": (members[1],)}, teacher=teacher, count=2)
    run = MethodRun(method)  # type: ignore[arg-type]
    assert run.parameters() == (3 * 4 + 4) + 2 * (4 * 2) + 2
    assert run.own_bytes(CPU) == 4 * run.parameters()


def test_memory_counts_buffers_and_tensors_by_themselves_once() -> None:
    """A method that holds itself, too: strangers' objects may."""

    @dataclass
    class Fitted:
        mean: torch.Tensor
        of: object = None

    mean = torch.zeros(10)
    fitted = Fitted(mean)
    fitted.of = [fitted, mean[2:4]]  # a view: the same memory
    draws = {"all": (torch.zeros(3, 4), torch.eye(2).to_sparse())}
    method = SimpleNamespace(norm=nn.BatchNorm1d(5), fitted=fitted, draws=draws)
    run = MethodRun(method)  # type: ignore[arg-type]
    assert run.parameters() == 2 * 5
    assert run.own_bytes(CPU) == 4 * (2 * 5 + 2 * 5) + 8 + 4 * 10 + 4 * 3 * 4
