"""Rows from every cluster: the best, the nearest to the centre, or drawn by quality.

Sources: Yu et al. 2024, "Diversify and Conquer: Diversity-Centric Data Selection with Iterative Refinement"
(arXiv:2409.11378), for k-means sampling (kM-Random, kM-Closest, kMQ); Xia et al. 2024, "Rethinking Data Selection at
Scale" (arXiv:2410.09335), for the highest scores within clusters.
"""

from collections.abc import Mapping
from typing import Literal, SupportsIndex, get_args

import numpy as np
import numpy.typing as npt

from hf_datasel.errors import SelectionError
from hf_datasel.strategies._checks import Ints, check_budget
from hf_datasel.strategies.top import top

Shares = Literal["proportional", "equal"] | Mapping[int, float]
Weights = Literal["softmax", "proportional"]
Bools = npt.NDArray[np.bool_]
Doubles = npt.NDArray[np.float64]

_DIGITS = 9  # after the point: remainders of given weights that differ by less are a tie, as on paper


def quotas(
    cluster_id: npt.ArrayLike,
    budget: SupportsIndex,
    shares: Shares = "proportional",
    eligible: npt.ArrayLike | None = None,
) -> dict[int, int]:
    """Divide a budget over clusters by the method of the largest remainder.

    A cluster whose quota is above its eligible rows gives all of them, and what is left of the budget is divided anew
    over the other clusters, until every quota can be met.

    Args:
        cluster_id: One whole number per row, shape (n,). Negative, NaN or None: the row is in no cluster.
        budget: Rows to divide, at most the eligible rows in clusters.
        shares: `"proportional"` to the number of rows in a cluster, eligible or not; `"equal"`; or a weight >= 0 for
            every cluster, of which those with weight 0 give nothing. Equal remainders go to the cluster with more
            rows, then to the lower id.
        eligible: Rows that can be chosen, bool of shape (n,); all of them when not given.

    Returns:
        Rows to choose from each cluster, by ascending id, 0 included; they sum to the budget.

    Raises:
        SelectionError: The budget is more than the clusters can give; cluster ids that are not whole numbers; or
            shares that are unknown, negative, or without a weight for one of the clusters.

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
    """Choose the highest scores of each cluster.

    Args:
        scores: One number per row, shape (n,). Rows whose score is NaN, None or infinite are never chosen, but count
            in the size of their cluster.
        cluster_id: As in `quotas`.
        budget: Rows to choose, at most those with a finite score and a cluster.
        shares: As in `quotas`.

    Returns:
        int64 positions, shape (budget,), by descending score over all clusters; equal scores in the order of their
        positions.

    Raises:
        SelectionError: As `quotas`, or there is not one score per row.

    >>> top_per_cluster([0.9, 0.8, 0.7, 0.1], cluster_id=[0, 0, 0, 1], budget=3)
    array([0, 1, 3])
    """
    who = "top_per_cluster"
    ids, member = _clusters(who, cluster_id)
    values, finite = _numbers(who, "scores", scores, len(member))
    quota = _quotas(who, ids, member, finite, budget, shares, "a cluster and a finite score")
    rows = np.flatnonzero(finite & (member >= 0))
    ranked = rows[top(values[rows], len(rows))]
    taken, _ = _first_of_each(member[ranked], quota)
    return ranked[np.sort(taken)]


def nearest_per_cluster(
    distance: npt.ArrayLike, cluster_id: npt.ArrayLike, budget: SupportsIndex, shares: Shares = "proportional"
) -> Ints:
    """Choose the rows nearest to the centre of their cluster (kM-Closest).

    A row is in one cluster, so that none is taken twice, also where it is the nearest to several centres. Different
    rows with equal vectors are different rows: give all but one of them the distance NaN to have the next nearest.

    Args:
        distance: Distance of each row to the centre of its cluster, shape (n,). Rows without one (NaN, None) or with
            an infinite one are never chosen, but count in the size of their cluster.
        cluster_id: As in `quotas`.
        budget: Rows to choose, at most those with a finite distance and a cluster.
        shares: As in `quotas`; `"equal"` with a budget of one row per cluster takes the one nearest to each centre.

    Returns:
        int64 positions, shape (budget,), the nearest of each cluster before the second nearest, and so that each
        cluster has about its share of every first so many: by (rank in the cluster + 0.5) / quota, then by cluster
        id. Equal distances in the order of their positions.

    Raises:
        SelectionError: As `quotas`, or there is not one distance per row.

    >>> nearest_per_cluster([0.3, 0.1, 0.2, 0.5, 0.4, 0.0], cluster_id=[0, 0, 0, 0, 1, 1], budget=3)
    array([1, 5, 2])
    """
    who = "nearest_per_cluster"
    ids, member = _clusters(who, cluster_id)
    values, finite = _numbers(who, "distance", distance, len(member))
    quota = _quotas(who, ids, member, finite, budget, shares, "a cluster and a finite distance")
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
    """Draw rows from each cluster by quality (kMQ), or uniformly (kM-Random).

    Rows are drawn one after the other, each with a probability proportional to its weight among those that the
    cluster has left. Nothing is exponentiated: adding a Gumbel variable to the logarithm of each weight and taking
    the highest sums has exactly this distribution, whatever the size of the qualities.

    The paper draws with replacement. A selection holds a row once: drawing with replacement until the quota of
    distinct rows is met, passing over those that come up again, has the same distribution as drawing without, so
    there is no setting for it.

    Args:
        quality: One number per row, shape (n,); None draws uniformly. Rows whose quality is NaN, None or infinite are
            never chosen, but count in the size of their cluster.
        cluster_id: As in `quotas`.
        budget: Rows to choose, at most those with a finite quality and a cluster.
        rng: One number is drawn from it for every row, in the order of the rows.
        temperature: Above 0. Lower: nearer to the highest qualities; infinite: uniform.
        weights: `"softmax"`: exp(quality / temperature), as in the authors' code. `"proportional"`:
            quality ** (1 / temperature), at temperature 1 the paper's; rows of quality 0 come up, uniformly, once
            their cluster has no other row left.
        shares: As in `quotas`.

    Returns:
        int64 positions, shape (budget,), in the order drawn within a cluster, and over clusters as in
        `nearest_per_cluster`.

    Raises:
        SelectionError: As `quotas`; there is not one quality per row; a negative quality under `"proportional"`; or
            a temperature that is not above 0.

    >>> rng = np.random.default_rng(0)
    >>> sample_per_cluster([9.0, 0.0, 0.0, 9.0], cluster_id=[0, 0, 1, 1], budget=2, rng=rng, temperature=0.01)
    array([0, 3])
    """
    who = "sample_per_cluster"
    ids, member = _clusters(who, cluster_id)
    values, finite = _numbers(who, "quality", np.zeros(len(member)) if quality is None else quality, len(member))
    log_weights = _log_weights(values, finite, temperature, weights)
    quota = _quotas(who, ids, member, finite, budget, shares, "a cluster and a finite quality")
    noise = rng.gumbel(size=len(member))
    rows = np.flatnonzero(finite & (member >= 0))
    # A sum can be infinite, or so large that the noise is rounded away: then quality decides, and between equals
    # the noise, which is what the sums would do if they were exact.
    keys = (-noise[rows], -values[rows].astype(np.float64), -(log_weights[rows] + noise[rows]))
    return _spread(rows[np.lexsort(keys)], member, quota)


def _log_weights(values: npt.NDArray[np.generic], finite: Bools, temperature: float, weights: Weights) -> Doubles:
    """Logarithm of the weight of each row with a finite quality, up to a constant."""
    if not temperature > 0:
        raise SelectionError(f"sample_per_cluster: temperature={temperature!r} must be above 0.")
    if weights not in get_args(Weights):
        raise SelectionError(
            f"sample_per_cluster: weights={weights!r} is not one of {', '.join(map(repr, get_args(Weights)))}."
        )
    logs = np.where(finite, values, 0).astype(np.float64)
    if weights == "proportional":
        negative = np.flatnonzero(logs < 0)
        if len(negative):
            raise SelectionError(
                "sample_per_cluster: a probability proportional to quality needs quality >= 0, but "
                f"{len(negative):,} of {len(logs):,} are below (the first is {logs[negative[0]]} at position "
                f'{negative[0]}). weights="softmax" takes any.'
            )
        with np.errstate(divide="ignore"):
            logs = np.log(logs)
    with np.errstate(over="ignore"):
        return logs / temperature if np.isfinite(temperature) else np.zeros(len(logs))


def _clusters(who: str, cluster_id: npt.ArrayLike) -> tuple[Ints, Ints]:
    """Return the ids of the clusters, ascending, and the place of each row's cluster among them, -1 for none."""
    values = np.asarray(cluster_id)
    if values.ndim != 1:
        raise SelectionError(f"{who} takes one cluster id per row, shape (n,), but got shape {values.shape}.")
    try:
        if values.dtype.kind not in "biufO":
            raise TypeError(values.dtype)
        # NaN is the one value that is not itself. Objects stay objects: as floats, large ids would be rounded.
        missing = values != values
        if values.dtype == object:
            missing |= np.array([each is None for each in values.tolist()], dtype=bool)
        filled = np.where(missing, -1, values)
        with np.errstate(invalid="ignore"):
            numbers = filled.astype(np.int64)
        if (numbers != filled).any():
            raise ValueError("a fraction, or too large")
    except (TypeError, ValueError, OverflowError) as error:
        raise SelectionError(
            f"{who}: cluster ids must be whole numbers of 64 bits, or NaN or None for no cluster."
        ) from error
    member = np.full(len(numbers), -1, dtype=np.int64)
    inside = numbers >= 0
    ids, member[inside] = np.unique(numbers[inside], return_inverse=True)
    return ids, member


