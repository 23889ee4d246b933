"""A selector in each group of rows: clusters, or sources."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import pyarrow as pa

from hf_datasel.errors import ColumnError, ConfigError, Interrupted, SelectionError, did_you_mean
from hf_datasel.rounds.allocation import quotas_of
from hf_datasel.rounds.context import Round, RoundPlan
from hf_datasel.rounds.positions import place_of
from hf_datasel.rounds.selector import Selector, check_source, column_of
from hf_datasel.rounds.state import from_first, is_kept
from hf_datasel.rounds.views import PartOfRound
from hf_datasel.scores import writer_of

if TYPE_CHECKING:
    from hf_datasel.scores import Cluster, Embedding

__all__ = ["Within", "interleaved", "per_source", "within_clusters"]

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Within(Selector):
    """What another selector chooses in each group of rows by itself, so that no group is left out.

    A group gets its share of the budget by largest remainder. What it cannot give goes to the others. Any number of
    the first rows is spread over the groups in about these shares.

    Shares are of rows, also where the budget is one of tokens. A method that compares rows compares those of a group:
    near copies in two clusters are none to `Deita` here. Groups stay those of the first round. Where rows are added in
    rounds, a group keeps those that it has, and shares are of all rows so far.

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
            named = self.method if isinstance(self.method, str) else "random"
            raise ConfigError(
                f"Within(method={self.method!r}): it has to be a selector, such as Random(), which recipes write as "
                f"method: {{selector: {named}}}."
            )
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

    def check_training(self, args: Any) -> None:
        self.method.check_training(args)

    def choose(self, round: Round) -> np.ndarray:
        ids, names = self._groups(round)
        shares = self._shares(names)
        round.leave_out("in no group", np.flatnonzero(ids < 0))
        ids = np.where(round.eligible, ids, -1)
        can = ids >= 0
        if not isinstance(shares, str):
            can &= np.array([shares[each] > 0 for each in range(len(names))] + [False])[ids]
            round.leave_out("in a group with share 0", np.flatnonzero(~can))
        groups = _Groups(self.method, round, names, ids)
        with round.bar(len(names), "group") as bar:
            while can.any():
                quota = quotas_of(round, ids, shares, can)
                short = [group for group, rows in quota.items() if rows and not groups.meets(group, rows, bar)]
                if not short:
                    _say_short(round, names, shares, quota)
                    return groups.answer(quota)
                for group in short:
                    can[groups.members[group]] = False
                    can[groups.chosen[group]] = True
        return np.empty(0, dtype=np.int64)

    def explain(self, round: Round, chosen: np.ndarray, row: int) -> list[str]:
        if self._groups_moved(round):
            return ["Its group is that of the vectors of the first round, whose model is not at hand."]
        ids, names = self._groups(round)
        if ids[row] < 0:
            return ["It is in no group."]
        at = np.flatnonzero((ids == ids[row]) & round.eligible)
        mine = chosen[np.isin(chosen, at)]
        name = names[ids[row]]
        said = f"Group {name!r} of {column_of(self.groups)}: {len(mine):,} of its {len(at):,} rows were chosen."
        part = PartOfRound(round, at, len(mine), int(ids[row]), {}, name=name)
        return [said, *self.method.explain(part, place_of(mine, at), int(np.searchsorted(at, row)))]

    def _groups(self, round: Round) -> tuple[np.ndarray, list[str]]:
        """The number of each row's group, -1 for none, and the names of the groups.

        Clusters stay what they are in the first round: what the groups keep is known by their numbers.
        """
        groups = self.groups
        if isinstance(groups, str):
            if (found := _named_groups(round, groups)) is not None:
                return found
            ids, _ = round.clusters(groups)
        else:
            known = from_first(round, _column(groups), pa.int32(), lambda: self._fitted(round, groups), "in no group")
            ids = np.nan_to_num(known, nan=-1).astype(np.int64)
        present, codes = np.unique(ids[ids >= 0], return_inverse=True)
        numbered = np.full(len(ids), -1, dtype=np.int64)
        numbered[ids >= 0] = codes
        return numbered, [str(each) for each in present.tolist()]

    def _fitted(self, round: Round, groups: Cluster) -> np.ndarray:
        ids, _ = round.clusters(groups, self.vectors)
        return np.where(ids < 0, np.nan, ids)

    def _groups_moved(self, round: Round) -> bool:
        """Whether the groups cannot be found again, because they rest on a model that has been trained since."""
        if not round.index or isinstance(self.groups, str) or not self.groups.needs_fit:
            return False
        kept = is_kept(round, _column(self.groups))
        return not kept and not isinstance(self.vectors, str) and self.vectors.model is None

    def _shares(self, names: list[str]) -> Literal["proportional", "equal"] | dict[int, float]:
        """As `quotas` takes them."""
        if not isinstance(self.shares, Mapping):
            return self.shares
        weights = {str(name): weight for name, weight in self.shares.items()}
        for name, weight in weights.items():
            plain = isinstance(weight, int | float) and not isinstance(weight, bool)
            if name not in names or not plain or not 0 <= weight < float("inf"):
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

    def __init__(self, method: Selector, round: Round, names: list[str], ids: np.ndarray):
        self.method, self.round, self.names = method, round, names
        order = np.argsort(ids, kind="stable")
        ends = np.searchsorted(ids[order], np.arange(len(names) + 1))
        self.members = [order[start:end] for start, end in pairwise(ends)]
        self.before = dict(round.state)
        self.parts: dict[int, PartOfRound] = {}
        self.chosen: dict[int, np.ndarray] = {}

    def meets(self, group: int, rows: int, bar: Any) -> bool:
        """Ask the selector for so many rows of a group, unless that has been done: whether there are as many."""
        asked = self.parts.get(group)
        if asked is None or asked.budget != rows:
            self.parts[group] = self._part(group, rows, asked)
            try:
                self.chosen[group] = self.parts[group].answer(self.method)
            except Interrupted as stop:
                self.chosen[group] = stop.chosen
                raise Interrupted(interleaved(list(self.chosen.values()))) from None
            bar.update(int(asked is None))
        return len(self.chosen[group]) >= rows

    def answer(self, quota: Mapping[int, int]) -> np.ndarray:
        """The rows of all groups, best first; what the groups keep for the next round is kept."""
        for group, part in self.parts.items():
            self.round.state.update({f"{group}/{name}": each for name, each in part.newly_kept().items()})
        return interleaved([self.chosen[group] for group, rows in quota.items() if rows])

    def _part(self, group: int, rows: int, before: PartOfRound | None) -> PartOfRound:
        prefix = f"{group}/"  # the number, which is the same in each round: a name may hold anything, slashes too
        state = {name.removeprefix(prefix): each for name, each in self.before.items() if name.startswith(prefix)}
        material = None if before is None else before.material
        return PartOfRound(self.round, self.members[group], rows, group, state, material, self.names[group])


