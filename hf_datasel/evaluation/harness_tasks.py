"""Finding and loading tasks of lm-eval; this module and `harness` are the only ones that import it."""

from __future__ import annotations

import functools
import hashlib
import importlib.util
import inspect
import json
import re
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, fields
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hf_datasel.errors import EvaluationError, did_you_mean
from hf_datasel.evaluation.task_names import OWN_TASKS, list_suites
from hf_datasel.scoring.eval_mode import preserve_rng_state

if TYPE_CHECKING:
    from lm_eval.tasks import TaskManager

    from hf_datasel.evaluation.harness import HarnessTask

__all__ = ["LoadedTask", "digest", "harness_version", "load_task"]

_NAMES = re.compile(r"""^["']?(?:task|group)["']?: *["']?([^"'\s#\[{]+)""", re.MULTILINE)
"""The name that a YAML file of lm-eval defines."""
_ADDRESS = re.compile(r" at 0x[0-9a-f]+")
_PLACE = ("metadata", "dataset_path", "dataset_name", "dataset_kwargs", "num_fewshot", "task_alias", "tag")
"""Keys of a task's config that say where its rows are, or that are compared apart from it."""
_PROMPT = ("doc_to_text", "doc_to_target", "doc_to_choice", "description", "fewshot_delimiter", "target_delimiter")


@dataclass(frozen=True)
class LoadedTask:
    """A task of lm-eval with its data.

    Args:
        name: Its name in lm-eval.
        tasks: The task, or the tasks of the group, by name.
        groups: The group and the groups in it, by name.
        metric: Name of the metric.
        filter: Name of the filter.
        higher_is_better: Whether a higher value is better.
        by_size: Whether the tasks of a group count by their number of items.
        shots: Number of examples in the prompt; None if it differs between the tasks of a group.
        version: Version of the task or group.
        limit: Number of items of each task, the first ones; None for all.
    """

    name: str
    tasks: dict[str, Any]
    groups: dict[str, Any]
    metric: str
    filter: str
    higher_is_better: bool
    by_size: bool
    shots: int | None
    version: str
    limit: int | None

    @property
    def num_items(self) -> int:
        """Number of items of all tasks together."""
        counts = (len(task.eval_docs) for task in self.tasks.values())
        return sum(count if self.limit is None else min(count, self.limit) for count in counts)

    def questions(self) -> list[str]:
        """Return the questions without their examples: what the task names for decontamination, else the prompts."""
        return [_question(task, doc) for task in self.tasks.values() for doc in _docs(task, self.limit)]

    @functools.cached_property
    def digests(self) -> dict[str, str]:
        """Digests of the config, of its prompt template, of the first prompts and of the items."""
        configs = {name: task.dump_config() for name, task in self.tasks.items()}
        settings = {name: {key: value for key, value in c.items() if key not in _PLACE} for name, c in configs.items()}
        templates = {name: {key: config.get(key) for key in _PROMPT} for name, config in configs.items()}
        items = hashlib.sha256()
        for task in self.tasks.values():
            for doc in _docs(task, self.limit):
                items.update(_doc_hash(doc).encode())
        versions = {name: str(task.VERSION) for name, task in self.tasks.items()}
        return {
            "config": digest([settings, versions]),
            "template": digest(templates),
            "first_prompt": digest([_first_prompt(task) for task in self.tasks.values()]),
            "items": items.hexdigest(),
        }


def load_task(settings: HarnessTask) -> LoadedTask:
    """Load a task or a group with its data, once per process.

    Args:
        settings: The task and its settings.

    Raises:
        EvaluationError: lm-eval, the task, a package, its data or a permission is missing, or settings do not fit.
    """
    path = Path(settings.task or settings.name)
    stat = (path.stat().st_mtime_ns, path.stat().st_size) if path.is_file() else None
    values = tuple(getattr(settings, setting.name) for setting in fields(settings) if setting.compare)
    if (key := (*values, stat, settings.may_execute_code)) not in _LOADED:
        with preserve_rng_state():
            _LOADED[key] = _load(settings)
    return _LOADED[key]


_LOADED: dict[tuple[Any, ...], LoadedTask] = {}
"""The tasks of this process: loading one reads its dataset."""


