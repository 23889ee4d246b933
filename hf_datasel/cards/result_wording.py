"""Results of an experiment in words: what it cannot see, the table, and how to read it."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence

from hf_datasel.cards.cost_wording import describe_duration, describe_flops
from hf_datasel.cards.facts import Result
from hf_datasel.hub.markdown import Markdown, code, table, text
from hf_datasel.scoring.cost import Cost

__all__ = ["describe_experiment", "describe_result", "difference_text", "result_groups", "training_operations"]

_NONE = Markdown("–")
_AVERAGE = "average"
_OWN = "this selection"
_WEIGHTING = {"rows": "mean of the values of single rows", "bytes": "over all bytes together"}
Groups = Mapping[str, Sequence[Result]]
"""What was measured -> results, of which at most one is of each method."""


def describe_experiment(results: Sequence[Result]) -> str:
    """Return what the experiment cannot see, its table, and a list of what is missing and how to read it, as Markdown.

    Args:
        results: Results, some of which describe several training runs.
    """
    groups = result_groups(results)
    versus = list(dict.fromkeys(result["versus"] for result in results if "versus" in result))
    levels = {f"{100 * result['confidence']:g} %" for result in results if "confidence" in result}
    difference = f"difference{f' to {versus[0]}' if len(versus) == 1 else ''}"
    head = [
        "trained on",
        "metric on dataset",
        "value (sd, runs)",
        f"{difference} [{' or '.join(sorted(levels))}]",
        "p",
    ]
    head[3] = head[3].removesuffix(" []")
    with_cost = any("cost" in result for result in results)
    rows = [
        [
            result["trained_on"],
            _measured(result),
            _value(result, group),
            _difference(result, group, len(versus) > 1),
            _p(result),
            *([_cost(result, group)] if with_cost else []),
        ]
        for group in groups.values()
        for result in group
    ]
    shown = table([*head, *(["cost"] if with_cost else [])], rows)
    return "\n\n".join(part for part in (_above(groups, versus), shown, _below(groups, versus)) if part)


def describe_result(results: Sequence[Result]) -> Markdown:
    """Return how training on the selection compares, in the first results that have an interval; "" for none.

    Args:
        results: Results, some of which describe several training runs.
    """
    for group in result_groups(results).values():
        own = next((result for result in group if result["trained_on"] == _OWN and "low" in result), None)
        control = next((result for result in group if own and result["trained_on"] == own.get("versus")), None)
        if own is None or control is None:
            continue
        decimals = _decimals(group)
        versus, higher = text(control["trained_on"]), own.get("higher_is_better", True)
        verdict = f"**{_verdict(own)} than {versus}**" if _differs(own) else f"no difference to {versus} was seen"
        values = f"{own['value']:.{decimals}f} and {control['value']:.{decimals}f} {text(_measured(own))}"
        operations, unit = training_operations(own), training_operations(control)
        cost = f", with {operations / unit:.3g} times the operations" if operations and unit else ""
        return Markdown(f"{verdict}: {values}{'' if higher else ' (lower is better)'}{cost}")
    return Markdown("")


def result_groups(results: Sequence[Result]) -> dict[str, list[Result]]:
    """Return the results by what was measured, named by the dataset, and by the metric where that is not enough.

    Args:
        results: The results.
    """
    measured = dict.fromkeys((result["metric"], result["dataset"]) for result in results)
    datasets = [dataset for _, dataset in measured]
    groups: dict[str, list[Result]] = {}
    for metric, dataset in measured:
        name = dataset if datasets.count(dataset) == 1 else f"{metric} on {dataset}"
        name = metric if metric == _AVERAGE else name  # over datasets, of which there may be many
        groups[name] = [result for result in results if (result["metric"], result["dataset"]) == (metric, dataset)]
    return groups


def difference_text(result: Result, group: Sequence[Result]) -> str:
    """Return the difference with its interval in plain text, and what it means if the interval does not contain 0.

    Args:
        result: A result with a difference.
        group: All results of the same metric and dataset, which have the same number of decimals.

    >>> result = {"value": 60.0, "difference": -4.0, "low": -6.5, "high": -1.5, "sd": 1.2}
    >>> difference_text(result, [result])
    '-4.00 [-6.50, -1.50], worse'
    """
    decimals = _decimals(group)
    cell = f"{result['difference']:+.{decimals}f}"
    if "low" not in result:
        return cell
    cell += f" [{result['low']:.{decimals}f}, {result['high']:.{decimals}f}]"
    if not _differs(result):
        return cell
    return f"{cell}, {_verdict(result)}"


def _differs(result: Result) -> bool:
    return "low" in result and (result["low"] > 0 or result["high"] < 0)


def _verdict(result: Result) -> str:
    return "better" if (result["low"] > 0) == result.get("higher_is_better", True) else "worse"


def _measured(result: Result) -> str:
    return f"{result['metric']} on {result['dataset']}"


# -- cells -----------------------------------------------------------------------------------------------------------
def _decimals(group: Sequence[Result]) -> int:
    """Return the number of decimals that gives the widest spread of the group three significant digits."""
    spreads = [result["sd"] for result in group if result.get("sd", 0) > 0]
    spreads += [
        (result["high"] - result["low"]) / 2 for result in group if result.get("high", 0) > result.get("low", 0)
    ]
    spread = max(spreads) if spreads else max(abs(result["value"]) for result in group) / 10
    return min(max(2 - math.floor(math.log10(spread)), 0), 6) if spread > 0 else 2


def _value(result: Result, group: Sequence[Result]) -> str:
    decimals = _decimals(group)
    about = [f"sd {result['sd']:.{decimals}f}"] if "sd" in result and result.get("runs", 2) > 1 else []
    about += [_count(result["runs"], "run")] if "runs" in result else []
    value = f"{result['value']:.{decimals}f}"
    return f"{value} ({', '.join(about)})" if about else value


def _difference(result: Result, group: Sequence[Result], name_versus: bool) -> Markdown:
    if "difference" not in result:
        return _NONE
    cell = text(difference_text(result, group))
    cell = Markdown(f"**{cell}**") if _differs(result) else cell
    return Markdown(f"{cell} to {text(result['versus'])}") if name_versus else cell


def _p(result: Result) -> str:
    if "p" not in result:
        return _NONE
    return "below 0.001" if result["p"] < 0.001 else f"{result['p']:.3f}"


def _cost(result: Result, group: Sequence[Result]) -> str:
    """Return the operations, as a multiple of the ones compared with if they are recorded, and the times by phase."""
    phases = _phases(result)
    if not phases:
        return _NONE
    control = next((other for other in group if other["trained_on"] == result.get("versus")), None)
    unit = training_operations(control) if control is not None else 0
    operations = training_operations(result)
    amount = f"{operations / unit:.3g} x" if unit else describe_flops(operations)
    return "; ".join(
        [amount, *(f"{phase} {describe_duration(cost['device_seconds'])}" for phase, cost in phases.items())]
    )


def _phases(result: Result) -> dict[str, Cost]:
    cost = result.get("cost", {})
    phases = {"selecting": cost.get("selecting"), "training": cost.get("training")}
    return {phase: cost for phase, cost in phases.items() if cost is not None}


def training_operations(result: Result) -> float:
    """Return the floating-point operations of selecting and training; 0 if they are not recorded.

    Args:
        result: The result.
    """
    return sum(cost["flops"] for cost in _phases(result).values())


# -- above and below the table ---------------------------------------------------------------------------------------
def _above(groups: Groups, versus: Sequence[str]) -> str:
    """Return the number of runs and questions, and what the experiment cannot see."""
    results = [result for group in groups.values() for result in group]
    controls = [result["runs"] for result in results if "runs" in result and result["trained_on"] in versus]
    others = [result["runs"] for result in results if "runs" in result and ("versus" in result or not versus)]
    runs = [f"{_range(controls)} of {text(versus[0])}"] if controls and len(versus) == 1 else []
    runs += [f"{_range(others)} of {'what is compared' if runs else 'each'}"] if others else []
    parts = [f"Training runs: {', '.join(runs)}."] if runs else []
    if questions := _by_group(groups, lambda result: f"{result['items']:,}" if "items" in result else None):
        parts.append(f"Questions or held-out rows: {questions}.")
    effects = _by_group(groups, _detectable)
    if effects:
        parts.append(f"A true difference of {effects} is seen in 80 % of such experiments, smaller ones less often.")
    elif versus:
        parts.append("Which differences are too small to be seen is not recorded.")
    return " ".join(parts)


def _detectable(result: Result) -> str | None:
    return f"{result['detectable']:.2g}" if "detectable" in result else None


def _range(numbers: Sequence[int]) -> str:
    low, high = min(numbers), max(numbers)
    return f"{low}" if low == high else f"{low} to {high}"


def _by_group(groups: Groups, describe: Callable[[Result], str | None]) -> str:
    """Return what the groups have in common, or else the description of each with its name; "" for nothing."""
    described = {name: list(dict.fromkeys(filter(None, map(describe, group)))) for name, group in groups.items()}
    described = {name: values for name, values in described.items() if values}
    values = list(dict.fromkeys(" or ".join(values) for values in described.values()))
    if len(values) == 1:
        return values[0]
    return ", ".join(f"{' or '.join(values)} ({text(name)})" for name, values in described.items())


def _below(groups: Groups, versus: Sequence[str]) -> str:
    """Return what is missing, the tasks, the costs and how to read the table, as a list."""
    results = [result for group in groups.values() for result in group]
    lines = _missing(groups, versus)
    lower = list(dict.fromkeys(_measured(item) for item in results if not item.get("higher_is_better", True)))
    if lower:
        lines.append(f"Lower is better: {', '.join(map(text, lower))}.")
    lines += [f"{text(name)}: {task}." for name, group in groups.items() for task in _tasks(group)]
    lines += [
        f"{text(result['trained_on'])}, {text(_measured(result))}: {text(result['note'])}"
        for result in results
        if result["note"]
    ]
    if any(_phases(result) for result in results):
        devices = list(dict.fromkeys(cost["device"] for result in results for cost in _phases(result).values()))
        unit = f" (x: times {text(versus[0])})" if len(versus) == 1 else ""
        lines.append(
            f"Cost: floating-point operations of selecting and training{unit}, and device time on "
            f"{', '.join(map(text, devices))}; means over runs."
        )
    if any("low" in result for result in results):
        tasks = sum(any("low" in result for result in group) for group in groups.values())
        scope = f", but not for the {tasks} datasets at once" if tasks > 1 else ""
        numbers = [result["compared"] for result in results if "low" in result and "compared" in result]
        methods = f"{_count(max(numbers), 'compared method')} of the experiment" if numbers else "compared methods"
        lines.append(
            f"Differences are means of runs minus those of {text(versus[0]) if len(versus) == 1 else 'another method'}"
            ". The intervals are for other training runs on the same questions, and hold for all "
            f"{methods} at once{scope}; p is adjusted likewise. Bold: the interval does not contain 0. –: not "
            "compared, such as a single run."
        )
    return "\n".join(f"- {line}" for line in lines)


def _missing(groups: Groups, versus: Sequence[str]) -> list[str]:
    """Return a line for each method with planned runs that did not finish, or too few for an interval."""
    lines = []
    for name in dict.fromkeys(result["trained_on"] for group in groups.values() for result in group):
        own = {label: [result for result in group if result["trained_on"] == name] for label, group in groups.items()}
        absent = [text(label) for label, results in own.items() if not results and _has_runs(groups[label])]
        parts = [part for part in (_by_group(own, _unfinished), _by_group(own, _single) if versus else "") if part]
        parts += [f"no result on {', '.join(absent)}"] if absent and any(map(_has_runs, own.values())) else []
        lines += [f"{text(name)}: {'; '.join(parts)}."] if parts else []
    return lines


def _has_runs(results: Sequence[Result]) -> bool:
    return any("runs" in result for result in results)


def _unfinished(result: Result) -> str | None:
    if result.get("planned", 0) <= result.get("runs", 0):
        return None
    return f"{result['runs']} of {_count(result['planned'], 'planned run')} finished"


def _single(result: Result) -> str | None:
    return "one run has no interval" if result.get("runs") == 1 and result.get("planned", 1) > 1 else None


def _tasks(group: Sequence[Result]) -> list[str]:
    """Return the different descriptions of the task of a group, usually one."""
    return list(dict.fromkeys(filter(None, map(_task, group))))


def _task(result: Result) -> str:
    task = result.get("task", {})
    parts = [f"task {code(task['name'])}"] if "name" in task else []
    parts += [f"version {text(task['version'])}"] if "version" in task else []
    parts += [_count(task["shots"], "shot")] if "shots" in task else []
    parts += [f"template {code(task['template'])}"] if "template" in task else []
    parts += [f"metric {code(task['metric'])}"] if "metric" in task else []
    parts += [f"filter {code(task['filter'])}"] if "filter" in task else []
    parts += [_WEIGHTING[task["weighting"]]] if task.get("weighting") in _WEIGHTING else []
    if "limit" in task:
        limit = task["limit"]
        parts.append(f"limited to {limit:.0%} of the questions" if limit < 1 else f"limited to {limit:,.0f} questions")
    if "harness" in result:
        parts.append(f"evaluated with {text(result['harness']['name'])} {text(result['harness']['version'])}")
    return ", ".join(parts)


def _count(number: int, noun: str) -> str:
    return f"{number:,} {noun}{'' if number == 1 else 's'}"
