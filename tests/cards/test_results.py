import html
import json

import numpy as np
import pytest

from hf_datasel.cards.report import read_facts, read_results, write_report
from hf_datasel.cards.results import check_results
from hf_datasel.cards.sections.evaluation import SECTION
from hf_datasel.errors import PublishError

COST = {"tokens_forward": 9000, "tokens_backward": 3000, "flops": 4e12, "wall_seconds": 30.0, "device_seconds": 60.0,
        "device": "cpu", "peak_memory": None}  # fmt: skip
RANDOM = {"trained_on": "random rows", "metric": "exact match", "dataset": "facts", "value": 26.25, "note": "",
          "higher_is_better": True, "sd": 1.58, "runs": 5, "planned": 5, "items": 512,
          "values": [24.5, 25.4, 26.0, 26.9, 28.45], "cost": {"training": COST}, "detectable": 3.4}  # fmt: skip
SELECTED = {"trained_on": "this selection", "metric": "exact match", "dataset": "facts", "value": 68.65, "note": "",
            "versus": "random rows", "difference": 42.4, "low": 39.4, "high": 45.4, "confidence": 0.95, "p": 0.0001,
            "higher_is_better": True, "sd": 1.4, "runs": 3, "planned": 4, "items": 512, "values": [67.2, 68.7, 70.05],
            "task": {"name": "facts", "version": "1", "shots": 0, "template": "ab12", "limit": 512},
            "harness": {"name": "hf_datasel", "version": "0.1"}, "cost": {"selecting": COST, "training": COST},
            "detectable": 3.4}  # fmt: skip


def without(result, *keys):
    return {key: value for key, value in result.items() if key not in keys}


def test_all_keys_are_read(tmp_path):
    (tmp_path / "results.json").write_text(json.dumps([SELECTED, RANDOM]))
    assert read_results(tmp_path / "results.json") == [SELECTED, RANDOM]


def test_results_survive_facts(tmp_path, pool_rows, monkeypatch):
    from hf_datasel import select
    from hf_datasel.cards.build import gather
    from hf_datasel.selectors import Longest

    monkeypatch.setattr("hf_datasel.cards.report.png", lambda *_: b"")
    facts = gather([select(pool_rows, Longest(), size=5)], title="x", results=[SELECTED, RANDOM])
    write_report(facts, tmp_path)
    assert read_facts(tmp_path / "facts.json")["sections"]["evaluation"] == [SELECTED, RANDOM]


@pytest.mark.parametrize(
    ("result", "message"),
    [
        ({**SELECTED, "detectible": 1.0}, r"f\[0\] has an unknown key 'detectible'\. Did you mean 'detectable'\?"),
        ({**SELECTED, "task": {"shot": 3}}, r"f\[0\]\['task'\] has an unknown key 'shot'\. Did you mean 'shots'\?"),
        ({**SELECTED, "cost": {"training": without(COST, "flops")}}, r"\['cost'\]\['training'\] has no 'flops'"),
        ({**SELECTED, "harness": {"name": "x"}}, r"\['harness'\] has no 'version'\. It needs name, version\."),
        ({**SELECTED, "task": {"version": 3}}, r"\['task'\]\['version'\] has to be text, not a whole number"),
        ({**SELECTED, "values": [1.0, None, 2.0]}, r"\['values'\]\[1\] has to be a number"),
        ({**SELECTED, "values": [1.0]}, r"\['values'\] has 1 numbers, but 'runs' is 3"),
        ({**SELECTED, "p": 1.5}, r"\['p'\] is 1\.5, and has to lie between 0 and 1"),
        ({**SELECTED, "confidence": 95.0}, r"\['confidence'\] is 95, and has to lie between 0 and 1"),
        ({**SELECTED, "sd": -1.0}, r"\['sd'\] is -1, and cannot be below 0"),
        ({**SELECTED, "runs": 0, "values": []}, r"\['runs'\] is 0, and has to be at least 1"),
        ({**SELECTED, "planned": 2}, r"more 'runs' \(3\) than 'planned' \(2\)"),
        ({**SELECTED, "low": 43.0}, r"the difference 42\.4 lies outside its interval \[43, 45\.4\]"),
        ({**SELECTED, "versus": "this selection"}, "is compared with itself"),
        (without(SELECTED, "versus"), "has 'difference' without 'versus'"),
        (without(SELECTED, "high"), "has 'low' without 'high'"),
        (without(SELECTED, "runs", "planned"), "has 'values' without 'runs'"),
        ({**SELECTED, "high": float("inf")}, r"\['high'\] has to be a number"),
    ],
)
def test_invalid_results(result, message):
    with pytest.raises(PublishError, match=message):
        check_results([result], "f")


