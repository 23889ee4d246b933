"""Search of the weights of a mix of scores: a method of an experiment for each of them, and which one did best."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from hf_datasel.errors import ConfigError
from hf_datasel.evaluation.statistics import pooled_sd
from hf_datasel.hub.markdown import text
from hf_datasel.spec import name_and_settings
from hf_datasel.strategies.mixing import simplex

if TYPE_CHECKING:
    from hf_datasel.evaluation.experiment_results import ExperimentResults

__all__ = ["describe_searches", "num_tried", "with_all_weights"]


def with_all_weights(methods: Sequence[Any]) -> list[Any]:
    """Return the methods of an experiment, with one for each weights of a mix that names a grid.

    `{top: {by: {score: mix, by: [ifd, reward], weights: {steps: 4}}}}` becomes five methods, with the weights (0, 1),
    (0.25, 0.75), ..., (1, 0): all multiples of 1 / 4 that sum to 1.

    Args:
        methods: As in `Experiment`.

    Raises:
        ConfigError: A grid has another form, or a method has two.
    """
    return [variant for entry in methods for variant in _variants(entry)]


def _variants(entry: Any) -> list[Any]:
    name, settings = name_and_settings(entry, "selector")
    mixes = [mix for mix in _mixes(settings) if isinstance(mix.get("weights"), Mapping)]
    if not mixes:
        return [entry]
    parts, grid = mixes[0].get("by"), dict(mixes[0]["weights"])
    steps = grid.pop("steps", None)
    if len(mixes) > 1 or grid or type(steps) is not int or steps < 1 or not isinstance(parts, list | tuple):
        raise ConfigError(
            f"methods: {name!r} tries weights of a mix, which is written as in {{score: mix, by: [ifd, reward], "
            f"weights: {{steps: 4}}}}: a list of scores, an int of at least 1, and one mix per method. It has "
            f"{json.dumps(mixes, default=str)}."
        )
    labelled = bool({"selector", "dataset_name"} & set(settings))
    method = settings if labelled else {"selector": name, "selector_kwargs": settings}
    variants = []
    for weights in simplex(len(parts), steps):
        shares = [f"{_name(part)} {weight:g}" for part, weight in zip(parts, weights, strict=True)]
        variants.append({f"{name} ({', '.join(shares)})": _replaced(method, list(weights))})
    return variants


def _name(part: Any) -> str:
    return str(part.get("score")) if isinstance(part, Mapping) else str(part)


def _mixes(value: Any) -> list[Mapping[str, Any]]:
    """Return the specs of mixes in settings."""
    if isinstance(value, list | tuple):
        return [mix for item in value for mix in _mixes(item)]
    if not isinstance(value, Mapping):
        return []
    return [*([value] if value.get("score") == "mix" else []), *_mixes(list(value.values()))]


def _replaced(value: Any, weights: list[float] | None) -> Any:
    """Return settings in which all mixes have these weights, or none."""
    if isinstance(value, list | tuple):
        return [_replaced(item, weights) for item in value]
    if not isinstance(value, Mapping):
        return value
    own = {"weights": weights} if value.get("score") == "mix" else {}
    return {**{key: _replaced(item, weights) for key, item in value.items()}, **own}


# -- what the search has found ----------------------------------------------------------------------------------------
def _searches(results: ExperimentResults) -> list[list[str]]:
    """Return the names of methods that differ in the weights of a mix alone, two or more at a time."""
    groups: dict[str, list[str]] = {}
    for entry in with_all_weights(results.experiment.methods):
        name, settings = name_and_settings(entry, "selector")
        if _mixes(settings) and name in results.methods:
            key = {} if {"selector", "dataset_name"} & set(settings) else {"selector": name}
            groups.setdefault(json.dumps([key, _replaced(settings, None)], default=str), []).append(name)
    return [names for names in groups.values() if len(names) > 1]


def num_tried(results: ExperimentResults, method: str) -> int:
    """Return of how many weights those of a method are, which were compared in an experiment; 0 if of none.

    Args:
        results: Results of the experiment.
        method: Name of the method.
    """
    return next((len(names) for names in _searches(results) if method in names), 0)


def describe_searches(results: ExperimentResults, decimals: int) -> list[str]:
    """Return a sentence on the best weights of each search, and what it does not show.

    Args:
        results: Results of the experiment.
        decimals: Number of decimals of results.
    """
    return [line for names in _searches(results) if (line := _describe_search(results, names, decimals))]


def _describe_search(results: ExperimentResults, names: Sequence[str], decimals: int) -> str:
    runs = {name: values for name in names if (values := results.values(name))}
    if len(runs) < 2:
        return ""
    sign = 1 if results.higher_is_better else -1
    means = {name: float(np.mean(values)) for name, values in runs.items()}
    best, second = sorted(means, key=lambda name: -sign * means[name])[:2]
    ahead = abs(means[best] - means[second])
    repeated = {name: np.asarray(values) for name, values in runs.items() if len(values) > 1}
    spread = (
        f" Runs of one method have a standard deviation of {pooled_sd(repeated):.{decimals}f}." if repeated else ""
    )
    missing = f" {len(names) - len(runs)} others have no finished run." if len(runs) < len(names) else ""
    return (
        f"Weights of the mix: of {len(runs)} that were tried, those of {text(best)} have the "
        f"{'highest' if sign > 0 else 'lowest'} {text(results.primary)}, {means[best]:.{decimals}f} (mean of "
        f"{len(runs[best])} run{'' if len(runs[best]) == 1 else 's'}), {ahead:.{decimals}f} ahead of {text(second)}."
        f"{spread}{missing} They were selected by these very items, so that the result of the best is too good. Before"
        " claiming a gain, compare these weights with random rows on a second held-out set, of which nothing was used"
        " here."
    )
