"""Selection from every cluster: the best rows, the rows nearest to the centre, or rows sampled by quality.

Sources: Yu et al. 2024, "Diversify and Conquer: Diversity-Centric Data Selection with Iterative Refinement"
(arXiv:2409.11378), for k-means sampling (kM-Random, kM-Closest, kMQ); Xia et al. 2024, "Rethinking Data Selection at
Scale" (arXiv:2410.09335), for the highest scores within clusters.
"""

import math
from collections.abc import Mapping
from typing import Literal, SupportsIndex, get_args

import numpy as np
import numpy.typing as npt

from hf_datasel.errors import SelectionError, check_option
from hf_datasel.strategies._checks import Ints, check_budget
from hf_datasel.strategies.top import top

Shares = Literal["proportional", "equal"] | Mapping[int, float]
Weights = Literal["softmax", "proportional"]
Bools = npt.NDArray[np.bool_]
Doubles = npt.NDArray[np.float64]

_DIGITS = 9  # decimals to which remainders are rounded, so that float rounding does not break ties


def quotas(
    cluster_id: npt.ArrayLike,
    budget: SupportsIndex,
    shares: Shares = "proportional",
    eligible: npt.ArrayLike | None = None,
) -> dict[int, int]:
    """Divide a budget over clusters by the largest-remainder method.

    If the quota of a cluster exceeds its eligible rows, all of them are selected and the remaining budget is divided
    again over the other clusters, until every quota can be met.

    Args:
        cluster_id: One whole number per row, shape (n,). A negative id, NaN or None means that the row is in no
            cluster.
        budget: Number of rows to divide, at most the eligible rows in clusters.
        shares: `"proportional"` to the number of rows in a cluster, eligible or not; `"equal"`; or a mapping from
            cluster id to a weight >= 0, where weight 0 means no rows. Equal remainders go to the cluster with more
            rows, then to the lower id.
        eligible: Mask of the rows that can be selected, bool of shape (n,); all rows by default.

    Returns:
        Number of rows to select from each cluster, by ascending id, 0 included. The numbers sum to the budget.

    Raises:
        SelectionError: The budget is more than the rows that can be selected; a cluster id is not a whole number; or
            `shares` is unknown, has a negative weight, or has no weight for one of the clusters.

    >>> quotas([0, 0, 0, 0, 1, 1, 7, None], budget=5)
    {0: 3, 1: 1, 7: 1}
    """
    ids, member = _clusters("quotas", cluster_id)
    available = np.ones(len(member), dtype=bool) if eligible is None else np.asarray(eligible)
    if available.dtype != np.bool_ or available.shape != member.shape:
        raise SelectionError(
            f"quotas: eligible must be one bool for each of the {len(member):,} rows, "
            f"but is {available.dtype} of shape {available.shape}."
        )
    without = "a cluster" if eligible is None else "a cluster or not eligible"
    quota = _quotas("quotas", ids, member, available, budget, shares, without)
    return dict(zip(ids.tolist(), quota.tolist(), strict=True))


def top_per_cluster(
    scores: npt.ArrayLike, cluster_id: npt.ArrayLike, budget: SupportsIndex, shares: Shares = "proportional"
) -> Ints:
    """Select the highest scores of each cluster.

    Args:
        scores: One number per row, shape (n,). Rows whose score is NaN, None or infinite are never selected, but count
            in the size of their cluster.
        cluster_id: As in `quotas`.
        budget: Number of rows to select, at most those with a finite score and a cluster.
        shares: As in `quotas`.

    Returns:
        int64 positions, shape (budget,), by descending score over all clusters; equal scores in the order of their
        positions.

    Raises:
        SelectionError: As in `quotas`, or `scores` does not have one number per row.

    >>> top_per_cluster([0.9, 0.8, 0.7, 0.1], cluster_id=[0, 0, 0, 1], budget=3)
    array([0, 1, 3])
    """
    function = "top_per_cluster"
    ids, member = _clusters(function, cluster_id)
    values, finite = _numbers(function, "scores", scores, len(member))
    quota = _quotas(function, ids, member, finite, budget, shares, "a cluster and a finite score")
    rows = np.flatnonzero(finite & (member >= 0))
    ranked = rows[top(values[rows], len(rows))]
    first, _ = _first_per_cluster(member[ranked], quota)
    return ranked[np.sort(first)]