def test_two_results_of_the_same_runs():
    with pytest.raises(PublishError, match=r"f\[1\] has the same trained_on, metric and dataset as \[0\]"):
        check_results([RANDOM, {**RANDOM, "value": 1.0}], "f")
    simple = {key: RANDOM[key] for key in ("trained_on", "metric", "dataset", "value", "note")}
    assert len(check_results([simple, {**simple, "note": "another seed"}], "f")) == 2


# -- on the card -----------------------------------------------------------------------------------------------------
WORSE = {**without(SELECTED, "planned", "cost"), "trained_on": "longest", "value": 0.1, "difference": -26.15,
         "low": -29.15, "high": -23.15, "sd": 0.1, "values": [0.0, 0.1, 0.2]}  # fmt: skip
EQUAL = {**without(SELECTED, "planned", "cost"), "trained_on": "the whole pool", "value": 25.9, "difference": -0.35,
         "low": -3.35, "high": 2.65, "p": 0.9}  # fmt: skip
LOSS_RANDOM = {**RANDOM, "metric": "bits per byte", "dataset": "heldout", "value": 1.5, "sd": 0.006, "items": 60,
               "values": [1.49, 1.5, 1.51, 1.5, 1.5], "higher_is_better": False, "detectable": 0.01}  # fmt: skip
LOSS = {**without(SELECTED, "task"), "metric": "bits per byte", "dataset": "heldout", "value": 1.56, "sd": 0.004,
        "difference": 0.06, "low": 0.04, "high": 0.08, "p": 0.004, "values": [1.55, 1.56, 1.57], "items": 60,
        "higher_is_better": False, "detectable": 0.01}  # fmt: skip


def section(results, facts=None):
    return SECTION.text(facts or {}, check_results(results, "results"))


def cells(text):
    """Return the cells of the table in a text by the first two."""
    rows = [line.strip("| ").split(" | ") for line in text.splitlines() if line.startswith("| ")]
    return {tuple(row[:2]): [html.unescape(cell) for cell in row[2:]] for row in rows[2:]}


def test_nothing_was_measured():
    assert section([]).startswith("No model trained on these rows has been evaluated.")


def test_simple_results_have_their_simple_table():
    simple = {key: RANDOM[key] for key in ("trained_on", "metric", "dataset", "value", "note")}
    assert section([simple]).splitlines() == [
        "| trained on | metric | evaluated on | value | note |",
        "| --- | --- | --- | --- | --- |",
        "| random rows | exact match | facts | 26.25 |  |",
    ]


def test_table_of_an_experiment():
    text = section([SELECTED, RANDOM, WORSE, EQUAL])
    assert "| trained on | metric on dataset | value (sd, runs) | difference to random rows [95 %] | p | cost |" in (
        html.unescape(text)
    )
    rows = cells(text)
    assert rows["this selection", "exact match on facts"] == [
        "68.65 (sd 1.40, 3 runs)", "**+42.40 [39.40, 45.40], better**", "below 0.001",
        "2 x; selecting 60.0 seconds; training 60.0 seconds",
    ]  # fmt: skip
    assert rows["random rows", "exact match on facts"] == [
        "26.25 (sd 1.58, 5 runs)", "–", "–", "4 TFLOPs; training 60.0 seconds",
    ]  # fmt: skip
    assert rows["longest", "exact match on facts"][1] == "**-26.15 [-29.15, -23.15], worse**"
    assert rows["the whole pool", "exact match on facts"][1:3] == ["-0.35 [-3.35, 2.65]", "0.900"], "not bold"


