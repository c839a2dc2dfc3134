"""Rankings: the results that may be compared with each other, as arrays, and means over their cells."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import cache, cached_property

import numpy as np
from numpy.typing import NDArray

from rdbench.benchmark.results import CLEAN, CellResult, CellSpec
from rdbench.errors import InputError
from rdbench.report.columns import DERIVED, bounded, describe, signed
from rdbench.report.derived import LARGEST, REGULAR, Place, derive, derive_ratios, is_lighting, is_measured
from rdbench.report.entries import REFERENCE, Source
from rdbench.report.means import FloatArray, Mean, mean_interval
from rdbench.report.variants import category_labels, method_labels
from rdbench.shifts import leaves_alone, parse_shift
from rdbench.words import count

USUAL_ALPHA = 0.10
"""False-alarm level of the threshold unless a run or an evaluation says otherwise."""


@dataclass(frozen=True)
class Ranking:
    """Cells that differ in method, category and seed only.

    Notation: M methods, C categories, S seeds, K conditions, F metrics.
    """

    spec: CellSpec
    """Of one of its cells; dataset, backbone, weights, image size and protocol are those of all."""
    custom: str
    """Empty for official data; otherwise why it is not ranked with those."""
    methods: tuple[str, ...]
    categories: tuple[str, ...]
    seeds: tuple[int, ...]
    conditions: tuple[str, ...]
    metrics: tuple[str, ...]
    cells: dict[tuple[int, int, int], Source]
    """By indices of method, category and seed."""
    value: FloatArray
    """(M, C, S, K, F), NaN where a figure is undefined or there is no cell."""
    low: FloatArray
    high: FloatArray
    notes: dict[Place, str]
    """Why a figure is undefined."""
    level: str
    """What its title says of the threshold's alpha: nothing where all rankings have the usual one."""
    pooled: dict[int, tuple[int, ...]] = field(default_factory=dict)
    """Conditions that are means over others, see `rdbench.report.mean_shifts`."""

    @cached_property
    def name(self) -> str:
        """The data set, or what custom data is laid out as it."""
        if not self.custom:
            return self.spec.dataset
        names = sorted({source.result.spec.category for source in self.cells.values()})
        some = ", ".join(names) if len(names) <= 3 else count(len(names), "category")
        return f"{some} (custom data, laid out as {self.spec.dataset})"

    @cached_property
    def lightings(self) -> tuple[str, ...]:
        """The real lightings among the conditions, that of the training images first."""
        return tuple(name for name in self.conditions if is_lighting(name))

    @property
    def title(self) -> str:
        """What its results have in common, in one line."""
        spec = self.spec
        height, width = spec.image_size
        words = [
            self.name,
            spec.backbone if spec.weights == spec.backbone else f"{spec.backbone}, weights {spec.weights}",
            f"{width} x {height} px",
            self.extent,
            count(len(self.seeds), "seed"),
            *([self.level] if self.level else []),
        ]
        return " \N{MIDDLE DOT} ".join(words)

    @cached_property
    def extent(self) -> str:
        """How many categories there are, and of which there are several versions."""
        names = {self.categories[c]: source.result.spec.category for (_, c, _), source in self.cells.items()}
        versions = Counter(names.values())
        several = [f"{name} ({n} versions of its images)" for name, n in sorted(versions.items()) if n > 1]
        if len(versions) == 1 and several:
            return several[0]
        return ", with ".join([count(len(versions), "category"), *([", ".join(several)] if several else [])])

    @property
    def alpha(self) -> float:
        """The false-alarm level that was asked of every cell's threshold."""
        return next(iter(self.cells.values())).result.threshold.alpha

    @cached_property
    def unattained(self) -> str:
        """Where the threshold cannot keep alpha, and which level it keeps instead, in words; mostly nothing."""
        levels: dict[float, set[str]] = {}
        for (_, category, _), source in self.cells.items():
            threshold = source.result.threshold
            if not threshold.attained:
                levels.setdefault(threshold.level, set()).add(self.categories[category])
        if not levels:
            return ""
        kept = "; ".join(f"{level:.3g} on {', '.join(sorted(names))}" for level, names in sorted(levels.items()))
        return f"alpha {self.alpha:g} is not attained: too few calibration images, the threshold keeps {kept}"

    @cached_property
    def idle(self) -> str:
        """Which shifts leave images of this size as they are, in words; mostly nothing."""
        names = [name for name in self.conditions if _does_nothing(name, self.spec.image_size)]
        if not names:
            return ""
        height, width = self.spec.image_size
        leave, them = ("leaves", "it") if len(names) == 1 else ("leave", "them")
        return (
            f"{', '.join(names)} {leave} images of {width} x {height} pixels as they are: figures under {them} are "
            "those of clean images, also in the means over shifts"
        )

    @property
    def cautions(self) -> tuple[str, ...]:
        """What a reader is warned of, in words; mostly nothing."""
        return tuple(words for words in (self.unattained, self.idle) if words)

    @cached_property
    def complete(self) -> NDArray[np.bool_]:
        """(M,) whether the method has cells in every category; only such methods can be ranked."""
        present = np.zeros(self.value.shape[:2], dtype=bool)
        for method, category, _ in self.cells:
            present[method, category] = True
        return np.asarray(present.all(axis=1))

    @cached_property
    def _reasons(self) -> dict[tuple[int, int, int], set[str]]:
        reasons: dict[tuple[int, int, int], set[str]] = {}
        for (method, _, _, condition, metric), note in self.notes.items():
            reasons.setdefault((method, condition, metric), set()).add(note)
        return reasons

    def why_undefined(self, method: int, condition: int, metric: int) -> str:
        """Why a method's cells lack a figure, if all for one reason, else an empty string."""
        reasons = self._reasons.get((method, condition, metric), set())
        return next(iter(reasons)) if len(reasons) == 1 else ""

    @cached_property
    def lacks(self) -> tuple[str, ...]:
        """What keeps each method from being compared on the same terms, in words; mostly nothing."""
        words = []
        for method, complete in enumerate(self.complete.tolist()):
            categories, seeds = ({place[i] for place in self._places[method]} for i in (1, 2))
            if not complete:
                words.append(f"{len(categories)} of {len(self.categories)} categories")
            else:
                some = len(seeds) < len(self.seeds)
                words.append(f"{len(seeds)} of {len(self.seeds)} seeds" if some else "")
        return tuple(words)

    @cached_property
    def measured(self) -> NDArray[np.bool_]:
        """(M, C, S, K) whether the cell was measured under the condition, or under each that it is a mean over."""
        return is_measured(self.value)

    def share(self, method: int, condition: int) -> str:
        """Of the cells under a condition those that the method has, in words; nothing where it has all."""
        measured = self.measured[..., condition]
        own, every = int(measured[method].sum()), int(measured.any(axis=0).sum())
        return f"{own} of {count(every, 'cell')}" if own < every else ""

    def rows(self, condition: int) -> list[int]:
        """The methods that have cells under a condition, those that have all of them first."""
        there = np.flatnonzero(self.measured[..., condition].any(axis=(1, 2))).tolist()
        return sorted(there, key=lambda method: bool(self.share(method, condition)))

    def reference(self, condition: int) -> int:
        """The method whose predictions the controls are about: `deterministic` if it has all cells, else the first."""
        rows = self.rows(condition)
        wanted = [m for m in rows if self.methods[m] == REFERENCE and not self.share(m, condition)]
        return (wanted or rows or [0])[0]

    @cached_property
    def _places(self) -> list[list[tuple[int, int, int]]]:
        places: list[list[tuple[int, int, int]]] = [[] for _ in self.methods]
        for place in sorted(self.cells):
            places[place[0]].append(place)
        return places

    def cells_of(self, method: int) -> list[Source]:
        """The method's cells, by category and seed."""
        return [self.cells[place] for place in self._places[method]]

    def seeds_of(self, method: int, category: int) -> int:
        """How many cells the method has in the category, one per seed."""
        return sum(place[1] == category for place in self._places[method])

    def mean(self, category: int | None = None) -> Mean:
        """Means over all categories, or over the seeds of one; counts of failures are summed over categories."""
        chosen = slice(None) if category is None else slice(category, category + 1)
        cells = self.value[:, chosen]
        there = ~np.isnan(cells)
        for condition, members in self.pooled.items():
            there[:, :, :, condition] &= there[:, :, :, list(members)].all(axis=3)
        defined = there.sum(axis=(1, 2))
        value, low, high = mean_interval(cells, self.low[:, chosen], self.high[:, chosen])
        for index, name in enumerate(self.metrics):
            metric = describe(name)
            if metric.name == "failures":
                categories = (~np.isnan(cells[..., index])).any(axis=2).sum(axis=1)
                for array in (value, low, high):
                    array[..., index] *= categories
            if not signed(metric):
                np.maximum(low[..., index], 0.0, out=low[..., index])
            if bounded(metric):
                np.minimum(high[..., index], 1.0, out=high[..., index])
        return Mean(value, low, high, defined)


