"""Readouts: uncertainties of images from what the members of a method said, computed afterwards.

Notation: K members or samples with scores (K, n) on n images; the method's own scores s (n,); threshold tau; a member
or the method calls an image anomalous if its score lies above tau; a member's level is its mean score of calibration
images. Every readout is (n,), higher = less to be trusted.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from rdbench.metrics._checks import FloatArray, finite


@dataclass(frozen=True)
class Readout:
    """One way to read members out, and what the docs say of it."""

    definition: str
    values: str
    ties: str
    source: str
    compute: Callable[[FloatArray, FloatArray, float, FloatArray], FloatArray]
    """Members (K, n), scores (n,), threshold, levels (K,) -> (n,)."""


def read_out(name: str, member_scores: ArrayLike, scores: ArrayLike, threshold: float, levels: ArrayLike) -> FloatArray:
    """The readout `name` of `READOUTS` of n images, float64.

    member_scores: (K, n), K >= 1; scores: (n,); levels: (K,), or one for all. Raises ValueError that names the argument
    that cannot be used.
    """
    s = finite("scores", scores)
    members = np.asarray(member_scores)
    if members.ndim != 2 or not len(members) or members.shape[1] != len(s):
        raise ValueError(f"member_scores: (members, {len(s)}) expected, got shape {members.shape}")
    checked = finite("member_scores", members.ravel()).reshape(members.shape)
    if not np.isfinite(threshold):
        raise ValueError(f"threshold: {threshold} is not finite")
    level = np.asarray(levels, np.float64)
    if level.shape not in ((), (len(members),)) or not np.isfinite(level).all():
        raise ValueError(f"levels: {len(members)} finite numbers expected, one per member, got {level}")
    return READOUTS[name].compute(checked, s, float(threshold), np.broadcast_to(level, len(members)))


def _std(members: FloatArray, scores: FloatArray, threshold: float, levels: FloatArray) -> FloatArray:
    if len(members) == 1:
        return np.zeros_like(scores)
    # of the deviations from the first member: equal members have a standard deviation of exactly 0
    return np.asarray(np.std(members - members[0], axis=0, ddof=1))


def _centred_std(members: FloatArray, scores: FloatArray, threshold: float, levels: FloatArray) -> FloatArray:
    return _std(members - levels[:, None], scores, threshold, levels)


def _disagreement(members: FloatArray, scores: FloatArray, threshold: float, levels: FloatArray) -> FloatArray:
    return np.asarray(((members > threshold) != (scores > threshold)).mean(axis=0))


def _entropy(members: FloatArray, scores: FloatArray, threshold: float, levels: FloatArray) -> FloatArray:
    votes = (members > threshold).sum(axis=0)
    minority = np.minimum(votes, len(members) - votes)  # so that v and K - v votes tie exactly
    v = minority / len(members)
    logs = np.log2(v, out=np.zeros_like(v), where=v > 0)
    return np.asarray(-v * logs - (1 - v) * np.log2(1 - v)) + 0.0  # no negative zero


def _standardised_margin(members: FloatArray, scores: FloatArray, threshold: float, levels: FloatArray) -> FloatArray:
    from scipy.special import ndtr

    margin, std = np.abs(scores - threshold), _std(members, scores, threshold, levels)
    ratio = np.where(margin > 0, np.inf, 0.0)  # where std is 0
    with np.errstate(over="ignore"):
        np.divide(margin, std, out=ratio, where=std > 0)
    return np.asarray(ndtr(-ratio))


def _margin(members: FloatArray, scores: FloatArray, threshold: float, levels: FloatArray) -> FloatArray:
    return -np.abs(scores - threshold)


READOUTS = {
    "std": Readout(
        "standard deviation of the members' scores, $K - 1$ in the denominator; 0 with one member",
        "$\\ge 0$",
        "only where all members agree to the last digit",
        "Lakshminarayanan et al. 2017",
        _std,
    ),
    "centred_std": Readout(
        "standard deviation of $s_k - \\bar c_k$, with $\\bar c_k$ the member's mean score of the calibration images: "
        "members apart from their levels",
        "$\\ge 0$",
        "as std",
        "rdbench",
        _centred_std,
    ),
    "disagreement": Readout(
        "share of members whose decision at $\\tau$ differs from the method's",
        "$0, 1/K, \\dots, 1$",
        "many: at most $K + 1$ values",
        "Freeman 1965 (variation ratio), against the decision",
        _disagreement,
    ),
    "entropy": Readout(
        "$-v \\log_2 v - (1 - v) \\log_2 (1 - v)$ with $v$ the share of members that call the image anomalous",
        "$[0, 1]$ bit",
        "many: at most $\\lfloor K/2 \\rfloor + 1$ values; $v$ and $1 - v$ tie",
        "Dagan & Engelson 1995 (vote entropy)",
        _entropy,
    ),
    "standardised_margin": Readout(
        "$\\Phi(-\\lvert s - \\tau \\rvert / std)$: chance that a normal draw with mean $s$ and the members' $std$ "
        "lies on the other side of $\\tau$",
        "$[0, 1/2]$",
        "at 0 where $std = 0$ or the margin is beyond some 38 $std$, where float64 ends; at 1/2 where $s = \\tau$, "
        "$std = 0$ included",
        "Echard et al. 2011",
        _standardised_margin,
    ),
    "margin": Readout(
        "$-\\lvert s - \\tau \\rvert$: the free control, which asks no member",
        "$\\le 0$",
        "where scores lie equally far from $\\tau$",
        "rdbench",
        _margin,
    ),
}
"""Every readout by its name, in the order of printing."""


def first_members(member_scores: NDArray[np.float32]) -> Iterator[tuple[NDArray[np.float32], NDArray[np.float32]]]:
    """Mean and standard deviation of the first k members (K, ...), for k = 1..K, in float32.

    The same steps in the same order as `rdbench.uq.sampling.RunningMoments`, so that k members give, bit by bit, the
    score that a method with k members would have stored, and its uncertainty but for the last bit: torch does not round
    square roots correctly.
    """
    mean = squares = np.zeros(member_scores.shape[1:], np.float32)
    for k, value in enumerate(member_scores.astype(np.float32, copy=False), start=1):
        deviation = value - mean
        mean = mean + deviation / np.float32(k)
        squares = squares + deviation * (value - mean)
        yield mean, np.sqrt(np.maximum(squares, 0) / np.float32(max(k - 1, 1)))


def table() -> str:
    """The readouts as a Markdown table."""
    rows = ["| Readout | Definition | Values | Ties | Source |", "|---|---|---|---|---|"]
    rows += [f"| **{name}** | {r.definition} | {r.values} | {r.ties} | {r.source} |" for name, r in READOUTS.items()]
    return "\n".join(rows)
