"""Within: a selector in each group of rows, such as clusters or sources."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import pyarrow as pa

from hf_datasel.errors import ColumnError, ConfigError, Interrupted, SelectionError, did_you_mean
from hf_datasel.rounds.allocation import group_quotas
from hf_datasel.rounds.context import RoundContext
from hf_datasel.rounds.plan import RoundPlan
from hf_datasel.rounds.positions import positions_of
from hf_datasel.rounds.selector import Selector, check_source, column_name
from hf_datasel.rounds.state import first_round_values, has_first_round_values
from hf_datasel.rounds.views import GroupView
from hf_datasel.scores import score_for_column

if TYPE_CHECKING:
    from hf_datasel.scores import Cluster, Embedding

__all__ = ["Within", "interleaved", "per_source", "within_clusters"]

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Within(Selector):
    """Rows that another selector selects in each group of rows separately, so that each group has its share.

    The budget is divided over the groups by largest remainder. If a group has too few rows, the others get more. Any
    first part of the selection is spread over the groups in about the same shares.

    Shares are shares of rows, even if the budget is one of tokens. A selector that compares rows compares those of one
    group: near-duplicates in two clusters are not excluded by `Deita` here. Groups stay those of the first round. If
    rows are added in rounds, a group keeps its rows, and shares refer to all rows so far.

    Cost: that of the method, and of the groups.

    Reference: `<method>_km` of Xia et al. 2024 (2410.09335), which takes the best rows of each k-means cluster, in
    proportion to its size. Shares of sources are specific to this library.

    >>> from hf_datasel.selectors import Random
    >>> Within(Random(), "source", {"alpaca": 0.7, "gsm8k": 0.3}).shares["alpaca"]
    0.7

    Args:
        method: Selector that selects in each group.
        groups: Column of cluster numbers, names or booleans; or `Cluster(...)`, which is fitted to `vectors` if it has
            no centroids.
        shares: How the budget is divided: `"proportional"` to the number of rows of a group, `"equal"`, or a mapping
            from each group to its weight.
        vectors: Column or `Embedding(...)` that `groups` is fitted to.
    """

    method: Selector
    groups: str | Cluster = "cluster_id"
    shares: Literal["proportional", "equal"] | Mapping[str, float] = "proportional"
    vectors: str | Embedding = "embedding"

    citation = (
        "@article{xia2024rethinking, title={Rethinking Data Selection at Scale: Random Selection is Almost All You "
        "Need}, author={Xia, Tingyu and Yu, Bowen and Dang, Kai and Yang, An and Wu, Yuan and Tian, Yuan and Chang, "
        "Yi and Lin, Junyang}, journal={arXiv preprint arXiv:2410.09335}, year={2024}}"
    )

    def __post_init__(self) -> None:
        if not isinstance(self.method, Selector):
            name = self.method if isinstance(self.method, str) else "random"
            raise ConfigError(
                f"Within(method={self.method!r}): it has to be a selector, such as Random(), which recipes write as "
                f"method: {{selector: {name}}}."
            )
        check_source(self, "groups", "Cluster")
        check_source(self, "vectors", "Embedding")
        is_mapping = isinstance(self.shares, Mapping) and bool(self.shares)
        if not is_mapping and self.shares not in (options := ("proportional", "equal")):
            raise ConfigError(
                f"Within(shares={self.shares!r}): it has to be 'proportional', 'equal', or group -> weight."
                f"{did_you_mean(str(self.shares), options)}"
            )
        object.__setattr__(self, "reselects", self.method.reselects)
        object.__setattr__(self, "keeps_all", self.method.keeps_all)

    def plan(self, total_budget: int, num_epochs: float, pool_size: int) -> tuple[RoundPlan, ...]:
        """Return the rounds of `method`."""
        return self.method.plan(total_budget, num_epochs, pool_size)

    def check_training(self, args: Any) -> None:
        """Raise the errors that `method` raises for these training arguments."""
        self.method.check_training(args)

    def select(self, context: RoundContext) -> np.ndarray:
        """Return the rows of all groups, interleaved.

        A group that selects too few rows is limited to these, and the budget is divided again.
        """
        ids, names = self._groups(context)
        shares = self._shares(names)
        context.exclude("in no group", np.flatnonzero(ids < 0))
        ids = np.where(context.eligible, ids, -1)
        usable = ids >= 0
        if not isinstance(shares, str):
            usable &= np.array([shares[number] > 0 for number in range(len(names))] + [False])[ids]
            context.exclude("in a group with share 0", np.flatnonzero(~usable))
        groups = _Groups(self.method, context, names, ids)
        with context.progress_bar(len(names), "group") as bar:
            while usable.any():
                quota = group_quotas(context, ids, shares, usable)
                short = [group for group, rows in quota.items() if rows and not groups.select(group, rows, bar)]
                if not short:
                    _log_short_groups(context, names, shares, quota)
                    return groups.result(quota)
                for group in short:
                    usable[groups.members[group]] = False
                    usable[groups.selected[group]] = True
        return np.empty(0, dtype=np.int64)

    def explain(self, context: RoundContext, selected: np.ndarray, row: int) -> list[str]:
        """Return sentences on the row's group, and those of `method` in that group."""
        if self._needs_first_model(context):
            return ["Its group is that of the vectors of the first round, whose model is not available."]
        ids, names = self._groups(context)
        if ids[row] < 0:
            return ["It is in no group."]
        members = np.flatnonzero((ids == ids[row]) & context.eligible)
        group_selected = selected[np.isin(selected, members)]
        name = names[ids[row]]
        sentence = (
            f"Group {name!r} of {column_name(self.groups)}: {len(group_selected):,} of its {len(members):,} rows were "
            "selected."
        )
        view = GroupView(context, members, len(group_selected), int(ids[row]), name, {})
        positions = positions_of(group_selected, members)
        return [sentence, *self.method.explain(view, positions, int(np.searchsorted(members, row)))]

    def _groups(self, context: RoundContext) -> tuple[np.ndarray, list[str]]:
        """Return the number of each row's group, -1 for none, and the names of the groups.

        Clusters stay those of the first round, since the state of a group is stored under its number.
        """
        groups = self.groups
        if isinstance(groups, str):
            named_groups = _named_groups(context, groups)
            if named_groups is not None:
                return named_groups
            ids, _ = context.clusters(groups)
        else:
            values = first_round_values(
                context, _cluster_column(groups), pa.int32(), lambda: self._fit(context, groups), "in no group"
            )
            ids = np.nan_to_num(values, nan=-1).astype(np.int64)
        distinct, numbers = np.unique(ids[ids >= 0], return_inverse=True)
        group_numbers = np.full(len(ids), -1, dtype=np.int64)
        group_numbers[ids >= 0] = numbers
        return group_numbers, [str(cluster) for cluster in distinct.tolist()]

    def _fit(self, context: RoundContext, groups: Cluster) -> np.ndarray:
        ids, _ = context.clusters(groups, self.vectors)
        return np.where(ids < 0, np.nan, ids)

    def _needs_first_model(self, context: RoundContext) -> bool:
        """Return whether the groups depend on the model of the first round, which has been trained since."""
        if not context.index or isinstance(self.groups, str) or not self.groups.needs_fit:
            return False
        is_stored = has_first_round_values(context, _cluster_column(self.groups))
        return not is_stored and not isinstance(self.vectors, str) and self.vectors.model is None

    def _shares(self, names: list[str]) -> Literal["proportional", "equal"] | dict[int, float]:
        """Return the shares by group number, as `quotas` expects them.

        Raises:
            SelectionError: A share is no number of at least 0, names no group, or is missing; or all are 0.
        """
        if not isinstance(self.shares, Mapping):
            return self.shares
        weights = {str(name): weight for name, weight in self.shares.items()}
        for name, weight in weights.items():
            is_number = isinstance(weight, int | float) and not isinstance(weight, bool)
            if name not in names or not is_number or not 0 <= weight < float("inf"):
                raise SelectionError(
                    f"Within(shares={{{name!r}: {weight!r}}}): a share is a number of at least 0 for a group, and "
                    f"{self.groups!r} has the groups {_quoted(names)}.{did_you_mean(name, names)}"
                )
        missing = [name for name in names if name not in weights]
        if missing:
            raise SelectionError(
                f"Within(shares=...) has no share for {_quoted(missing)}.", "Give 0 to exclude a group."
            )
        if not sum(weights.values()):
            raise SelectionError("Within(shares=...) gives 0 to every group.")
        return {number: float(weights[name]) for number, name in enumerate(names)}


