"""Evaluation results in the repository of a model: `model-index` in its card, and `.eval_results/hf_datasel.yaml`."""

from __future__ import annotations

import os
import re
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml
from huggingface_hub import EvalResult, EvalResultEntry, eval_result_entries_to_yaml
from huggingface_hub.repocard_data import eval_results_to_model_index, model_index_to_eval_results

from hf_datasel.cards.facts import Result
from hf_datasel.cards.results import check_results
from hf_datasel.errors import PublishError, did_you_mean
from hf_datasel.hub.card_yaml import split_card, to_yaml
from hf_datasel.hub.permissions import sign_in
from hf_datasel.hub.repository import Hub, Snapshot

if TYPE_CHECKING:
    from huggingface_hub import CommitInfo

__all__ = ["model_results", "push_model_results"]

_RESULTS_FILE = ".eval_results/hf_datasel.yaml"
_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+")
_DATA_FILE = re.compile(r".+\.(csv|json|jsonl|parquet|txt|yaml|yml)", re.IGNORECASE)


def push_model_results(
    repo_id: str,
    results: Sequence[Mapping[str, Any]],
    *,
    trained_on: str = "this selection",
    run: int | None = None,
    dataset_ids: Mapping[str, str] | None = None,
    token: str | None = None,
    revision: str | None = None,
    commit_message: str = "Evaluation results",
) -> CommitInfo:
    """Add evaluation results to the repository of a model, in one commit.

    They are in the metadata of its card (`model-index`), where other results stay, and those on datasets of the Hub
    also in `.eval_results/hf_datasel.yaml`, which the Hub shows on the page of the model. Only results that name
    their task (`result["task"]["name"]`) are published.

    Args:
        repo_id: Id of the model repository, which has to exist.
        results: Results with the keys of `hf_datasel.cards.Result`, such as an experiment or `hf-datasel eval` writes.
        trained_on: Which of the results are those of the model.
        run: Index of the run in `result["values"]` whose weights the model has; required if a result is the mean of
            several runs, since the mean describes none of their models.
        dataset_ids: `dataset` of a result -> id of the dataset on the Hub, where the result does not have the id.
        token: Token with write permission; by default the one that is logged in.
        revision: Branch to push to, which has to exist; by default the main branch.
        commit_message: Message of the commit.

    Returns:
        The commit; if nothing has changed, the current one.

    Raises:
        PublishError: No result can be published, the model does not exist, its card cannot be read, or the token
            does not permit it.
    """
    published = model_results(results, trained_on=trained_on, run=run, dataset_ids=dataset_ids)
    hub = Hub(repo_id, token, revision, repo_type="model")
    sign_in(hub)
    if hub.is_private() is None:
        raise PublishError(f"There is no model {hub.repo_id!r} on the Hub that this token may read: push it first.")
    entries = _entries(published)
    scan = hub.secret_scan()
    with tempfile.TemporaryDirectory(prefix="hf_datasel_") as scratch:

        def build(current: Snapshot) -> tuple[dict[str, Path], set[str]]:
            texts = {"README.md": _with_results(current.card or "", published, hub.repo_id.split("/")[1])}
            if entries:
                texts[_RESULTS_FILE] = entries
            scan.check_texts(texts)
            files = {path: Path(scratch) / Path(path).name for path in texts}
            for path, file in files.items():
                file.write_text(texts[path], encoding="utf-8", newline="")
            return files, set() if entries else {_RESULTS_FILE}

        return hub.commit(build, commit_message)


def model_results(
    results: Sequence[Mapping[str, Any]],
    *,
    trained_on: str = "this selection",
    run: int | None = None,
    dataset_ids: Mapping[str, str] | None = None,
) -> list[EvalResult]:
    """Return the results of one model in the form of `huggingface_hub`, for `SelectiveSFTTrainer.evaluation_results`.

    Args:
        results: As for `push_model_results`.
        trained_on: As for `push_model_results`.
        run: As for `push_model_results`.
        dataset_ids: As for `push_model_results`.

    Raises:
        PublishError: None of the results is of the model and names its task, or `run` is missing or out of range.
    """
    checked = check_results(results, "results")
    own = [result for result in checked if result["trained_on"] == trained_on]
    if not own:
        names = list(dict.fromkeys(result["trained_on"] for result in checked))
        raise PublishError(
            f"None of the results is of {trained_on!r}, only of {names}.{did_you_mean(trained_on, names)}"
        )
    ids = dict(dataset_ids or {})
    datasets = list(dict.fromkeys(result["dataset"] for result in own))
    if unknown := [name for name in ids if name not in datasets]:
        raise PublishError(
            f"dataset_ids names {unknown[0]!r}, but the results are on {datasets}.{did_you_mean(unknown[0], datasets)}"
        )
    named = [result for result in own if "name" in result.get("task", {})]
    if not named:
        raise PublishError(f"No result of {trained_on!r} names its task (['task']['name']), so none can be published.")
    return [_eval_result(result, run, ids.get(result["dataset"], result["dataset"])) for result in named]


