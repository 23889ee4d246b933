"""Evaluation results of models trained on the selected rows and of models to compare with."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import TYPE_CHECKING

from hf_datasel.analysis import plots
from hf_datasel.analysis.plots.theme import shortened
from hf_datasel.cards.facts import Result
from hf_datasel.cards.result_wording import (
    describe_experiment,
    difference_text,
    result_groups,
    training_operations,
)
from hf_datasel.cards.results import describes_runs
from hf_datasel.cards.section import CardSource, FigureInfo, Section
from hf_datasel.hub.markdown import code, table

if TYPE_CHECKING:
    from hf_datasel.cards.facts import Facts

__all__ = ["SECTION"]

_MAX_LISTED = 24  # differences that the alternative text lists one by one
_WHOLE_POOL, _EQUAL_COST = "the whole pool", "random at equal cost"


def _compute(source: CardSource) -> list[Result]:
    return list(source.results)


def _text(facts: Facts, own: list[Result]) -> str:
    if not own:
        return (
            "No model trained on these rows has been evaluated. A high score does not mean that training on a row "
            "helps: compare with the same number of random rows before you rely on this selection."
        )
    parts = [describe_experiment(own) if any(describes_runs(result) for result in own) else _simple_table(own)]
    if items := facts.get("items"):
        files = f"{len(items)} files such as {code(items[0])}" if len(items) > 1 else code(items[0])
        parts.append(
            f"The result of every question is in {files}: `pull_evaluation` of `hf_datasel.cards` reads them, to "
            "compute these numbers again."
        )
    return "\n\n".join(parts)


def _simple_table(own: list[Result]) -> str:
    rows = [
        (result["trained_on"], result["metric"], result["dataset"], f"{result['value']:.4g}", result["note"])
        for result in own
    ]
    return table(["trained on", "metric", "evaluated on", "value", "note"], rows)


def _figures(facts: Facts, own: list[Result]) -> list[FigureInfo]:
    """Return the forest plot and the plot of costs, if there are intervals or costs, and the runs to compare with."""
    control = next((result["versus"] for result in own if "versus" in result), None)
    compared = [result for result in own if result.get("versus", control) == control]
    if control is None or control not in [result["trained_on"] for result in compared]:
        return []
    groups = result_groups(compared)
    return [*_forest(control, groups), *_costs(control, groups)]


def _forest(control: str, groups: Mapping[str, list[Result]]) -> list[FigureInfo]:
    results = [result for group in groups.values() for result in group]
    if not any("low" in result for result in results):
        return []
    methods = {
        name: plots.PlottedMethod(
            tasks={
                label: _runs(result)
                for label, group in groups.items()
                for result in group
                if result["trained_on"] == name
            },
            task_intervals={
                label: (result["low"], result["high"])
                for label, group in groups.items()
                for result in group
                if result["trained_on"] == name and "low" in result
            },
        )
        for name in dict.fromkeys(result["trained_on"] for result in results)
    }
    draw = partial(
        plots.plot_forest,
        methods,
        control=control,
        whole_pool=_WHOLE_POOL if _WHOLE_POOL in methods else None,
        lower_is_better=[label for label, group in groups.items() if not group[0].get("higher_is_better", True)],
    )
    return [FigureInfo("forest", f"Differences to {shortened(control)}", _alt(control, groups), draw)]


def _costs(control: str, groups: Mapping[str, list[Result]]) -> list[FigureInfo]:
    """Return the plot of the first results with costs: those of the primary task."""
    for label, group in groups.items():
        costs = {result["trained_on"]: operations for result in group if (operations := training_operations(result))}
        if control not in costs or len(costs) < 2:
            continue
        methods = {
            result["trained_on"]: plots.PlottedMethod(
                _runs(result), costs=[costs[result["trained_on"]]] * len(_runs(result))
            )
            for result in group
            if result["trained_on"] in costs
        }
        draw = partial(
            plots.plot_cost,
            methods,
            control=control,
            cost_matched=[_EQUAL_COST] if _EQUAL_COST in methods else [],
            primary=label,
            lower_is_better=not group[0].get("higher_is_better", True),
        )
        values = "; ".join(
            f"{shortened(result['trained_on'])} {result['value']:.4g} at {costs[result['trained_on']] / unit:.3g}"
            for unit in [costs[control]]
            for result in group[:_MAX_LISTED]
            if result["trained_on"] in costs
        )
        about = "Results of runs against operations of selecting and training, relative to those of"
        return [FigureInfo("cost", "Results against cost", f"{about} {shortened(control)}: {values}.", draw)]
    return []


def _runs(result: Result) -> list[float]:
    return result.get("values", [result["value"]])


def _alt(control: str, groups: Mapping[str, list[Result]]) -> str:
    differences = [
        f"{shortened(result['trained_on'])} on {shortened(label, 60)} {difference_text(result, results)}"
        for label, results in groups.items()
        for result in results
        if "low" in result
    ]
    more = f"; and {len(differences) - _MAX_LISTED} more" if len(differences) > _MAX_LISTED else ""
    return (
        f"Runs as dots, a panel per task and a row per method; bars are intervals of the difference to "
        f"{shortened(control)}. "
        f"{'; '.join(differences[:_MAX_LISTED])}{more}."
    )


SECTION = Section("evaluation", "Evaluation", _text, _figures, _compute, list[Result])
