"""The model card: how the training rows were selected, and the results of evaluations."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from huggingface_hub import EvalResult, ModelCard, ModelCardData

from hf_datasel.cards.build import config_names
from hf_datasel.cards.cost_wording import compare_costs, describe_cost
from hf_datasel.cards.facts import Result
from hf_datasel.cards.round_wording import (
    describe_rounds,
    independent_rounds,
    is_growing,
    number_range,
    round_label,
    round_step,
    warm_up_rounds,
)
from hf_datasel.cards.sections.method import (
    REUSED_PRIORS,
    describe_method,
    describe_reused_losses,
    reused_losses,
    reuses_priors,
    selection_settings,
)
from hf_datasel.cards.sections.training import (
    describe_logged_loss,
    describe_order,
    describe_step_filter,
    step_filter_citation,
)
from hf_datasel.hub.markdown import code, fence, link, table, text
from hf_datasel.rounds.selector import Selector
from hf_datasel.scoring.cost import Cost
from hf_datasel.selection import Selection
from hf_datasel.selection.display import describe_setting
from hf_datasel.selection.provenance import without_paths
from hf_datasel.spec import compact

__all__ = ["card_results", "evaluation_results", "extend_card", "training_data_section"]

_NEXT_SECTION = "## Training procedure"
_MAX_DESCRIPTION = 1_000  # characters
_NO_BASE_MODEL = "[None](https://huggingface.co/None)"
_NO_MODEL_NAME = 'model="None"'
_METRICS = {"loss": ("loss", "Loss"), "mean_token_accuracy": ("accuracy", "Mean token accuracy")}


def extend_card(
    path: Path, *, section: str, datasets: Sequence[str], results: Sequence[EvalResult], name: str
) -> None:
    """Add the section on the training rows, the datasets and the evaluation results to the card that TRL wrote.

    Args:
        path: File of the card.
        section: Section on the training rows, in Markdown.
        datasets: Repository ids of the datasets, for the metadata.
        results: Evaluation results, for the metadata.
        name: Name of the model.
    """
    card = ModelCard.load(path)
    data = card.data.to_dict()
    data.pop("licence", None)  # a placeholder of TRL
    if tags := data.get("tags"):
        data["tags"] = sorted(tags)
    if datasets:
        data["datasets"] = list(dict.fromkeys(datasets))
    if results:
        data |= {"model_name": name, "eval_results": [_with_plain_value(result) for result in results]}
    folder = path.parent.name if path.is_absolute() else path.parent.as_posix()
    body = card.text.replace(_NO_BASE_MODEL, "a model that is not on the Hub")
    body = body.replace(_NO_MODEL_NAME, f'model="{folder}"')
    before, heading, after = body.partition(_NEXT_SECTION)
    body = f"{before}{section}\n\n{heading}{after}" if heading else f"{before.rstrip()}\n\n{section}\n"
    ModelCard(f"---\n{ModelCardData(**data).to_yaml()}\n---\n{body}").save(path)


def evaluation_results(
    log_history: Sequence[Mapping[str, Any]], origins: Mapping[str, Mapping[str, str]], step: int | None = None
) -> list[EvalResult]:
    """Return loss and accuracy of the last evaluation on each evaluation dataset.

    Args:
        log_history: Log history of the trainer.
        origins: Prefix of the metrics -> name, configuration, split and revision of the dataset on the Hub, as far as
            they are known.
        step: Global step of the evaluation to return instead of the last one.
    """
    results = []
    for prefix, origin in origins.items():
        entries = [entry for entry in log_history if f"{prefix}_loss" in entry and step in (None, entry.get("step"))]
        last = entries[-1] if entries else {}
        for metric, (kind, name) in _METRICS.items():
            # of several evaluation datasets, only the losses have prefixes of their own
            value = last.get(f"{prefix}_{metric}", last.get(f"eval_{metric}"))
            if value is None or not math.isfinite(value):
                continue
            key = prefix.removeprefix("eval").removeprefix("_")
            title = origin.get("name") or (f"evaluation set {key}" if key else "evaluation set")
            results.append(
                EvalResult(
                    task_type="text-generation",
                    dataset_type=title,
                    dataset_name=title,
                    metric_type=kind,
                    metric_value=float(value),
                    dataset_config=origin.get("config"),
                    dataset_split=origin.get("split"),
                    dataset_revision=origin.get("revision"),
                    metric_name=name,
                )
            )
    return results


def card_results(results: Sequence[EvalResult]) -> list[Result]:
    """Return evaluation results as the card of the published selections shows them, if they are numbers."""
    return [
        {
            "trained_on": "this selection",
            "metric": result.metric_name or result.metric_type,
            "dataset": f"{result.dataset_name}{f' ({result.dataset_split})' if result.dataset_split else ''}",
            "value": float(result.metric_value),
            "note": "",
        }
        for result in results
        if isinstance(result.metric_value, int | float) and math.isfinite(result.metric_value)
    ]


def training_data_section(
    selections: Sequence[Selection],
    parent: Mapping[str, str],
    pool_rows: int,
    selector: Selector,
    published_at: str | None,
    time_share: float | None = None,
    run: Mapping[str, Any] | None = None,
    costs: Mapping[str, Cost] | None = None,
) -> str:
    """Return the section of the card that describes how the training rows were selected, in Markdown.

    Args:
        selections: One selection per round.
        parent: Origin of the pool on the Hub, as far as it is known.
        pool_rows: Number of rows of the pool.
        selector: Selector of the run.
        published_at: Repository of the selections, if they are published.
        time_share: Share of the wall time of the run that was spent on selecting, once the run has ended.
        run: Settings of the run that differ from their defaults.
        costs: Cost of the run by phase, once it has ended.
    """
    run, costs = run or {}, costs or {}
    source = link(parent["name"]) if "name" in parent else "a dataset that is not on the Hub"
    names = [code(parent[key]) for key in ("config", "split") if parent.get(key) not in (None, "default")]
    part = f" ({', '.join(map(str, names))})" if names else ""
    commit = f" at revision {code(parent['revision'][:12])}" if "revision" in parent else ""
    description = describe_method(without_paths(selector.spec()), run)
    parts = [
        "## Training data",
        f"The rows that this model was trained on were selected by {text(description['name'])} from {pool_rows:,} "
        f"rows of {source}{part}{commit}. {text(description['about'], limit=_MAX_DESCRIPTION)}".rstrip(),
        _settings(selector, run),
        _rounds(selections, pool_rows, published_at),
    ]
    specs = [selection.provenance["scores"] for selection in selections]
    parts.append(describe_reused_losses([reused_losses(scores) for scores in specs]))
    parts.append(REUSED_PRIORS if any(map(reuses_priors, specs)) else "")
    parts.append(describe_order(selection_settings(run).get("selection_order")))
    if selections and (weights := selections[-1].provenance.get("weights")):
        last_round = " in the last round" if len(selections) > 1 else ""
        parts.append(
            f"The losses of each row were multiplied by its weight: {weights['min']:.3g} to {weights['max']:.3g}, "
            f"mean {weights['mean']:.3g}{last_round}."
        )
    parts.append(describe_step_filter(run.get("step_filter")))
    has_weights = bool(selections) and "weights" in selections[-1].provenance
    parts.append(describe_logged_loss(has_weights, run.get("step_filter")))
    if time_share is not None:
        parts.append(f"Selecting took {time_share:.1%} of the wall time of the run.")
    if "selecting" in costs and costs["selecting"]["tokens_forward"]:
        parts.append(f"To select, models processed {describe_cost(costs['selecting'])}.")
    if comparison := compare_costs(costs):
        parts.append(comparison)
    if description["citation"]:
        parts += [f"Cite {text(description['name'])} as:", fence(description["citation"], "bibtex")]
    if citation := step_filter_citation(run.get("step_filter")):
        parts += ["Cite the filter within steps as:", fence(citation, "bibtex")]
    return "\n\n".join(str(part) for part in parts if part)


def _settings(selector: Selector, run: Mapping[str, Any]) -> str:
    spec = compact(without_paths(selector.spec())) | selection_settings(run)
    changed = [f"{code(key)} = {code(describe_setting(value))}" for key, value in spec.items() if key != "selector"]
    if not changed:
        return "All its settings are its defaults."
    return f"Settings that differ from its defaults: {', '.join(changed)}."


def _rounds(selections: Sequence[Selection], pool_rows: int, published_at: str | None) -> str:
    """Return the number of selected rows, a table of the rounds, and where the selections are."""
    if not selections:
        return "No rows have been selected yet."
    rounds = [
        {
            "round": selection.provenance["round"],
            "rows": len(selection.indices),
            "step": round_step(selection.provenance),
        }
        for selection in selections
    ]
    names = config_names(selections) if published_at else [_folder(selection) for selection in selections]
    rows, growing = [], is_growing(rounds)
    for index, selection in enumerate(selections):
        rows.append(
            (
                round_label(rounds[index]),
                f"{selection.provenance['rows_scored']:,}",
                f"{len(selection.indices):,}",
                _num_new(selection) if growing else _overlap(selections, index),
                f"{selection.provenance['seconds']:.3g}",
                code(names[index]),
            )
        )
    comparison = "new rows" if growing else "overlap with the round before (Jaccard)"
    head = ["round", "rows scored", "rows selected", comparison, "seconds"]
    if published_at:
        where = (
            f"The selected rows, their numbers and their scores are in {link(published_at)}, one configuration per "
            "round."
        )
        head.append("configuration")
    else:
        where = "The numbers of the selected rows and their scores are in this repository, one folder per round."
        head.append("folder")
    summary = f"{_num_selected(rounds, pool_rows)} {describe_rounds(rounds)}".rstrip()
    return f"{summary}\n\n{table(head, rows)}\n\n{where}"


def _num_selected(rounds: Sequence[Mapping[str, Any]], pool_rows: int) -> str:
    """Return a sentence on the number of selected rows and of rounds."""
    count, warm_up = len(rounds), warm_up_rounds(rounds)
    if is_growing(rounds) and count > 1:
        return f"{rounds[-1]['rows']:,} of the {pool_rows:,} rows were selected in {count} rounds."
    if warm_up and count == len(warm_up):
        return f"{warm_up[-1]['rows']:,} of the {pool_rows:,} rows were selected for a warm-up."
    share = number_range([selected["rows"] for selected in independent_rounds(rounds)])
    times = f"in each of {count - len(warm_up)} rounds" if count - len(warm_up) > 1 else "in one selection"
    before = f", after a warm-up on {warm_up[-1]['rows']:,}" if warm_up else ""
    return f"{share} of the {pool_rows:,} rows were selected {times}{before}."


def _num_new(selection: Selection) -> str:
    return f"{len(selection.indices) - selection.provenance['selected_before']:,}"


def _overlap(selections: Sequence[Selection], index: int) -> str:
    """Return the Jaccard similarity with the round before; empty if that one is missing."""
    previous = selections[index - 1] if index else None
    if previous is None or previous.provenance["round"] != selections[index].provenance["round"] - 1:
        return ""
    return f"{selections[index].overlap(previous):.3f}"


def _folder(selection: Selection) -> str:
    return f"selections/round-{selection.provenance['round']}"


def _with_plain_value(result: EvalResult) -> EvalResult:
    """Return the result with a Python number where its value is one of NumPy."""
    value = result.metric_value
    return replace(result, metric_value=value.item()) if hasattr(value, "item") else result