# -- finding and loading a task ---------------------------------------------------------------------------------------
def _load(settings: HarnessTask) -> LoadedTask:
    if importlib.util.find_spec("lm_eval") is None:
        raise EvaluationError(
            f"The task {settings.name!r} needs lm-eval: pip install 'hf-datasel[eval]'. The tasks "
            f"{', '.join(OWN_TASKS)} do not.{did_you_mean(settings.name, [*list_suites(), *OWN_TASKS])}"
        )
    name = settings.task or settings.name
    manager, configs = _find(settings, name)
    runs_code = any(config.get("unsafe_code") for config in configs.values())
    if runs_code and not settings.may_execute_code:
        raise EvaluationError(
            f"The task {settings.name!r} runs programs that the model writes.",
            "Call check(allow_code_execution=True) first, in a container without secrets.",
            "Pass --allow_code_execution, in a container without secrets.",
        )
    if any("ifeval" in task_name for task_name in configs):
        _check_nltk(settings.name)
    with _loading(settings.name, configs):
        loaded = manager.load(name)
    tasks, groups = loaded["tasks"], loaded.get("groups", {})
    group = next(iter(groups.values()), None)
    if group is None and len(tasks) > 1:
        raise EvaluationError(
            f"{name!r} is a tag of lm-eval, with no rule for the average of its {len(tasks)} tasks. List them: "
            f"{', '.join(sorted(tasks))}."
        )
    shots = {_set_shots(settings, task) for task in tasks.values()}
    for task in tasks.values():
        _set_generation(settings, task)
    metric, filter_name, by_size = _metric(settings, tasks, group)
    first = next(iter(tasks.values()))
    lm_name = group.name if group is not None else first.task_name
    with _loading(settings.name, configs):
        for task in tasks.values():
            task.set_fewshot_seed(seed=settings.seed)
            _first_prompt(task)
            _check_targets(settings, task)
    return LoadedTask(
        name=lm_name,
        tasks=tasks,
        groups=groups,
        metric=metric,
        filter=filter_name,
        higher_is_better=bool(first.higher_is_better().get(metric, True)),
        by_size=by_size,
        shots=shots.pop() if len(shots) == 1 else None,
        version=str(first.VERSION if group is None else group.version),
        limit=settings.limit,
    )


def _find(settings: HarnessTask, name: str) -> tuple[TaskManager, dict[str, dict[str, Any]]]:
    """Return an index with the task and all that belongs to it, and the configs by name, without loading anything."""
    from lm_eval.tasks._yaml_loader import load_yaml

    if settings.include_path is not None and not Path(settings.include_path).is_dir():
        raise EvaluationError(
            f"The task {settings.name!r} has include_path={settings.include_path!r}, which is no folder."
        )
    if not name.endswith((".yaml", ".yml")):
        manager, configs = _index((name,), settings.include_path)
        if name not in configs:
            names = [*_stock_files(), *(manager.all_tasks if settings.include_path else [])]
            raise EvaluationError(
                f"lm-eval {harness_version()} has no task {name!r}, and there is no suite of this name."
                f"{did_you_mean(name, [*list_suites(), *OWN_TASKS, *names])} Tasks of your own are YAML files: name "
                "the file, or its folder with include_path."
            )
        return manager, configs
    try:
        config = load_yaml(Path(name), resolve_func=False)
    except Exception as error:  # of any kind: what the parser and includes raise
        raise EvaluationError(f"The file {name!r} of the task {settings.name!r} cannot be read: {error}") from error
    if "task" not in config and "group" not in config:
        raise EvaluationError(f"The file {name!r} is no task of lm-eval: it has neither 'task:' nor 'group:'.")
    members = _members(config) if "group" in config else []
    manager, configs = _index(tuple(members), settings.include_path)
    return manager, {**configs, str(config.get("group") or config["task"]): config}


def _index(names: tuple[str, ...], include_path: str | None) -> tuple[TaskManager, dict[str, dict[str, Any]]]:
    """Index the folders of the named tasks, which takes milliseconds, and all folders only if something is missing."""
    from lm_eval.tasks import TaskManager

    stock = _stock_files()
    folders = dict.fromkeys(str(stock[name].parent) for name in names if name in stock)
    own = [] if include_path is None else [include_path]
    manager = TaskManager(include_path=[*folders, *own], include_defaults=False)
    configs, missing = _collect(manager, names)
    if missing and all(name in manager.task_index for name in names):
        manager = _full_index(include_path)
        configs, missing = _collect(manager, names)
    return manager, configs


@functools.lru_cache(maxsize=4)
def _full_index(include_path: str | None) -> TaskManager:
    from lm_eval.tasks import TaskManager

    return TaskManager(include_path=include_path)