def test_what_cannot_be_seen_stands_above_the_table():
    above = section([SELECTED, RANDOM]).splitlines()[0]
    assert above == (
        "Training runs: 5 of random rows, 3 of what is compared. Questions or held-out rows: 512. A true "
        "difference of 3.4 is seen in 80 % of such experiments, smaller ones less often."
    )
    above = section([SELECTED, RANDOM, LOSS, LOSS_RANDOM]).splitlines()[0]
    assert "512 (facts), 60 (heldout)" in above and "of 3.4 (facts), 0.01 (heldout) is" in above
    assert "too small to be seen is not recorded" in section(
        [without(SELECTED, "detectable"), without(RANDOM, "detectable")]
    )


def test_how_to_read_the_intervals():
    one, two = section([SELECTED, RANDOM]), section([SELECTED, RANDOM, LOSS, LOSS_RANDOM])
    assert "hold for all compared methods at once; p is adjusted likewise." in one
    assert "hold for all compared methods at once, but not for the 2 datasets at once; p" in two
    assert "minus those of random rows" in one
    assert "hold for all" not in section([RANDOM])


def test_untrained_model_and_average():
    untrained = {**without(RANDOM, "sd", "cost", "detectable"), "trained_on": "untrained", "value": 3.0, "runs": 1,
                 "planned": 1, "values": [3.0]}  # fmt: skip
    average = [{**item, "metric": "average", "dataset": "facts, heldout"} for item in (SELECTED, RANDOM)]
    text = section([*average, SELECTED, RANDOM, untrained])
    assert text.startswith("Training runs: 5 of random rows, 3 of what is compared."), "it was not trained"
    assert "- untrained: no result on average." in text
    [forest, _] = SECTION.figures({}, check_results([*average, SELECTED, RANDOM], "results"))
    assert [panel.get_title(loc="left") for panel in forest.draw(title="", dark=False).axes] == ["average", "facts"]


def test_lower_is_better():
    text = section([LOSS, LOSS_RANDOM])
    assert cells(text)["this selection", "bits per byte on heldout"][1] == "**+0.0600 [0.0400, 0.0800], worse**"
    assert "- Lower is better: bits per byte on heldout." in text


@pytest.mark.parametrize(
    ("changes", "expected_text"),
    [
        ({}, "**better than random rows**: 68.65 and 26.25 exact match on facts, with 2 times the operations"),
        ({"higher_is_better": False}, "**worse than random rows**: 68.65 and 26.25 exact match on facts (lower"),
        ({"low": -1.0}, "no difference to random rows was seen: 68.7 and 26.2 exact match on facts, with 2 times"),
    ],
)
def test_result_stands_above(changes, expected_text, pool_rows):
    from hf_datasel import select
    from hf_datasel.cards.build import gather
    from hf_datasel.cards.sections.overview import SECTION as OVERVIEW
    from hf_datasel.selectors import Longest

    both = {key: value for key, value in changes.items() if key == "higher_is_better"}
    results = [{**SELECTED, **changes}, {**RANDOM, **both}]
    facts = gather([select(pool_rows, Longest(), size=5)], title="x", results=results)
    assert f"| **result** | {expected_text}" in OVERVIEW.text(facts, None)
    facts["sections"]["evaluation"] = [without(SELECTED, "low", "high", "difference", "p", "versus"), RANDOM]
    assert "**result**" not in OVERVIEW.text(facts, None)


