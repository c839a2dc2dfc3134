"""Streams the test images of a group, under every condition, through all its fitted methods at once.

Each batch is shifted and passed through the teacher once and handed to every method in turn; maps are turned into
pixel figures as they pass by and are not kept.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from rdbench.benchmark.cost import Stopwatch, count_flop, count_passes, memory_held, seconds_per_call
from rdbench.benchmark.fitting import seed_everything
from rdbench.benchmark.guard import Untouched, UntouchedNetwork, guarded_call
from rdbench.benchmark.images import FeatureBank, map_at_size, normalise, to_numpy, to_unit
from rdbench.benchmark.method_run import MethodRun, Said, median_seconds
from rdbench.benchmark.pixels import PixelTally, segmentation_threshold
from rdbench.benchmark.progress import Reporter
from rdbench.benchmark.results import CLEAN
from rdbench.benchmark.sharing import MEASURING, SHARED, VIEWS, Sharing
from rdbench.datasets.base import Category, ImageRecord
from rdbench.datasets.decode import DecodedImages
from rdbench.errors import BrokenMethod, InputError
from rdbench.metrics.localization import Regions, find_regions
from rdbench.protocol import Batch, Prediction
from rdbench.rd.memory import is_out_of_memory
from rdbench.rd.precision import Precision, autocast
from rdbench.rd.teacher import Teacher
from rdbench.shifts import KINDS, Condition, apply_shift, apply_to_mask


@dataclass(frozen=True)
class TestSet:
    """A category's decoded test images."""

    category: Category
    images: DecodedImages
    regions: Sequence[Regions]
    """Each mask's connected regions, at the image's own size."""

    def order(self, seed: int) -> NDArray[np.int64]:
        """The order to predict the images in: one from which their labels cannot be told.

        Drawn from the seed and the images' own pixels, of which a method sees the last with the last batch. The seed
        alone is known to every method, which could undo the order and read labels off an image's place in its folder.
        """
        pixels = hashlib.sha256()
        for start in range(0, len(self.images), 64):
            pixels.update(self.images[start : start + 64][:, ::16, ::16].tobytes())
        return np.random.default_rng([seed, *pixels.digest()]).permutation(len(self.images))

    def regions_under(self, condition: Condition | None, seed: int) -> Sequence[Regions]:
        """The regions where the condition shows them: a geometric shift moves the masks with the pixels."""
        if condition is None or condition.kind not in KINDS or not KINDS[condition.kind].geometric:
            return self.regions
        size = self.images.size
        moved = []
        for image, regions in zip(self.category.test, self.regions, strict=True):
            mask = np.zeros(regions.shape, bool)
            mask.flat[regions.pixels] = True
            shifted = apply_to_mask(torch.from_numpy(mask)[None], condition, seed, [image.key], size)
            moved.append(find_regions(shifted[0].numpy()))
        return moved


def predict_group(
    runs: Sequence[MethodRun],
    *,
    test: TestSet,
    calibration: FeatureBank,
    conditions: Sequence[Condition | None],
    teacher: Teacher,
    device: torch.device,
    precision: Precision,
    batch_size: int,
    seed: int,
    reporter: Reporter,
    sharing: Sharing,
) -> float:
    """Let every method of a group predict the calibration images and the test images under every condition.

    A method that raises or breaks the protocol gets its `failure` set and is left out from then on. None stands for
    the clean condition. Test images come in `test.order`.

    Returns:
        The teacher's seconds per image, over the clean batches.
    """
    untouched = UntouchedNetwork("the teacher", teacher)
    with torch.inference_mode(), autocast(device, precision):
        for run in runs:
            run.calibration = Said.empty(1, len(calibration))
            run.said = Said.empty(len(conditions), len(test.images))
        columns = np.arange(len(calibration))
        for start, batch in zip(range(0, len(calibration), batch_size), calibration.batches(batch_size), strict=True):
            chosen, handed = columns[start : start + batch_size], _Handed(batch, untouched)
            for run in [run for run in runs if run.failure is None]:
                with run.guarded(), sharing.counting(teacher, VIEWS):
                    prediction = _predict(run, handed, device, seed)
                    run.calibration.record(0, chosen, prediction)
                    run.normal_pixels.update(to_numpy(prediction.anomaly_map).reshape(len(chosen), -1))
        teacher_seconds = _predict_test(
            runs, test, conditions, teacher, untouched, device, batch_size, seed, reporter, sharing
        )
        first = _Handed(calibration.batch(range(min(batch_size, len(calibration)))), untouched)
        for run in [run for run in runs if run.failure is None]:
            with run.guarded(), sharing.counting(teacher, MEASURING):
                _check_unmoved(run, _predict(run, first, device, seed))
                with untouched:
                    _measure_alone(run, test, teacher, device, batch_size, seed)
    return teacher_seconds


