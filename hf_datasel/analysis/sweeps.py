"""Sweeps over the settings of a selector, and ablations of methods."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import fields, replace
from itertools import chain
from typing import TYPE_CHECKING, Any, TypedDict

import numpy as np

from hf_datasel.analysis.binning import round_significant
from hf_datasel.analysis.measures import Measure, standard_measures
from hf_datasel.analysis.overlap import jaccard_of_rows
from hf_datasel.errors import ConfigError, DataselError, did_you_mean
from hf_datasel.rounds.selector import Selector
from hf_datasel.scoring.numbers import is_identifier
from hf_datasel.selection import Selection, SelectionSession
from hf_datasel.selection.budget import DEFAULT_RATIO

if TYPE_CHECKING:
    from datasets import Dataset

__all__ = ["Ablation", "Sweep", "ablation", "sweep"]

_BUDGETS = ("size", "ratio", "tokens")


class Sweep(TypedDict):
    """Selections with several values of one setting of a selector.

    Attributes:
        selector: Name of the selector.
        setting: Name of the setting, or `"size"`, `"ratio"` or `"tokens"`.
        values: Values of the setting, in the given order.
        default: Value of the selector, or the budget passed; None if that was a budget of another kind.
        rows: Number of rows selected with each value.
        jaccard_default: Jaccard similarity of each selection with that of the default, 0 to 1.
        jaccard_previous: Jaccard similarity of each selection with that of the previous value; None for the first.
        measures: Number for each selection by name of the measure; None if the measure is not finite.
        measures_default: Number for the selection with the default by name of the measure.
    """

    selector: str
    setting: str
    values: list[Any]
    default: Any
    rows: list[int]
    jaccard_default: list[float]
    jaccard_previous: list[float | None]
    measures: dict[str, list[float | None]]
    measures_default: dict[str, float | None]


class Ablation(TypedDict):
    """Selections of several selectors from the same rows.

    Attributes:
        names: Names of the selectors; the first one is the reference.
        rows: Number of rows selected by each.
        jaccard: Jaccard similarity of each selection with the first one, 0 to 1.
        measures: Number for each selection by name of the measure; None if the measure is not finite.
    """

    names: list[str]
    rows: list[int]
    jaccard: list[float]
    measures: dict[str, list[float | None]]


def sweep(
    dataset: Dataset,
    selector: Selector,
    settings: Mapping[str, Sequence[Any]],
    measures: Mapping[str, Measure] | None = None,
    seed: int = 0,
    model: Any = None,
    processing_class: Any = None,
    columns: Mapping[str, str] | None = None,
    **budget: Any,
) -> dict[str, Sweep]:
    """Select rows with each value of each setting, one setting at a time, and compare the selections.

    IterIT's sensitivity study (Jia et al. 2024, 2412.17365, section 5.4) is
    `sweep(scored, IterIT(quality="ifd"), {"ratio": [0.01, 0.05, 0.1], "candidate_factor": [1, 3, 5, 10], "decay":
    [0, 0.1, 0.5, 1]})`: its M, a and b. The paper trains a model on each selection, which a measure may do as well.

    A score that several selections need is computed once.

    Args:
        dataset: Rows in any supported format, with the columns that the selector names.
        selector: Selector with the default settings.
        settings: Values to try by name of the setting. The budget may be one: `"size"`, `"ratio"` or `"tokens"`.
        measures: Functions of the dataset and a selection that return a number or NaN, by name. The default is
            `standard_measures` of the scores that the selections are based on; extend it with
            `standard_measures(["ifd"]) | {"my metric": function}`.
        seed: Random seed of all selections.
        model: Model that computes scores, as in `select`.
        processing_class: Tokenizer of a live model.
        columns: Names of the columns of a row format and those of the dataset, as in `select`.
        **budget: `size`, `ratio` or `tokens` as in `select`, where it is not swept.

    Returns:
        The sweep over each setting by its name.

    Raises:
        ConfigError: If there are no settings, the selector does not have one, or one has no values or an invalid one.
        DataselError: If `select` raises it; a note names the value.

    >>> from datasets import Dataset
    >>> from hf_datasel.selectors import Top
    >>> rows = Dataset.from_dict({"prompt": ["?"] * 4, "completion": ["a b", "a", "b c a", "c"]})
    >>> rows = rows.add_column("ifd", [0.9, 0.2, 0.7, 0.4])
    >>> sizes = sweep(rows, Top(by="ifd"), {"size": [1, 2, 3]}, size=2)["size"]
    >>> sizes["jaccard_default"], sizes["measures"]["mean ifd"], sizes["measures"]["response words"]
    ([0.5, 1.0, 0.666667], [0.9, 0.8, 0.666667], [2.0, 2.5, 2.0])
    """
    budget = _checked_budget(budget)
    _check_settings(settings, selector)
    variants = {name: _variants(selector, name, values, budget) for name, values in settings.items()}
    cache = _SelectionCache(SelectionSession(dataset, model, processing_class, columns=columns), seed)
    default = cache.select(selector, budget, "the default")
    selections = {
        name: [
            cache.select(*variant, f"{name}={value!r}")
            for variant, value in zip(variants[name], settings[name], strict=True)
        ]
        for name in settings
    }
    if measures is None:
        measures = standard_measures(_score_names(chain([default], *selections.values())))
    measured = _MeasureCache(dataset, measures)
    return {
        name: _sweep(selector, name, settings[name], budget, default, selections[name], measured) for name in settings
    }


def ablation(
    dataset: Dataset,
    selectors: Mapping[str, Selector],
    measures: Mapping[str, Measure] | None = None,
    seed: int = 0,
    model: Any = None,
    processing_class: Any = None,
    columns: Mapping[str, str] | None = None,
    **budget: Any,
) -> Ablation:
    """Select rows with several selectors, such as a method with and without a component, and compare the selections.

    IterIT's ablation of diversity (Jia et al. 2024, 2412.17365, table 4) is `ablation(scored, {part:
    IterIT(quality="ifd", diversity=part) for part in ("response", "none", "prompt", "both")})`.

    Args:
        dataset: Rows in any supported format, with the columns that the selectors name.
        selectors: Selectors by name; the first one is the reference.
        measures: As in `sweep`.
        seed: Random seed of all selections.
        model: Model that computes scores, as in `select`.
        processing_class: Tokenizer of a live model.
        columns: Names of the columns of a row format and those of the dataset, as in `select`.
        **budget: `size`, `ratio` or `tokens`, as in `select`.

    Returns:
        The ablation.

    Raises:
        ConfigError: If there are no selectors.
        DataselError: If `select` raises it; a note names the selector.

    >>> from datasets import Dataset
    >>> from hf_datasel.selectors import Longest, Top
    >>> rows = Dataset.from_dict({"prompt": ["?"] * 4, "completion": ["a b", "a", "b c a", "c"]})
    >>> rows = rows.add_column("ifd", [0.9, 0.2, 0.7, 0.4])
    >>> result = ablation(rows, {"IFD": Top(by="ifd"), "long": Longest(unit="words")}, size=1)
    >>> result["jaccard"], result["measures"]["mean ifd"]
    ([1.0, 0.0], [0.9, 0.7])
    """
    if not selectors:
        raise ConfigError("An ablation needs at least one selector, and got none.")
    budget = _checked_budget(budget)
    cache = _SelectionCache(SelectionSession(dataset, model, processing_class, columns=columns), seed)
    selections = [cache.select(selector, budget, name) for name, selector in selectors.items()]
    measured = _MeasureCache(dataset, standard_measures(_score_names(selections)) if measures is None else measures)
    return {
        "names": list(selectors),
        "rows": [len(selection.indices) for selection in selections],
        "jaccard": [_jaccard(selections[0], selection) for selection in selections],
        "measures": measured.columns(selections),
    }


def _sweep(
    selector: Selector,
    name: str,
    values: Sequence[Any],
    budget: Mapping[str, Any],
    default: Selection,
    selections: Sequence[Selection],
    measured: _MeasureCache,
) -> Sweep:
    spec, previous = selector.spec(), selections[:-1]
    return {
        "selector": str(spec["selector"]),
        "setting": name,
        "values": [_spec_value(selector, name, value) for value in values],
        "default": budget.get(name) if name in _BUDGETS else spec[name],
        "rows": [len(selection.indices) for selection in selections],
        "jaccard_default": [_jaccard(default, selection) for selection in selections],
        "jaccard_previous": [None, *map(_jaccard, previous, selections[1:])],
        "measures": measured.columns(selections),
        "measures_default": {measure: column[0] for measure, column in measured.columns([default]).items()},
    }


class _SelectionCache:
    """Selections by selector and budget, so that none is made twice."""

    def __init__(self, selecting: SelectionSession, seed: int):
        self.selecting, self.seed = selecting, seed
        self._cached: list[tuple[Selector, dict[str, Any], Selection]] = []

    def select(self, selector: Selector, budget: Mapping[str, Any], name: str) -> Selection:
        for cached_selector, cached_budget, selection in self._cached:
            if cached_selector == selector and cached_budget == budget:
                return selection
        try:
            selection = self.selecting.select(selector, seed=self.seed, **budget)
        except DataselError as error:
            error.add_note(f"This was the selection with {name}.")
            raise
        self._cached.append((selector, dict(budget), selection))
        return selection


class _MeasureCache:
    """Measures by name and selection, so that none is computed twice."""

    def __init__(self, dataset: Dataset, measures: Mapping[str, Measure]):
        self.dataset, self.measures = dataset, measures
        self._cached: dict[tuple[str, int], tuple[Selection, float | None]] = {}

    def columns(self, selections: Sequence[Selection]) -> dict[str, list[float | None]]:
        return {name: [self._measure(name, selection) for selection in selections] for name in self.measures}

    def _measure(self, name: str, selection: Selection) -> float | None:
        key = name, id(selection)
        if key not in self._cached:
            value = float(self.measures[name](self.dataset, selection))
            self._cached[key] = selection, round_significant(value) if np.isfinite(value) else None
        return self._cached[key][1]


def _check_settings(settings: Mapping[str, Sequence[Any]], selector: Selector) -> None:
    if not isinstance(selector, Selector):
        raise ConfigError(f"selector has to be a Selector such as Random(), and is {selector!r}.")
    names = [*(field.name for field in fields(selector)), *_BUDGETS]
    if not settings:
        raise ConfigError(f"settings={{}} names nothing to sweep. {type(selector).__name__} has {names}.")
    for name, values in settings.items():
        if name not in names:
            raise ConfigError(
                f"{type(selector).__name__} has no setting {name!r}: it has {names}.{did_you_mean(name, names)}"
            )
        if isinstance(values, str) or not isinstance(values, Sequence) or not values:
            raise ConfigError(f"settings[{name!r}]={values!r} has to be a list of the values to try.")


def _checked_budget(budget: dict[str, Any]) -> dict[str, Any]:
    """Return the budget, or the default of `select` if there is none."""
    for name, value in budget.items():
        if name not in _BUDGETS:
            raise ConfigError(f"{name}={value!r} is no budget: pass one of {list(_BUDGETS)}.")
    return budget or {"ratio": DEFAULT_RATIO}


def _variants(
    selector: Selector, name: str, values: Sequence[Any], budget: Mapping[str, Any]
) -> list[tuple[Selector, Mapping[str, Any]]]:
    """Return the selector and the budget for each value of a setting."""
    if name in _BUDGETS:
        return [(selector, {name: value}) for value in values]
    return [(replace(selector, **{name: value}), budget) for value in values]


def _spec_value(selector: Selector, name: str, value: Any) -> Any:
    """Return the value of a setting as JSON."""
    return value if name in _BUDGETS else replace(selector, **{name: value}).spec()[name]


def _score_names(selections: Iterable[Selection]) -> list[str]:
    """Return the scores that selections are based on, without identifiers and the words measured in any case."""
    names = dict.fromkeys(name for selection in selections for name in selection.score_columns)
    return [name for name in names if name not in ("cluster_distance", "response_words") and not is_identifier(name)]


def _jaccard(first: Selection, second: Selection) -> float:
    return round_significant(float(jaccard_of_rows([first.indices, second.indices])[0, 1]))
