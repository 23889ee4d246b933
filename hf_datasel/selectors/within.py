"""A selector in each group of rows: clusters, or sources."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from hf_datasel.errors import ConfigError, Interrupted, SelectionError
from hf_datasel.selectors.base import Selector, check_source, column_of
from hf_datasel.selectors.part import PartOfRound
from hf_datasel.selectors.round import Round, RoundPlan
from hf_datasel.strategies.clusters import quotas

if TYPE_CHECKING:
    from hf_datasel.scores import Cluster, Embedding

__all__ = ["Within", "interleaved", "per_source", "within_clusters"]


@dataclass(frozen=True)
class Within(Selector):
    """What another selector chooses in each group of rows by itself, so that no group is left out.

    A group gets its share of the budget by largest remainder. What it cannot give goes to the others. Any number of
    the first rows is spread over the groups in about these shares.

    Reference: `<method>_km` of Xia et al. 2024 (2410.09335), which takes the best rows of each k-means cluster, in
    proportion to its size. Shares of sources are ours.

    >>> from hf_datasel.selectors import Random
    >>> Within(Random(), "source", {"alpaca": 0.7, "gsm8k": 0.3}).shares["alpaca"]
    0.7
    """

    method: Selector
    groups: str | Cluster = "cluster_id"
    """Column of cluster numbers or of names, or `Cluster(...)`, which is fitted here if it is not yet."""
    shares: Literal["proportional", "equal"] | Mapping[str, float] = "proportional"
    """Of the budget: in proportion to the rows that a group has, the same for each, or group -> weight."""
    vectors: str | Embedding = "embedding"
    """What an unfitted `Cluster` is fitted to: a column, or `Embedding(...)`."""

    citation = (
        "@article{xia2024rethinking, title={Rethinking Data Selection at Scale: Random Selection is Almost All You "
        "Need}, author={Xia, Tingyu and Yu, Bowen and Dang, Kai and Yang, An and Wu, Yuan and Tian, Yuan and Chang, "
        "Yi and Lin, Junyang}, journal={arXiv preprint arXiv:2410.09335}, year={2024}}"
    )

    def __post_init__(self) -> None:
        if not isinstance(self.method, Selector):
            raise ConfigError(f"Within(method={self.method!r}): it has to be a selector, such as Random().")
        check_source(self, "groups", "Cluster")
        check_source(self, "vectors", "Embedding")
        named = isinstance(self.shares, Mapping) and bool(self.shares)
        if not named and self.shares not in ("proportional", "equal"):
            raise ConfigError(
                f"Within(shares={self.shares!r}): it has to be 'proportional', 'equal', or group -> weight."
            )

        object.__setattr__(self, "reselects", self.method.reselects)

    def plan(self, total_budget: int, num_epochs: float, pool_size: int) -> tuple[RoundPlan, ...]:
        return self.method.plan(total_budget, num_epochs, pool_size)

    def choose(self, round: Round) -> np.ndarray:
        ids, names = self._groups(round)
        shares = self._shares(names)
        can = round.eligible & (ids >= 0)
        if shares != "equal" and shares != "proportional":
            can &= np.array([shares[each] > 0 for each in range(len(names))] + [False])[ids]
        _count(round, can, ids)
        order = np.argsort(ids, kind="stable")
        ends = np.searchsorted(ids[order], np.arange(len(names) + 1))
        groups = _Groups(self.method, round, names, [order[a:b] for a, b in pairwise(ends)])
        with round.bar(len(names), "group") as bar:
            while can.any():
                quota = quotas(ids, min(round.budget, int(can.sum())), shares, eligible=can)
                short = [group for group, rows in quota.items() if rows and not groups.meets(group, rows, bar)]
                if not short:
                    break
                for group in short:
                    can[groups.members[group]] = False
                    can[groups.chosen[group]] = True
        return groups.answer(quota) if can.any() else np.empty(0, dtype=np.int64)

    def explain(self, round: Round, chosen: np.ndarray, row: int) -> list[str]:
        ids, names = self._groups(round)
        if ids[row] < 0:
            return ["It is in no group."]
        at = np.flatnonzero(ids == ids[row])
        mine = chosen[np.isin(chosen, at)]
        name = names[ids[row]]
        said = f"Group {name!r} of {column_of(self.groups)}: {len(mine):,} of its {len(at):,} rows were chosen."
        part = PartOfRound(round, at, len(mine), int(ids[row]), f"{name}/")
        return [said, *self.method.explain(part, np.searchsorted(at, mine), int(np.searchsorted(at, row)))]

    def _groups(self, round: Round) -> tuple[np.ndarray, list[str]]:
        """The number of each row's group, -1 for none, and the names of the groups."""
        if not isinstance(self.groups, str):
            ids, _ = round.clusters(self.groups, self.vectors)
        elif _is_text(round, self.groups):
            column = round.pool.with_format("arrow")[:].column(self.groups).dictionary_encode().combine_chunks()
            round.columns_used += [self.groups] if self.groups not in round.columns_used else []
            codes = np.asarray(column.indices.fill_null(-1).to_numpy(zero_copy_only=False), dtype=np.int64)
            return codes, [str(each) for each in column.dictionary.to_pylist()]
        else:
            ids, _ = round.clusters(self.groups)
        present, codes = np.unique(ids[ids >= 0], return_inverse=True)
        numbered = np.full(len(ids), -1, dtype=np.int64)
        numbered[ids >= 0] = codes
        return numbered, [str(each) for each in present.tolist()]

    def _shares(self, names: list[str]) -> Literal["proportional", "equal"] | dict[int, float]:
        """As `quotas` takes them."""
        if not isinstance(self.shares, Mapping):
            return self.shares
        weights = {str(name): weight for name, weight in self.shares.items()}
        for name, weight in weights.items():
            if name not in names or isinstance(weight, bool) or not isinstance(weight, int | float) or weight < 0:
                raise SelectionError(
                    f"Within(shares={{{name!r}: {weight!r}}}): a share is a number of at least 0 for a group, and "
                    f"{self.groups!r} has the groups {_some(names)}."
                )
        missing = [name for name in names if name not in weights]
        if missing or not sum(weights.values()):
            raise SelectionError(
                f"Within(shares=...) says nothing of {_some(missing)}. Give 0 to a group that nothing is to come from."
                if missing
                else "Within(shares=...) gives 0 to every group."
            )
        return {number: float(weights[name]) for number, name in enumerate(names)}