def _numbers(who: str, name: str, given: npt.ArrayLike, rows: int) -> tuple[npt.NDArray[np.generic], Bools]:
    """Return one number per row, and which of them are finite."""
    values = np.asarray(given)
    if values.dtype == object:  # a list with None, which is how a null reads
        values = values.astype(np.float64)
    if values.shape != (rows,):
        raise SelectionError(
            f"{who}: {name} must be one number for each of the {rows:,} rows that have a cluster id, "
            f"but has shape {values.shape}."
        )
    return values, np.isfinite(values)


def _quotas(
    who: str, ids: Ints, member: Ints, eligible: Bools, budget: SupportsIndex, shares: Shares, without: str
) -> Ints:
    """Return the quota of each cluster, in the order of `ids`."""
    sizes = np.bincount(member[member >= 0], minlength=len(ids))
    capacity = np.bincount(member[eligible & (member >= 0)], minlength=len(ids))
    weights = _share_weights(who, ids, sizes, shares)
    if (weights == 0).any():
        capacity[weights == 0] = 0
        without += ", or in a cluster whose share is 0"
    rows = check_budget(who, budget, available=int(capacity.sum()), total=len(member), without=without)
    quota = np.zeros(len(ids), dtype=np.int64)
    open_ = np.flatnonzero(capacity)
    while rows:
        parts = _largest_remainder(weights[open_], sizes[open_], rows)
        full = parts > capacity[open_]
        if not full.any():
            quota[open_] = parts
            break
        quota[open_[full]] = capacity[open_[full]]
        rows -= int(capacity[open_[full]].sum())
        open_ = open_[~full]
    return quota