def _check_unmoved(run: MethodRun, again: Prediction) -> None:
    """The first calibration images are to be predicted as they were before any test image was seen."""
    for name, before in (("anomaly_score", run.calibration.scores), ("uncertainty", run.calibration.uncertainties)):
        after = to_numpy(getattr(again, name))
        if not np.allclose(after, before[0, : len(after)], rtol=1e-4, atol=1e-4 * float(before.std())):
            raise BrokenMethod(
                f"{name} of the first calibration images is no longer what it was before the test images: "
                "the method learns from what it predicts"
            )


def _measure_alone(
    run: MethodRun, test: TestSet, teacher: Teacher, device: torch.device, batch_size: int, seed: int
) -> None:
    """The method's arithmetic and throughput with a teacher of its own, on the first test images.

    At other batch sizes than that of the test, which has shown it at that one.
    """

    def predict(count: int) -> None:
        seed_everything(seed)
        images = normalise(to_unit(test.images[:count], device))
        with guarded_call(type(run.method).__name__):
            run.method.predict(Batch(images, partial(teacher, images)))

    run.gflop = count_flop(partial(predict, 1)) / 1e9
    sizes = (1, 4 * batch_size) if device.type == "cuda" else (1,)
    for size in [size for size in sizes if size <= len(test.images)]:
        try:
            seconds = seconds_per_call(partial(predict, size), device, repeats=3 if size == 1 else 1)
        except RuntimeError as error:
            if size <= batch_size or not is_out_of_memory(error):
                raise
        else:  # a speed that cannot be had is no reason to lose the cell
            run.throughput[size] = size / seconds


def _predict_test(
    runs: Sequence[MethodRun],
    test: TestSet,
    conditions: Sequence[Condition | None],
    teacher: Teacher,
    untouched: Untouched,
    device: torch.device,
    batch_size: int,
    seed: int,
    reporter: Reporter,
    sharing: Sharing,
) -> float:
    order = test.order(seed)
    keys = [image.key for image in test.category.test]
    lightings = [image.lighting for image in test.category.test]
    teacher_seconds: list[tuple[int, float]] = []
    with reporter.step("  testing", len(order) * len(conditions)) as step:
        for index, condition in enumerate(conditions):
            regions = test.regions_under(condition, seed)
            for run in [run for run in runs if run.failure is None]:
                threshold = segmentation_threshold(run.normal_pixels)
                run.pixel.append({lighting: PixelTally(threshold) for lighting in dict.fromkeys(lightings)})
            for start in range(0, len(order), batch_size):
                chosen = order[start : start + batch_size]
                pixels = to_unit(test.images[chosen], device)
                if condition is not None:
                    pixels = apply_shift(pixels, condition, seed, [keys[i] for i in chosen])
                images = normalise(pixels)
                batch = Batch(images, partial(teacher, images))
                with sharing.counting(teacher, SHARED), Stopwatch(device) as watch:
                    _ = batch.features
                sharing.images += len(chosen)
                if condition is None:
                    teacher_seconds.append((len(chosen), watch.seconds))
                handed = _Handed(batch, untouched)
                for run in [run for run in runs if run.failure is None]:
                    with run.guarded(), sharing.counting(teacher, VIEWS):
                        prediction = _predict(run, handed, device, seed, condition is None)
                        run.said.record(index, chosen, prediction)
                        _add_pixels(run.pixel[index], prediction, chosen, regions, test.category.test)
                step.advance(len(chosen), note=str(condition or CLEAN))
    return median_seconds(teacher_seconds)


def predict_again(
    run: MethodRun,
    chosen: NDArray[np.int64],
    *,
    test: TestSet,
    teacher: Teacher,
    device: torch.device,
    precision: Precision,
    batch_size: int,
    seed: int,
) -> tuple[NDArray[np.float32], NDArray[np.float32] | None]:
    """(n, H, W) anomaly maps and, if the method has them, uncertainty maps of n clean test images, predicted once more.

    What that takes is no part of the method's cost.
    """
    maps, unsure = [], []
    untouched = UntouchedNetwork("the teacher", teacher)
    with torch.inference_mode(), autocast(device, precision):
        for start in range(0, len(chosen), batch_size):
            images = normalise(to_unit(test.images[chosen[start : start + batch_size]], device))
            prediction = _predict(run, _Handed(Batch(images, partial(teacher, images)), untouched), device, seed)
            maps.append(to_numpy(prediction.anomaly_map))
            if prediction.uncertainty_map is not None:
                unsure.append(to_numpy(prediction.uncertainty_map))
    return np.concatenate(maps), np.concatenate(unsure) if unsure else None


