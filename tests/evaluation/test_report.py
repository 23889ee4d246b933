"""What is said of an experiment: of the whole pool, of equal cost, and of what the intervals do not cover."""

from __future__ import annotations

import re

import pytest

from hf_datasel.cards.result_wording import describe_experiment
from hf_datasel.evaluation import Experiment, non_inferiority
from hf_datasel.evaluation.experiment_results import ExperimentResults, RunResult
from hf_datasel.evaluation.task import ExactMatchTask, HeldoutTask

RANDOM = [26.0, 28.0, 27.0, 24.5, 25.5]
GOOD = [60.0, 62.0, 61.0]
WHOLE = [50.0, 51.0, 52.0]


def results(values, *, loss=False, failed=(), items=None, without=None, record=None, keys=None, **settings):
    """Return the results of an experiment with one task, from the numbers of the runs of each method."""
    task = (HeldoutTask if loss else ExactMatchTask)("questions", dataset_name="questions.jsonl")
    runs = []
    for method, numbers in values.items():
        selector = method if method in ("random", "all") else "iterit"
        run_keys = {} if method == "untrained" else {"selector": selector, "use_cpu": True, "selection_ratio": 0.05}
        run_keys |= (keys or {}).get(method, {})
        for seed, number in enumerate(numbers):
            count = (items or {}).get((method, seed), 512)
            folder = f"cells/{method}-seed-{seed}"
            runs.append(
                RunResult(
                    *(method, seed, "finished", folder, {"questions": number}, {"questions": count}, 39),
                    settings=run_keys,
                    without_value={"questions": (without or {}).get((method, seed), {})},
                )
            )
        if method in failed:
            runs.append(RunResult(method, len(numbers), "failed", "cells/failed", error="nan", settings=run_keys))
    methods = settings.pop("methods", [name for name in values if name not in ("random", "untrained")])
    experiment = Experiment(
        model_name_or_path="model", dataset_name="pool.jsonl", suite=[], methods=methods, **settings
    )
    pool = {"rows": 1000, "contaminated": None}
    full = {"pool": pool, "tasks": {"questions": {}}, "versions": {"hf-datasel": "1"}, **(record or {})}
    return ExperimentResults(experiment, (task,), full, tuple(runs))


def line_with(results, beginning):
    """Return the line of the report that begins with these words."""
    lines = [line.removeprefix("- ") for line in results.to_markdown().splitlines()]
    (line,) = [line for line in lines if line.startswith(beginning)]
    return line.replace("\\", "")


@pytest.fixture(autouse=True)
def one_item_is_not_resampled(monkeypatch):
    """The runs have no files with the values of items."""
    monkeypatch.setattr("hf_datasel.evaluation.report._other_items", lambda *arguments: [])


# -- the whole pool --------------------------------------------------------------------------------------------------
def test_rows_of_ones_own_are_not_the_whole_pool():
    """They are trained on in full too, by the same selector."""
    found = results(
        {"untrained": [20.0], "random": RANDOM, "mine": GOOD, "all": WHOLE},
        methods=[{"mine": {"dataset_name": "mine.parquet"}}, "all"],
        keys={"mine": {"selector": "all"}},
        record={"datasets": {"mine.parquet": {"rows": 70, "contaminated": {"rows": 10}}}},
        margin=3.0,
    )
    line = line_with(found, "As good as the whole pool")
    assert "named before the runs: mine. Of the others" in line
    assert "all " not in line.split("at once")[1]
    assert [(each["trained_on"], each["value"]) for each in found.results("mine")] == [
        ("this selection", 61.0),
        ("random rows", 26.2),
        ("the whole pool", 51.0),
        ("the untrained model", 20.0),
    ]
    assert "| mine | 60 x 3 |" in found.to_markdown()


def test_equal_runs(tmp_path):
    """Runs that are all equal, or equal up to rounding, of one method or of all."""
    third = [0.1 + 0.2, 0.3, 0.3]
    one = results({"random": [0.1, 0.2, 0.15], "iterit": third}).to_markdown()
    assert "| iterit | 50 x 3 | 39 | 0.30 (sd 0.00, 3 runs) | **+0.15 [" in one
    every = results({"random": [0.1, 0.1], "iterit": third})
    assert "Nothing can be compared: all runs of a method have the same result." in every.to_markdown()
    every.save(tmp_path)
    assert (tmp_path / "forest.png").is_file()


def test_the_whole_pool_has_all_rows_whatever_the_ratio():
    found = results({"random": RANDOM, "all": WHOLE}, equal=[])
    assert "| all | 1,000 x 3 |" in found.to_markdown()
    assert "| random | 50 x 3 |" in found.to_markdown()


