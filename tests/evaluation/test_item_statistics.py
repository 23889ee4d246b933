"""Statistics of items: against slow loops, theory and simulation, and errors."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
from scipy import stats

from hf_datasel.errors import ConfigError, EvaluationError
from hf_datasel.evaluation import (
    bootstrap_two_models,
    crossed_bootstrap,
    mcnemar_two_models,
    variance_components,
)


def noise(rng, runs, items, *, run=1.0, run_x_item=1.0):
    """Runs x items: the items' own levels, a level per run, and noise."""
    return items + rng.normal(0, run, (runs, 1)) + rng.normal(0, run_x_item, (runs, len(items)))


# -- crossed bootstrap ------------------------------------------------------------------------------------------------
def test_crossed_bootstrap_by_loop():
    """The standard error of a bootstrap with other random numbers, one resample at a time."""
    rng = np.random.default_rng(2)
    items = rng.normal(size=30)
    method, control = noise(rng, 4, items), noise(rng, 5, items)
    found = crossed_bootstrap({"a": method}, control, resamples=20_000)["a"]
    differences = []
    for _ in range(8000):
        columns = rng.integers(30, size=30)
        method_mean = method[rng.integers(4, size=3)][:, columns].mean()
        differences.append(method_mean - control[rng.integers(5, size=4)][:, columns].mean())
    assert found["se"] == pytest.approx(np.std(differences), rel=0.03)
    assert found["difference"] == pytest.approx(method.mean() - control.mean())
    half_width = stats.t.isf(0.025, 7) * found["se"]
    assert found["high"] - found["difference"] == pytest.approx(half_width)
    assert found["difference"] - found["low"] == pytest.approx(half_width)
    assert (found["runs"], found["control_runs"], found["items"]) == (4, 5, 30)
    assert json.loads(json.dumps(found)) == found


def test_crossed_bootstrap_equals_its_theory():
    """With all noise between runs it is the standard error of Welch's test, also with two runs."""
    method, control = np.array([[31.0], [33.0]]), np.array([[26.0], [28.0], [27.0]])
    found = crossed_bootstrap({"a": np.tile(method, 5)}, np.tile(control, 5), resamples=50_000)["a"]
    assert found["se"] == pytest.approx(math.sqrt(2 / 2 + 1 / 3), rel=0.02)


@pytest.mark.parametrize(("run", "run_x_item", "widest"), [(0.5, 1.0, 1.2), (0.0, 1.0, 1.75)])
def test_crossed_bootstrap_holds_0_in_noise(run, run_x_item, widest):
    """200 experiments of five runs against five of the same method on 40 items, which are other ones each time."""
    rng, experiments, held, variances, differences = np.random.default_rng(4), 200, 0, [], []
    for _ in range(experiments):
        items = rng.normal(size=40)
        both = [noise(rng, 5, items, run=run, run_x_item=run_x_item) for _ in range(2)]
        found = crossed_bootstrap({"a": both[0]}, both[1], resamples=200)["a"]
        held += found["low"] <= 0 <= found["high"]
        variances.append(found["se"] ** 2)
        differences.append(found["difference"])
    assert held >= stats.binom.ppf(0.001, experiments, 0.95)
    assert 0.85 < math.sqrt(np.mean(variances)) / np.std(differences) < widest * 1.15


def test_items_easy_for_all_models_add_no_noise():
    """The items of a resample are the same for both methods, so that their levels cancel."""
    rng = np.random.default_rng(6)
    method, control = rng.normal(1, 0.1, (3, 50)), rng.normal(0, 0.1, (3, 50))
    plain = crossed_bootstrap({"a": method}, control)["a"]
    levels = rng.normal(0, 100, 50)
    assert crossed_bootstrap({"a": method + levels}, control + levels)["a"] == pytest.approx(plain, rel=1e-6)
    assert plain["low"] > 0.8


def test_crossed_bootstrap_is_deterministic(monkeypatch):
    rng = np.random.default_rng(7)
    methods, control = {"b": rng.normal(size=(3, 20)), "a": rng.normal(size=(2, 20))}, rng.normal(size=(4, 20))
    found = crossed_bootstrap(methods, control)
    monkeypatch.setattr("hf_datasel.evaluation.item_statistics._NUMBERS_PER_BLOCK", 170)
    again = crossed_bootstrap(methods, control)
    assert list(found) == ["b", "a"]
    assert all(again[name] == pytest.approx(found[name]) for name in found)
    assert crossed_bootstrap(methods, control, seed=1)["a"]["se"] != found["a"]["se"]
    scaled = crossed_bootstrap({name: 100 * values for name, values in methods.items()}, 100 * control)
    assert scaled["a"]["low"] == pytest.approx(100 * found["a"]["low"])


@pytest.mark.parametrize(
    ("method", "control", "message"),
    [
        ([[1, 0, 1]], [[1, 0, 1], [0, 0, 1]], "'a' has 1 run. At least 2 are needed"),
        ([[1], [0]], [[1], [1]], "'a' has 1 item. At least 2 are needed"),
        ([[1, 0], [1, 1]], [[1, 0, 1], [0, 0, 1]], "'a' has 2 items, and the control 3"),
        ([[1, 0], [1]], [[1, 0], [0, 0]], "'a' has values that are not numbers, or lists of unequal length"),
        ([[1, 0], [1, math.nan]], [[1, 0], [0, 0]], "values of 'a' are not finite; the first: run 1, item 1"),
        ([1, 0], [[1, 0], [0, 0]], r"'a' has the shape \(2,\). Pass an array of runs x items"),
        ([[1, 1], [1, 1]], [[0, 0], [0, 0]], "'a' and the control differ by the same amount in all"),
        ([[1, 5], [1, 5]], [[0, 4], [0, 4]], "'a' and the control differ by the same amount in all"),
    ],
)
def test_items_that_cannot_be_compared(method, control, message):
    with pytest.raises(EvaluationError, match=f"crossed_bootstrap: .*{message}"):
        crossed_bootstrap({"a": method}, control)


