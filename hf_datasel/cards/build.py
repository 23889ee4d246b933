"""From selections to the facts that a card or a report is made of."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import pyarrow as pa

from hf_datasel import scores
from hf_datasel.analysis.summaries import (
    Distribution,
    Overlaps,
    distribution,
    distribution_by_round,
    overlaps,
    threshold_of,
)
from hf_datasel.cards.course import grows, step_of, warmups
from hf_datasel.cards.facts import Choice, DataConfig, Facts, Parent, Result, Training
from hf_datasel.cards.groups import group_column, groups, weights
from hf_datasel.cards.methods import method
from hf_datasel.cards.places import map_of
from hf_datasel.cards.recipe import recipe
from hf_datasel.cards.reuse import reused
from hf_datasel.errors import PublishError
from hf_datasel.formats import Pool
from hf_datasel.selection import Selection
from hf_datasel.selection.provenance import origins, without_paths
from hf_datasel.selection.select_rows import select
from hf_datasel.selectors import Longest, Random

if TYPE_CHECKING:
    from datasets import Dataset

__all__ = ["Place", "check_together", "config_names", "described", "gather"]

_FORMAT = 1
_MOST_SCORES = 3
_MOST = 0.9  # of the pool's rows: as good as all of them
_PLACE = ("name", "revision", "config", "split", "changed")


@dataclass(frozen=True)
class Place:
    """Where a page is published.

    Attributes:
        repo_id: dataset repository, or None for a local page.
        revision: branch, or None for the main one.
        publication: name of the selection within the repository.
        images: what stands before the path of an image.
    """

    repo_id: str | None = None
    revision: str | None = None
    publication: str = "default"
    images: str = ""


def gather(
    selections: Sequence[Selection],
    dataset: Dataset | None = None,
    *,
    title: str,
    place: Place | None = None,
    metadata: Mapping[str, Any] | None = None,
    changed: bool | None = None,
    configs: Sequence[DataConfig] = (),
    results: Sequence[Result] = (),
    training: Training | None = None,
) -> Facts:
    """Everything that can be said of one selection, or of the rounds of one run.

    Args:
        selections: one, or one a round in order.
        dataset: the parent; without it, what needs its text (lengths, baselines) is left out.
        title: of the page.
        place: where it is published.
        metadata: of the parent's card, as `carried_over` gives it; None where nobody looked it up.
        changed: whether the dataset is not the parent as it is on the Hub; by default what it tells of itself.
        configs: of the published dataset.
        results: measurements of models trained on the rows.
        training: the run that chose.

    Raises:
        PublishError: no selections, or selections that do not belong together.
    """
    check_together(selections)
    place = place or Place()
    last, names = selections[-1], config_names(selections, place.publication)
    choices = [_choice(each, name) for each, name in zip(selections, names, strict=True)]
    provenance = without_paths(last.provenance)
    parent = _parent(provenance, dataset, metadata)
    parent["changed"] = parent["changed"] if changed is None else changed
    command, keys, missing = recipe(provenance, parent)
    pool = Pool(dataset) if dataset is not None else None
    baselines = _baselines(last, pool) if pool is not None else {}
    several = len(selections) > 1
    return {
        "format_version": _FORMAT,
        "title": title,
        "repo_id": place.repo_id,
        "revision": place.revision,
        "publication": place.publication,
        "images": place.images,
        "parent": parent,
        "method": method(provenance["selector"], (provenance.get("training") or {}).get("settings")),
        "scores": [described(spec, provenance.get("model")) for spec in provenance["scores"]],
        "choices": choices,
        "recipe": keys,
        "command": command,
        "not_in_recipe": list(dict.fromkeys([*missing, *_scored_before(provenance)])),
        "seed": provenance["seed"],
        "configs": list(configs),
        "distributions": [_pool_and_chosen(last, column) for column in _numeric(last)[: 1 if several else None]],
        "rounds": [_rounds(selections, column) for column in _numeric(last)[:1] if _times(selections, column) > 1],
        "lengths": _lengths(last, pool, baselines),
        "groups": groups(last, dataset),
        "overlap": _overlap(selections, choices, baselines),
        "weights": weights(selections),
        "map": map_of(last, dataset),
        "results": list(results),
        "training": cast(Training, without_paths(training)) if training is not None else None,
        "versions": dict(provenance["versions"]),
    }


def config_names(selections: Sequence[Selection], publication: str = "default") -> list[str]:
    """Name of the published configuration of each selection."""
    if len(selections) == 1:
        return [publication]
    before = "" if publication == "default" else f"{publication}-"
    return [f"{before}round-{each.provenance['round']}" for each in selections]


def check_together(selections: Sequence[Selection]) -> None:
    """Refuse selections that cannot be shown as one: they have to be the rounds of one run.

    Raises:
        PublishError: says in what they differ.
    """
    if not selections:
        raise PublishError("There is no selection to show or publish.")
    first = selections[0].provenance
    for each in selections[1:]:
        if each.provenance["dataset"]["id"] != first["dataset"]["id"]:
            raise PublishError("The selections were made from different datasets: they cannot go on one page.")
        if each.provenance["selector"] != first["selector"]:
            raise PublishError(
                "The selections were made by different selectors or settings. Several selections on one page are the "
                "rounds of one run; publish others one by one, each with a config_name."
            )
    rounds = [each.provenance["round"] for each in selections]
    if len(set(rounds)) < len(rounds):
        raise PublishError(f"Two selections are of the same round: {rounds}.")


def _parent(provenance: Mapping[str, Any], dataset: Dataset | None, metadata: Mapping[str, Any] | None) -> Parent:
    about = provenance["dataset"]
    found = origins(dataset) if dataset is not None else []
    known = found[0] if len(found) == 1 else {key: about.get(key) for key in _PLACE} if not found else {}
    sources = [each["name"] for each in found] or [name for name in (known.get("name"),) if name]
    return {
        "name": known.get("name"),
        "revision": known.get("revision"),
        "config": known.get("config"),
        "split": known.get("split"),
        "changed": bool(known.get("changed")),
        "id": about["id"],
        "rows": about["rows"],
        "format": about["format"],
        "sources": sources,
        "looked_up": metadata is not None,
        "metadata": dict(metadata or {}),
    }


def described(spec: Mapping[str, Any], model: Any) -> dict[str, Any]:
    """A score's spec, with what it is and its source. `model` is that of the choice, and None where it ran none."""
    kind = next((each for each in scores.available().values() if each.__name__ == spec.get("score")), None)
    about = " ".join((kind.__doc__ or "").split("\n\n")[0].split()) if kind is not None else ""
    computed = spec.get("computed") or {}
    ran = {"model": computed["model"]} if model is None and not spec.get("model") and computed.get("model") else {}
    plain = {key: list(value) if isinstance(value, tuple) else value for key, value in spec.items()}
    return {**plain, **ran, "about": about, "citation": kind.citation if kind is not None else ""}