def nearest_per_cluster(
    distance: npt.ArrayLike, cluster_id: npt.ArrayLike, budget: SupportsIndex, shares: Shares = "proportional"
) -> Ints:
    """Select the rows nearest to the centre of their cluster (kM-Closest).

    Each row belongs to one cluster, so no row is selected twice, even if it is the nearest to several centres. Rows
    with equal vectors count as different rows; set the distance of all but one of them to NaN to select the next
    nearest row instead.

    Args:
        distance: Distance of each row to the centre of its cluster, shape (n,). Rows whose distance is NaN, None or
            infinite are never selected, but count in the size of their cluster.
        cluster_id: As in `quotas`.
        budget: Number of rows to select, at most those with a finite distance and a cluster.
        shares: As in `quotas`. `"equal"` with a budget of one row per cluster selects the row nearest to each centre.

    Returns:
        int64 positions, shape (budget,), by (rank in the cluster + 0.5) / quota, then by cluster id, so that every
        prefix is about proportional to the quotas. Equal distances are in the order of their positions.

    Raises:
        SelectionError: As in `quotas`, or `distance` does not have one number per row.

    >>> nearest_per_cluster([0.3, 0.1, 0.2, 0.5, 0.4, 0.0], cluster_id=[0, 0, 0, 0, 1, 1], budget=3)
    array([1, 5, 2])
    """
    function = "nearest_per_cluster"
    ids, member = _clusters(function, cluster_id)
    values, finite = _numbers(function, "distance", distance, len(member))
    quota = _quotas(function, ids, member, finite, budget, shares, "a cluster and a finite distance")
    rows = np.flatnonzero(finite & (member >= 0))
    return _spread(rows[np.argsort(values[rows], kind="stable")], member, quota)


def sample_per_cluster(
    quality: npt.ArrayLike | None,
    cluster_id: npt.ArrayLike,
    budget: SupportsIndex,
    rng: np.random.Generator,
    temperature: float = 1.0,
    weights: Weights = "softmax",
    shares: Shares = "proportional",
) -> Ints:
    """Sample rows from each cluster by quality (kMQ), or uniformly (kM-Random).

    Rows are sampled one at a time without replacement, with a probability proportional to their weight among the
    remaining rows of the cluster. This uses the Gumbel-top-k trick: add Gumbel noise to the logarithm of each weight
    and select the highest sums. It has exactly this distribution and never computes an exponential, so large
    qualities cannot overflow.

    The paper samples with replacement. A selection contains each row once. Sampling with replacement until the quota
    of distinct rows is met, ignoring repeated rows, has the same distribution as sampling without replacement, so
    there is no setting for it.

    Args:
        quality: One number per row, shape (n,); None samples uniformly. Rows whose quality is NaN, None or infinite
            are never selected, but count in the size of their cluster.
        cluster_id: As in `quotas`.
        budget: Number of rows to select, at most those with a finite quality and a cluster.
        rng: Random generator. One number is drawn for every row, in the order of the rows.
        temperature: Above 0. Lower values concentrate on the highest qualities; infinity samples uniformly.
        weights: `"softmax"` is exp(quality / temperature), as in the authors' code. `"proportional"` is
            quality ** (1 / temperature), which is the paper's formula at temperature 1; rows of quality 0 are then
            sampled uniformly once their cluster has no other rows.
        shares: As in `quotas`.

    Returns:
        int64 positions, shape (budget,), in the order sampled within a cluster, and over clusters as in
        `nearest_per_cluster`.

    Raises:
        SelectionError: As in `quotas`; `quality` does not have one number per row or has a negative number under
            `"proportional"`; or the temperature is not above 0.

    >>> rng = np.random.default_rng(0)
    >>> sample_per_cluster([9.0, 0.0, 0.0, 9.0], cluster_id=[0, 0, 1, 1], budget=2, rng=rng, temperature=0.01)
    array([0, 3])
    """
    function = "sample_per_cluster"
    ids, member = _clusters(function, cluster_id)
    values, finite = _numbers(function, "quality", np.zeros(len(member)) if quality is None else quality, len(member))
    log_weights = _log_weights(values, finite, temperature, weights)
    quota = _quotas(function, ids, member, finite, budget, shares, "a cluster and a finite quality")
    noise = rng.gumbel(size=len(member))
    rows = np.flatnonzero(finite & (member >= 0))
    # A sum can be infinite, or so large that the noise is rounded away. Then quality decides, and the noise breaks
    # ties, as exact sums would do.
    keys = (-noise[rows], -values[rows].astype(np.float64), -(log_weights[rows] + noise[rows]))
    return _spread(rows[np.lexsort(keys)], member, quota)


