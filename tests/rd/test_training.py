import math
from itertools import chain

import pytest
import torch
from torch import nn

from rdbench.errors import InputError
from rdbench.protocol import Batch
from rdbench.rd import training
from rdbench.rd.backbones import get_backbone
from rdbench.rd.precision import autocast, resolve_precision
from rdbench.rd.runtime import keep_freed_memory
from rdbench.rd.student import build_student
from rdbench.rd.training import TrainingSettings, train_student, train_students, trained_at_once

CPU = torch.device("cpu")
BACKBONE = get_backbone("embedded")


class DrawnFeatures:
    """Normal "images" whose teacher features are smooth and drawn from a seed; remembers what was asked for."""

    def __init__(self, count=10, size=64):
        generator = torch.Generator().manual_seed(0)
        self.features = [
            torch.rand(count, c, size // s, size // s, generator=generator)
            for c, s in zip(BACKBONE.channels, (4, 8, 16), strict=True)
        ]
        self.asked = []

    def __len__(self):
        return len(self.features[0])

    def batch(self, indices):
        self.asked.append(indices.tolist())
        return Batch(torch.empty(0), lambda: tuple(f[indices] for f in self.features))


def train(seed=0, epochs=2, precision="fp32", images=None, student=None, on_epoch=None):
    student = student or build_student(BACKBONE, seed)
    settings = TrainingSettings(epochs, batch_size=4, precision=precision)
    return train_student(student, images or DrawnFeatures(), settings, seed, CPU, on_epoch)


def same(one, other):
    one, other = one.state_dict(), other.state_dict()
    return all(torch.equal(one[name], other[name]) for name in one)


def test_the_loss_falls_and_the_last_epoch_is_kept():
    losses = []
    student = train(epochs=4, on_epoch=lambda epoch, loss: losses.append((epoch, loss)))
    assert [epoch for epoch, _ in losses] == [1, 2, 3, 4]
    assert losses[-1][1] < 0.5 * losses[0][1]
    assert not student.training


def test_each_epoch_sees_every_image_once_in_a_new_order():
    images = DrawnFeatures(10)
    train(epochs=2, images=images)
    assert [len(asked) for asked in images.asked] == [4, 4, 2] * 2  # the last, smaller batch is not dropped
    first, second = [*chain(*images.asked[:3])], [*chain(*images.asked[3:])]
    assert sorted(first) == sorted(second) == list(range(10))
    assert first != second


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_one_seed_gives_one_student_bit_for_bit(precision):
    assert same(train(3, precision=precision), train(3, precision=precision))
    assert not same(train(3), train(4))


def test_several_are_trained_as_each_by_itself():
    """Also one that draws itself, as its seed says whoever was trained before it."""

    def build(seed):
        student = build_student(BACKBONE, seed)
        if seed == 5:
            student.decoder.fine.append(nn.Dropout2d(0.5))
        return student

    seeds, told, losses = [3, 5, 4], [], []
    settings = TrainingSettings(2, batch_size=4)
    trained = train_students(
        [build(seed) for seed in seeds], DrawnFeatures(), settings, seeds, CPU, lambda *said: told.append(said)
    )
    for student, seed in zip(trained, seeds, strict=True):
        alone = train(seed, student=build(seed), on_epoch=lambda _, loss: losses.append(loss))
        assert same(student, alone)
        assert not student.training
    assert told == [(place, epoch, losses[2 * place + epoch - 1]) for place in range(3) for epoch in (1, 2)]


def test_dropout_follows_the_seed_and_the_callers_random_state_is_kept():
    def with_dropout():
        student = build_student(BACKBONE, 0)
        student.decoder.fine.append(nn.Dropout2d(0.5))
        return student

    torch.manual_seed(1)
    before = torch.get_rng_state()
    one = train(student=with_dropout())
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(2)
    assert same(one, train(student=with_dropout()))
    assert not same(one, train())


def test_training_within_the_callers_autocast_is_the_same():
    alone = train(precision="bf16")
    with torch.autocast("cpu", dtype=torch.bfloat16):  # its cache of cast weights must not outlive a step
        assert same(alone, train(precision="bf16"))


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_on_a_cpu_bf16_trains_by_products(precision, monkeypatch):
    entered = []
    products = training.products_where_faster
    monkeypatch.setattr(training, "products_where_faster", lambda student: entered.append(student) or products(student))
    student = train(precision=precision)
    assert entered == [student] * 2 * (precision == "bf16"), "once per epoch"


def test_loss_that_is_not_finite_says_when_and_what_to_try():
    images = DrawnFeatures()
    images.features[0][7, 3, 2, 2] = math.nan
    with pytest.raises(InputError, match=r"loss is nan after epoch 1 of 2 \(seed 5\); try --precision fp32"):
        train(seed=5, images=images)


def test_a_batch_of_one_image_of_32_pixels_says_what_to_change():
    with pytest.raises(InputError, match=r"9 images in batches of 4 leave a batch of one.*--batch-size or"):
        train(images=DrawnFeatures(9, size=32))
    train(images=DrawnFeatures(10, size=32))


def test_precision_names():
    assert resolve_precision("fp32", CPU) == "fp32"
    assert resolve_precision("bf16", CPU) == "bf16"
    assert resolve_precision("auto", CPU) in ("fp32", "bf16")
    with pytest.raises(InputError, match=r"unknown precision 'fp23'.*fp32"):
        resolve_precision("fp23", CPU)


def test_autocast_runs_convolutions_in_the_precision():
    convolution, images = nn.Conv2d(3, 4, 3), torch.randn(1, 3, 8, 8)
    with autocast(CPU, "bf16"):
        assert convolution(images).dtype == torch.bfloat16
    with autocast(CPU, "fp32"):
        assert convolution(images).dtype == torch.float32


def test_keeping_freed_memory_answers_yes_or_no():
    assert keep_freed_memory() in (True, False)


def test_only_what_cannot_wait_for_each_other_is_trained_at_once():
    gpu = torch.device("cuda")
    assert trained_at_once(gpu, "bf16") > 1
    assert trained_at_once(gpu, "fp32") == trained_at_once(CPU, "bf16") == 1
