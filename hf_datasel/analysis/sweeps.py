"""What a setting of a selector does to its choice, and what parts of a method do: sweeps and ablations."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import fields, replace
from itertools import chain
from typing import TYPE_CHECKING, Any, TypedDict

import numpy as np

from hf_datasel.analysis.binning import significant
from hf_datasel.analysis.measures import Measure, standard_measures
from hf_datasel.analysis.overlap import jaccard_of_rows
from hf_datasel.errors import ConfigError, DataselError, did_you_mean
from hf_datasel.rounds.selector import Selector
from hf_datasel.selection import Selecting, Selection
from hf_datasel.selection.budget import DEFAULT_RATIO

if TYPE_CHECKING:
    from datasets import Dataset

__all__ = ["Ablation", "Sweep", "ablation", "sweep"]

_BUDGETS = ("size", "ratio", "tokens")


class Sweep(TypedDict):
    """What a selector chooses with several values of one setting, the others left as they are.

    Attributes:
        selector: name of it.
        setting: name of the setting, or `"size"`, `"ratio"` or `"tokens"`.
        values: of the setting, in the order given.
        default: value that the selector has, or the budget that was passed; None where that was of another kind.
        rows: rows chosen with each value.
        jaccard_default: what each choice shares with that of the default, 0 to 1.
        jaccard_previous: what each shares with that of the value before it; None for the first.
        measures: name -> a number for each choice, None where there is none.
        measures_default: name -> the number for the choice with the default.
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
    """What several selectors choose of the same rows.

    Attributes:
        names: of the selectors; the others are held against the first.
        rows: rows that each chooses.
        jaccard: what each choice shares with the first one, 0 to 1.
        measures: name -> a number for each choice, None where there is none.
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
    tokenizer: Any = None,
    **budget: Any,
) -> dict[str, Sweep]:
    """Choose rows with each value of each setting, one setting at a time, and say how the choices differ.

    IterIT's sensitivity study (Jia et al. 2024, 2412.17365, section 5.4) is
    `sweep(scored, IterIT(quality="ifd"), {"ratio": [0.01, 0.05, 0.1], "candidate_factor": [1, 3, 5, 10], "decay":
    [0, 0.1, 0.5, 1]})`: its M, a and b. The paper trains a model on each choice; a measure of your own may do so.

    A score that several choices need is computed once.

    Args:
        dataset: rows in any supported format, with the columns that the selector names.
        selector: with the settings to depart from.
        settings: name of a setting -> values to try. The budget is one too: `"size"`, `"ratio"` or `"tokens"`.
        measures: name -> a function of the dataset and a selection, whose number tells choices apart, or NaN. By
            default `standard_measures` of the scores that the choice is based on; add to these with
            `standard_measures(["ifd"]) | {"my metric": function}`.
        seed: as in `select`, the same for all choices, as are `model` and `tokenizer`.
        budget: `size`, `ratio` or `tokens` as in `select`, where that is not what is swept.

    Raises:
        ConfigError: no settings, one that the selector does not have, one without values, or a value it cannot have.
        DataselError: what `select` raises; a note says for which value.

    >>> from datasets import Dataset
    >>> from hf_datasel.selectors import Top
    >>> rows = Dataset.from_dict({"prompt": ["?"] * 4, "completion": ["a b", "a", "b c a", "c"]})
    >>> rows = rows.add_column("ifd", [0.9, 0.2, 0.7, 0.4])
    >>> found = sweep(rows, Top(by="ifd"), {"size": [1, 2, 3]}, size=2)["size"]
    >>> found["jaccard_default"], found["measures"]["mean ifd"], found["measures"]["response words"]
    ([0.5, 1.0, 0.666667], [0.9, 0.8, 0.666667], [2.0, 2.5, 2.0])
    """
    budget = _checked_budget(budget)
    runs = {name: _runs(selector, name, values, budget) for name, values in _checked(settings, selector).items()}
    chosen = _Choices(Selecting(dataset, model, tokenizer), seed)
    base = chosen.of(selector, budget, "the default")
    found = {
        name: [chosen.of(*run, f"{name}={value!r}") for run, value in zip(each, settings[name], strict=True)]
        for name, each in runs.items()
    }
    every = chain([base], *found.values())
    measured = _Measured(dataset, standard_measures(_scores_of(every)) if measures is None else measures)
    return {name: _sweep(selector, name, settings[name], budget, base, each, measured) for name, each in found.items()}


def ablation(
    dataset: Dataset,
    selectors: Mapping[str, Selector],
    measures: Mapping[str, Measure] | None = None,
    seed: int = 0,
    model: Any = None,
    tokenizer: Any = None,
    **budget: Any,
) -> Ablation:
    """Choose rows with several selectors, such as a method with and without one of its parts, and say how they differ.

    IterIT's ablation of diversity (Jia et al. 2024, 2412.17365, table 4) is `ablation(scored, {part:
    IterIT(quality="ifd", diversity=part) for part in ("response", "none", "prompt", "both")})`.

    Args:
        dataset: rows in any supported format, with the columns that the selectors name.
        selectors: name -> selector; the others are held against the first.
        measures: as in `sweep`, as are `seed`, `model`, `tokenizer` and the budget.

    Raises:
        ConfigError: no selectors.
        DataselError: what `select` raises; a note says for which selector.

    >>> from datasets import Dataset
    >>> from hf_datasel.selectors import Longest, Top
    >>> rows = Dataset.from_dict({"prompt": ["?"] * 4, "completion": ["a b", "a", "b c a", "c"]})
    >>> rows = rows.add_column("ifd", [0.9, 0.2, 0.7, 0.4])
    >>> found = ablation(rows, {"IFD": Top(by="ifd"), "long": Longest(unit="words")}, size=1)
    >>> found["jaccard"], found["measures"]["mean ifd"]
    ([1.0, 0.0], [0.9, 0.7])
    """
    if not selectors:
        raise ConfigError("An ablation needs at least one selector, and got none.")
    budget = _checked_budget(budget)
    chosen = _Choices(Selecting(dataset, model, tokenizer), seed)
    found = [chosen.of(selector, budget, name) for name, selector in selectors.items()]
    measured = _Measured(dataset, standard_measures(_scores_of(found)) if measures is None else measures)
    return {
        "names": list(selectors),
        "rows": [len(each.indices) for each in found],
        "jaccard": [_shared(found[0], each) for each in found],
        "measures": measured.columns(found),
    }


def _sweep(
    selector: Selector,
    name: str,
    values: Sequence[Any],
    budget: Mapping[str, Any],
    base: Selection,
    found: Sequence[Selection],
    measured: _Measured,
) -> Sweep:
    spec, before = selector.spec(), found[:-1]
    return {
        "selector": str(spec["selector"]),
        "setting": name,
        "values": [_plain(selector, name, value) for value in values],
        "default": budget.get(name) if name in _BUDGETS else spec[name],
        "rows": [len(each.indices) for each in found],
        "jaccard_default": [_shared(base, each) for each in found],
        "jaccard_previous": [None, *(_shared(one, each) for one, each in zip(before, found[1:], strict=True))],
        "measures": measured.columns(found),
        "measures_default": {measure: column[0] for measure, column in measured.columns([base]).items()},
    }


class _Choices:
    """Selections, none of which is made twice."""

    def __init__(self, selecting: Selecting, seed: int):
        self.selecting, self.seed = selecting, seed
        self.made: list[tuple[Selector, dict[str, Any], Selection]] = []

    def of(self, selector: Selector, budget: Mapping[str, Any], who: str) -> Selection:
        for known, at, selection in self.made:
            if known == selector and at == budget:
                return selection
        try:
            selection = self.selecting.select(selector, seed=self.seed, **budget)
        except DataselError as error:
            error.add_note(f"This was the choice with {who}.")
            raise
        self.made.append((selector, dict(budget), selection))
        return selection


class _Measured:
    """Measures of selections, none of which is taken twice."""

    def __init__(self, dataset: Dataset, measures: Mapping[str, Measure]):
        self.dataset, self.measures = dataset, measures
        self.taken: dict[tuple[str, int], tuple[Selection, float | None]] = {}

    def columns(self, selections: Sequence[Selection]) -> dict[str, list[float | None]]:
        return {name: [self._of(name, each) for each in selections] for name in self.measures}

    def _of(self, name: str, selection: Selection) -> float | None:
        key = name, id(selection)
        if key not in self.taken:
            value = float(self.measures[name](self.dataset, selection))
            self.taken[key] = selection, significant(value) if np.isfinite(value) else None
        return self.taken[key][1]


def _checked(settings: Mapping[str, Sequence[Any]], selector: Selector) -> Mapping[str, Sequence[Any]]:
    if not isinstance(selector, Selector):
        raise ConfigError(f"selector has to be a Selector such as Random(), and is {selector!r}.")
    known = [*(each.name for each in fields(selector)), *_BUDGETS]
    if not settings:
        raise ConfigError(f"settings={{}} names nothing to sweep. {type(selector).__name__} has {known}.")
    for name, values in settings.items():
        if name not in known:
            raise ConfigError(
                f"{type(selector).__name__} has no setting {name!r}: it has {known}.{did_you_mean(name, known)}"
            )
        if isinstance(values, str) or not isinstance(values, Sequence) or not values:
            raise ConfigError(f"settings[{name!r}]={values!r} has to be a list of the values to try.")
    return settings


def _checked_budget(budget: dict[str, Any]) -> dict[str, Any]:
    """The budget as it was passed, or what `select` takes where none was."""
    for name, value in budget.items():
        if name not in _BUDGETS:
            raise ConfigError(f"{name}={value!r} is no budget: pass one of {list(_BUDGETS)}.")
    return budget or {"ratio": DEFAULT_RATIO}


def _runs(
    selector: Selector, name: str, values: Sequence[Any], budget: Mapping[str, Any]
) -> list[tuple[Selector, Mapping[str, Any]]]:
    if name in _BUDGETS:
        return [(selector, {name: value}) for value in values]
    return [(replace(selector, **{name: value}), budget) for value in values]


def _plain(selector: Selector, name: str, value: Any) -> Any:
    return value if name in _BUDGETS else replace(selector, **{name: value}).spec()[name]


def _scores_of(selections: Iterable[Selection]) -> list[str]:
    """The scores that choices are based on, each once, without clusters and what is measured anyway."""
    names = dict.fromkeys(name for selection in selections for name in selection.score_columns)
    return [name for name in names if name not in ("cluster_id", "cluster_distance", "response_words")]


def _shared(one: Selection, other: Selection) -> float:
    return significant(float(jaccard_of_rows([one.indices, other.indices])[0, 1]))