def _log_weights(values: npt.NDArray[np.generic], finite: Bools, temperature: float, weights: Weights) -> Doubles:
    """Return the logarithm of the weight of each row with a finite quality, up to a constant."""
    if not temperature > 0:
        raise SelectionError(f"sample_per_cluster: temperature={temperature!r} must be above 0.")
    check_option(f"sample_per_cluster: weights={weights!r}", weights, get_args(Weights), SelectionError)
    logs = np.where(finite, values, 0).astype(np.float64)
    if weights == "proportional":
        negative = np.flatnonzero(logs < 0)
        if len(negative):
            raise SelectionError(
                "sample_per_cluster: a probability proportional to quality needs quality >= 0, but "
                f"{len(negative):,} of {len(logs):,} are below (the first is {logs[negative[0]]} at position "
                f'{negative[0]}). weights="softmax" accepts any quality.'
            )
        with np.errstate(divide="ignore"):
            logs = np.log(logs)
    with np.errstate(over="ignore"):
        return logs / temperature if math.isfinite(temperature) else np.zeros(len(logs))


def _clusters(function: str, cluster_id: npt.ArrayLike) -> tuple[Ints, Ints]:
    """Return the ids of the clusters, ascending, and the index of each row's cluster among them, -1 for none."""
    values = np.asarray(cluster_id)
    if values.ndim != 1:
        raise SelectionError(f"{function} takes one cluster id per row, shape (n,), but got shape {values.shape}.")
    try:
        if values.dtype.kind not in "biufO":
            raise TypeError(values.dtype)
        # NaN is the only value unequal to itself. Objects are not converted to float, which would round large ids.
        missing = values != values
        if values.dtype == object:
            missing |= np.array([value is None for value in values.tolist()], dtype=bool)
        filled = np.where(missing, -1, values)
        with np.errstate(invalid="ignore"):
            numbers = filled.astype(np.int64)
        if (numbers != filled).any():
            raise ValueError("a fraction, or too large")
    except (TypeError, ValueError, OverflowError) as error:
        raise SelectionError(
            f"{function}: cluster ids must be whole numbers of 64 bits, or NaN or None for no cluster."
        ) from error
    member = np.full(len(numbers), -1, dtype=np.int64)
    inside = numbers >= 0
    ids, member[inside] = np.unique(numbers[inside], return_inverse=True)
    return ids, member


def _numbers(function: str, name: str, numbers: npt.ArrayLike, rows: int) -> tuple[npt.NDArray[np.generic], Bools]:
    """Return one number per row, and a mask of those that are finite."""
    values = np.asarray(numbers)
    if values.dtype == object:  # a list with None, as nulls are read
        values = values.astype(np.float64)
    if values.shape != (rows,):
        raise SelectionError(
            f"{function}: {name} must be one number for each of the {rows:,} rows that have a cluster id, "
            f"but has shape {values.shape}."
        )
    return values, np.isfinite(values)