def test_weighting_of_held_out_rows_is_named():
    by_rows = {**SELECTED, "task": {"name": "facts", "weighting": "rows"}}
    assert "task `facts`, mean of the values of single rows" in SECTION.text({}, [by_rows, RANDOM])


def test_missing_runs_and_results_are_named():
    single = {
        **without(EQUAL, "difference", "low", "high", "p", "versus", "sd"),
        "runs": 1,
        "planned": 3,
        "values": [25.9],
    }
    text = section([SELECTED, RANDOM, single, LOSS, LOSS_RANDOM])
    assert "- this selection: 3 of 4 planned runs finished." in text
    assert "- the whole pool: 1 of 3 planned runs finished; one run has no interval; no result on heldout." in text
    assert "random rows: " not in text, "all its runs finished"


def test_task_and_harness_are_named():
    text = section([SELECTED, RANDOM])
    assert (
        "- facts: task `facts`, version 1, 0 shots, template `ab12`, limited to 512 questions, evaluated with "
        "hf_datasel 0.1." in html.unescape(text)
    )


def test_hostile_results_are_escaped():
    words = "<b> | `a` [x](y)"
    hostile = {**SELECTED, "trained_on": words, "dataset": words, "note": words, "versus": words + "2",
               "task": {"name": words, "filter": words}, "harness": {"name": words, "version": words}}  # fmt: skip
    text = section([hostile, {**RANDOM, "trained_on": words + "2", "dataset": words, "note": words}])
    assert "<b>" not in text and "](y)" not in text


def test_forest_plot_is_on_the_card():
    results = check_results([SELECTED, RANDOM, WORSE, EQUAL, LOSS, LOSS_RANDOM], "results")
    figure, _ = SECTION.figures({}, results)
    assert (figure.name, figure.title) == ("forest", "Differences to random rows")
    assert "longest on facts -26.15 [-29.15, -23.15], worse" in figure.alt
    panels = figure.draw(title=figure.title, dark=False).axes
    assert [panel.get_title(loc="left") for panel in panels] == ["facts", "heldout"]
    assert [panel.get_xlabel() for panel in panels] == ["better →", "← better"]


@pytest.mark.parametrize(
    "results", [[], [RANDOM], [SELECTED], [without(SELECTED, "low", "high", "confidence", "cost"), RANDOM]]
)
def test_no_forest_plot_without_intervals_and_their_control(results):
    assert SECTION.figures({}, check_results(results, "results")) == []


def test_cost_plot_is_on_the_card():
    longer = {**RANDOM, "trained_on": "random at equal cost", "value": 30.0, "values": [29.0, 29.0, 30.0, 31.0, 31.0],
              "cost": {"training": {**COST, "flops": 8e12}}}  # fmt: skip
    results = check_results([SELECTED, RANDOM, EQUAL, longer], "results")
    figure = SECTION.figures({}, results)[1]
    assert figure.name == "cost"
    assert figure.alt.endswith(
        "of random rows: this selection 68.65 at 2; random rows 26.25 at 1; random at equal cost 30 at 2."
    )
    ax = figure.draw(title=figure.title, dark=False).axes[0]
    assert {item.get_text() for item in ax.texts} == {"this selection", "random rows", "random at equal cost"}
    assert ax.lines[0].get_xydata() == pytest.approx(np.array([[1.0, 26.25], [2.0, 30.0]]))


def test_no_cost_plot_without_costs_of_the_control():
    results = check_results([SELECTED, without(RANDOM, "cost")], "results")
    assert [figure.name for figure in SECTION.figures({}, results)] == ["forest"]


def test_local_files_are_named_without_folders(pool_rows):
    from hf_datasel import select
    from hf_datasel.cards.build import gather
    from hf_datasel.selectors import Longest

    result = {**RANDOM, "dataset": "/home/me/exam.jsonl"}
    facts = gather([select(pool_rows, Longest(), size=5)], title="x", results=[result])
    assert facts["sections"]["evaluation"] == [{**result, "dataset": "exam.jsonl"}]
