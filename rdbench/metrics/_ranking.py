"""The one structure under every ranking metric: samples sorted by a key, equal keys kept together.

AUROC, average precision, AURC, AUGRC, risk at coverage and their like depend on a sample only through
how many images, and how many hits (anomalous images, or wrong decisions), share each value of the key.
So each is written once on those counts, for R weightings of the sample at once: R = 1 with weights of
one is the plain figure, R = 1000 multinomial weightings are a bootstrap, where an image drawn k times is
k tied copies. A histogram of pixels is such a ranking too.
"""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from rdbench.metrics._checks import FloatArray

_EULER = 0.5772156649015329
_HARMONIC = np.concatenate([[0.0], np.cumsum(1.0 / np.arange(1, 2**16))])


@dataclass(frozen=True)
class Ranking:
    """Counts per group of equal keys, ascending by key.

    size: (R, G) samples in the group; a group may be empty in some resamples
    hits: (R, G) hits among them, or the sum of a loss
    """

    size: FloatArray
    hits: FloatArray

    @cached_property
    def end(self) -> FloatArray:
        """(R, G) samples up to and including the group."""
        return np.cumsum(self.size, axis=1)

    @cached_property
    def hits_end(self) -> FloatArray:
        """(R, G) hits up to and including the group."""
        return np.cumsum(self.hits, axis=1)

    @cached_property
    def before(self) -> FloatArray:
        """(R, G) samples in the groups below."""
        return self.end - self.size

    @cached_property
    def hits_before(self) -> FloatArray:
        """(R, G) hits in the groups below."""
        return self.hits_end - self.hits

    @cached_property
    def rate(self) -> FloatArray:
        """(R, G) hits per sample in the group, 0 in an empty one."""
        return np.divide(self.hits, self.size, out=np.zeros_like(self.hits), where=self.size > 0)

    @property
    def total(self) -> FloatArray:
        """(R,) samples."""
        return self.end[:, -1]

    @property
    def total_hits(self) -> FloatArray:
        """(R,) hits."""
        return self.hits_end[:, -1]

    def hits_among(self, lowest: FloatArray) -> FloatArray:
        """(R,) expected hits among the `lowest` (R,) samples by key, over the orders of equal keys."""
        group = np.minimum((self.end < lowest[:, None]).sum(axis=1), self.end.shape[1] - 1)
        row = np.arange(len(group))
        inside = (lowest - self.before[row, group]) * self.rate[row, group]
        return np.asarray(self.hits_before[row, group] + inside)


def rank(hits: FloatArray, key: FloatArray, weights: NDArray[np.integer] | None = None) -> Ranking:
    """The ranking of a sample by `key` (n,), with `hits` (n,), under `weights` (R, n) or once as it is."""
    order = np.argsort(key)
    ordered = key[order]
    edges = np.concatenate([[0], np.flatnonzero(ordered[1:] != ordered[:-1]) + 1, [len(key)]])
    starts = edges[:-1]
    if weights is None:
        size = (edges[1:] - starts).astype(np.float64)
        return Ranking(size[None], np.add.reduceat(hits[order], starts)[None])
    drawn = weights[:, order].astype(np.float64)
    if len(starts) == len(order):
        return Ranking(drawn, drawn * hits[order])
    return Ranking(np.add.reduceat(drawn, starts, axis=1), np.add.reduceat(drawn * hits[order], starts, axis=1))


def stack(rankings: list[Ranking]) -> Ranking:
    """Rankings of one sample by several keys as the rows of one, the shorter ones filled with empty groups."""
    counts = np.zeros((2, sum(len(r.size) for r in rankings), max(r.size.shape[1] for r in rankings)))
    row = 0
    for r in rankings:
        rows, groups = r.size.shape
        counts[0, row : row + rows, :groups] = r.size
        counts[1, row : row + rows, :groups] = r.hits
        row += rows
    return Ranking(counts[0], counts[1])


def harmonic(k: FloatArray) -> FloatArray:
    """1 + 1/2 + ... + 1/k for whole numbers k >= 0, to double precision."""
    if k.max() < len(_HARMONIC):
        table: FloatArray = _HARMONIC[k.astype(np.intp)]
        return table
    large = np.maximum(k, len(_HARMONIC))
    series = np.log(large) + _EULER + 0.5 / large - 1 / (12 * large**2)  # the next term is below 1e-21
    small = _HARMONIC[np.minimum(k, len(_HARMONIC) - 1).astype(np.intp)]
    return np.asarray(np.where(k < len(_HARMONIC), small, series))


def ratio(numerator: FloatArray, denominator: FloatArray) -> FloatArray:
    """Element by element, `nan` where the denominator is zero."""
    undefined = np.full(np.broadcast(numerator, denominator).shape, np.nan)
    return np.asarray(np.divide(numerator, denominator, out=undefined, where=denominator != 0))