def _scored_before(provenance: Mapping[str, Any]) -> list[str]:
    """Columns that a score is known to have made, which the recipe of the choice does not make."""
    said = [
        f"column {name!r} has to be in the dataset: `hf-datasel score` writes it, with the settings shown above"
        for name in provenance.get("columns_known", ())
    ]
    grouped = group_column(provenance["selector"])
    vectors = {str(spec.get("column")) for spec in provenance["scores"] if spec.get("score") == "Cluster"}
    if grouped in provenance.get("columns_known", ()):
        said += [
            f"the clusters are those of column {name!r}: how that was computed is not recorded" for name in vectors
        ]
    return said


def _choice(selection: Selection, config: str) -> Choice:
    about = without_paths(selection.provenance)
    tokens = about.get("tokens")
    return {
        "config": config,
        "round": about["round"],
        "step": step_of(about),
        "rows": len(selection.indices),
        "budget": about["budget"],
        "tokens": {"budget": tokens["budget"], "chosen": tokens["chosen"]} if tokens else None,
        "interrupted": bool(about.get("interrupted")),
        "rows_scored": about["rows_scored"],
        "seconds": None if about.get("seconds") is None else round(float(about["seconds"]), 1),
        "model": about.get("model"),
        "reused": reused(about["scores"]),
        "columns_unverified": list(about["columns_unverified"]),
        "not_eligible": dict(about["not_eligible"]),
        "left_out": dict(about["left_out"]),
        "means": {name: _means(selection, name) for name in _numeric(selection)},
    }


def _means(selection: Selection, column: str) -> tuple[float, float]:
    scored, chosen = _scored_and_chosen(selection, column)
    return _short(np.mean(scored)), _short(np.mean(chosen))


def _short(value: Any) -> float:
    return float(f"{float(value):.6g}")


