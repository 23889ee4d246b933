"""The Markdown table of an experiment."""

from __future__ import annotations

import math
import re

import pytest
from markdown_it import MarkdownIt

from hf_datasel.errors import ConfigError, EvaluationError
from hf_datasel.evaluation import (
    MethodRuns,
    compare_with_control,
    minimum_detectable_effect,
    pooled_sd,
    results_table,
)

RANDOM = [26.0, 28.0, 27.0, 24.5, 25.5]
GOOD = [60.0, 62.0, 61.0, 59.0]
SAME = [26.5, 25.0, 28.0, 26.0]
METHODS = {
    "random": MethodRuns(RANDOM, {"gsm8k": [10.0] * 5, "mmlu": [40, 41, 42, 43, 44]}, 1000, 3, 1200),
    "iterit": MethodRuns(GOOD, {"gsm8k": [11.0, 12.0, 13.0, 14.0]}, 1000, 3, 1200, planned=5),
    "all": MethodRuns(SAME, rows=52_002, epochs=0.5, steps=1200),
}


def cells(markdown: str) -> dict[str, list[str]]:
    """Return the cells of each row as they are shown, by the row's first one."""
    html = MarkdownIt("commonmark").enable("table").render(markdown)
    rows = [re.findall(r"<t[dh]>(.*?)</t[dh]>", row) for row in re.findall(r"<tr>(.*?)</tr>", html, re.DOTALL)]
    return {row[0]: row[1:] for row in rows}


def test_table():
    shown = cells(results_table(METHODS, items=512))
    assert shown["method"] == [
        "rows x epochs", "steps", "average (sd, runs)", "difference to random [95 %]", "p", "gsm8k", "mmlu"
    ]  # fmt: skip
    found = compare_with_control({"iterit": GOOD, "all": SAME}, RANDOM)
    good, same = found["iterit"], found["all"]
    assert shown["random"] == ["1,000 x 3", "1,200", "26.20 (sd 1.35, 5 runs)", "–", "–", "10.00", "42.00"]
    assert shown["iterit"] == [
        "1,000 x 3",
        "1,200",
        "60.50 (sd 1.29, 4 runs)",
        f"<strong>+34.30 [{good['low']:.2f}, {good['high']:.2f}]</strong>",
        "below 0.001",
        "12.50",
        "missing",
    ]
    assert shown["all"][:2] == ["52,002 x 0.5", "1,200"]
    assert shown["all"][3:5] == [f"+0.18 [{same['low']:.2f}, {same['high']:.2f}]", f"{same['p']:.3f}"]


def test_what_cannot_be_seen_stands_above():
    above, _, below = results_table(METHODS, items=512).split("\n\n")
    sd = pooled_sd({"random": RANDOM, "iterit": GOOD, "all": SAME})
    effect = minimum_detectable_effect(sd, 4, control_runs=5, methods=2)
    assert above.startswith("random: 5 runs. 512 questions.")
    assert f"a standard deviation of {sd:.2f}. With 4 runs and 2 methods" in above
    assert f"a true difference of about {effect:.2f} is seen in 80 %" in above
    assert "for all 2 methods at once with 95 %" in below
    assert "- iterit: 4 of 5 planned runs finished.\n" in below
    assert "all:" not in below


def test_bold_only_where_the_interval_leaves_0():
    methods = {name: MethodRuns(values) for name, values in (("random", RANDOM), ("a", SAME), ("b", GOOD))}
    worse = {**methods, "c": MethodRuns([value - 20 for value in SAME])}
    bold = [name for name, row in cells(results_table(worse, items=10)).items() if "<strong>" in row[3]]
    assert bold == ["b", "c"]
    assert "Tasks" not in results_table(worse, items=10)


@pytest.mark.parametrize("finished", [0, 1])
def test_methods_without_enough_runs_have_a_row(finished):
    methods = {**METHODS, "less": MethodRuns([99.0] * finished, planned=5)}
    markdown = results_table(methods, items=512)
    assert cells(markdown)["less"] == [
        "–", "–", "99.00 (1 run)" if finished else "no run", "–", "–", "missing", "missing"
    ]  # fmt: skip
    assert f"- less: {finished} of 5 planned runs finished; an interval needs at least 2." in markdown
    assert cells(markdown)["iterit"] == cells(results_table(METHODS, items=512))["iterit"]


def test_nothing_to_compare():
    markdown = results_table({"random": MethodRuns([26.0]), "iterit": MethodRuns(GOOD)}, items=1)
    assert "random: 1 run. 1 question. Nothing can be compared" in markdown
    assert cells(markdown)["iterit"][3:] == ["–", "–"]
    assert "**" not in markdown


def test_task_without_all_runs():
    methods = {**METHODS, "all": MethodRuns(SAME, {"gsm8k": [3.0, 4.0, 5.0]})}
    assert cells(results_table(methods, items=512))["all"][-2:] == ["4.00 (3 of 4 runs)", "missing"]


def test_names_are_escaped():
    methods = {**METHODS, "a|b <b>": MethodRuns(GOOD, {"x|y": GOOD})}
    shown = cells(results_table(methods, items=512))
    assert shown["a|b &lt;b&gt;"][-1] == "60.50"
    assert shown["method"][-1] == "x|y"


def test_errors():
    with pytest.raises(ConfigError, match=r"control='rand' is none of the methods: 'random', 'iterit', 'all'\."):
        results_table(METHODS, items=512, control="rand")
    with pytest.raises(EvaluationError, match="1 of the values of 'iterit' are not finite"):
        results_table({**METHODS, "iterit": MethodRuns([1.0, math.nan])}, items=512)


def test_methods_that_spread_differently():
    """A method that varies more than all others seems to differ only with the standard deviation of all."""
    methods = {
        "random": MethodRuns([26.0, 26.4, 26.2, 25.8, 26.1]),
        "noisy": MethodRuns([27.0, 30.5, 28.8]),
        "quiet": MethodRuns([26.2, 26.0, 26.1, 25.9, 26.3, 26.2, 26.0]),
    }
    found = compare_with_control(
        {name: methods[name].average for name in ("noisy", "quiet")}, methods["random"].average
    )
    assert found["noisy"]["p"] < 0.001
    below = results_table(methods, items=512).split("\n\n")[-1]
    assert re.search(r"the answer differs \(p of Welch's tests, .*\): noisy 0\.\d{3}\.\n$", below)
    assert "Welch" not in results_table(METHODS, items=512)
