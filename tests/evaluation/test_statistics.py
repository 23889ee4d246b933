"""Statistics of runs: against published figures and slow computations, coverage by simulation, and errors."""

from __future__ import annotations

import itertools
import json
import math

import numpy as np
import pytest
from scipy import stats

from hf_datasel.errors import ConfigError, EvaluationError
from hf_datasel.evaluation import (
    compare_tasks,
    compare_with_control,
    mann_whitney,
    minimum_detectable_effect,
    non_inferiority,
    pooled_sd,
)
from hf_datasel.evaluation.dunnett import critical_value, p_value

# Dunnett 1955, table 1: blood counts of animals after two drugs
CONTROL = [7.40, 8.50, 7.20, 8.24, 9.84, 8.32]
DRUGS = {"a": [9.76, 8.80, 7.68, 9.36], "b": [12.80, 9.68, 12.16, 9.20, 10.55]}


# -- comparison with the control --------------------------------------------------------------------------------------
def test_published_example():
    found = compare_with_control(DRUGS, CONTROL)
    assert found["a"]["p"] == pytest.approx(0.6201, abs=1e-4)
    assert found["b"]["p"] == pytest.approx(0.0058, abs=1e-4)
    assert list(found) == ["a", "b"]
    assert json.loads(json.dumps(found)) == found


@pytest.mark.parametrize(
    ("df", "values"),
    [
        (5, (2.57, 3.03, 3.29, 3.48)),
        (10, (2.23, 2.57, 2.76, 2.89)),
        (20, (2.09, 2.38, 2.54, 2.65)),
        (60, (2.00, 2.27, 2.41, 2.51)),
    ],
)
def test_published_critical_values(df, values):
    """Dunnett 1964, table II: two-sided, 95 %, equal numbers of runs."""
    found = [critical_value(0.95, (4,) * methods, 4, df) for methods in (1, 2, 3, 4)]
    assert found == pytest.approx(values, abs=0.0051)


def test_one_method_is_students_test():
    method, control = DRUGS["b"], CONTROL
    found = compare_with_control({"b": method}, control, confidence=0.9)["b"]
    reference = stats.ttest_ind(method, control)
    interval = reference.confidence_interval(0.9)
    assert (found["low"], found["high"]) == pytest.approx((interval.low, interval.high), rel=1e-8)
    assert found["p"] == pytest.approx(reference.pvalue, rel=1e-8)
    assert found["mean"] == pytest.approx(sum(method) / 5)
    assert found["sd"] == pytest.approx(math.sqrt(sum((x - 10.878) ** 2 for x in method) / 4))
    assert (found["runs"], found["control_runs"]) == (5, 6)


@pytest.mark.parametrize(("runs", "control_runs"), [((5, 5, 5, 5), 5), ((2, 3, 7), 4), ((40, 3), 2)])
def test_simultaneous_interval_by_simulation(runs, control_runs):
    """The largest t statistic of pure noise exceeds the critical value in 5 % of experiments."""
    rng, experiments = np.random.default_rng(5), 40_000
    groups = [rng.normal(size=(experiments, size)) for size in (control_runs, *runs)]
    df = sum(runs) + control_runs - len(groups)
    sd = np.sqrt(sum(group.var(axis=1, ddof=1) * (group.shape[1] - 1) for group in groups) / df)
    control, *methods = groups
    largest = np.max(
        [
            np.abs(group.mean(axis=1) - control.mean(axis=1)) / sd / math.sqrt(1 / group.shape[1] + 1 / control_runs)
            for group in methods
        ],
        axis=0,
    )
    found = (largest > critical_value(0.95, runs, control_runs, df)).mean()
    assert abs(found - 0.05) < 4 * math.sqrt(0.05 * 0.95 / experiments)


def test_agrees_with_scipy():
    reference = stats.dunnett(*DRUGS.values(), control=CONTROL, random_state=np.random.default_rng(0))
    interval = reference.confidence_interval()
    found = compare_with_control(DRUGS, CONTROL).values()
    assert [item["low"] for item in found] == pytest.approx(interval.low, abs=0.02)
    assert [item["high"] for item in found] == pytest.approx(interval.high, abs=0.02)
    assert [item["p"] for item in found] == pytest.approx(reference.pvalue, abs=5e-4)


@pytest.mark.parametrize("equal_variances", [True, False])
def test_no_effect_is_found_in_noise(equal_variances):
    """200 experiments of Random against itself under other names: about 95 % have no interval that leaves 0."""
    rng, experiments, held = np.random.default_rng(11), 200, 0
    for _ in range(experiments):
        runs = rng.normal(26, 1.6, size=(4, 5))
        found = compare_with_control(dict(zip("abc", runs, strict=False)), runs[3], equal_variances=equal_variances)
        held += all(item["low"] <= 0 <= item["high"] for item in found.values())
    low, high = stats.binom.ppf([0.001, 0.999], experiments, 0.95)
    assert low <= held <= (high if equal_variances else experiments)