def _entries(results: Sequence[EvalResult]) -> str:
    """Return the content of `.eval_results/hf_datasel.yaml` for results of `model_results`; "" without any."""
    entries = [
        EvalResultEntry(
            dataset_id=result.dataset_type,
            task_id=result.task_name,
            value=result.metric_value,
            notes=result.metric_name,
        )
        for result in results
        if result.task_name is not None and _is_hub_id(result.dataset_type)
    ]
    return yaml.safe_dump(eval_result_entries_to_yaml(entries), sort_keys=False, allow_unicode=True) if entries else ""


def _is_hub_id(name: str) -> bool:
    """Return whether a name is that of a dataset on the Hub, and not the path of a local file or folder."""
    return bool(_HUB_ID.fullmatch(name)) and not _DATA_FILE.fullmatch(name) and not os.path.exists(name)


def _eval_result(result: Result, run: int | None, dataset: str) -> EvalResult:
    task, name = result["task"], f"{result['metric']} on {result['dataset']}"
    runs = result.get("runs", 1)
    if run is None and runs > 1:
        raise PublishError(
            f"{name} is the mean of {runs} runs, and the model is that of one of them.",
            hint=f"Pass run, from 0 to {runs - 1}.",
            cli_hint=f"Pass --model_run, from 0 to {runs - 1}.",
        )
    if run is not None and not 0 <= run < len(result.get("values", [])):
        raise PublishError(f"{name} has no value of run {run}: there are {len(result.get('values', []))} values.")
    details = [result["metric"], task["name"]]
    details += [f"{task['shots']} shots"] if "shots" in task else []
    details += [f"limit {task['limit']:g}"] if "limit" in task else []
    details += [f"{result['harness']['name']} {result['harness']['version']}"] if "harness" in result else []
    return EvalResult(
        task_type="text-generation",
        task_name=task["name"],
        dataset_type=dataset,
        dataset_name=result["dataset"],
        dataset_args={"num_few_shot": task["shots"]} if "shots" in task else None,
        metric_type=result["metric"].replace(" ", "_"),
        metric_name=", ".join(details),
        metric_value=result["value"] if run is None else result["values"][run],
    )


def _with_results(card: str, results: Sequence[EvalResult], name: str) -> str:
    """Return a model card with the results in its metadata; equal measurements are replaced, others stay."""
    metadata, body = split_card(card)
    # one by one: results of several tasks on one dataset would get the task of the first
    added = [eval_results_to_model_index(name, [result])[0]["results"][0] for result in results]
    replaced = {_measurement(entry["dataset"], metric) for entry in added for metric in entry["metrics"]}
    try:
        index = metadata.get("model-index") or [{"name": name, "results": []}]
        model_index_to_eval_results(index)
        first, *more = [{**model, "results": _without(model["results"], replaced)} for model in index]
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise PublishError(f"The model-index in the card of the model is not valid: {error!r}") from error
    merged = [{**first, "results": [*first["results"], *added]}, *more]
    return card if merged == metadata.get("model-index") else to_yaml({**metadata, "model-index": merged}) + body


def _measurement(dataset: Mapping[str, Any], metric: Mapping[str, Any]) -> tuple[Any, ...]:
    return dataset["type"], metric["type"], metric.get("name")


def _without(entries: Sequence[Mapping[str, Any]], replaced: set[tuple[Any, ...]]) -> list[dict[str, Any]]:
    """Return the entries of a model-index without some measurements, and without entries that have none left."""
    remaining = [
        {
            **entry,
            "metrics": [item for item in entry["metrics"] if _measurement(entry["dataset"], item) not in replaced],
        }
        for entry in entries
    ]
    return [entry for entry in remaining if entry["metrics"]]