def _quotas(
    function: str, ids: Ints, member: Ints, eligible: Bools, budget: SupportsIndex, shares: Shares, without: str
) -> Ints:
    """Return the quota of each cluster, in the order of `ids`."""
    sizes = np.bincount(member[member >= 0], minlength=len(ids))
    capacity = np.bincount(member[eligible & (member >= 0)], minlength=len(ids))
    weights = _share_weights(function, ids, sizes, shares)
    if (weights == 0).any():
        capacity[weights == 0] = 0
        without += ", or in a cluster whose share is 0"
    rows = check_budget(function, budget, available=int(capacity.sum()), total=len(member), without=without)
    quota = np.zeros(len(ids), dtype=np.int64)
    remaining = np.flatnonzero(capacity)
    while rows:
        parts = _largest_remainder(weights[remaining], sizes[remaining], rows)
        full = parts > capacity[remaining]
        if not full.any():
            quota[remaining] = parts
            break
        quota[remaining[full]] = capacity[remaining[full]]
        rows -= int(capacity[remaining[full]].sum())
        remaining = remaining[~full]
    return quota


def _share_weights(function: str, ids: Ints, sizes: Ints, shares: Shares) -> Ints | Doubles:
    """Return the weight of each cluster: integers, whose shares are exact, unless `shares` maps ids to weights."""
    if not isinstance(shares, Mapping):
        if shares == "proportional":
            return sizes
        if shares == "equal":
            return np.ones(len(ids), dtype=np.int64)
        raise SelectionError(
            f"{function}: shares={shares!r} must be 'proportional', 'equal' or {{cluster id: weight}}."
        )
    missing = [cluster for cluster in ids.tolist() if cluster not in shares]
    if missing:
        raise SelectionError(
            f"{function}: shares has no weight for {len(missing):,} of the {len(ids):,} clusters (the first is "
            f"{missing[0]}). Pass weight 0 for a cluster to select no rows from it."
        )
    weights = np.array([shares[cluster] for cluster in ids.tolist()], dtype=np.float64)
    wrong = np.flatnonzero(~(np.isfinite(weights) & (weights >= 0)))
    if len(wrong):
        raise SelectionError(
            f"{function}: shares must be finite and >= 0, but that of cluster {ids[wrong[0]]} is {weights[wrong[0]]}."
        )
    weights /= max(weights.max(initial=0), np.finfo(np.float64).tiny)  # so that their sum is finite
    return weights


def _largest_remainder(weights: Ints | Doubles, sizes: Ints, budget: int) -> Ints:
    """Divide the budget by weight: rounded-down shares, then one row each by remainder, cluster size and lower id."""
    if weights.dtype == np.float64:
        floors, remainder = np.divmod(budget * (weights / weights.sum()), 1)
        remainder = np.round(remainder, _DIGITS)
    else:
        floors, remainder = np.divmod(budget * weights, weights.sum())
    parts: Ints = floors.astype(np.int64)
    parts[np.lexsort((-sizes, -remainder))[: budget - int(parts.sum())]] += 1
    return parts


def _first_per_cluster(member: Ints, quota: Ints) -> tuple[Ints, Doubles]:
    """Return the first `quota` rows of each cluster.

    Returns:
        Positions in `member`, cluster by cluster, and (rank in the cluster + 0.5) / quota of each.
    """
    grouped = np.argsort(member, kind="stable")
    sizes = np.bincount(member, minlength=len(quota))
    rank = np.arange(len(member)) - np.repeat(np.cumsum(sizes) - sizes, sizes)
    allowed = np.repeat(quota, sizes)
    inside = rank < allowed
    return grouped[inside], (rank[inside] + 0.5) / allowed[inside]


def _spread(ranked: Ints, member: Ints, quota: Ints) -> Ints:
    """Return the first rows of each cluster, ordered so that every prefix is about proportional to the quotas."""
    first, order = _first_per_cluster(member[ranked], quota)
    return ranked[first[np.argsort(order, kind="stable")]]
