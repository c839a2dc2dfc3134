"""Selective prediction: does an uncertainty know which decisions are wrong?

Notation: n images, errors e (n,) with 1 = wrong decision, uncertainty u (n,) with higher = less to be
trusted. Images are accepted from the least uncertain on; E_k is the number of errors among the first k.
Equal uncertainties take the expectation over their orders, exactly, so no figure depends on row order.
A sample without an error has nothing to rank: every figure but the cost is `nan` ("no failures").
A function ending in `_of` takes a `Ranking` and gives one value per resample; the plain one is its R = 1.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from rdbench.metrics._checks import FloatArray, binary, finite, same_length, share
from rdbench.metrics._ranking import Ranking, harmonic, rank, ratio
from rdbench.metrics.detection import auroc_of

_MOST_KEPT = 2**15
_walked: dict[tuple[float, ...], tuple[float, float]] = {}
"""What `_last_allowed` gave, by a tie's four counts and the risk."""
_NEGLIGIBLE = 80.0
"""-log of a chance that no figure shows: 2e-35."""


class Costs(NamedTuple):
    """What a missed anomaly, a false alarm and one review cost, in any one unit."""

    false_negative: float = 10.0
    false_positive: float = 1.0
    review: float = 0.5


def rank_errors(errors: ArrayLike, uncertainty: ArrayLike, weights: NDArray[np.integer] | None = None) -> Ranking:
    """The checked ranking of errors (n,) by uncertainty (n,), under weights (R, n) if given."""
    e, u = binary("errors", errors), finite("uncertainty", uncertainty)
    same_length(errors=e, uncertainty=u)
    return rank(e, u, weights)


def controls(errors: ArrayLike, scores: ArrayLike, threshold: float) -> dict[str, FloatArray]:
    """The three uncertainties (n,) that every method is read beside, to be given to the same functions.

    random: constant, which as one tie is the exact expectation of an uncertainty that knows nothing
    margin: -|score - threshold|, free with any detector
    oracle: the errors themselves
    """
    e, s = binary("errors", errors), finite("scores", scores)
    same_length(errors=e, scores=s)
    if not np.isfinite(threshold):
        raise ValueError(f"threshold: {threshold} is not finite")
    return {"random": np.zeros(len(e)), "margin": -np.abs(s - threshold), "oracle": e}


def risk_coverage_curve(errors: ArrayLike, uncertainty: ArrayLike) -> tuple[FloatArray, FloatArray]:
    """Coverage k/n and expected error rate E_k/k among the k least uncertain, k = 1..n, each (n,)."""
    ranking = rank_errors(errors, uncertainty)
    k = np.arange(1, ranking.total[0] + 1)
    kept = np.interp(k, np.append(0, ranking.end[0]), np.append(0, ranking.hits_end[0]))
    return k / len(k), kept / k


def aurc(errors: ArrayLike, uncertainty: ArrayLike) -> float:
    """Mean over k = 1..n of E_k/k, the area under the risk-coverage curve (Geifman & El-Yaniv 2017)."""
    return float(aurc_of(rank_errors(errors, uncertainty))[0])


def aurc_of(ranking: Ranking) -> FloatArray:
    """(R,) AURC. Within a tie E_k grows in a line, so the sum of E_k/k over it has a closed form."""
    r = ranking
    steps = harmonic(r.end) - harmonic(r.before)
    risks = (r.hits + (r.hits_before - r.before * r.rate) * steps).sum(axis=1)
    return _with_failures(r, risks / r.total)


def e_aurc(errors: ArrayLike, uncertainty: ArrayLike) -> float:
    """AURC minus the best AURC for as many errors m among n images (Geifman et al. 2019).

    The best puts every error last; at finite n it is (m - (n - m)(H_n - H_{n-m})) / n with the
    harmonic numbers H, which tends to err + (1 - err) ln(1 - err).
    """
    return float(e_aurc_of(rank_errors(errors, uncertainty))[0])


def e_aurc_of(ranking: Ranking) -> FloatArray:
    """(R,) excess AURC."""
    n, m = ranking.total, ranking.total_hits
    return aurc_of(ranking) - (m - (n - m) * (harmonic(n) - harmonic(n - m))) / n


def augrc(errors: ArrayLike, uncertainty: ArrayLike) -> float:
    """Area under (k/n, E_k/n) by trapezoids from (0, 0) (Traub et al. 2024).

    Equals (1 - failure_auroc) acc err + err^2/2; the chance that an accepted decision, at a coverage
    drawn at random, is wrong and let through.
    """
    return float(augrc_of(rank_errors(errors, uncertainty))[0])


def augrc_of(ranking: Ranking) -> FloatArray:
    """(R,) AUGRC."""
    area = (ranking.size * (ranking.hits_before + ranking.hits / 2)).sum(axis=1)
    return _with_failures(ranking, area / ranking.total**2)


