"""The method under check: made, fitted, loaded and asked by the benchmark's own routines, under guard."""

from __future__ import annotations

import shutil
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch

from rdbench.benchmark.fitting import fit, load_fitted, refuse_training, seed_everything
from rdbench.benchmark.predicting import check_prediction
from rdbench.check.watch import IMPORT, Guard, Guarded
from rdbench.check.world import TEST, World
from rdbench.method_file import MethodFile, OptionValue
from rdbench.protocol import Prediction
from rdbench.registry import load_method


class Subject:
    """A method file with options, in a small world. Everything raises Wrong for what the method's code raises."""

    def __init__(self, file: MethodFile, options: dict[str, OptionValue], world: World) -> None:
        self.file, self.options, self.world = file, options, world
        self.guard = Guard(file.path, world.teacher)
        self._fits = 0

    def new(self, **options: OptionValue) -> Guarded:
        """The method from a freshly imported file, so that nothing is handed on but by saving and loading."""
        sys.modules.pop(f"rdbench_method_{self.file.name}_{self.file.sha256[:10]}", None)
        with self.guard.running(IMPORT):
            return Guarded(load_method(self.file, {**self.options, **options}), self.guard)

    def fitted(self, **options: OptionValue) -> tuple[Guarded, Path]:
        """The method fitted once more, and where it was saved."""
        self._fits += 1
        directory = self.world.scratch / f"fit_{self._fits}"
        method = self.new(**options)
        fit(method, self.world.train, self.world.context, self.world.shared, "fp32", directory)
        return method, directory

    def loaded(self, directory: Path, **options: OptionValue) -> Guarded:
        """The method loaded from a copy of what was saved, in a context that does not train."""
        copy = Path(tempfile.mkdtemp(dir=self.world.scratch)) / "moved"
        shutil.copytree(directory, copy)
        method = self.new(**options)
        load_fitted(
            method, replace(self.world.context, train=refuse_training, trained=refuse_training), self.world.shared, copy
        )
        return method

    def predict(self, method: Guarded, indices: Sequence[int] = range(TEST)) -> Prediction:
        """Its prediction of those test images, held against the protocol's shapes and types."""
        batch = self.world.batch(list(indices))
        with torch.inference_mode():
            seed_everything(self.world.spec.seed)
            prediction = method.predict(batch)
            check_prediction(prediction, len(indices), batch.images.shape[-2:], batch.images.device)
        return prediction