# -- variance components ----------------------------------------------------------------------------------------------
def test_variance_components_by_loop():
    values = [[3.0, 1.0, 4.0], [7.0, 5.0, 9.5]]
    total = sum(map(sum, values)) / 6
    rows = [sum(row) / 3 for row in values]
    columns = [(values[0][item] + values[1][item]) / 2 for item in range(3)]
    rest = sum((values[i][j] - rows[i] - columns[j] + total) ** 2 for i in range(2) for j in range(3)) / 2
    run = (3 * sum((row - total) ** 2 for row in rows) / 1 - rest) / 3
    item = (2 * sum((column - total) ** 2 for column in columns) / 2 - rest) / 2
    found = variance_components(values)
    assert found["run"] == pytest.approx(math.sqrt(run))
    assert found["item"] == pytest.approx(math.sqrt(item))
    assert found["run_x_item"] == pytest.approx(math.sqrt(rest))
    assert found["se"] == pytest.approx(math.sqrt(run / 2 + item / 3 + rest / 6))


def test_variance_components_are_recovered():
    rng = np.random.default_rng(9)
    found = variance_components(noise(rng, 400, rng.normal(5, 3, 900), run=2.0, run_x_item=1.0))
    assert found["run"] == pytest.approx(2, rel=0.1)
    assert found["item"] == pytest.approx(3, rel=0.1)
    assert found["run_x_item"] == pytest.approx(1, rel=0.01)


def test_variance_without_run_noise_is_0():
    found = variance_components([[1, 0, 1, 0], [0, 1, 0, 1]])
    assert (found["run"], found["item"]) == (0, 0)
    with pytest.raises(EvaluationError, match=r"variance_components: 'values' has 1 run\. At least 2"):
        variance_components([[1, 0, 1]])
    with pytest.raises(EvaluationError, match="all values are equal"):
        variance_components([[1, 1], [1, 1]])


# -- two given models -------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(("only_first", "only_second"), [(9, 2), (2, 9), (5, 5), (6, 0), (0, 0), (1, 0)])
def test_mcnemar_by_counting(only_first, only_second):
    first = [True] * only_first + [False] * only_second + [True, True, False]
    second = [False] * only_first + [True] * only_second + [True, True, False]
    unequal = only_first + only_second
    tail = sum(math.comb(unequal, k) for k in range(max(only_first, only_second), unequal + 1)) / 2**unequal
    found = mcnemar_two_models(first, second)
    assert found["p"] == pytest.approx(min(1, 2 * tail))
    assert (found["only_first"], found["only_second"], found["items"]) == (only_first, only_second, unequal + 3)
    assert "not the methods" in found["about"]


def test_bootstrap_two_models_against_scipy():
    rng = np.random.default_rng(1)
    first, second = rng.integers(2, size=200), rng.integers(2, size=200)
    found = bootstrap_two_models(first, second, confidence=0.9)
    reference = stats.bootstrap(
        ((first - second).astype(float),), np.mean, confidence_level=0.9, method="percentile", random_state=rng
    ).confidence_interval
    assert (found["low"], found["high"]) == pytest.approx((reference.low, reference.high), abs=0.011)
    assert found["difference"] == pytest.approx(first.mean() - second.mean())
    assert "not the methods" in found["about"]
    assert bootstrap_two_models(first, second, confidence=0.9) == found
    assert bootstrap_two_models(100 * first, 100 * second, confidence=0.9)["low"] == pytest.approx(100 * found["low"])


def test_item_level_intervals_are_not_about_methods():
    """Two runs of one method that differs from run to run: the interval of two given models often leaves 0."""
    rng, left, held = np.random.default_rng(13), 0, 0
    for _ in range(100):
        items = rng.normal(size=400)
        runs = noise(rng, 6, items, run=0.15)
        found = bootstrap_two_models(runs[0], runs[3], resamples=200)
        left += not found["low"] <= 0 <= found["high"]
        methods = crossed_bootstrap({"a": runs[:3]}, runs[3:], resamples=200)["a"]
        held += methods["low"] <= 0 <= methods["high"]
    assert left >= 35
    assert held >= 90


def test_two_models_errors():
    with pytest.raises(EvaluationError, match="'first' has 3 items, and 'second' 2"):
        mcnemar_two_models([1, 0, 1], [1, 0])
    with pytest.raises(EvaluationError, match="'second' has values other than 0 and 1"):
        mcnemar_two_models([1, 0, 1], [1, 0, 0.5])
    with pytest.raises(EvaluationError, match="differ by the same amount on all items"):
        bootstrap_two_models([1, 2], [0, 1])
    with pytest.raises(EvaluationError, match="'first' has 1 item"):
        bootstrap_two_models([1], [0])
    with pytest.raises(ConfigError, match="resamples=10 must be a whole number, 100 or more"):
        bootstrap_two_models([1, 0], [0, 0], resamples=10)
