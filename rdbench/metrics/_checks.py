"""What every metric asks of its input: a ValueError that names the argument, and no repair."""

import numpy as np
from numpy.typing import ArrayLike, NDArray

FloatArray = NDArray[np.float64]
BoolArray = NDArray[np.bool_]


def finite(name: str, values: ArrayLike) -> FloatArray:
    """`values` as a 1-D float64 array, or a ValueError if empty, not 1-D, not numeric, NaN or infinite."""
    array = np.asarray(values)
    if array.dtype.kind not in "biuf":
        raise ValueError(f"{name}: numbers expected, got {array.dtype}")
    if array.ndim != 1:
        raise ValueError(f"{name}: one dimension expected, got shape {array.shape}")
    if array.size == 0:
        raise ValueError(f"{name}: empty")
    if not np.isfinite(array).all():
        raise ValueError(f"{name}: NaN or infinite values")
    return array.astype(np.float64, copy=False)


def binary(name: str, values: ArrayLike) -> FloatArray:
    """`values` as 1-D float64 of 0 and 1; anything else is a ValueError."""
    array = finite(name, values)
    if not ((array == 0) | (array == 1)).all():
        raise ValueError(f"{name}: only 0 and 1 are allowed")
    return array


def probabilities(name: str, values: ArrayLike) -> FloatArray:
    """`values` as 1-D float64 within [0, 1]; anything else is a ValueError."""
    array = finite(name, values)
    if array.min() < 0 or array.max() > 1:
        raise ValueError(f"{name}: outside [0, 1]")
    return array


def same_length(**arrays: NDArray[np.generic]) -> None:
    """A ValueError naming the arguments unless all have one length."""
    if len({len(array) for array in arrays.values()}) > 1:
        raise ValueError(", ".join(f"{name} has {len(a)}" for name, a in arrays.items()) + ": lengths differ")


def share(name: str, value: float) -> float:
    """A number within [0, 1], or a ValueError."""
    if not 0 <= value <= 1:
        raise ValueError(f"{name}: {value} is outside [0, 1]")
    return float(value)


def groups(name: str, values: ArrayLike) -> NDArray[np.int64]:
    """Any identifiers (numbers or strings) as integers 0..G-1, in the order of the sorted identifiers."""
    array = np.asarray(values)
    if array.ndim != 1 or array.size == 0:
        raise ValueError(f"{name}: one non-empty dimension expected, got shape {array.shape}")
    if array.dtype.kind == "f" and not np.isfinite(array).all():
        raise ValueError(f"{name}: NaN or infinite values")
    return np.unique(array, return_inverse=True)[1].astype(np.int64)