def _column(groups: Cluster) -> str:
    return f"{groups.column_prefix}cluster_id"


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


def _say_short(round: Round, names: list[str], shares: str | dict[int, float], quota: Mapping[int, int]) -> None:
    """Log which groups could not give the share that was asked of them."""
    if isinstance(shares, str):
        return
    wanted = {group: int(round.budget * share / sum(shares.values())) for group, share in shares.items()}
    short = [f"{names[group]!r} {quota.get(group, 0):,} of {rows:,}" for group, rows in wanted.items()]
    short = [said for said, group in zip(short, wanted, strict=True) if quota.get(group, 0) < wanted[group]]
    if short:
        logger.warning("%s: fewer rows than their share have %s; the others give more.", round.asker, _listed(short))


def _named_groups(round: Round, name: str) -> tuple[np.ndarray, list[str]] | None:
    """Groups by a column of names, or of yes and no; None for a column of anything else."""
    present = round.pool.column_names
    if name not in present and writer_of(name) is None:
        raise ColumnError(
            f"{round.asker} needs column {name!r}, but the dataset has {present}.{did_you_mean(name, present)}"
        )
    feature = round.pool.features.get(name)
    kind = getattr(feature, "dtype", "")
    labels = getattr(feature, "names", None)
    if kind not in ("string", "large_string", "bool") and labels is None:
        return None
    round.columns_used += [name] if name not in round.columns_used else []
    column = round.pool.with_format("arrow")[:].column(name).dictionary_encode().combine_chunks()
    codes = np.asarray(column.indices.fill_null(-1).to_numpy(zero_copy_only=False), dtype=np.int64)
    values = column.dictionary.to_pylist()
    if labels is None:
        return codes, [str(each) for each in values]
    known = np.array([each >= 0 for each in values] + [False])  # a label that is not known is -1
    return np.where(known[codes], codes, -1), [labels[each] if each >= 0 else "" for each in values]


def _some(names: list[str]) -> str:
    return _listed([repr(name) for name in names])


def _listed(words: list[str]) -> str:
    return ", ".join(words[:8]) + (f" and {len(words) - 8:,} more" if len(words) > 8 else "")