def _collect(manager: TaskManager, names: tuple[str, ...]) -> tuple[dict[str, dict[str, Any]], list[str]]:
    configs, missing, pending = dict[str, dict[str, Any]](), list[str](), deque(names)
    while pending:
        name = pending.popleft()
        if name in configs:
            continue
        entry = manager.task_index.get(name)
        if entry is None:
            missing.append(name)
        elif entry.cfg is None:  # a tag
            pending.extend(sorted(entry.tags))
            configs[name] = {}
        else:
            configs[name] = entry.cfg
            pending.extend(_members(entry.cfg) if "group" in entry.cfg else [])
    return configs, missing


def _members(config: dict[str, Any]) -> list[str]:
    """Return the names of a group's members that are defined in files of their own."""
    members = config.get("task") or []
    names = list[str]()
    for member in [members] if isinstance(members, str) else members:
        if isinstance(member, str):
            names.append(member)
        elif isinstance(member.get("task"), list):
            names.extend(_members(member))
        elif "dataset_path" not in member:
            names.append(str(member.get("group") or member.get("task")))
    return names


@functools.lru_cache(maxsize=1)
def _stock_files() -> dict[str, Path]:
    """Return the files of the tasks and groups of lm-eval by name, without parsing 14,000 YAML files."""
    spec = importlib.util.find_spec("lm_eval.tasks")
    assert spec is not None and spec.origin is not None
    files = dict[str, Path]()
    for path in sorted(Path(spec.origin).parent.glob("**/*.yaml"), key=Path.as_posix):
        for name in _NAMES.findall(path.read_text(encoding="utf-8")):
            files.setdefault(name, path)
    return files


@contextmanager
def _loading(name: str, configs: dict[str, dict[str, Any]]) -> Iterator[None]:
    """Say in words why a task cannot be loaded: a package, its data, or its config."""
    try:
        yield
    except EvaluationError:
        raise
    except ImportError as error:
        raise EvaluationError(
            f"The task {name!r} needs the package {error.name or error}: pip install {error.name or 'it'}."
        ) from error
    except Exception as error:  # of any kind: configs of tasks run code of their own
        datasets = sorted({str(config["dataset_path"]) for config in configs.values() if "dataset_path" in config})
        text = " ".join(str(error).split()) or type(error).__name__
        if isinstance(error, OSError) or "offline" in text.lower():
            raise EvaluationError(
                f"The data of the task {name!r} ({', '.join(datasets)}) is neither on this machine nor can it be "
                f"downloaded: {text} Load it once with a network, or name local files in a YAML file of your own "
                "(see HarnessTask)."
            ) from error
        raise EvaluationError(f"The task {name!r} cannot be loaded: {type(error).__name__}: {text}") from error


def _check_nltk(name: str) -> None:
    """Raise if what IFEval needs is missing: lm-eval would find out only after all answers have been generated."""
    missing = [
        package for package in ("langdetect", "immutabledict", "nltk") if importlib.util.find_spec(package) is None
    ]
    if missing:
        raise EvaluationError(f"The task {name!r} needs {', '.join(missing)}: pip install 'hf-datasel[eval]'.")
    import nltk

    try:
        nltk.data.find("tokenizers/punkt_tab")
    except LookupError as error:
        raise EvaluationError(
            f"The task {name!r} needs data of NLTK, which is a download: python -m nltk.downloader punkt_tab"
        ) from error


def _set_shots(settings: HarnessTask, task: Any) -> int:
    """Set the number of examples, which lm-eval would ignore without a word for a task that fixes it at 0."""
    shots, own = settings.num_fewshot, task.config.num_fewshot
    if shots is not None and own == 0 and shots != 0:
        raise EvaluationError(
            f"The task {settings.name!r} has num_fewshot={shots}, and {task.task_name!r} of lm-eval fixes it at 0. "
            "Omit it."
        )
    shots = (own or 0) if shots is None else shots
    task.set_config(key="num_fewshot", value=shots)
    return int(shots)


def _set_generation(settings: HarnessTask, task: Any) -> None:
    if settings.max_gen_toks is None:
        return
    if task.OUTPUT_TYPE != "generate_until":
        raise EvaluationError(
            f"The task {settings.name!r} has max_gen_toks={settings.max_gen_toks}, and {task.task_name!r} generates "
            "no answers. Omit it."
        )
    task.set_config(key="generation_kwargs", value={"max_gen_toks": settings.max_gen_toks}, update=True)