def _share_weights(who: str, ids: Ints, sizes: Ints, shares: Shares) -> Ints | Doubles:
    """Return the weight of each cluster: whole numbers, of which shares are exact, unless floats were given."""
    if not isinstance(shares, Mapping):
        if shares == "proportional":
            return sizes
        if shares == "equal":
            return np.ones(len(ids), dtype=np.int64)
        raise SelectionError(f"{who}: shares={shares!r} must be 'proportional', 'equal' or {{cluster id: weight}}.")
    missing = [cluster for cluster in ids.tolist() if cluster not in shares]
    if missing:
        raise SelectionError(
            f"{who}: shares has no weight for {len(missing):,} of the {len(ids):,} clusters (the first is "
            f"{missing[0]}). Give 0 to a cluster that nothing is to be taken from."
        )
    weights = np.array([shares[cluster] for cluster in ids.tolist()], dtype=np.float64)
    wrong = np.flatnonzero(~(np.isfinite(weights) & (weights >= 0)))
    if len(wrong):
        raise SelectionError(
            f"{who}: shares must be finite and >= 0, but that of cluster {ids[wrong[0]]} is {weights[wrong[0]]}."
        )
    weights /= max(weights.max(initial=0), np.finfo(np.float64).tiny)  # so that no sum of them is infinite
    return weights


def _largest_remainder(weights: Ints | Doubles, sizes: Ints, budget: int) -> Ints:
    """Divide the budget by weight: whole shares, then one each by largest remainder, larger cluster, lower id."""
    if weights.dtype == np.float64:
        whole, remainder = np.divmod(budget * (weights / weights.sum()), 1)
        remainder = np.round(remainder, _DIGITS)
    else:
        whole, remainder = np.divmod(budget * weights, weights.sum())
    parts: Ints = whole.astype(np.int64)
    parts[np.lexsort((-sizes, -remainder))[: budget - int(parts.sum())]] += 1
    return parts


def _first_of_each(member: Ints, quota: Ints) -> tuple[Ints, Doubles]:
    """Find the first `quota` rows of each cluster.

    Returns:
        Places in `member`, cluster by cluster, and (rank in the cluster + 0.5) / quota of each.
    """
    grouped = np.argsort(member, kind="stable")
    sizes = np.bincount(member, minlength=len(quota))
    rank = np.arange(len(member)) - np.repeat(np.cumsum(sizes) - sizes, sizes)
    allowed = np.repeat(quota, sizes)
    taken = rank < allowed
    return grouped[taken], (rank[taken] + 0.5) / allowed[taken]


def _spread(ranked: Ints, member: Ints, quota: Ints) -> Ints:
    """Take the first rows of each cluster, ordered so that every beginning is about proportional to the quotas."""
    taken, when = _first_of_each(member[ranked], quota)
    return ranked[taken[np.argsort(when, kind="stable")]]