def within_clusters(
    selector: Selector,
    clusters: str | Cluster = "cluster_id",
    shares: Literal["proportional", "equal"] = "proportional",
    vectors: str | Embedding = "embedding",
) -> Within:
    """The selector in each cluster: `<method>_km` of Xia et al. 2024 (2410.09335). See `Within`."""
    return Within(selector, clusters, shares, vectors)


def per_source(
    selector: Selector, column: str, shares: Literal["proportional", "equal"] | Mapping[str, float] = "proportional"
) -> Within:
    """The selector in each source that a column names, such as the datasets of a mixture. See `Within`."""
    return Within(selector, column, shares)


class _Groups:
    """What the selector has chosen in each group."""

    def __init__(self, selector: Selector, round: Round, names: list[str], members: list[np.ndarray]):
        self.selector, self.round, self.names, self.members = selector, round, names, members
        self.chosen: dict[int, np.ndarray] = {}
        self.asked: dict[int, int] = {}
        self.left_out: dict[int, Counter[str]] = {}

    def meets(self, group: int, rows: int, bar: Any) -> bool:
        """Ask the selector for so many rows of a group, unless that has been done: whether there are as many."""
        if self.asked.get(group) != rows:
            part = PartOfRound(self.round, self.members[group], rows, group, f"{self.names[group]}/")
            try:
                self.chosen[group] = part.answer(self.selector)
            except Interrupted as stop:
                self.chosen[group] = stop.chosen
                raise Interrupted(interleaved(list(self.chosen.values()))) from None
            self.asked[group], self.left_out[group] = rows, part.left_out
            bar.update(int(len(self.asked) > bar.n))
        return len(self.chosen[group]) >= rows

    def answer(self, quota: Mapping[int, int]) -> np.ndarray:
        """The rows of all groups, best first."""
        for each in self.left_out.values():
            self.round.left_out.update(each)
        return interleaved([self.chosen[group] for group, rows in quota.items() if rows])


def interleaved(parts: list[np.ndarray]) -> np.ndarray:
    """Several ordered arrays of rows as one, in which any beginning holds about the same share of each.

    >>> interleaved([np.array([1, 2, 3, 4]), np.array([8, 9])]).tolist()
    [1, 8, 2, 3, 9, 4]
    """
    if not parts:
        return np.empty(0, dtype=np.int64)
    places = np.concatenate([(np.arange(len(part)) + 0.5) / max(len(part), 1) for part in parts])
    rows: np.ndarray = np.concatenate(parts)[np.argsort(places, kind="stable")]
    return rows


def _count(round: Round, can: np.ndarray, ids: np.ndarray) -> None:
    for reason, rows in (("in no group", ids < 0), ("in a group with share 0", ids >= 0)):
        if number := int((round.eligible & ~can & rows).sum()):
            round.left_out[reason] += number


def _is_text(round: Round, name: str) -> bool:
    kind = round.pool.features.get(name)
    return kind is not None and getattr(kind, "dtype", "") in ("string", "large_string")


def _some(names: list[str]) -> str:
    return ", ".join(map(repr, names[:8])) + (f" and {len(names) - 8:,} more" if len(names) > 8 else "")