def make_rankings(cells: Iterable[CellResult | Source]) -> list[Ranking]:
    """Sort cells into rankings; those that differ in data, teacher, image size, alpha or protocol never share one.

    A cell that is there twice, or again with fewer conditions, is taken once.
    """
    groups: dict[tuple[object, ...], list[Source]] = {}
    alphas = set()
    for given in cells:
        source = given if isinstance(given, Source) else Source(given, "")
        cell, spec = source.result, source.result.spec
        key = (
            spec.dataset, bool(cell.split.custom), spec.backbone, spec.weights_sha256, spec.image_size, spec.protocol,
            str(cell.threshold.alpha),
        )  # fmt: skip
        groups.setdefault(key, []).append(source)
        alphas.add(cell.threshold.alpha)
    rankings = [_ranking(sources, name_level=alphas != {USUAL_ALPHA}) for sources in groups.values()]
    return sorted(
        rankings,
        key=lambda r: (
            bool(r.custom), r.spec.dataset, r.spec.backbone, r.spec.weights, r.alpha != USUAL_ALPHA, -len(r.cells),
        ),
    )  # fmt: skip


def _ranking(sources: Sequence[Source], *, name_level: bool) -> Ranking:
    cells = [source.result for source in sources]
    labels = method_labels(cells)
    categories = category_labels(cells)
    kept: dict[tuple[str, str, int], Source] = {}
    for label, category, source in zip(labels, categories, sources, strict=True):
        key = (label, category, source.result.spec.seed)
        if key not in kept or len(source.result.image) > len(kept[key].result.image):
            kept[key] = source
    methods = sorted({key[0] for key in kept})
    names = sorted({key[1] for key in kept})
    seeds = sorted({key[2] for key in kept})
    # the cost is measured once and holds under every condition
    figures = {
        key: {name: by_metric | source.result.cost for name, by_metric in source.result.figures().items()}
        for key, source in kept.items()
    }
    conditions = _in_order(name for cell in figures.values() for name in cell)
    conditions.sort(key=lambda name: (name != CLEAN, ":" in name, name != REGULAR, name))
    named = dict.fromkeys(tuple(by_metric) for cell in figures.values() for by_metric in cell.values())
    metrics = _in_order(name for names in named for name in names)

    metric_at = {name: index for index, name in enumerate([*metrics, *DERIVED])}
    condition_at = {name: index for index, name in enumerate(conditions)}
    shape = (len(methods), len(names), len(seeds), len(conditions), len(metric_at))
    value, low, high = (np.full(shape, np.nan) for _ in range(3))
    notes: dict[Place, str] = {}
    placed: dict[tuple[int, int, int], Source] = {}

    @cache  # most cells have the same figures
    def places(names: tuple[tuple[str, tuple[str, ...]], ...]) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
        pairs = [(condition_at[condition], metric_at[metric]) for condition, each in names for metric in each]
        rows, columns = np.array(pairs, dtype=np.intp).reshape(-1, 2).T
        return rows, columns

    for key, source in kept.items():
        place = (methods.index(key[0]), names.index(key[1]), seeds.index(key[2]))
        placed[place] = source
        rows, columns = places(tuple((condition, tuple(each)) for condition, each in figures[key].items()))
        found = [figure for by_metric in figures[key].values() for figure in by_metric.values()]
        value[(*place, rows, columns)] = usable = _usable([figure.value for figure in found])
        low[(*place, rows, columns)] = _usable([figure.low for figure in found])
        high[(*place, rows, columns)] = _usable([figure.high for figure in found])
        for i in np.flatnonzero(np.isnan(usable)).tolist():
            notes[(*place, int(rows[i]), int(columns[i]))] = found[i].note or "not a usable number"
    derive(value, low, high, metric_at, conditions)
    derive_ratios(value, metric_at, methods.index(REFERENCE) if REFERENCE in methods else None, placed, notes)
    custom = next((cell.split.custom for cell in cells if cell.split.custom), "")
    return Ranking(
        cells[0].spec, custom, tuple(methods), tuple(names), tuple(seeds), tuple(conditions), tuple(metric_at),
        placed, value, low, high, notes, f"alpha {cells[0].threshold.alpha:g}" if name_level else "",
    )  # fmt: skip


def _usable(numbers: list[float | None]) -> FloatArray:
    """The numbers, NaN for each that is missing, infinite or beyond anything that a figure can be."""
    array = np.array(numbers, dtype=np.float64)
    return np.where(np.abs(array) <= LARGEST, array, np.nan)


def _does_nothing(condition: str, image_size: tuple[int, int]) -> bool:
    """Whether the condition is a shift that leaves images of (height, width) as they are."""
    try:
        return ":" in condition and all(leaves_alone(shift, image_size) for shift in parse_shift(condition))
    except InputError:  # a mean over shifts, or a shift of another rdbench
        return False


def _in_order(names: Iterable[str]) -> list[str]:
    return list(dict.fromkeys(names))
