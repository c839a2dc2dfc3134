"""From a kept run to the archive that the MVTec AD 2 server takes."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from rdbench.benchmark.images import map_at_size
from rdbench.benchmark.kept import KeptMethod, model_of
from rdbench.benchmark.results import CellResult
from rdbench.benchmark.store import open_store
from rdbench.datasets import load_category
from rdbench.datasets.base import Category, ImageRecord
from rdbench.datasets.decode import decode_batches
from rdbench.datasets.files import image_size
from rdbench.errors import InputError
from rdbench.export import Export, PrivateMap, check_place, export_mvtec_ad2, exported_categories, private_images
from rdbench.metrics.localization import PixelMoments

BATCH = 8


def write_submission(
    run: Path,
    out: Path,
    root: Path | None,
    method: str | None,
    seed: int | None,
    weights: str | None,
    device: str,
    methods_dir: Path | None,
    on_map: Callable[[int, int], None] | None = None,
) -> Export:
    """Predict every private image with the run's kept models, and write the archive.

    One cell per object is wanted; `method` and `seed` choose among several. Raises InputError, with nothing written,
    for a cell that is missing or ambiguous, or for whatever `rdbench.export` refuses.
    """
    check_place(out)
    found = list(open_store(run, create=False).results())
    cells = {category: _cell(run, found, category, method, seed) for category in exported_categories(root)}
    for category, (directory, _) in cells.items():  # what is missing is said before anything is predicted
        model_of(directory)
        private_images(root, category)

    def model(category: str) -> KeptMethod:
        """Loaded when it is its turn, and again for the private images: eight ensembles may not fit into memory."""
        return KeptMethod(*cells[category], weights, device, methods_dir)

    validation = {category: _validation(model(category), category, root) for category in cells}
    maps = (item for category in cells for item in _private_maps(model(category), category, root))
    return export_mvtec_ad2(maps, validation, root, out, on_map)


def _cell(
    run: Path, found: list[tuple[Path, CellResult]], category: str, method: str | None, seed: int | None
) -> tuple[Path, CellResult]:
    cells = [
        (directory, result)
        for directory, result in found
        if (result.spec.dataset, result.spec.category) == ("mvtec_ad2", category)
        and method in (None, result.spec.method)
        and seed in (None, result.spec.seed)
    ]
    if not cells:
        by = f" by {method!r}" if method is not None else ""
        with_seed = f" with seed {seed}" if seed is not None else ""
        raise InputError(f"no finished cell of {category}{by}{with_seed} in {run}; run it first")
    if len(cells) > 1:
        specs = "; ".join(str(result.spec) for _, result in cells)
        raise InputError(f"several cells of {category}: {specs}; choose with --method and --seed")
    return cells[0]


def _validation(model: KeptMethod, name: str, root: Path | None) -> tuple[float, float]:
    """Mean and standard deviation of the pixels of the validation images' maps, at the images' own size."""
    category = load_category("mvtec_ad2", name, root, model.result.spec.seed)
    moments = PixelMoments()
    for _, anomaly_map in _maps(model, category, category.calibration):
        moments.update(anomaly_map)
    return moments.mean(), moments.std()


def _private_maps(model: KeptMethod, name: str, root: Path | None) -> Iterator[PrivateMap]:
    category = load_category("mvtec_ad2", name, root, model.result.spec.seed)
    for image, anomaly_map in _maps(model, category, private_images(root, name)):
        split, stem = image.key.split("/")[:2]
        yield PrivateMap(name, split, stem, anomaly_map)


def _maps(
    model: KeptMethod, category: Category, images: Sequence[ImageRecord]
) -> Iterator[tuple[ImageRecord, NDArray[np.float32]]]:
    """Each image's anomaly map at the image's own size."""
    decoded = decode_batches(category, images, model.result.spec.image_size, BATCH)
    waiting = iter(images)
    for batch in decoded:
        for anomaly_map in model.predict(batch).anomaly_map:
            image = next(waiting)
            assert image.path is not None, "MVTec AD 2 is read from files"
            width, height = image_size(image.path)
            yield image, map_at_size(anomaly_map, (height, width))
