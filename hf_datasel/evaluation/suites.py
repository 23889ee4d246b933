"""Named suites of tasks, and the tasks of a `suite:` value of a YAML file."""

from __future__ import annotations

import functools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import yaml

from hf_datasel.errors import ConfigError, check_option, did_you_mean
from hf_datasel.evaluation.code import CodeTask
from hf_datasel.evaluation.harness import HarnessTask
from hf_datasel.evaluation.task import ExactMatchTask, HeldoutTask, Task
from hf_datasel.evaluation.task_names import OWN_TASKS, SUITES, list_suites

__all__ = ["Suite", "get_suite", "list_suites", "read_tasks"]

_QUICK_LIMIT = 100
"""Number of items in the tier "quick" of a task that is in no suite."""
_KINDS: dict[str, type[Task]] = dict(
    zip(OWN_TASKS, (HeldoutTask, ExactMatchTask, CodeTask, CodeTask, CodeTask), strict=True)
)


@dataclass(frozen=True)
class Suite:
    """A named list of tasks, such as those of a paper's table.

    Args:
        name: Name of the suite.
        description: What it is, in one line.
        notes: What is deduced or left out, one sentence or two each.
        entries: Tasks with their settings, as in YAML.
        quick: Number of items of each task in the tier "quick"; tasks without a number are left out there.
    """

    name: str
    description: str
    notes: tuple[str, ...]
    entries: tuple[tuple[str, Mapping[str, Any]], ...]
    quick: Mapping[str, int]

    def tasks(self, tier: str = "full") -> list[Task]:
        """Return the tasks.

        Args:
            tier: `"full"`, or `"quick"` for some items of some tasks.

        Raises:
            ConfigError: The tier is unknown.
        """
        return read_tasks(self.name, tier=tier)


@functools.cache
def get_suite(name: str) -> Suite:
    """Return a suite by its name.

    Args:
        name: One of `list_suites()`.

    Raises:
        ConfigError: There is no such suite.

    >>> get_suite("kmq").description
    'kMQ, Table 1: six benchmarks'
    """
    names = list_suites()
    if name not in names:
        raise ConfigError(
            f"There is no suite {name!r}.{did_you_mean(name, names)} The suites are {', '.join(names)}. Tasks are a "
            f"list: [{name}]."
        )
    data = yaml.safe_load((SUITES / f"{name}.yaml").read_text(encoding="utf-8"))
    entries = tuple(_entries(data["tasks"]))
    return Suite(name, data["description"], tuple(data["notes"]), entries, data["quick"])


def read_tasks(
    value: str | Sequence[Any] | Mapping[str, Any], *, tier: str = "full", limit: int | None = None
) -> list[Task]:
    """Return the tasks of a `suite:` value of a YAML file.

    It is the name of a suite, or a list. An entry of the list is the name of a suite or task, or a task with its
    settings; `task` in the settings says what it is if the entry has a name of its own. `heldout` and `exact_match`
    are tasks on rows of a dataset, `humaneval`, `mbpp_plus` and `code` run programs, and everything else is a task of
    lm-eval or the path of its YAML file.

    Args:
        value: The value.
        tier: `"full"`, or `"quick"` for some items of some tasks, as the suites say.
        limit: Maximum number of items of each task that has this setting, or of each of its subtasks.

    Raises:
        ConfigError: There is no such suite, a setting is unknown or invalid, or two tasks have the same name.

    >>> tasks = read_tasks(["quick", {"mine": {"task": "exact_match", "dataset_name": "rows.jsonl"}}])
    >>> [task.name for task in tasks]
    ['gsm8k', 'arc', 'hellaswag', 'mine']
    """
    check_option(f"There is no tier {tier!r}", tier, ("full", "quick"))
    names = list_suites()
    entries = [(value, dict[str, Any]())] if isinstance(value, str) else list(_entries(value))
    if isinstance(value, str):
        get_suite(value)
    tasks = list[Task]()
    for name, settings in entries:
        if name in names and not settings:
            suite = get_suite(name)
            for entry in suite.entries:
                if tier == "full":
                    tasks.append(_read(*entry))
                elif entry[0] in suite.quick:
                    tasks.append(_limited(_read(*entry), suite.quick[entry[0]]))
        else:
            tasks.append(_limited(_read(name, settings), _QUICK_LIMIT if tier == "quick" else None))
    labels = [task.name for task in tasks]
    twice = sorted({label for label in labels if labels.count(label) > 1})
    if twice:
        raise ConfigError(
            f"Several tasks are named {', '.join(map(repr, twice))}. Give each a name of its own: "
            f"{{my_name: {{task: {twice[0]}, ...}}}}."
        )
    return [_limited(task, limit) for task in tasks]


def _entries(value: Any) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield names and settings of a list of tasks."""
    if not isinstance(value, list | tuple | Mapping) or not value:
        raise ConfigError(f"suite={value!r}: it has to be the name of a suite, or a list of tasks.")
    for entry in [value] if isinstance(value, Mapping) else value:
        for name, settings in entry.items() if isinstance(entry, Mapping) else [(entry, None)]:
            if not isinstance(name, str) or not isinstance(settings or {}, Mapping):
                raise ConfigError(f"{entry!r} is no task: it has to be a name, or {{name: settings}}.")
            yield name, dict(settings or {})


def _read(name: str, settings: Mapping[str, Any]) -> Task:
    what = str(settings.get("task") or name)
    kind = _KINDS.get(what, HarnessTask)
    label = Path(name).stem if name.endswith((".yaml", ".yml")) else name
    fixed = {"task": what} if kind is HarnessTask else {"problems": what} if what in ("humaneval", "mbpp_plus") else {}
    options = [setting.name for setting in fields(kind) if setting.init and setting.name not in {"name", *fixed}]
    values = {key: value for key, value in settings.items() if key != "task"}
    unknown = [key for key in values if key not in options]
    if unknown:
        similar = did_you_mean(what, _KINDS) if kind is HarnessTask else ""
        raise ConfigError(
            f"The task {label!r} has no setting {unknown[0]!r}.{did_you_mean(unknown[0], options)} Its settings are "
            f"{', '.join(options)}.{similar and f' {what!r} is none of the kinds of task.{similar}'}"
        )
    return kind(name=label, **fixed, **values)


def _limited(task: Task, limit: int | None) -> Task:
    if limit is None or not isinstance(task, HarnessTask | CodeTask):
        return task
    return replace(task, limit=limit if task.limit is None else min(limit, task.limit))
