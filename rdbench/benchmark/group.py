"""Runs one group: all methods on one category with one seed, sharing images, teacher features and the student."""

from __future__ import annotations

import traceback
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from rdbench.benchmark.evaluate import INTERVAL, evaluate_predictions
from rdbench.benchmark.fitting import STUDENT, FitCost, fit, fit_cost, load_fitted, make_context
from rdbench.benchmark.gallery import GALLERY, choose, write_gallery
from rdbench.benchmark.guard import guarded_call
from rdbench.benchmark.images import FeatureBank
from rdbench.benchmark.method_run import MethodRun, median_seconds, predictions_of
from rdbench.benchmark.pixels import pixel_figures, segmentation_threshold
from rdbench.benchmark.plan import RunSettings
from rdbench.benchmark.predicting import TestSet, predict_again, predict_group
from rdbench.benchmark.progress import Reporter, Step
from rdbench.benchmark.results import CellFailure, CellResult, CellSpec, Figure, Predictions, Provenance, Split, slug
from rdbench.benchmark.sharing import MEASURING, SHARED, VIEWS, Sharing
from rdbench.benchmark.store import PREDICTIONS, Store, sha256
from rdbench.datasets import fingerprint_now
from rdbench.datasets.base import Category, MaskArray
from rdbench.datasets.decode import DecodedImages, cores, decode_masks
from rdbench.errors import BrokenMethod, InputError
from rdbench.metrics.localization import Regions, find_regions
from rdbench.protocol import Method
from rdbench.rd.precision import Precision
from rdbench.rd.teacher import Teacher
from rdbench.registry import load_method


@dataclass(frozen=True)
class Bench:
    """What every group of a run uses."""

    settings: RunSettings
    teacher: Teacher
    device: torch.device
    provenance: Provenance
    store: Store
    reporter: Reporter


@dataclass(frozen=True)
class GroupOutcome:
    """What came of a group: its cells are in the store, but for those that failed."""

    failures: tuple[CellFailure, ...] = ()
    sharing: Sharing = field(default_factory=Sharing)


def run_group(bench: Bench, category: Category, specs: Sequence[CellSpec], *, keep_work: bool = False) -> GroupOutcome:
    """Fit, predict, evaluate and store the cells of one group that are not there yet.

    A failing method costs its own cell only. What was fitted is removed when all went well, unless `keep_work` says
    that more cells of the group are to be built on it. The caller holds the group's lock.
    """
    directory = bench.store.work_directory(f"{specs[0].group_id}-{_made_with(bench.provenance)}")
    specs = [spec for spec in specs if not bench.store.has(spec, with_model=bench.settings.keep_models)]
    outcome = _run_missing(bench, category, specs, directory) if specs else GroupOutcome()
    if not (keep_work or outcome.failures):
        bench.store.remove_work(directory)
    return outcome


def _run_missing(bench: Bench, category: Category, specs: Sequence[CellSpec], directory: Path) -> GroupOutcome:
    group = _Group(bench, category, specs[0], directory)
    failures: list[CellFailure] = []
    runs: list[tuple[CellSpec, MethodRun]] = []
    for spec in specs:
        try:
            bench.reporter.line(f"  {'fitted before:' if group.is_fitted(spec) else 'fitting'} {spec.method}")
            with bench.reporter.inside(spec, "fit"):
                method = group.fitted(spec)
            runs.append((spec, MethodRun(method, partial(bench.reporter.inside, spec, "predict"))))
        except Exception as error:  # a stranger's method may raise anything
            failures.append(failed(bench, spec, "fit", error))
    teacher_seconds = group.predict([run for _, run in runs]) if runs else 0.0
    for spec, run in runs:
        if run.failure is not None:
            failures.append(failed(bench, spec, "predict", run.failure))
            continue
        try:
            group.finish(spec, run, teacher_seconds)
        except Exception as error:  # a full disk, say: the other cells are still to be written
            failures.append(failed(bench, spec, "store", error))
    group.sharing.trained = group.shared.trained
    bench.reporter.line(f"  {group.sharing}")
    return GroupOutcome(tuple(failures), group.sharing)


def failed(bench: Bench, spec: CellSpec, stage: str, error: Exception) -> CellFailure:
    """Keep and report why a cell failed."""
    in_words = isinstance(error, InputError | BrokenMethod)
    failure = CellFailure(
        spec=spec,
        stage=stage,
        reason=str(error) if in_words else f"{type(error).__name__}: {error}",
        traceback="".join(traceback.format_exception(error)),
        bad_input=isinstance(error, InputError),
    )
    try:
        where = f"more in {bench.store.write_failure(failure)}"
    except OSError as problem:  # a full disk, say, which may be what the cell failed of
        where = f"the reason cannot be kept: {problem.strerror}"
    bench.reporter.line(f"  FAILED {spec}: {failure.reason} ({where})")
    return failure


