"""A small world for methods: striped images, an untrained teacher, and all else that a FitContext holds."""

from functools import cache
from pathlib import Path

import pytest
import torch

from rdbench.protocol import Batch, FitContext
from rdbench.rd.anomaly import distillation_loss
from rdbench.rd.student import build_student
from rdbench.rd.teacher import load_teacher
from rdbench.rd.training import TrainingSettings, train_student
from rdbench.registry import find_methods, load_method

METHODS = find_methods()

EPOCHS = 2


class Images:
    """Images with their teacher features, as methods get them."""

    def __init__(self, images, teacher):
        self.images, self.teacher = images, teacher

    def __len__(self):
        return len(self.images)

    def batch(self, indices):
        images = self.images[indices]
        return Batch(images, lambda: self.teacher(images))

    def batches(self, size):
        for indices in torch.arange(len(self)).split(size):
            yield self.batch(indices)


def stripes(count, seed, size=64):
    """(count, 3, size, size): grey stripes of one width, each image with its own phase."""
    phases = torch.rand(count, generator=torch.Generator().manual_seed(seed)) * 6.28
    waves = torch.sin(torch.arange(size) / 3 + phases[:, None])
    return waves[:, None, None, :].expand(count, 3, size, size).contiguous()


class World:
    """Training, calibration and test images, the fit context, and how to get a fitted method."""

    def __init__(self):
        device = torch.device("cpu")
        self.teacher = load_teacher("embedded", "random", device)
        self.train, self.calibration = Images(stripes(6, 1), self.teacher), Images(stripes(5, 2), self.teacher)
        self.test = Images(stripes(4, 3), self.teacher)
        self.trained = []  # seeds of the students that methods share
        backbone = self.teacher.backbone

        def train(student, images, seed, *, loss=None, epochs=1.0, rate=None, after_epoch=None):
            settings = TrainingSettings(epochs=max(1, round(epochs * EPOCHS)), batch_size=3)

            def on_epoch(epoch, _):
                if after_epoch is not None:
                    after_epoch(epoch, settings.epochs)

            return train_student(student, images, settings, seed, device, on_epoch, loss or distillation_loss, rate)

        @cache
        def trained(seed):
            self.trained.append(seed)
            return train(build_student(backbone, seed), self.train, seed).requires_grad_(False)

        self.student = trained(0)
        self.context = FitContext(
            teacher=self.teacher,
            calibration=self.calibration,
            device=device,
            seed=0,
            new_student=lambda seed: build_student(backbone, seed),
            train=train,
            trained=trained,
        )

    def fitted(self, name, directory: Path, **options):
        """The method, fitted, saved and loaded, as the benchmark does."""
        method = self.method(name, **options)
        method.fit(self.train, self.context)
        method.save(directory)
        return self.loaded(name, directory, **options)

    def loaded(self, name, directory: Path, **options):
        """The method as it was saved in the directory."""
        method = self.method(name, **options)
        method.load(directory, self.context)
        return method

    def method(self, name, **options):
        """The method with its defaults and these options."""
        return load_method(METHODS[name], {**METHODS[name].defaults(), **options})

    def predict(self, method, indices=(0, 1, 2, 3)):
        """The method's prediction of test images in one batch."""
        with torch.inference_mode():
            return method.predict(self.test.batch(list(indices)))


@pytest.fixture(scope="session")
def world():
    return World()


@pytest.fixture(scope="session")
def deterministic(world, tmp_path_factory):
    """The prediction of the deterministic method on the four test images."""
    return world.predict(world.fitted("deterministic", tmp_path_factory.mktemp("deterministic")))