class _Handed:
    """A batch as one method after another gets it: what one changes in it or in the teacher is put back."""

    def __init__(self, batch: Batch, teacher: Untouched) -> None:
        self.images, self.features = batch.images, batch.features
        self.teacher = teacher
        self.tensors = Untouched("the images or the teacher's features", (self.images, *self.features))

    def __len__(self) -> int:
        return len(self.images)


def _predict(run: MethodRun, handed: _Handed, device: torch.device, seed: int, measure: bool = False) -> Prediction:
    """One checked prediction; with `measure`, what it cost is added to the run."""
    seed_everything(seed)
    before = 0
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
    # Aliases: what a method makes of their shapes and types is its own affair.
    batch = Batch(handed.images.detach(), lambda: tuple(scale.detach() for scale in handed.features))
    held = memory_held(device)
    with (
        handed.teacher,
        handed.tensors,
        guarded_call(type(run.method).__name__),
        Stopwatch(device) as watch,
        count_passes() as passes,
    ):
        prediction = run.method.predict(batch)
    run.check_memory(memory_held(device) - held)
    check_prediction(prediction, len(handed), handed.images.shape[-2:], handed.images.device)
    if measure:
        run.batch_seconds.append((len(handed), watch.seconds))
        run.passes.update(passes)
        if device.type == "cuda":
            run.working_bytes = max(run.working_bytes, torch.cuda.max_memory_allocated(device) - before)
    return prediction


def check_prediction(prediction: Prediction, count: int, size: Sequence[int], device: torch.device) -> None:
    """Hold a prediction of `count` images of `size` (H, W) on `device` against the protocol. Says what is wrong.

    Raises BrokenMethod for what the method got wrong, InputError for NaN, which the data may be the cause of.
    """
    if not isinstance(prediction, Prediction):
        raise BrokenMethod(f"predict returned {type(prediction).__name__}, wanted Prediction")
    shapes: dict[str, tuple[int, ...]] = {
        "anomaly_map": (count, *size),
        "anomaly_score": (count,),
        "uncertainty": (count,),
        "uncertainty_map": (count, *size),
    }
    for name, shape in shapes.items():
        value = getattr(prediction, name)
        if value is None and name == "uncertainty_map":
            continue
        _check_tensor(name, value, shape, device, nonnegative=name != "anomaly_score")
    if (members := prediction.member_scores) is not None:
        _check_tensor("member_scores", members, (None, count), device, nonnegative=False)


def _check_tensor(
    name: str, value: Tensor, shape: tuple[int | None, ...], device: torch.device, nonnegative: bool
) -> None:
    """Hold one tensor against what is wanted; None in `shape` is the number of members, which is the method's own."""
    if not isinstance(value, Tensor) or value.dtype != torch.float32:
        what = value.dtype if isinstance(value, Tensor) else type(value).__name__
        raise BrokenMethod(f"prediction.{name} is {what}, wanted a float32 tensor")
    fits = value.dim() == len(shape) and all(n in (None, its) for n, its in zip(shape, value.shape, strict=True))
    if not fits:
        wanted = f"(K, {shape[1]}): K members, {shape[1]} images" if None in shape else shape
        raise BrokenMethod(f"prediction.{name} has shape {tuple(value.shape)}, wanted {wanted}")
    if value.device != device:
        raise BrokenMethod(f"prediction.{name} is on {value.device}, wanted {device}, where the batch is")
    if not value.numel():
        raise BrokenMethod(f"prediction.{name} is empty")
    low, high = torch.stack(torch.aminmax(value)).tolist()  # in one: a GPU is waited for once
    if not (np.isfinite(low) and np.isfinite(high)):
        raise InputError(f"prediction.{name} holds NaN or infinity")
    if nonnegative and low < 0:
        raise BrokenMethod(f"prediction.{name} holds {low:.4g}, wanted no negative values")


def _add_pixels(
    pixel: dict[str, PixelTally],
    prediction: Prediction,
    chosen: NDArray[np.int64],
    regions: Sequence[Regions],
    images: Sequence[ImageRecord],
) -> None:
    """Add each image's maps, brought to its mask's size, to the tally of its lighting.

    An anomalous image that shows no anomalous pixel (a geometric shift moved it out of view) tells of neither kind.
    """
    anomaly, uncertainty = prediction.anomaly_map, prediction.uncertainty_map
    for row, index in enumerate(chosen):
        image, found = images[index], regions[index]
        if image.label == 1 and not found.count:
            continue
        unsure = None if uncertainty is None else map_at_size(uncertainty[row], found.shape)
        pixel[image.lighting].add(found, map_at_size(anomaly[row], found.shape), unsure)