def failure_auroc(errors: ArrayLike, uncertainty: ArrayLike) -> float:
    """P(u_wrong > u_right) + P(u_wrong = u_right)/2; `nan` also if all are wrong (Hendrycks & Gimpel 2017)."""
    return float(auroc_of(rank_errors(errors, uncertainty))[0])


def risk_at_coverage(errors: ArrayLike, uncertainty: ArrayLike, coverage: float) -> float:
    """Error rate among the ceil(coverage n) least uncertain images (at least one)."""
    return float(risk_at_coverage_of(rank_errors(errors, uncertainty), share("coverage", coverage))[0])


def risk_at_coverage_of(ranking: Ranking, coverage: float) -> FloatArray:
    """(R,) risk at a coverage."""
    kept = np.maximum(np.ceil(coverage * ranking.total - 1e-9), 1)  # 1e-9: 0.07 * 100 is 7, not 8
    return _with_failures(ranking, ranking.hits_among(kept) / kept)


def coverage_at_risk(errors: ArrayLike, uncertainty: ArrayLike, risk: float) -> float:
    """Largest k/n with E_k/k <= risk, 0 if there is none; with ties the expectation of that over orders.

    (Not the largest k of the expected curve: that would be 0 or 1 for an uncertainty without content,
    where a random one in fact finds some coverage by luck.)
    """
    return float(coverage_at_risk_of(rank_errors(errors, uncertainty), share("risk", risk))[0])


def coverage_at_risk_of(ranking: Ranking, risk: float) -> FloatArray:
    """(R,) coverage at a risk."""
    r = ranking
    if risk == 1:
        return _with_failures(r, np.ones(len(r.total)))
    allowed = r.hits_end <= risk * r.end + 1e-9
    # A tie of errors only: the first j of them still fit under (E + j) / (k + j) <= risk.
    fitting = np.floor((risk * r.before - r.hits_before) / (1 - risk) + 1e-9)
    partly = (r.hits == r.size) & (fitting > 0)
    reach = np.where(partly, r.before + np.minimum(fitting, r.size), np.where(allowed, r.end, 0))
    certain = reach.max(axis=1)
    # A tie of right and wrong beyond the last certain k may reach further in some of its orders.
    mixed = (r.hits > 0) & (r.hits < r.size) & (r.before >= certain[:, None])
    unreached = np.ones(len(certain))
    reached = np.zeros(len(certain))
    for g in np.flatnonzero(mixed.any(axis=0))[::-1]:
        rows = mixed[:, g]
        counts = np.stack([r.size[rows, g], r.hits[rows, g], r.before[rows, g], r.hits_before[rows, g]], axis=1)
        mean, none = _last_allowed(counts.astype(np.int64), risk)
        reached[rows] += unreached[rows] * mean
        unreached[rows] *= none
    return _with_failures(r, (reached + unreached * certain) / r.total)


def _last_allowed(counts: NDArray[np.int64], risk: float) -> tuple[FloatArray, FloatArray]:
    """Over the orders of ties: E[k; k is the last place inside with E_k/k <= risk], and P(no such place).

    counts: (B, 4) per tie its size, hits, samples before and hits before; two arrays (B,) come back. What was walked
    once is kept: the resamples of all cells with one number of images share the few ties of the random control.
    """
    distinct, inverse = np.unique(counts, axis=0, return_inverse=True)
    ties = [(*tie, risk) for tie in distinct.tolist()]
    if len(_walked) > _MOST_KEPT:
        _walked.clear()
    if new := [row for row, tie in enumerate(ties) if tie not in _walked]:
        walked = zip(*_walk_back(distinct[new], risk), strict=True)
        _walked.update(zip([ties[row] for row in new], walked, strict=True))
    found = np.array([_walked[tie] for tie in ties])
    return found[inverse, 0], found[inverse, 1]


def _walk_back(counts: NDArray[np.int64], risk: float) -> tuple[FloatArray, FloatArray]:
    """Walks back over each tie's places with the distribution of the errors x among its first j of them,
    and takes out what meets the risk. The end itself does not meet it.

    Sums run from the left, so that a tie's bits are the same among whichever others it is walked.
    """
    size, hits, before, hits_before = counts.T
    start = _first_beyond_chance(counts, risk)
    x = np.arange(np.minimum(hits, start).max() + 1)
    chance = np.zeros((len(counts), len(x)))
    mean = np.zeros(len(counts))
    for j in range(int(start.max()) - 1, 0, -1):
        if len(entering := np.flatnonzero(start == j + 1)):
            chance[entering] = _hits_among_first(j + 1, size[entering], hits[entering], x)
        dropped = chance * (x / (j + 1))  # the image at place j + 1 was one of the x errors
        chance -= dropped
        chance[:, :-1] += dropped[:, 1:]
        allowed = np.floor(risk * (before + j) + 1e-9) - hits_before
        few = chance[:, : max(0, int(allowed.max()) + 1)]
        meets = x[: few.shape[1]] <= allowed[:, None]
        if few.size:
            mean += np.cumsum(few * meets, axis=1)[:, -1] * (before + j)
        few[meets] = 0
    return mean, np.where(start > 1, np.cumsum(chance, axis=1)[:, -1], 1)


