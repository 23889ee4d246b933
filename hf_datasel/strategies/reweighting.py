"""Update of the cluster weights in iterative kMQ, from the quality of the model's responses in each cluster.

Source: Yu et al. 2024, "Diversify and Conquer: Diversity-Centric Data Selection with Iterative Refinement"
(arXiv:2409.11378), Eq. 5 and 6.
"""

from typing import Literal, get_args

import numpy as np
import numpy.typing as npt

from hf_datasel.errors import SelectionError, check_option

__all__ = ["Update", "cluster_means", "effective_number", "update_weights"]

Update = Literal["exponential", "softmax", "paper"]
Doubles = npt.NDArray[np.float64]

_LOWEST_WEIGHT = (
    1e-300  # above 0, so that the rows of a cluster can still be sampled when all other clusters are exhausted
)


def cluster_means(member: npt.ArrayLike, values: npt.ArrayLike, clusters: int) -> Doubles:
    """Compute the mean value of the rows of each cluster (Eq. 5).

    Args:
        member: Index of each row's cluster, 0 to `clusters - 1`, shape (n,); negative for no cluster.
        values: One number per row, shape (n,). Rows whose value is NaN, None or infinite are ignored.
        clusters: Number of clusters.

    Returns:
        float64 of shape (clusters,), NaN for clusters without a value.

    >>> cluster_means([0, 0, 2, 2], [1.0, 2.0, np.nan, 5.0], clusters=3)
    array([1.5, nan, 5. ])
    """
    indices, numbers = np.asarray(member, dtype=np.int64), np.asarray(values, dtype=np.float64)
    counted_rows = np.isfinite(numbers) & (indices >= 0)
    rows = np.bincount(indices[counted_rows], minlength=clusters)
    sums = np.bincount(indices[counted_rows], numbers[counted_rows], minlength=clusters)
    return np.where(rows > 0, sums / np.maximum(rows, 1), np.nan)


def update_weights(
    weights: npt.ArrayLike, means: npt.ArrayLike, update: Update = "exponential", temperature: float = 1.0
) -> Doubles:
    """Compute the cluster weights of the next round from the weights and the mean reward gap of this round.

    A cluster without a mean keeps its weight. The total weight of the others is divided in proportion to
    w exp(s / temperature) for `"exponential"`, exp(s / temperature) for `"softmax"`, and w s for `"paper"`, which is
    Eq. 6 normalized. Adding a constant to all means changes nothing, except for `"paper"`.

    Args:
        weights: Weights above 0, shape (k,).
        means: Mean gap of each cluster, shape (k,); NaN for none.
        update: Update rule, see above.
        temperature: Above 0. Lower values give more weight to the highest means. Ignored by `"paper"`.

    Returns:
        float64 of shape (k,), each at least 1e-300, with the same sum as `weights`.

    Raises:
        SelectionError: The update is unknown, or `"paper"` cannot use the means: a mean below 0 would give a negative
            weight, and without any mean above 0 all weights would be 0.

    >>> update_weights([0.5, 0.25, 0.25], [2.0, 1.0, np.nan], update="paper")
    array([0.6 , 0.15, 0.25])
    """
    current, gaps = np.asarray(weights, dtype=np.float64), np.asarray(means, dtype=np.float64)
    check_option(f"update_weights: update={update!r}", update, get_args(Update), SelectionError)
    finite = np.isfinite(gaps)
    result = current.copy()
    if not finite.any():
        return result
    old_weights, finite_means = current[finite], gaps[finite]
    if update == "paper":
        shares = _paper_shares(old_weights, finite_means)
    else:
        with np.errstate(over="ignore"):  # overflows to -inf, far below the highest mean
            logs = (finite_means - finite_means.max()) / temperature
        logs += np.log(old_weights) if update == "exponential" else 0
        shares = np.exp(logs - logs.max())
    result[finite] = np.maximum(old_weights.sum() * (shares / shares.sum()), _LOWEST_WEIGHT)
    return result


def _paper_shares(weights: Doubles, means: Doubles) -> Doubles:
    """Return the new weights of Eq. 6, up to a factor."""
    below = int((means < 0).sum())
    shares: Doubles = weights * means
    if below or not shares.sum() > 0:
        problem = f"{below:,} of {len(means):,} are below 0, the lowest {means.min():.4g}" if below else "all are 0"
        raise SelectionError(
            "update='paper' multiplies the weight of each cluster by its mean gap (Eq. 6), which requires that no "
            f"mean is below 0 and at least one is above, but {problem}. update='exponential' accepts any means."
        )
    return shares


def effective_number(weights: npt.ArrayLike) -> float:
    """Compute the effective number of clusters: the exponential of the entropy of the weights.

    k clusters of equal weight have the effective number k.

    >>> effective_number([0.25, 0.25, 0.25, 0.25, 0.0])
    4.0
    """
    shares = np.asarray(weights, dtype=np.float64)
    shares = shares[shares > 0] / shares.sum()
    return float(np.exp(-(shares * np.log(shares)).sum()))
