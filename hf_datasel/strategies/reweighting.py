"""Weights of clusters that follow what a model makes of the rows chosen from them: the update of iterative kMQ.

Source: Yu et al. 2024, "Diversify and Conquer: Diversity-Centric Data Selection with Iterative Refinement"
(arXiv:2409.11378), Eq. 5 and 6.
"""

from typing import Literal, get_args

import numpy as np
import numpy.typing as npt

from hf_datasel.errors import SelectionError

__all__ = ["Update", "cluster_means", "effective_number", "reweighted"]

Update = Literal["exponential", "softmax", "paper"]
Doubles = npt.NDArray[np.float64]

_LEAST = 1e-300  # of a weight, so that a cluster can come up again, and gives its rows when all others are used up


def cluster_means(member: npt.ArrayLike, values: npt.ArrayLike, clusters: int) -> Doubles:
    """Mean value of the rows of each cluster (Eq. 5).

    Args:
        member: The place of each row's cluster, 0 to `clusters - 1`, shape (n,); below 0 for none.
        values: One number per row, shape (n,). Rows whose value is NaN, None or infinite do not count.
        clusters: How many there are.

    Returns:
        float64 of shape (clusters,), NaN where no row counts.

    >>> cluster_means([0, 0, 2, 2], [1.0, 2.0, np.nan, 5.0], clusters=3)
    array([1.5, nan, 5. ])
    """
    places, numbers = np.asarray(member, dtype=np.int64), np.asarray(values, dtype=np.float64)
    counted = np.isfinite(numbers) & (places >= 0)
    rows = np.bincount(places[counted], minlength=clusters)
    sums = np.bincount(places[counted], numbers[counted], minlength=clusters)
    return np.where(rows > 0, sums / np.maximum(rows, 1), np.nan)


def reweighted(
    weights: npt.ArrayLike, means: npt.ArrayLike, update: Update = "exponential", temperature: float = 1.0
) -> Doubles:
    """Weights of clusters in the next round, from those of this one and the mean gap of each.

    A cluster without a mean keeps its weight. The others divide what they had together: by `"exponential"` in
    proportion to w exp(s / temperature), by `"softmax"` to exp(s / temperature) alone, and by `"paper"` to w s, which
    is Eq. 6 normalised. A constant added to all means changes nothing, but for `"paper"`.

    Args:
        weights: Above 0, shape (k,).
        means: Shape (k,); NaN where a cluster has none.
        update: As above.
        temperature: Above 0. Lower: nearer to the highest mean taking all. Not for `"paper"`.

    Returns:
        float64 of shape (k,), with the sum of `weights`, and each of them above 0: at least 1e-300.

    Raises:
        SelectionError: An update that does not exist, or means that `"paper"` cannot use: with one below 0 it gives a
            negative weight, and without any above 0 no weight at all.

    >>> reweighted([0.5, 0.25, 0.25], [2.0, 1.0, np.nan], update="paper")
    array([0.6 , 0.15, 0.25])
    """
    before, gaps = np.asarray(weights, dtype=np.float64), np.asarray(means, dtype=np.float64)
    if update not in get_args(Update):
        raise SelectionError(f"reweighted: update={update!r} is not one of {', '.join(map(repr, get_args(Update)))}.")
    known = np.isfinite(gaps)
    if not known.any():
        return before.copy()
    old, mean = before[known], gaps[known]
    if update == "paper":
        shares = _literally(old, mean)
    else:
        with np.errstate(over="ignore"):  # to -inf: far below the highest
            logs = (mean - mean.max()) / temperature
        logs += np.log(old) if update == "exponential" else 0
        shares = np.exp(logs - logs.max())
    after = before.copy()
    after[known] = np.maximum(old.sum() * (shares / shares.sum()), _LEAST)
    return after


def _literally(weights: Doubles, means: Doubles) -> Doubles:
    """Eq. 6, up to a factor."""
    below = int((means < 0).sum())
    shares: Doubles = weights * means
    if below or not shares.sum() > 0:
        found = f"{below:,} of {len(means):,} are below it, the lowest {means.min():.4g}"
        raise SelectionError(
            "update='paper' multiplies the weight of each cluster by its mean gap (Eq. 6), which makes weights only "
            f"where no mean is below 0, and one is above: {found if below else 'all are 0'}. update='exponential' "
            "takes any."
        )
    return shares


def effective_number(weights: npt.ArrayLike) -> float:
    """How many clusters of equal weight would be as evenly spread: the exponential of the entropy.

    >>> effective_number([0.25, 0.25, 0.25, 0.25, 0.0])
    4.0
    """
    shares = np.asarray(weights, dtype=np.float64)
    shares = shares[shares > 0] / shares.sum()
    return float(np.exp(-(shares * np.log(shares)).sum()))