@pytest.mark.parametrize("equal_variances", [True, False])
def test_planted_effect_is_found(equal_variances):
    rng, found = np.random.default_rng(12), []
    for _ in range(50):
        runs = rng.normal([[26], [26], [33]], 1.6, size=(3, 5))
        both = compare_with_control({"same": runs[1], "better": runs[2]}, runs[0], equal_variances=equal_variances)
        found.append((both["same"]["low"] > 0, both["better"]["low"] > 0))
    same, better = np.mean(found, axis=0)
    assert same <= 0.1
    assert better >= 0.95


@pytest.mark.parametrize("equal_variances", [True, False])
def test_unit_and_offset(equal_variances):
    found = compare_with_control(DRUGS, CONTROL, equal_variances=equal_variances)
    scaled = compare_with_control(
        {name: [100 * x + 1000 for x in values] for name, values in DRUGS.items()},
        [100 * x + 1000 for x in CONTROL],
        equal_variances=equal_variances,
    )
    for name in DRUGS:
        for key in ("difference", "low", "high"):
            assert scaled[name][key] == pytest.approx(100 * found[name][key], rel=1e-8)
        assert scaled[name]["p"] == pytest.approx(found[name]["p"], rel=1e-8)


def test_interval_and_p_agree():
    """An interval that just touches 0 at its confidence has p = 1 - confidence."""
    p = compare_with_control(DRUGS, CONTROL)["b"]["p"]
    assert compare_with_control(DRUGS, CONTROL, confidence=1 - p)["b"]["low"] == pytest.approx(0, abs=1e-6)


def test_more_methods_widen_the_intervals():
    """The same spread and nearly the same runs: the interval of a method tells how many others were tried."""
    method, control = [30.0, 31.0, 32.0], [26.0, 27.0, 28.0]
    widths = []
    for methods in (1, 2, 6):
        found = compare_with_control({f"m{index}": method for index in range(methods)}, control, confidence=0.99)
        widths.append(
            (found["m0"]["high"] - found["m0"]["low"]) / critical_value(0.99, (3,) * methods, 3, 2 * methods + 2)
        )
        assert minimum_detectable_effect(1.0, 30, methods=methods + 1) > minimum_detectable_effect(
            1.0, 30, methods=methods
        )
    assert widths == pytest.approx([2 * math.sqrt(2 / 3)] * 3)


def test_welch_and_holm_by_hand():
    methods = {"x": [30.0, 31.0, 35.0], "y": [29.0, 29.5, 28.0, 29.2], "z": [26.0, 27.0]}
    control = [26.0, 28.0, 27.0, 25.5, 26.5]
    found = compare_with_control(methods, control, equal_variances=False)
    raw = {}
    for name, values in methods.items():
        a, b = np.var(values, ddof=1) / len(values), np.var(control, ddof=1) / len(control)
        df = (a + b) ** 2 / (a**2 / (len(values) - 1) + b**2 / (len(control) - 1))
        difference, se = np.mean(values) - np.mean(control), math.sqrt(a + b)
        raw[name] = 2 * stats.t.sf(abs(difference) / se, df)
        assert raw[name] == pytest.approx(stats.ttest_ind(values, control, equal_var=False).pvalue)
        half_width = stats.t.isf(0.05 / 3 / 2, df) * se
        assert (found[name]["low"], found[name]["high"]) == pytest.approx(
            (difference - half_width, difference + half_width)
        )
    first, second, third = sorted(raw, key=raw.get)
    assert found[first]["p"] == pytest.approx(3 * raw[first])
    assert found[second]["p"] == pytest.approx(max(3 * raw[first], 2 * raw[second]))
    assert found[third]["p"] == pytest.approx(max(2 * raw[second], raw[third]))


def test_welch_does_not_pool():
    """A method whose runs spread widely does not widen the interval of another."""
    control, narrow = [26.0, 26.2, 26.1, 25.9], [27.0, 27.2, 27.1, 26.9]
    methods = {"narrow": narrow, "wide": [20.0, 30.0, 25.0, 28.0]}
    assert compare_with_control(methods, control)["narrow"]["low"] < 0
    assert compare_with_control(methods, control, equal_variances=False)["narrow"]["low"] > 0


