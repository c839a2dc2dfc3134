"""A histogram of nonnegative float32 values of unknown range, as fine as a fixed number of bins allows.

For nonnegative floats the bit pattern, read as an integer, grows with the value. Its leading bits are
therefore bin numbers, one shift away, of nearly equal relative width. Only the range that has occurred is
stored. The shift starts at 0, where every float32 has its own bin, and grows by one whenever the range
takes more than BINS bins; two bins then become one, which loses nothing but that bit. Maps over k powers of
two end with bins of a relative width of about k / 50,000; narrow ranges get bins that much narrower.
Zero, and what is too small for a normal float32 (below 1e-38), has a bin of its own.
"""

import numpy as np
from numpy.typing import ArrayLike, NDArray

from rdbench.metrics._checks import FloatArray

BINS = 1 << 16

_NORMAL = 1 << 23  # bit pattern of the smallest normal float32
_INFINITY = 0x7F800000
_CHUNK = 1 << 17  # values handled at a time, so that temporaries stay in cache


def bit_patterns(name: str, values: ArrayLike) -> NDArray[np.int32]:
    """Flat bit patterns of nonnegative finite numbers as float32; anything else is a ValueError."""
    array = np.asarray(values)
    if array.dtype.kind not in "biuf" or array.size == 0:
        raise ValueError(f"{name}: non-empty array of numbers expected, got {array.shape} of {array.dtype}")
    bits = np.ascontiguousarray(array, dtype=np.float32).reshape(-1).view(np.int32)
    if bits.min() < 0:
        if not (array >= 0).all():
            raise ValueError(f"{name}: negative or NaN values")
        bits = np.abs(bits.view(np.float32)).view(np.int32)  # minus zero
    if bits.max() >= _INFINITY:
        raise ValueError(f"{name}: NaN, infinite, or too large for float32")
    return bits


class Histogram:
    """Several sums per bin, one in each of `rows`, over one growing range of bins.

    table: (rows, 1 + width) sums; column 0 is the zero bin, column 1 the bin of `bits >> shift == low`
    """

    def __init__(self, rows: int) -> None:
        self.shift = self.low = 0
        self.table: FloatArray = np.zeros((rows, 1))

    @property
    def width(self) -> int:
        """Bins, the zero bin left out."""
        return int(self.table.shape[1]) - 1

    def cover(self, bits: NDArray[np.int32]) -> None:
        """Make the range hold these bit patterns."""
        smallest, largest = int(bits.min()), int(bits.max())
        if largest < _NORMAL:
            return
        if smallest < _NORMAL:
            smallest = int(bits.min(where=bits >= _NORMAL, initial=_INFINITY))
        self._grow(smallest, largest)

    def columns(self, bits: NDArray[np.int32]) -> NDArray[np.int64]:
        """The column of each covered bit pattern."""
        if not self.width:  # nothing but zeros so far
            return np.zeros(len(bits), dtype=np.int64)
        codes = np.right_shift(bits, self.shift, dtype=np.int64)
        codes -= self.low - 1
        return np.maximum(codes, 0, out=codes)

    def counts(self, bits: NDArray[np.int32]) -> NDArray[np.int64]:
        """(1 + width,) how many of these covered bit patterns fall into each column."""
        total = np.zeros(1 + self.width, dtype=np.int64)
        for start in range(0, len(bits), _CHUNK):
            total += np.bincount(self.columns(bits[start : start + _CHUNK]), minlength=len(total))
        return total

    def merge(self, other: "Histogram") -> None:
        """Add another histogram's sums."""
        table, low = other.table, other.low
        if other.width:
            self._grow(low << other.shift, ((low + other.width) << other.shift) - 1, other.shift)
            for _ in range(self.shift - other.shift):
                table, low = _halve(table, low)
            start = low - self.low + 1
            self.table[:, start : start + table.shape[1] - 1] += table[:, 1:]
        self.table[:, 0] += table[:, 0]

    def occupied(self) -> FloatArray:
        """(rows, G) the columns in which the first row counts something, ascending by value."""
        return self.table[:, self.table[0] > 0]

    def _grow(self, first: int, last: int, shift: int = 0) -> None:
        """Hold the bit patterns from `first` to `last`, in bins of at least this `shift`."""
        while True:
            low, high = first >> self.shift, (last >> self.shift) + 1
            if self.width:
                low, high = min(low, self.low), max(high, self.low + self.width)
            if self.shift >= shift and high - low <= BINS:
                break
            self.table, self.low = _halve(self.table, self.low)
            self.shift += 1
        if high - low > self.width:
            grown = np.zeros((len(self.table), 1 + high - low))
            grown[:, 0] = self.table[:, 0]
            start = self.low - low + 1 if self.width else 1
            grown[:, start : start + self.width] = self.table[:, 1:]
            self.low, self.table = low, grown


def _halve(table: FloatArray, low: int) -> tuple[FloatArray, int]:
    """The table in bins twice as wide."""
    bins = table[:, 1:]
    padded = np.pad(bins, ((0, 0), (low % 2, (low + bins.shape[1]) % 2)))
    pairs = padded.reshape(len(table), -1, 2).sum(axis=2)
    return np.concatenate([table[:, :1], pairs], axis=1), low >> 1