@pytest.mark.parametrize("loss", [False, True])
def test_as_good_as_the_whole_pool(loss):
    """The interval is in the direction of the table, and better is above -margin or below +margin."""
    values = {"random": RANDOM, "iterit": [51.0, 52.5, 49.5], "all": WHOLE}
    if loss:
        values = {name: [100 - each for each in numbers] for name, numbers in values.items()}
    sign = -1 if loss else 1
    signed = {name: [sign * each for each in numbers] for name, numbers in values.items()}
    expected = non_inferiority({"random": signed["random"], "iterit": signed["iterit"]}, signed["all"], margin=5.0)
    line = line_with(results(values, loss=loss, margin=5.0), "As good as the whole pool")
    assert line.startswith(
        "As good as the whole pool, trained for as many updates, up to a margin of 5, which was named before the runs:"
        " iterit. Of the others"
    )
    low, high = sorted(sign * expected["iterit"][end] for end in ("low", "high"))
    decimals = 4 if loss else 2
    interval = f"[{low:.{decimals}f}, {high:.{decimals}f}]"
    assert f"iterit {sign * expected['iterit']['difference']:+.{decimals}f} {interval}" in line
    assert f"better side of {'+' if loss else '-'}5" in line


def test_the_whole_pool_is_compared_without_random_rows():
    found = results({"iterit": GOOD, "all": WHOLE}, margin=3.0, baselines=())
    assert "named before the runs: iterit." in line_with(found, "As good as the whole pool")
    one = results({"random": [26.0], "iterit": GOOD, "all": [50.0]}, margin=3.0)
    assert "non_inferiority" not in one.to_markdown()


# -- what was decided when -------------------------------------------------------------------------------------------
@pytest.mark.parametrize(("before", "when"), [({"seeds": 2}, "named before"), ({"margin": 1.0}, "not named before")])
def test_changed_settings_are_said(before, when):
    """More seeds than planned are a change too: stopping at a good result is a way to one."""
    record = {"before_runs": before}
    found = results({"random": RANDOM, "iterit": GOOD, "all": WHOLE}, margin=3.0, seeds=3, record=record)
    assert f"which was {when} the runs: iterit." in line_with(found, "As good as")
    line = line_with(found, "Changed after the first run had been trained: ")
    assert line.endswith("If results were a reason for that, intervals and p values are too optimistic.")
    assert next(iter(before)) in line


def test_half_of_an_experiment_and_failed_runs():
    whole = results({"random": RANDOM, "iterit": GOOD}).to_markdown()
    half = results({"random": RANDOM, "iterit": GOOD}, failed=["iterit"]).to_markdown()
    assert "do not stop, or add seeds" in half
    assert "They mislead if a run failed because of the rows" in half
    assert "do not stop" not in whole
    assert "mislead" not in whole


def test_items_without_a_value_in_some_runs():
    found = results({"random": RANDOM, "iterit": GOOD}, items={("iterit", 1): 500})
    assert line_with(found, "questions: 500 to 512 items have a value, depending on the run")
    assert "depending on the run" not in results({"random": RANDOM, "iterit": GOOD}).to_markdown()


def test_reasons_of_items_without_a_value():
    diverged = {("iterit", 1): {"not_finite": 12}}
    found = results({"random": RANDOM, "iterit": GOOD}, items={("iterit", 1): 500}, without=diverged)
    assert line_with(found, "questions: 500 to 512 items").endswith("same items. The others: 0 to 12 not_finite.")
    assert found.to_dict()["runs"][-2]["without_value"] == {"questions": {"not_finite": 12}}
    everywhere = {(name, seed): {"truncated": 3} for name in ("random", "iterit") for seed in range(5)}
    same = results({"random": RANDOM, "iterit": GOOD}, without=everywhere)
    assert line_with(same, "questions: no mean includes the items without a value: 3 truncated.")


def test_what_is_not_the_same_for_all_methods():
    own = [{"fast": {"selector": "iterit", "train": {"learning_rate": 0.1}}}]
    found = results({"random": RANDOM, "fast": GOOD}, methods=own, train={"learning_rate": 0.01})
    assert line_with(found, "Training, the same for all methods but fast: learning_rate 0.01.")
    assert line_with(found, "Training of fast differs: learning_rate 0.1.")
    assert "Rows that repeat items of the tasks were not looked for." in found.to_markdown()


# -- equal cost ------------------------------------------------------------------------------------------------------
def test_methods_are_compared_at_equal_cost():
    found = results({"random": RANDOM, "iterit": GOOD, "random at equal cost": WHOLE}, methods=["iterit"])
    line = line_with(found, "Differences to random at equal cost")
    assert re.search(r"95 % for all 1 at once\): iterit \+10\.00 \[\d", line)
    _, random, equal, *_ = found.results("iterit")
    assert equal["trained_on"] == f"{random['trained_on']}, at equal cost"  # the card's plot draws a line through them


# -- cards -----------------------------------------------------------------------------------------------------------
def test_cards_say_how_many_methods_and_how_the_whole_pool_was_trained():
    found = results({"untrained": [20.0], "random": RANDOM, "iterit": GOOD, "mine": GOOD, "all": WHOLE})
    own = found.results("iterit")
    shown = describe_experiment(own)
    assert "hold for all 3 compared methods of the experiment at once" in shown
    assert "the whole pool, exact_match on questions: trained for as many updates as the other rows (39)" in shown
    assert "Training runs: 5 of random rows, 3 of " in shown
    assert "one run" not in shown
