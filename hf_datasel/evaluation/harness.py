"""Tasks of lm-eval (the LM evaluation harness), with one value per item.

Reference: https://github.com/EleutherAI/lm-evaluation-harness
"""

from __future__ import annotations

import copy
import gc
import importlib.util
import json
import logging
import os
import re
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from hf_datasel.errors import ConfigError, EvaluationError, check_option
from hf_datasel.evaluation.evaluated_model import EvaluatedModel
from hf_datasel.evaluation.harness_results import HarnessResults, read_samples
from hf_datasel.evaluation.harness_tasks import digest, harness_version, load_task
from hf_datasel.evaluation.row_results import RowResults
from hf_datasel.evaluation.task import Task
from hf_datasel.scoring.eval_mode import preserve_rng_state
from hf_datasel.scoring.models import Loading, load_model

__all__ = ["HarnessTask"]

_SHARE = re.compile(r"acc|exact_match|(^|_)em$|(^|_)f1$|^pass")
"""Metrics between 0 and 1, which tables show in points."""


@dataclass(frozen=True)
class HarnessTask(Task):
    """A task or a group of tasks of lm-eval, such as `gsm8k_cot` or `mmlu`.

    A value per item is the metric of lm-eval, and the number of the task is the one that lm-eval reports: the mean
    over items, or for a group what its config says. Metrics that are no means over items are refused. Answers are
    never cached. Models run on one device, and with the same batch size for all, because both change answers.

    A YAML file in the format of lm-eval is a task too. These four lines evaluate a task of lm-eval on rows of your
    own; the path after `include:` is that of the file in the folder of lm-eval:

        include: /path/to/lm_eval/tasks/gsm8k/gsm8k.yaml
        task: my_gsm8k
        dataset_path: json
        dataset_kwargs: {data_files: {train: shots.jsonl, test: questions.jsonl}}

    Args:
        name: Name of the task in tables.
        task: Name of the task or group in lm-eval, or path of a YAML file; by default `name`.
        num_fewshot: Number of examples in the prompt; by default that of the task.
        limit: Number of items to evaluate, the first ones; of each subtask for a group. By default all.
        metric_name: Metric; by default the first one of the task.
        filter_name: Filter that extracts the answer; by default the first one of the task.
        apply_chat_template: Whether prompts are rendered with the chat template of the model.
        fewshot_as_multiturn: Whether the examples are turns of their own in the chat template.
        batch_size: Number of prompts in a batch.
        max_gen_toks: Maximum number of tokens of a generated answer; by default that of the task, or 256.
        seed: Random seed of the examples in the prompt, and of sampling.
        include_path: Folder with YAML files of further tasks.
        backend: `"hf"` for transformers, or `"vllm"` where that package is installed.

    Raises:
        ConfigError: A setting has an invalid value.
    """

    results_type: ClassVar[type[RowResults]] = HarnessResults

    task: str | None = None
    num_fewshot: int | None = None
    limit: int | None = None
    metric_name: str | None = None
    filter_name: str | None = None
    apply_chat_template: bool = False
    fewshot_as_multiturn: bool = True
    batch_size: int = 8
    max_gen_toks: int | None = None
    seed: int = 1234
    include_path: str | None = None
    backend: str = "hf"
    _permissions: set[str] = field(default_factory=set, init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        for name, least in (("num_fewshot", 0), ("limit", 1), ("batch_size", 1), ("max_gen_toks", 1), ("seed", 0)):
            value = getattr(self, name)
            if value is None and name not in ("batch_size", "seed"):
                continue
            if type(value) is not int or value < least:
                raise ConfigError(
                    f"The task {self.name!r} has {name}={value!r}: it has to be an int of at least {least}."
                )
        check_option(f"The task {self.name!r} has backend={self.backend!r}", self.backend, ("hf", "vllm"))

    @property
    def may_execute_code(self) -> bool:
        """Whether programs that a model writes may be run: whether `check` was told so."""
        return "code" in self._permissions

    @property
    def metric(self) -> str:
        """Name of the metric in lm-eval."""
        return self.metric_name or load_task(self).metric

    @property
    def higher_is_better(self) -> bool:
        """Whether a higher number is better, as the task says."""
        return load_task(self).higher_is_better

    @property
    def scale(self) -> float:
        """100 for shares such as accuracy, else 1."""
        return 100.0 if _SHARE.search(self.metric) else 1.0

    def check(self, allow_code_execution: bool = False) -> None:
        """Load the task and its data, and raise if something is missing."""
        if allow_code_execution:
            self._permissions.add("code")
        if self.backend == "vllm" and importlib.util.find_spec("vllm") is None:
            raise EvaluationError(
                f"The task {self.name!r} has backend='vllm', and vLLM is not installed: pip install vllm. Or omit it."
            )
        if int(os.environ.get("WORLD_SIZE", "1")) > 1:
            raise EvaluationError(
                f"The task {self.name!r} is evaluated on one device, since more of them change answers, and this is "
                f"one of {os.environ['WORLD_SIZE']} processes. Run it without torchrun or accelerate launch."
            )
        load_task(self)

    def identity(self) -> dict[str, Any]:
        """Return settings, versions, and digests of the config, of the items and of the first prompt."""
        loaded = load_task(self)
        settings = ("limit", "apply_chat_template", "fewshot_as_multiturn", "batch_size", "max_gen_toks", "seed")
        return {
            "kind": "lm_eval",
            "name": loaded.name,
            "version": loaded.version,
            "shots": loaded.shots,
            "metric": loaded.metric,
            "filter": loaded.filter,
            **{name: getattr(self, name) for name in settings},
            **loaded.digests,
            "backend": self.backend,
            "harness": {"name": "lm_eval", "version": harness_version()},
        }

    def questions(self) -> list[str]:
        """Return the questions without their examples: what the task names for decontamination, else the prompts."""
        return load_task(self).questions()

    def num_items(self) -> int:
        """Return the number of items, of all subtasks together."""
        return load_task(self).num_items

    def number(self, results: RowResults) -> float:
        """Return the number of a model as lm-eval aggregates it, in points for shares."""
        if not (results.reasons == "").any():
            raise EvaluationError(f"No item of the task {self.name!r} has a value.")
        assert isinstance(results, HarnessResults)
        return results.mean() * self.scale

    def evaluate(
        self,
        model: str,
        *,
        revision: str | None = None,
        dtype: str = "auto",
        model_init_kwargs: dict[str, Any] | None = None,
    ) -> HarnessResults:
        """Evaluate a model or an adapter with lm-eval."""
        from lm_eval.evaluator import evaluate

        self.check()
        loaded = load_task(self)
        evaluated = EvaluatedModel.of(model, None, revision, dtype, model_init_kwargs)
        template = evaluated.tokenizer.chat_template
        if self.apply_chat_template and not template:
            raise EvaluationError(
                f"The task {self.name!r} has apply_chat_template=True, and the tokenizer of {model!r} has no chat "
                "template. Omit it."
            )
        with preserve_rng_state():
            lm = _language_model(evaluated, self)
            _set_seeds(self.seed)
            for task in loaded.tasks.values():
                task.set_fewshot_seed(seed=self.seed)
            try:
                output = evaluate(
                    lm=lm,
                    task_dict={"tasks": dict(loaded.tasks), "groups": dict(loaded.groups)},
                    limit=self.limit,
                    bootstrap_iters=0,
                    apply_chat_template=self.apply_chat_template,
                    fewshot_as_multiturn=self.fewshot_as_multiturn,
                    confirm_run_unsafe_code=self.may_execute_code,
                )
            except AssertionError as error:  # lm-eval checks windows and shots with assertions
                raise EvaluationError(f"The task {self.name!r} cannot be evaluated on {model!r}: {error}") from error
            results = read_samples(loaded, output["samples"], lm)
        del lm
        gc.collect()  # a model is part of reference cycles
        results.settings.update(
            model=evaluated.describe(),
            task=self.identity(),
            chat_template=digest(template) if self.apply_chat_template else None,
        )
        reported = output["results"][loaded.name][f"{results.settings['metric']},{loaded.filter}"]
        if not np.isclose(results.mean(), reported, rtol=0, atol=1e-9, equal_nan=True):
            raise EvaluationError(
                f"lm-eval reports {reported} for {loaded.metric!r} of the task {self.name!r}, and the mean of its "
                f"items is {results.mean()}: this metric has no value per item. Name another one with metric_name."
            )
        return results


# -- the model --------------------------------------------------------------------------------------------------------
def _language_model(evaluated: EvaluatedModel, settings: HarnessTask) -> Any:
    """Return the model for lm-eval, loaded as for every other task and score."""
    loading = evaluated.loading
    assert loading is not None
    if settings.backend == "vllm":
        return _vllm_model(loading, settings)
    from lm_eval.api.model import CacheHook
    from lm_eval.models.huggingface import HFLM

    class CountingLM(HFLM):
        """The model of lm-eval, which remembers the prompts whose answers were cut at the maximum length."""

        truncated: dict[str, bool]

        def _model_generate(self, context: Any, max_length: int, stop: list[str], **kwargs: Any) -> Any:
            output = super()._model_generate(context=context, max_length=max_length, stop=stop, **kwargs)
            answers, room = output[:, context.shape[1] :].tolist(), max_length - context.shape[1]
            ends = {self.eot_token_id, *_list(self.model.generation_config.eos_token_id)}
            for ids in answers:
                is_ended = not ends.isdisjoint(ids) or any(text in self.tok_decode(ids) for text in stop if text)
                batch.append(len(ids) == room and not is_ended)
            return output

    class Hook(CacheHook):
        """What lm-eval calls for each answer, in the order of the batch."""

        def add_partial(self, attr: str, req: Any, res: Any) -> None:
            if attr == "generate_until":
                lm.truncated[req[0]] = batch.popleft()

    batch = deque[bool]()
    model, tokenizer = load_model(loading), copy.deepcopy(evaluated.tokenizer)  # lm-eval adds a padding token
    with _quiet():
        lm = CountingLM(pretrained=model, tokenizer=tokenizer, batch_size=settings.batch_size)
    lm.truncated = {}
    lm.set_cache_hook(Hook(None))
    return lm


def _vllm_model(loading: Loading, settings: HarnessTask) -> Any:
    from lm_eval.models.vllm_causallms import VLLM

    base, revision = loading.base()
    adapter = dict[str, Any]()
    if base != loading.name:
        config = Path(loading.name).expanduser() / "adapter_config.json"
        if not config.is_file():
            raise EvaluationError(
                f"The task {settings.name!r} has backend='vllm', which reads adapters from a folder, and "
                f"{loading.name!r} is none. Download it, or omit backend."
            )
        rank = int(json.loads(config.read_text(encoding="utf-8"))["r"])
        adapter = {"lora_local_path": loading.name, "max_lora_rank": 1 << max(3, (rank - 1).bit_length())}
    return VLLM(
        pretrained=base,
        revision=revision,
        tokenizer=loading.name,
        tokenizer_revision=loading.revision,
        dtype=loading.dtype,
        batch_size=settings.batch_size,
        seed=settings.seed,
        **adapter,
        **loading.from_pretrained_kwargs(),
    )


@contextmanager
def _quiet() -> Iterator[None]:
    """Hide the two warnings of lm-eval about a model that is loaded already, which is meant."""
    logger = logging.getLogger("lm_eval.models.huggingface")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)


def _set_seeds(seed: int) -> None:
    import random

    import torch

    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)


def _list(value: Any) -> list[Any]:
    return [] if value is None else value if isinstance(value, list) else [value]
