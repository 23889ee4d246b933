"""Results of a task of lm-eval: one value per item."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from hf_datasel.errors import EvaluationError
from hf_datasel.evaluation.row_results import RowResults

if TYPE_CHECKING:
    from hf_datasel.evaluation.harness_tasks import LoadedTask

__all__ = ["HarnessResults", "read_samples"]

_DEFAULT_MAX_GEN_TOKS = 256
"""Maximum number of tokens of an answer in lm-eval if a task names none."""


@dataclass(frozen=True, kw_only=True, eq=False)
class HarnessResults(RowResults):
    """Values of a metric of lm-eval per item; see `HarnessTask`.

    Args:
        row_ids: SHA-256 of each item, uint8 of shape (items, 32), as `doc_hash` of lm-eval.
        reasons: Reason why an item has no value, str of shape (items,): `no_value` if the task gives none, else empty.
        groups: Subtask of each item, str of shape (items,); empty for a task that has none.
        settings: Model and settings, plain values.
        scores: Value of the metric for each item, float64 of shape (items,); NaN for an item without one.
        truncated: Which answers were cut at `max_gen_toks`, bool of shape (items,). They are compared like others.
        truncated_prompts: Which prompts were longer than the model's window and lost their beginning, bool of shape
            (items,).
        answers: Generated answer, or the option with the highest probability: object array of str of shape (items,).
        prompt_hashes: SHA-256 of the prompt of each item, with its shots and chat template, uint8 of shape (items,
            32). Only results with equal prompts are of the same task.
    """

    scores: np.ndarray
    truncated: np.ndarray
    truncated_prompts: np.ndarray
    answers: np.ndarray
    prompt_hashes: np.ndarray

    kind: ClassVar[str] = "lm_eval"

    @property
    def values(self) -> np.ndarray:
        """Value of each item, float64 of shape (items,); NaN for an item without one."""
        return self.scores

    def mean(self) -> float:
        """Return the number as lm-eval aggregates it: over items, or over the means of equally weighted subtasks."""
        usable = self.reasons == ""
        if self.settings["weighting"] == "items":
            return float(self.scores[usable].mean())
        groups = self.groups[usable]
        return float(np.mean([self.scores[usable][groups == group].mean() for group in np.unique(groups)]))

    def summarize(self, rows: np.ndarray) -> dict[str, Any]:
        """Return the mean of some items, and the numbers of truncated answers and prompts among them."""
        return {
            self.settings["metric"]: self.subset(rows).mean(),
            "truncated_answers": int(self.truncated[rows].sum()),
            "truncated_prompts": int(self.truncated_prompts[rows].sum()),
        }


def read_samples(loaded: LoadedTask, samples: dict[str, list[dict[str, Any]]], lm: Any) -> HarnessResults:
    """Return the results of the items that lm-eval logs; the settings do not name the model yet.

    Args:
        loaded: The task.
        samples: Logged items by subtask.
        lm: The model of lm-eval.

    Raises:
        EvaluationError: The metric has no number per item.
    """
    items = [
        (name, sample)
        for name, task_samples in samples.items()
        for sample in sorted(task_samples, key=lambda sample: int(sample["doc_id"]))
        if sample["filter"] == loaded.filter
    ]
    metric = _sample_metric(loaded, items[0][1]) if items else loaded.metric
    scores = np.full(len(items), np.nan)
    for row, (_, sample) in enumerate(items):
        value = sample.get(metric)
        if value is not None and not isinstance(value, bool | int | float | np.number | np.bool_):
            raise EvaluationError(
                f"The metric {metric!r} of {loaded.name!r} is {value!r} for an item, not a number, so it has no value "
                "per item. Name another one with metric_name."
            )
        scores[row] = np.nan if value is None else float(value)
    return HarnessResults(
        row_ids=_digests([sample["doc_hash"] for _, sample in items]),
        reasons=np.where(np.isnan(scores), "no_value", "").astype(np.str_),
        groups=np.array([name if loaded.groups else "" for name, _ in items], dtype=np.str_),
        settings={
            "metric": metric,
            "filter": loaded.filter,
            "weighting": "items" if loaded.by_size else "subtasks",
            "group_by": "subtask" if loaded.groups else None,
        },
        scores=scores,
        truncated=np.array([_is_truncated(sample, lm) for _, sample in items], dtype=bool),
        truncated_prompts=np.array([_is_prompt_truncated(sample, lm) for _, sample in items], dtype=bool),
        answers=np.array([_answer(loaded.tasks[name], sample, metric) for name, sample in items], dtype=object),
        prompt_hashes=_digests([sample["prompt_hash"] for _, sample in items]),
    )


def _sample_metric(loaded: LoadedTask, sample: dict[str, Any]) -> str:
    """Return the name of the metric in the results of items, which differs for functions that return several."""
    names = list(sample["metrics"])
    if loaded.metric in names:
        return loaded.metric
    if len(names) == 1:
        return str(names[0])
    raise EvaluationError(f"The items of {loaded.name!r} have no {loaded.metric!r}. They have {', '.join(names)}.")


def _digests(hashes: list[str]) -> np.ndarray:
    return np.frombuffer(bytes.fromhex("".join(hashes)), dtype=np.uint8).reshape(-1, 32)


def _generation_settings(sample: dict[str, Any]) -> dict[str, Any] | None:
    arguments = sample["arguments"][0]
    return arguments[1] if len(arguments) > 1 and isinstance(arguments[1], dict) else None


def _is_truncated(sample: dict[str, Any], lm: Any) -> bool:
    settings = _generation_settings(sample)
    if settings is None:
        return False
    flags = getattr(lm, "truncated", None)
    if flags is not None:
        return bool(flags[sample["arguments"][0][0]])
    tokens = lm.tok_encode(str(sample["resps"][0][0]))  # vLLM does not say why it stopped: as many as allowed
    return len(tokens) >= int(settings.get("max_gen_toks", _DEFAULT_MAX_GEN_TOKS))


def _is_prompt_truncated(sample: dict[str, Any], lm: Any) -> bool:
    settings = _generation_settings(sample)
    if settings is None:
        text = max(("".join(map(str, arguments)) for arguments in sample["arguments"]), key=len)
        window = lm.max_length + 1
    else:
        text = sample["arguments"][0][0]
        window = lm.max_length - settings.get("max_gen_toks", _DEFAULT_MAX_GEN_TOKS)
    if len(text.encode()) + 2 <= window:  # no tokenizer has more tokens than bytes, but for BOS and EOS
        return False
    return len(lm.tok_encode(text)) > int(window)


def _answer(task: Any, sample: dict[str, Any], metric: str) -> str:
    if _generation_settings(sample) is not None:
        return str(sample["resps"][0][0])
    if task.OUTPUT_TYPE != "multiple_choice":
        return ""
    choices = [str(choice) for choice in task.doc_to_choice(sample["doc"])]
    logprobs = np.array([float(response[0][0]) for response in sample["resps"]])[: len(choices)]
    if metric in ("acc_norm", "acc_bytes"):
        logprobs = logprobs / [len(text) if metric == "acc_norm" else len(text.encode()) for text in choices]
    return choices[int(np.argmax(logprobs))]