def within_clusters(
    selector: Selector,
    clusters: str | Cluster = "cluster_id",
    shares: Literal["proportional", "equal"] = "proportional",
    vectors: str | Embedding = "embedding",
) -> Within:
    """Return a selector that runs another one in each cluster: `<method>_km` of Xia et al. 2024 (2410.09335).

    Args:
        selector: Selector that selects in each cluster.
        clusters: Column of cluster numbers, or `Cluster(...)`.
        shares: How the budget is divided: `"proportional"` to the size of a cluster, or `"equal"`.
        vectors: Column or `Embedding(...)` that `clusters` is fitted to.
    """
    return Within(selector, clusters, shares, vectors)


def per_source(
    selector: Selector, column: str, shares: Literal["proportional", "equal"] | Mapping[str, float] = "proportional"
) -> Within:
    """Return a selector that runs another one in each source, such as the datasets of a mixture.

    Args:
        selector: Selector that selects in each source.
        column: Column that names the source of each row.
        shares: How the budget is divided: `"proportional"` to the size of a source, `"equal"`, or source -> weight.
    """
    return Within(selector, column, shares)


class _Groups:
    """Views of the groups of a round, and the rows that the selector selects in each.

    Attributes:
        members: Row numbers of each group.
        selected: Rows selected in each group so far.
    """

    def __init__(self, method: Selector, context: RoundContext, names: list[str], ids: np.ndarray):
        self.method, self.context, self.names = method, context, names
        order = np.argsort(ids, kind="stable")
        ends = np.searchsorted(ids[order], np.arange(len(names) + 1))
        self.members = [order[start:end] for start, end in pairwise(ends)]
        self.initial_state = dict(context.state)
        self.views: dict[int, GroupView] = {}
        self.selected: dict[int, np.ndarray] = {}

    def select(self, group: int, rows: int, bar: Any) -> bool:
        """Select this number of rows in a group, and return whether there are as many."""
        earlier = self.views.get(group)
        if earlier is None or earlier.budget != rows:
            self.views[group] = self._view(group, rows, earlier)
            try:
                self.selected[group] = self.views[group].run(self.method)
            except Interrupted as stop:
                self.selected[group] = stop.selected
                raise Interrupted(interleaved(list(self.selected.values()))) from None
            bar.update(int(earlier is None))
        return len(self.selected[group]) >= rows

    def result(self, quota: Mapping[int, int]) -> np.ndarray:
        """Return the rows of all groups, interleaved, and store the state of each group for the next round."""
        for group, view in self.views.items():
            self.context.state.update({f"{group}/{name}": array for name, array in view.changed_state().items()})
        return interleaved([self.selected[group] for group, rows in quota.items() if rows])

    def _view(self, group: int, rows: int, earlier: GroupView | None) -> GroupView:
        prefix = f"{group}/"  # the number, which is the same in each round: a name may contain a slash
        state = {
            name.removeprefix(prefix): array for name, array in self.initial_state.items() if name.startswith(prefix)
        }
        return GroupView(self.context, self.members[group], rows, group, self.names[group], state, earlier)