def _numeric(selection: Selection) -> list[str]:
    """Scores that are quantities, and known for a chosen row, no cluster numbers; distances to centres last."""
    kinds = {name: selection.table.schema.field(name).type for name in selection.score_columns}
    groups = group_column(selection.provenance["selector"])
    names = [
        name
        for name, kind in kinds.items()
        if name != groups
        and (pa.types.is_floating(kind) or (pa.types.is_integer(kind) and not name.endswith("_id")))
        and np.isfinite(selection.scores(name)[selection.indices]).any()
    ]
    return sorted(names, key=lambda name: name.endswith("cluster_distance"))[:_MOST_SCORES]


def _scored_and_chosen(selection: Selection, column: str) -> tuple[np.ndarray, np.ndarray]:
    values = selection.scores(column)
    chosen = values[selection.indices]
    return values[np.isfinite(values)], chosen[np.isfinite(chosen)]


def _pool_and_chosen(selection: Selection, column: str) -> Distribution:
    scored, chosen = _scored_and_chosen(selection, column)
    whole = len(scored) > _MOST * selection.provenance["dataset"]["rows"]
    groups = {"pool" if whole else "scored": scored, "chosen": chosen}
    return distribution(column, groups, log=_skewed(scored), threshold=threshold_of([selection.provenance], column))


def _times(selections: Sequence[Selection], column: str) -> int:
    """How many of the selections have a score."""
    return sum(column in _numeric(each) for each in selections)


def _rounds(selections: Sequence[Selection], column: str) -> Distribution:
    rounds = [
        (each.provenance["round"], *_scored_and_chosen(each, column))
        for each in selections
        if column in _numeric(each)
    ]
    log = _skewed(np.concatenate([scored for _, scored, _ in rounds]))
    threshold = threshold_of([each.provenance for each in selections], column)
    return distribution_by_round(column, rounds, log=log, threshold=threshold)


def _skewed(values: np.ndarray) -> bool:
    """Whether a logarithmic axis shows these better."""
    if values.min() <= 0:
        return False
    low, high = np.percentile(values, [1, 99])
    return bool(high > 20 * low)


def _baselines(selection: Selection, pool: Pool) -> dict[str, np.ndarray]:
    """What anybody can choose without a model: as many rows at random, and the longest responses."""
    mine, size, seed = (
        selection.provenance["selector"]["selector"],
        len(selection.indices),
        selection.provenance["seed"],
    )
    found = {}
    for baseline in (Random(), Longest()):
        if baseline.spec()["selector"] != mine and (pool.format != "text" or isinstance(baseline, Random)):
            found[type(baseline).__name__] = select(pool.dataset, baseline, size=size, seed=seed).indices
    return found


def _lengths(selection: Selection, pool: Pool | None, baselines: Mapping[str, np.ndarray]) -> Distribution | None:
    if pool is None or pool.format == "text":
        return None
    words = np.fromiter((len(row.text("response").split()) for row in pool.rows()), dtype=np.float64, count=len(pool))
    words[words == 0] = np.nan  # no response, which a logarithmic axis cannot show and no selector takes
    groups = {"pool": words, "chosen": words[selection.indices]}
    groups |= {name: words[rows] for name, rows in baselines.items()}
    groups = {name: values for name, values in groups.items() if not np.isnan(values).all()}
    return distribution("response_words", groups, log=True) if "chosen" in groups else None


def _overlap(
    selections: Sequence[Selection], choices: Sequence[Choice], baselines: Mapping[str, np.ndarray]
) -> Overlaps | None:
    named = {
        "warm-up" if each in warmups(choices) else f"round {each['round']}": selection.indices
        for selection, each in zip(selections, choices, strict=True)
    }
    if len(selections) == 1 or grows(choices):
        named = {"chosen": selections[-1].indices}
    pool, shortlist = selections[-1].provenance["dataset"]["rows"], _shortlist(selections[-1], named)
    named |= baselines
    return overlaps(named, pool, shortlist) if len(named) > 1 else None


def _shortlist(last: Selection, rounds: Mapping[str, np.ndarray]) -> tuple[list[str], int] | None:
    """Names of the rounds whose rows are all among those scored for the last one, and how many were; None for most."""
    columns = _numeric(last)
    scored = np.all([np.isfinite(last.scores(each)) for each in columns], axis=0)
    if not columns or scored.sum() > _MOST * len(scored):
        return None
    names = [name for name, rows in rounds.items() if scored[rows].all()]
    return (names, int(scored.sum())) if len(names) > 1 else None
