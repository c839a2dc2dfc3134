"""What is kept of a method's predictions."""

import numpy as np
import pytest
import torch

from rdbench.benchmark.method_run import Said
from rdbench.protocol import Prediction
from rdbench.registry import BrokenMethod


def prediction(members: int) -> Prediction:
    scores = torch.rand(members, 2) if members else None
    return Prediction(torch.zeros(2, 4, 4), torch.rand(2), torch.rand(2), None, scores)


@pytest.mark.parametrize(("first", "second"), [(0, 3), (3, 0), (3, 4)])
def test_members_are_as_many_in_every_batch(first: int, second: int) -> None:
    said = Said.empty(1, 4)
    said.record(0, np.array([0, 1]), prediction(first))
    with pytest.raises(BrokenMethod, match=f"{second} members in a batch after {first} in another"):
        said.record(0, np.array([2, 3]), prediction(second))