def _first_beyond_chance(counts: NDArray[np.int64], risk: float) -> NDArray[np.int64]:
    """(B,) place of each tie, from which on the risk is met with a chance below exp(-_NEGLIGIBLE) a place.

    Of j drawn without replacement, of which a share p are errors, a share a < p or less is with a chance of at most
    exp(-j KL(a | p)) (Hoeffding 1963, theorems 1 and 4).
    """
    from scipy.special import rel_entr

    size, hits, before, hits_before = counts.T[..., None]
    j = np.arange(1, size.max())
    allowed = (np.floor(risk * (before + j) + 1e-9) - hits_before) / j
    p, a = hits / size, np.clip(allowed, 0, 1)
    unlikely = (allowed < p) & (j * (rel_entr(a, p) + rel_entr(1 - a, 1 - p)) > _NEGLIGIBLE)
    last: NDArray[np.int64] = np.max(j * ((j < size) & (allowed >= 0) & ~unlikely), axis=1, initial=0)
    return last + 1


def _hits_among_first(place: int, size: NDArray[np.int64], hits: NDArray[np.int64], x: NDArray[np.int64]) -> FloatArray:
    """(B, X) chances of x hits among the first `place` of a tie: hypergeometric, from the ratios of neighbours."""
    right = (size - hits)[:, None] - place  # plus x: the right ones that stay behind
    inside = (x >= -right) & (x <= np.minimum(hits, place)[:, None])
    following = inside[:, :-1] & inside[:, 1:]
    ratio_of = (hits[:, None] - x[:-1]) * (place - x[:-1]) / np.where(following, x[1:] * (right + x[1:]), 1)
    logs = np.cumsum(np.log(np.where(following, ratio_of, 1)), axis=1)
    logs = np.where(inside, np.pad(logs, ((0, 0), (1, 0))), -np.inf)
    chances: FloatArray = np.exp(logs - logs.max(axis=1, keepdims=True))
    return chances / np.cumsum(chances, axis=1)[:, -1:]


def errors_caught(errors: ArrayLike, uncertainty: ArrayLike, budget: float) -> float:
    """Share of all errors among the floor(budget n) most uncertain images, those sent to review."""
    return float(errors_caught_of(rank_errors(errors, uncertainty), share("budget", budget))[0])


def errors_caught_of(ranking: Ranking, budget: float) -> FloatArray:
    """(R,) share of errors caught."""
    kept = ranking.total - reviewed(ranking.total, budget)
    return ratio(ranking.total_hits - ranking.hits_among(kept), ranking.total_hits)


def expected_cost(
    labels: ArrayLike, decisions: ArrayLike, uncertainty: ArrayLike, costs: Costs, budget: float
) -> float:
    """Mean cost per image when the floor(budget n) most uncertain are reviewed, and review finds the truth.

    labels, decisions: (n,) of 0 and 1, 1 = anomalous; costs: `Costs` or (c_FN, c_FP, c_review), each >= 0.
    """
    losses, u = decision_losses(labels, decisions, costs), finite("uncertainty", uncertainty)
    same_length(labels=losses, uncertainty=u)
    return float(expected_cost_of(rank(losses, u), Costs(*costs).review, share("budget", budget))[0])


def expected_cost_of(ranking: Ranking, review: float, budget: float) -> FloatArray:
    """(R,) mean cost, with the losses as the ranking's hits."""
    sent = reviewed(ranking.total, budget)
    return (ranking.hits_among(ranking.total - sent) + review * sent) / ranking.total


def decision_losses(labels: ArrayLike, decisions: ArrayLike, costs: Costs) -> FloatArray:
    """(n,) c_FN for a missed anomaly, c_FP for a false alarm, 0 for a right decision.

    Given as the uncertainty of `expected_cost` they are its oracle.
    """
    y, d = binary("labels", labels), binary("decisions", decisions)
    same_length(labels=y, decisions=d)
    if len(costs) != len(Costs._fields):
        raise ValueError(f"costs: {tuple(costs)} is not (false negative, false positive, review)")
    c = Costs(*costs)
    if not all(np.isfinite(value) and value >= 0 for value in c):
        raise ValueError(f"costs: {tuple(c)} must be finite and not negative")
    return c.false_negative * y * (1 - d) + c.false_positive * d * (1 - y)


def reviewed(images: FloatArray, budget: float) -> FloatArray:
    """How many of `images` a review budget covers: whole images, never more than the budget."""
    return np.floor(budget * images + 1e-9)


def _with_failures(ranking: Ranking, values: FloatArray) -> FloatArray:
    return np.where(ranking.total_hits == 0, np.nan, values)