class _Group:
    """A group's shared images, features and student."""

    def __init__(self, bench: Bench, category: Category, spec: CellSpec, directory: Path) -> None:
        self.bench, self.category, self.spec, self.directory = bench, category, spec, directory
        self.sharing = Sharing()
        pool = ThreadPoolExecutor(cores())
        try:
            train, calibration, test = (
                DecodedImages(category, images, spec.image_size, pool, directory)
                for images in (category.train, category.calibration, category.test)
            )
            with bench.reporter.step("  teacher's features", len(train) + len(calibration)) as step:
                # Trained on what a teacher says in bf16, students seemed to turn out worse (docs/performance.md).
                self.train = self._features(train, "fp32", step)
                self.calibration = self._features(calibration, spec.precision, step)
            self.test = TestSet(category, test, self._regions(test))
        finally:
            pool.shutdown(cancel_futures=True)
        self._check_unchanged()
        self.context, self.shared = make_context(
            teacher=bench.teacher,
            train=self.train,
            calibration=self.calibration,
            spec=spec,
            device=bench.device,
            directory=directory,
            reporter=bench.reporter,
        )
        for model, result in bench.store.kept_models(spec, "deterministic"):
            if _made_with(result.provenance) == _made_with(bench.provenance) and (model / STUDENT).is_file():
                # The cell's cost has the teacher's features in it; the student's has not.
                seconds = (result.cost["train_seconds"].value or 0.0) - self.train.seconds
                passes = int(result.cost["train_passes"].value or 0)
                self.shared.take_over(spec.seed, model / STUDENT, FitCost(max(seconds, 0.0), passes))

    def _check_unchanged(self) -> None:
        """The images read are to be those of the fingerprint, which was taken before."""
        settings = self.bench.settings
        if fingerprint_now(settings.dataset, self.category.name, settings.root) != self.category.fingerprint:
            raise InputError(
                f"images of {settings.dataset}/{self.category.name} were changed while they were read; "
                "run the same command again when they stay as they are"
            )

    def _features(self, images: DecodedImages, precision: Precision, step: Step) -> FeatureBank:
        bench, spec = self.bench, self.spec
        self.sharing.images += len(images)
        with self.sharing.counting(bench.teacher, SHARED):
            return FeatureBank(
                images, bench.teacher, bench.device, precision, spec.batch_size, self.directory, step.advance,
                kept=spec.precision,
            )  # fmt: skip

    def _regions(self, images: DecodedImages) -> list[Regions]:
        """Of every test image's mask. Waits for the images too: a damaged one is to show before anything is trained."""
        regions = []
        with self.bench.reporter.step("  reading test images", len(images)) as step:
            for index, mask in enumerate(decode_masks(self.category, self.category.test)):
                images[index : index + 1]
                regions.append(find_regions(_at_size(mask, self.spec.map_size)))
                step.advance()
        return regions

    def _cell_directory(self, spec: CellSpec) -> Path:
        path = self.directory / "cells" / spec.path.name
        path.mkdir(parents=True, exist_ok=True)
        return path

    def _fit_directory(self, spec: CellSpec) -> Path:
        """The fitted method's: one for all cells that differ in nothing that fitting depends on."""
        predicting = self.bench.settings.methods[spec.method].predicting
        fitting = {name: value for name, value in spec.options.items() if name not in predicting}
        same_fit = spec.model_copy(update={"options": fitting, "conditions": ()})
        return self.directory / "fitted" / same_fit.path.name

    def _method(self, spec: CellSpec) -> Method:
        with guarded_call(spec.method):
            return load_method(self.bench.settings.methods[spec.method], spec.options)

    def is_fitted(self, spec: CellSpec) -> bool:
        """Whether an earlier run has fitted the cell's method and was stopped before it was done."""
        return self._fit_directory(spec).exists()

    def fitted(self, spec: CellSpec) -> Method:
        """The cell's method, fitted now or by an earlier run, and in any case loaded from what was saved."""
        directory = self._fit_directory(spec)
        with self.sharing.counting(self.bench.teacher, VIEWS):
            fit(self._method(spec), self.train, self.context, self.shared, spec.precision, directory)
            method = self._method(spec)
            load_fitted(method, self.context, self.shared, directory)
        cost = fit_cost(directory)
        self.sharing.alone += cost.trainings + len(cost.shared)
        return method

    def predict(self, runs: Sequence[MethodRun]) -> float:
        """Run all methods over calibration and test images; the teacher's seconds per image."""
        return predict_group(
            runs,
            test=self.test,
            calibration=self.calibration,
            conditions=[None, *self.bench.settings.shifts],
            teacher=self.bench.teacher,
            device=self.bench.device,
            precision=self.spec.precision,
            batch_size=self.spec.batch_size,
            seed=self.spec.seed,
            reporter=self.bench.reporter,
            sharing=self.sharing,
        )

    def finish(self, spec: CellSpec, run: MethodRun, teacher_seconds: float) -> None:
        """Evaluate a cell's predictions and move the cell into the store."""
        predictions = predictions_of(run, self.category, spec.conditions)
        path = self._cell_directory(spec) / PREDICTIONS
        predictions.save(path)
        threshold, image = evaluate_predictions(predictions, self.bench.settings.alpha)
        result = CellResult(
            spec=spec,
            provenance=self.bench.provenance,
            split=self._split(),
            threshold=threshold,
            cost=self._cost(run, fit_cost(self._fit_directory(spec)), teacher_seconds),
            pixel=pixel_figures(spec.conditions, run.pixel, segmentation_threshold(run.normal_pixels)),
            image=image,
            predictions_sha256=sha256(path),
            interval=INTERVAL,
        )
        model = self._fit_directory(spec) / "model" if self.bench.settings.keep_models else None
        self.bench.store.write(result, path, model, self._gallery(spec, run, predictions, threshold.value))

    def _gallery(self, spec: CellSpec, run: MethodRun, predictions: Predictions, threshold: float) -> Path | None:
        """The cell's pictures; a method that fails on them, or a full disk, costs the pictures only."""
        if not self.bench.settings.gallery:
            return None
        choices = choose(predictions, threshold)
        chosen = np.array([choice.index for choice in choices])
        directory = self._cell_directory(spec) / GALLERY
        try:
            with run.inside(), self.sharing.counting(self.bench.teacher, MEASURING):
                maps, unsure = predict_again(
                    run,
                    chosen,
                    test=self.test,
                    teacher=self.bench.teacher,
                    device=self.bench.device,
                    precision=self.spec.precision,
                    batch_size=self.spec.batch_size,
                    seed=self.spec.seed,
                )
            directory.mkdir(exist_ok=True)
            write_gallery(directory, choices, self.test.images[chosen], maps, unsure, predictions, threshold)
        except Exception as error:
            self.bench.reporter.line(f"  no pictures of {spec}: {type(error).__name__}: {error}")
            return None
        return directory

    def _split(self) -> Split:
        category = self.category
        return Split(
            train=len(category.train),
            calibration=len(category.calibration),
            test=len(category.test),
            test_anomalous=sum(image.label for image in category.test),
            calibration_source=category.calibration_source,
            custom=category.custom,
        )

    def _cost(self, run: MethodRun, cost: FitCost, teacher_seconds: float) -> dict[str, Figure]:
        """What the method would cost alone: the teacher's share and the shared students' training included."""
        trainings = [cost, *map(self.shared.cost, cost.shared)]
        images = sum(count for count, _ in run.batch_seconds)
        seconds = teacher_seconds + median_seconds(run.batch_seconds)
        figures = {
            "train_seconds": sum(each.seconds for each in trainings) + self.train.seconds,
            "train_passes": sum(each.passes for each in trainings),
            "inference_ms": 1000 * seconds,
            "teacher_passes": 1 + run.passes["teacher"] / images,
            "bottleneck_passes": run.passes["bottleneck"] / images,
            "decoder_passes": run.passes["decoder"] / images,
            "gflop": run.gflop,
            "throughput_1": run.throughput[1],
            "parameters": run.parameters(),
        }
        found = {name: Figure(value=float(value)) for name, value in figures.items()}
        tested = max(count for count, _ in run.batch_seconds)
        throughput = run.throughput | {tested: max(1 / seconds, run.throughput.get(tested, 0))}
        best = max(throughput, key=throughput.__getitem__)
        found["throughput_best"] = Figure(value=throughput[best], note=f"at batches of {best}")
        teacher = sum(p.numel() * p.element_size() for p in self.bench.teacher.parameters())
        peak = (run.working_bytes + run.own_bytes(self.bench.device) + teacher) / 2**20 if run.working_bytes else None
        found["peak_memory_mb"] = Figure(value=peak, note="" if peak else "measured on a GPU only")
        return found


def _made_with(provenance: Provenance) -> str:
    """What another device, version, commit or number of threads has fitted is not gone on with: its bits may differ."""
    versions = f"{provenance.packages['torch']} {provenance.rdbench} {provenance.git_commit[:10]}"
    return slug(f"{provenance.threads} threads {provenance.device} {versions}")


def _at_size(mask: MaskArray, size: tuple[int, int] | None) -> MaskArray:
    """The mask at (height, width) `size`, nearest neighbour; as it is if that is None."""
    if size is None or mask.shape == size:
        return mask
    height, width = size
    return np.asarray(Image.fromarray(mask).resize((width, height), Image.Resampling.NEAREST))