def _check_targets(settings: HarnessTask, task: Any) -> None:
    """Raise if lm-eval reads the answer of some items as a list, because it begins with a bracket."""
    template = task.config.doc_to_target
    if task.OUTPUT_TYPE != "generate_until" or not isinstance(template, str) or template in task.features:
        return
    lists = [isinstance(task.doc_to_target(doc), list) for doc in _docs(task, settings.limit)]
    if any(lists) and not all(lists):
        raise EvaluationError(
            f"lm-eval reads the answer of item {lists.index(True)} (from 0) of the task {settings.name!r} as a list, "
            "because it stands in brackets. Name a column instead of the template: doc_to_target: response."
        )


def _metric(settings: HarnessTask, tasks: dict[str, Any], group: Any) -> tuple[str, str, bool]:
    """Return metric, filter, and whether the tasks of a group count by size; raise if there is no value per item."""
    from lm_eval.api.registry import get_aggregation

    first = next(iter(tasks.values()))
    aggregations = first.aggregation()
    rules = {} if group is None else {rule.metric: rule for rule in group.aggregate_metric_list or ()}
    options = list(aggregations if group is None else rules)
    if not options:
        raise EvaluationError(
            f"The group {group.name!r} of lm-eval has no rule for the average of its tasks. List them: "
            f"{', '.join(tasks)}."
        )
    metric = settings.metric_name or options[0]
    if metric not in options:
        raise EvaluationError(
            f"The task {settings.name!r} has no metric {metric!r}.{did_you_mean(metric, options)} It has "
            f"{', '.join(options)}."
        )
    means = [get_aggregation("mean"), get_aggregation("nanmean")]
    if metric in aggregations and aggregations[metric] not in means:
        usable = [option for option in options if aggregations.get(option) in means]
        raise EvaluationError(
            f"{metric!r} of the task {settings.name!r} is not a mean over items, so it has no value per item. "
            + (f"Set metric_name to one of {', '.join(usable)}." if usable else "Use the task heldout for losses.")
        )
    filters = [config["name"] for config in first.config.filter_list or [{"name": "none"}]]
    listed = (rules[metric].filter_list or filters) if rules else filters
    filter_name = settings.filter_name or listed[0]
    if filter_name not in listed:
        raise EvaluationError(
            f"The task {settings.name!r} has no filter {filter_name!r}.{did_you_mean(filter_name, listed)} It has "
            f"{', '.join(listed)}."
        )
    return metric, filter_name, bool(rules[metric].weight_by_size) if rules else True


# -- items ------------------------------------------------------------------------------------------------------------
def _docs(task: Any, limit: int | None) -> Iterator[dict[str, Any]]:
    return islice(iter(task.eval_docs), limit)


def _doc_hash(doc: dict[str, Any]) -> str:
    """Return the hash of an item as lm-eval computes it."""
    from lm_eval.utils import handle_non_serializable, hash_string

    return str(hash_string(json.dumps(doc, indent=2, default=handle_non_serializable, ensure_ascii=False)))


def _first_prompt(task: Any) -> Any:
    task.set_fewshot_seed(seed=0)
    doc = next(_docs(task, 1))
    return task.fewshot_context(doc, num_fewshot=task.config.num_fewshot, gen_prefix=task.doc_to_prefix(doc))


def _question(task: Any, doc: dict[str, Any]) -> str:
    from lm_eval.utils import apply_template

    query = task.config.doc_to_decontamination_query
    if query is None:
        text = task.doc_to_text(doc)
        return "\n".join(task.doc_to_choice(doc)) if isinstance(text, int) else str(text)
    if callable(query):
        return str(query(doc))
    return str(doc[query] if query in doc else apply_template(query, doc))


# -- digests ----------------------------------------------------------------------------------------------------------
def harness_version() -> str:
    """Return the version of lm-eval."""
    from importlib.metadata import version

    return version("lm-eval")


def digest(value: Any) -> str:
    """Return a digest of plain values and functions, of which the source counts.

    Args:
        value: What to digest.
    """
    return hashlib.sha256(json.dumps(value, sort_keys=True, default=_source).encode()).hexdigest()[:16]


def _source(value: Any) -> str:
    try:
        return inspect.getsource(value)
    except (TypeError, OSError):
        return _ADDRESS.sub("", repr(value))