# -- tasks ------------------------------------------------------------------------------------------------------------
def test_tasks_by_hand():
    rng = np.random.default_rng(3)
    tasks = ["gsm8k", "mmlu", "bbh", "ifeval"]
    control = {task: rng.normal(40, 1, 5) for task in tasks}
    methods = {name: {task: rng.normal(41, 1, 4) for task in reversed(tasks)} for name in ("a", "b")}
    found = compare_tasks(methods, control)
    for name in methods:
        assert list(found[name]) == tasks
        p = {}
        for task in tasks:
            alone = compare_with_control({other: methods[other][task] for other in methods}, control[task])[name]
            p[task] = alone["p"]
            assert {key: found[name][task][key] for key in alone} == alone
        by_p = sorted(tasks, key=p.get)
        for rank, task in enumerate(by_p):  # Benjamini and Hochberg's steps
            expected = min(p[other] * 4 / (later + 1) for later, other in enumerate(by_p) if later >= rank)
            assert found[name][task]["p_adjusted"] == pytest.approx(min(1, expected))


def test_tasks_must_be_the_same():
    with pytest.raises(EvaluationError, match=r"'a' and the control were not evaluated on the same tasks: mmlu\."):
        compare_tasks({"a": {"gsm8k": [1, 2]}}, {"gsm8k": [1, 2], "mmlu": [1, 2]})
    with pytest.raises(EvaluationError, match="compare_tasks: 'mmlu': all runs of every method have the same result"):
        compare_tasks({"a": {"mmlu": [0, 0]}}, {"mmlu": [0, 0]})


# -- non-inferiority --------------------------------------------------------------------------------------------------
def test_non_inferiority_is_the_interval_against_the_margin():
    whole_pool = [32.0, 33.0, 32.5, 31.5]
    methods = {"close": [32.0, 33.0, 32.2, 31.9], "noisy": [27.0, 37.0, 32.0, 33.0], "worse": [29.0, 28.0, 28.5, 29.5]}
    intervals = compare_with_control(methods, whole_pool)
    for margin in (0.5, 2.0, 7.0, 20.0):
        found = non_inferiority(methods, whole_pool, margin=margin)
        for name in methods:
            assert found[name]["non_inferior"] is (intervals[name]["low"] > -margin)
            assert {key: found[name][key] for key in intervals[name]} == intervals[name]
            assert found[name]["margin"] == margin


def test_no_difference_does_not_show_non_inferiority():
    found = non_inferiority({"noisy": [20.0, 44.0]}, [32.0, 33.0], margin=2.0)["noisy"]
    assert found["difference"] == -0.5
    assert found["p"] > 0.9
    assert found["non_inferior"] is False


@pytest.mark.parametrize("margin", [0, -1, math.nan, math.inf])
def test_margin_must_be_positive(margin):
    with pytest.raises(ConfigError, match=r"margin=.* must be a finite number above 0"):
        non_inferiority({"a": [1, 2]}, [1, 3], margin=margin)


# -- what can be seen -------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(("runs", "expected"), [(3, 5.2), (5, 3.4), (10, 2.3)])
def test_minimum_detectable_effect(runs, expected):
    found = minimum_detectable_effect(1.7, runs)
    assert found == pytest.approx(expected, abs=0.05)
    by_hand = (stats.t.ppf(0.975, 2 * runs - 2) + stats.t.ppf(0.8, 2 * runs - 2)) * 1.7 * math.sqrt(2 / runs)
    assert found == pytest.approx(by_hand, rel=1e-8)


@pytest.mark.parametrize(("runs", "power"), [(3, 0.8), (5, 0.8), (10, 0.9)])
def test_minimum_detectable_effect_has_its_power(runs, power):
    """By the non-central t distribution, which the formula approximates."""
    effect = minimum_detectable_effect(2.0, runs, power=power)
    df, noncentrality = 2 * runs - 2, effect / 2.0 / math.sqrt(2 / runs)
    assert stats.nct.sf(stats.t.ppf(0.975, df), df, noncentrality) == pytest.approx(power, abs=0.02)


def test_minimum_detectable_effect_is_seen_among_several_methods():
    effect = minimum_detectable_effect(1.0, 4, control_runs=6, methods=3)
    rng, experiments = np.random.default_rng(8), 400
    seen = 0
    for _ in range(experiments):
        methods = {name: rng.normal(effect * (name == "c"), 1, 4) for name in "abc"}
        seen += compare_with_control(methods, rng.normal(0, 1, 6))["c"]["low"] > 0
    assert abs(seen / experiments - 0.8) < 0.07