def _cluster_column(groups: Cluster) -> str:
    return f"{groups.column_prefix}cluster_id"


def interleaved(parts: list[np.ndarray]) -> np.ndarray:
    """Merge several ordered arrays of rows into one, any first part of which has about the same share of each.

    >>> interleaved([np.array([1, 2, 3, 4]), np.array([8, 9])]).tolist()
    [1, 8, 2, 3, 9, 4]
    """
    if not parts:
        return np.empty(0, dtype=np.int64)
    ranks = np.concatenate([(np.arange(len(part)) + 0.5) / max(len(part), 1) for part in parts])
    rows: np.ndarray = np.concatenate(parts)[np.argsort(ranks, kind="stable")]
    return rows


def _log_short_groups(
    context: RoundContext, names: list[str], shares: str | dict[int, float], quota: Mapping[int, int]
) -> None:
    """Log a warning that names the groups with fewer rows than the share that the user set."""
    if isinstance(shares, str):
        return
    targets = {group: int(context.budget * share / sum(shares.values())) for group, share in shares.items()}
    short = [
        f"{names[group]!r} {quota.get(group, 0):,} of {target:,}"
        for group, target in targets.items()
        if quota.get(group, 0) < target
    ]
    if short:
        logger.warning(
            "%s: these groups have fewer rows than their share: %s; the others get more.",
            context.record.caller,
            _listed(short),
        )


def _named_groups(context: RoundContext, name: str) -> tuple[np.ndarray, list[str]] | None:
    """Return groups by a column of strings, class labels or booleans; None for a column of any other type.

    Raises:
        ColumnError: The column is missing.
    """
    columns = context.record.pool.column_names
    if name not in columns and score_for_column(name) is None:
        raise ColumnError(
            f"{context.record.caller} needs column {name!r}, but the dataset has {columns}."
            f"{did_you_mean(name, columns)}"
        )
    feature = context.pool.features.get(name)
    dtype = getattr(feature, "dtype", "")
    labels = getattr(feature, "names", None)
    if dtype not in ("string", "large_string", "bool") and labels is None:
        return None
    context.record.add_column(name)
    column = context.read_columns([name]).with_format("arrow")[:].column(name).dictionary_encode().combine_chunks()
    codes = np.asarray(column.indices.fill_null(-1).to_numpy(zero_copy_only=False), dtype=np.int64)
    values = column.dictionary.to_pylist()
    if labels is None:
        return codes, [str(value) for value in values]
    has_label = np.array([value >= 0 for value in values] + [False])  # datasets writes -1 for no label
    return np.where(has_label[codes], codes, -1), [labels[value] if value >= 0 else "" for value in values]


def _quoted(names: list[str]) -> str:
    return _listed([repr(name) for name in names])


def _listed(words: list[str]) -> str:
    return ", ".join(words[:8]) + (f" and {len(words) - 8:,} more" if len(words) > 8 else "")
