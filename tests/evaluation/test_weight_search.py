"""Weights of a mix that an experiment tries: the methods they become, and what is said of the best."""

from __future__ import annotations

import pytest

from hf_datasel.errors import ConfigError
from hf_datasel.evaluation import Experiment
from hf_datasel.scores import Length, Mix
from hf_datasel.selectors import Chain, InRange, Top
from tests.evaluation.test_report import line_with, one_item_is_not_resampled, results

assert one_item_is_not_resampled  # a fixture of all tests here

GRID = {"score": "mix", "by": ["ifd", {"score": "length"}], "weights": {"steps": 2}}
NAMES = ["top (ifd 0, length 1)", "top (ifd 0.5, length 0.5)", "top (ifd 1, length 0)"]


def read(*methods, **settings):
    experiment = Experiment(
        model_name_or_path="model", dataset_name="pool.jsonl", suite=[], methods=methods, baselines=[], **settings
    )
    return {method.name: method for method in experiment.read_methods()}


def test_a_method_for_each_weights():
    methods = read({"top": {"by": GRID}}, "longest")
    assert list(methods) == [*NAMES, "longest"]
    assert [methods[name].selector.by for name in NAMES] == [
        Mix(("ifd", Length()), weights) for weights in ((0, 1), (0.5, 0.5), (1, 0))
    ]
    chain = {
        "selector": "chain",
        "selector_kwargs": {
            "filters": [{"filter": "in_range", "by": "ifd", "high": 1.0}],
            "then": {"selector": "top", "by": GRID},
        },
        "train": {"num_train_epochs": 1},
    }
    method = read({"below 1": chain})["below 1 (ifd 0.5, length 0.5)"]
    assert method.selector == Chain([InRange("ifd", high=1.0)], Top(by=Mix(("ifd", Length()), (0.5, 0.5))))
    assert method.train["num_train_epochs"] == 1
    three = {"score": "mix", "by": ["a", "b", "c"], "weights": {"steps": 4}}
    assert len(read({"top": {"by": three}})) == 15


@pytest.mark.parametrize(
    "changes", [{"weights": {"step": 2}}, {"weights": {"steps": 0}}, {"weights": {"steps": 2.0}}, {"by": {"ifd": 1}}]
)
def test_other_grids(changes):
    with pytest.raises(ConfigError, match=r"'top' tries weights of a mix, which is written as in .*steps: 4"):
        read({"top": {"by": {**GRID, **changes}}})


def test_what_is_said_of_the_best():
    numbers = {"random": [1.0, 1.1], NAMES[0]: [0.9, 1.0], NAMES[1]: [0.7, 0.8], NAMES[2]: [0.8, 0.9]}
    found = results(numbers, loss=True, methods=[{"top": {"by": GRID}}])
    assert line_with(found, "Weights") == (
        "Weights of the mix: of 3 that were tried, those of top (ifd 0.5, length 0.5) have the lowest questions, "
        "0.7500 (mean of 2 runs), 0.1000 ahead of top (ifd 1, length 0). Runs of one method have a standard deviation "
        "of 0.0707. They were selected by these very items, so that the result of the best is too good. Before "
        "claiming a gain, compare these weights with random rows on a second held-out set, of which nothing was used "
        "here."
    )
    assert "one of 3 that were compared on these items" in found.results(NAMES[1])[0]["note"]
    higher = results({**numbers, NAMES[2]: []}, methods=[{"top": {"by": GRID}}], failed=(NAMES[2],))
    line = line_with(higher, "Weights")
    assert "of 2 that were tried, those of top (ifd 0, length 1) have the highest questions, 0.95" in line
    assert "1 others have no finished run" in line


def test_one_mix_is_no_search():
    own = {"top": {"by": {**GRID, "weights": [0.5, 0.5]}}}
    found = results({"random": [1.0], "top": [0.9]}, loss=True, methods=[own])
    assert "Weights of the mix" not in found.to_markdown()
    assert found.results("top")[0]["note"] == ""