def test_pooled_sd_by_hand():
    assert pooled_sd({"a": [1.0, 3.0], "b": [10.0, 11.0, 15.0]}) == pytest.approx(math.sqrt((2 + 14) / 3))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"runs": 1}, "runs=1 must be a whole number, 2 or more"),
        ({"runs": 3, "control_runs": 1}, "control_runs=1 must be a whole number, 2 or more"),
        ({"runs": 3, "methods": 0}, "methods=0 must be a whole number, 1 or more"),
        ({"runs": 3, "power": 80}, "power=80 must lie between 0 and 1"),
        ({"runs": 3, "confidence": 95}, "confidence=95 must lie between 0 and 1"),
        ({"runs": 3, "sd": 0}, "sd=0 must be a finite number above 0"),
    ],
)
def test_settings_out_of_range(settings, message):
    with pytest.raises(ConfigError, match=message):
        minimum_detectable_effect(**{"sd": 1.6, **settings})


# -- ranks ------------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("runs", "control_runs", "alternative", "floor"),
    [(1, 5, "greater", 1 / 6), (1, 5, "two-sided", 1 / 3), (3, 3, "greater", 1 / 20), (5, 5, "less", 1 / 252)],
)
def test_floor_is_the_smallest_p(runs, control_runs, alternative, floor):
    best, rest = [90.0 + run for run in range(runs)], [20.0 + run for run in range(control_runs)]
    if alternative == "less":
        best = [-x for x in best]
    found = mann_whitney(best, rest, alternative=alternative)
    assert found["p"] == pytest.approx(floor)
    assert found["floor"] == pytest.approx(floor)


@pytest.mark.parametrize("method", [[28.0, 26.2, 29.0], [28.0, 27.0, 29.0], [27.0, 27.0, 28.0]])
@pytest.mark.parametrize("alternative", ["greater", "less", "two-sided"])
def test_mann_whitney_by_enumeration(method, alternative):
    """Also with equal results among runs."""
    control = [27.0, 26.0, 25.0, 28.0]
    ranks = stats.rankdata(method + control)
    sums = [sum(ranks[list(group)]) for group in itertools.combinations(range(7), 3)]
    greater = np.mean([total >= sum(ranks[:3]) - 1e-9 for total in sums])
    less = np.mean([total <= sum(ranks[:3]) + 1e-9 for total in sums])
    expected = {"greater": greater, "less": less, "two-sided": min(1, 2 * min(greater, less))}
    assert mann_whitney(method, control, alternative=alternative)["p"] == pytest.approx(expected[alternative])


def test_mann_whitney_errors():
    with pytest.raises(EvaluationError, match="all runs of both methods have the same result"):
        mann_whitney([1.0], [1.0, 1.0])
    with pytest.raises(EvaluationError, match="15 against 15 runs are too many"):
        mann_whitney(range(15), range(15))
    with pytest.raises(ConfigError, match="alternative='better': it has to be 'greater', 'less' or 'two-sided'"):
        mann_whitney([1.0], [2.0, 3.0], alternative="better")


# -- errors -----------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("equal_variances", [True, False])
@pytest.mark.parametrize(
    ("methods", "control", "message"),
    [
        ({"a": [1.0]}, [1.0, 2.0], "'a' has 1 run. At least 2 are needed"),
        ({"a": [1.0, 2.0]}, [1.0], "'control' has 1 run. At least 2 are needed"),
        ({"a": []}, [1.0, 2.0], "'a' has 0 runs"),
        ({"a": [1.0, math.nan]}, [1.0, 2.0], "1 of the values of 'a' are not finite; the first: run 1"),
        ({"a": [1.0, None]}, [1.0, 2.0], "1 of the values of 'a' are not finite"),
        ({"a": ["x", "y"]}, [1.0, 2.0], "'a' has values that are not numbers"),
        ({"a": [[1.0, 2.0]]}, [1.0, 2.0], r"'a' has the shape \(1, 2\). Pass an array of runs"),
        ({"a": [0.1 + 0.2, 0.3]}, [0.5, 0.5], "have the same result"),
        ({}, [1.0, 2.0], "there is no method"),
    ],
)
def test_runs_that_cannot_be_compared(methods, control, message, equal_variances):
    with pytest.raises(EvaluationError, match=f"compare_with_control: .*{message}"):
        compare_with_control(methods, control, equal_variances=equal_variances)


@pytest.mark.parametrize("confidence", [0, 1, 95, math.nan])
def test_confidence_between_0_and_1(confidence):
    with pytest.raises(ConfigError, match=r"confidence=.* must lie between 0 and 1"):
        compare_with_control(DRUGS, CONTROL, confidence=confidence)


def test_p_value_bounds():
    assert p_value(0, [5, 3], 4, 9) == pytest.approx(1)
    assert 0 <= p_value(1e6, [5, 3], 4, 9) < 1e-12
