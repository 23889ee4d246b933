"""Sweeps and ablations: what is chosen, what is measured, what is computed only once, and what cannot be."""

from __future__ import annotations

import json
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import pytest
from datasets import Dataset

from hf_datasel import select
from hf_datasel.analysis import ablation, draw_ablation, draw_sweep, standard_measures, sweep
from hf_datasel.analysis.measures import cluster_coverage, distinct, mean_of, response_words
from hf_datasel.errors import ColumnError, ConfigError, SelectionError
from hf_datasel.rounds.selector import Selector
from hf_datasel.scores import Compressibility, Length
from hf_datasel.selectors import IterIT, Longest, Random, Top


@pytest.fixture(scope="module")
def rows(pool_rows):
    rng = np.random.default_rng(0)
    data = pool_rows.add_column("ifd", np.round(0.2 + 0.75 * rng.random(24), 3))
    return data.add_column("cluster_id", (np.arange(24) % 6).astype(np.int32))


# -- what is chosen ---------------------------------------------------------------------------------------------------
def test_every_value_is_what_select_chooses(rows):
    values = [1, 2, 4]
    selector = IterIT(quality="ifd", candidate_factor=2)
    found = sweep(rows, selector, {"candidate_factor": values}, size=5)["candidate_factor"]
    assert json.loads(json.dumps(found)) == found
    chosen = [select(rows, IterIT(quality="ifd", candidate_factor=value), size=5) for value in values]
    default = select(rows, selector, size=5)
    assert (found["selector"], found["setting"], found["values"], found["default"]) == (
        "iterit",
        "candidate_factor",
        values,
        2,
    )
    assert found["jaccard_default"] == pytest.approx([each.overlap(default) for each in chosen], rel=1e-5)
    assert found["jaccard_default"][1] == 1 > found["jaccard_default"][0]
    previous = [chosen[0].overlap(chosen[1]), chosen[1].overlap(chosen[2])]
    assert found["jaccard_previous"][0] is None
    assert found["jaccard_previous"][1:] == pytest.approx(previous, rel=1e-5)
    ifd = np.array(rows["ifd"][:])
    assert found["measures"]["mean ifd"] == pytest.approx([ifd[each.indices].mean() for each in chosen], rel=1e-5)
    assert {name: values[1] for name, values in found["measures"].items()} == found["measures_default"]


def test_the_budget_can_be_swept(rows):
    by_ratio = sweep(rows, Top(by="ifd"), {"ratio": [0.1, 0.25, 1.0]})["ratio"]
    assert by_ratio["rows"] == [2, 6, 24]
    assert by_ratio["default"] == 0.05
    assert by_ratio["jaccard_default"] == pytest.approx([1 / 2, 1 / 6, 1 / 24], rel=1e-5)
    by_size = sweep(rows, Top(by="ifd"), {"size": [3, 6], "ratio": [0.5]}, size=6)
    assert (by_size["size"]["default"], by_size["ratio"]["default"]) == (6, None)
    assert by_size["size"]["jaccard_default"] == [0.5, 1.0]
    assert by_size["ratio"]["rows"] == [12]


def test_scores_as_values_are_written_as_recipes_write_them(rows):
    found = sweep(rows, Top(by="ifd"), {"by": [Length("words"), "ifd", Compressibility()]}, size=4)["by"]
    assert [each if isinstance(each, str) else each["score"] for each in found["values"]] == [
        "length",
        "ifd",
        "compressibility",
    ]
    assert found["jaccard_default"][1] == 1
    assert json.loads(json.dumps(found)) == found
    # the scores that some of the choices had computed
    assert found["measures"]["mean compressibility"][:2] == [None, None]
    assert found["measures"]["mean compressibility"][2] > 0


def test_seeds_are_the_same_for_all(rows):
    found = ablation(rows, {"one": Random(), "two": Random()}, seed=3, size=8)
    assert found["jaccard"] == [1.0, 1.0]
    mine = {"first row": lambda _, selection: float(selection.indices[0])}
    other = [ablation(rows, {"one": Random()}, mine, seed=seed, size=8)["measures"] for seed in range(9)]
    assert len({each["first row"][0] for each in other}) > 1


def test_an_ablation_holds_all_against_the_first(rows):
    selectors = {part: IterIT(quality="ifd", diversity=part) for part in ("response", "none", "prompt", "both")}
    found = ablation(rows, {**selectors, "Longest": Longest()}, size=5)
    assert json.loads(json.dumps(found)) == found
    assert found["names"] == [*selectors, "Longest"]
    first = select(rows, selectors["response"], size=5)
    shared = [first.overlap(select(rows, each, size=5)) for each in (*selectors.values(), Longest())]
    assert found["jaccard"] == pytest.approx(shared, rel=1e-5)
    means = found["measures"]["mean ifd"]
    assert means[1] == max(means)
    assert list(found["measures"]) == list(standard_measures(["ifd"]))
    assert found["measures"]["response words"][-1] == max(found["measures"]["response words"])


@dataclass(frozen=True)
class Counting(Selector):
    """The first rows, and a list of when it was asked."""

    step: int = 1

    def choose(self, round):
        ASKED.append(self.step)
        return np.flatnonzero(round.eligible)[:: self.step][: round.budget]


ASKED: list[int] = []


def test_no_choice_is_made_or_measured_twice(rows):
    ASKED.clear()
    seen = []
    mine = {"mine": lambda dataset, selection: seen.append(selection) or len(dataset) / len(selection.indices)}
    found = sweep(rows, Counting(step=2), {"step": [1, 2, 3, 2], "size": [4, 6]}, mine, size=4)
    assert sorted(ASKED) == [1, 2, 2, 3]  # step 2 with 4 rows, and with 6
    assert len(seen) == 4
    assert found["step"]["measures"] == {"mine": [6, 6, 6, 6]}
    assert found["size"]["measures"] == {"mine": [6, 4]}
    assert found["size"]["measures_default"] == {"mine": 6}


# -- what is measured -------------------------------------------------------------------------------------------------
def chosen_from(data, *positions):
    found = select(data, Random(), size=len(positions))
    found.indices = np.array(positions)
    return found


def test_measures_by_hand():
    data = Dataset.from_dict(
        {
            "prompt": ["?"] * 4,
            "completion": ["The cat, the CAT", "a b a b", "x", "dog"],
            "score": [0.5, None, 0.1, 0.2],
            "cluster_id": [0, 2, 2, None],
        }
    )
    both = chosen_from(data, 0, 1)
    assert response_words(data, both) == 4
    assert [distinct(n)(data, both) for n in (1, 2, 3)] == pytest.approx([4 / 8, 4 / 6, 4 / 4])
    assert mean_of("score")(data, both) == 0.5
    assert mean_of("score")(data, chosen_from(data, 0, 2)) == pytest.approx(0.3)
    assert cluster_coverage()(data, both) == 1
    assert [cluster_coverage()(data, chosen_from(data, at)) for at in (1, 3)] == [0.5, 0]


def test_measures_that_have_no_number(rows):
    data = Dataset.from_dict({"prompt": ["?"], "completion": ["word"]})
    one = chosen_from(data, 0)
    for measure in (distinct(2), mean_of("ifd"), cluster_coverage()):
        assert np.isnan(measure(data, one))
    found = sweep(data, Random(), {"size": [1]}, size=1)["size"]
    assert found["measures"]["distinct-2"] == [None] and found["measures_default"]["distinct-2"] is None
    assert "cluster coverage" not in " ".join(each.get_title(loc="left") for each in draw_sweep(found).axes)


def test_rows_with_only_a_text():
    data = Dataset.from_dict({"text": ["one two three", "four"]})
    assert response_words(data, chosen_from(data, 0, 1)) == 2


# -- what cannot be ---------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({}, r"settings=\{\} names nothing to sweep"),
        ({"decoy": [1]}, r"IterIT has no setting 'decoy'.*Did you mean 'decay'\?"),
        ({"decay": []}, r"settings\['decay'\]=\[\] has to be a list of the values"),
        ({"diversity": "none"}, r"settings\['diversity'\]='none' has to be a list"),
        ({"decay": 0.1}, r"has to be a list of the values"),
        ({"decay": [0.1, 7]}, r"IterIT\(decay=7\)"),
    ],
)
def test_settings_that_cannot_be(rows, settings, message):
    with pytest.raises(ConfigError, match=message):
        sweep(rows, IterIT(quality="ifd"), settings, size=5)


def test_what_select_refuses_says_for_which_value(rows):
    with pytest.raises(SelectionError, match="25") as refused:
        sweep(rows, Top(by="ifd"), {"size": [3, 25]}, size=3)
    assert refused.value.__notes__ == ["This was the choice with size=25."]
    with pytest.raises(ColumnError, match="idf") as refused:
        ablation(rows, {"good": Top(by="ifd"), "bad": Top(by="idf")}, size=3)
    assert refused.value.__notes__ == ["This was the choice with bad."]


def test_calls_that_cannot_be(rows):
    with pytest.raises(ConfigError, match=r"at least one selector, and got none"):
        ablation(rows, {}, size=3)
    for call in (
        lambda: ablation(rows, {"a": Random()}, rows=3),
        lambda: sweep(rows, Random(), {"size": [1]}, rows=3),
    ):
        with pytest.raises(ConfigError, match=r"rows=3 is no budget: pass one of \['size', 'ratio', 'tokens'\]"):
            call()
    with pytest.raises(ConfigError, match=r"selector has to be a Selector"):
        sweep(rows, "iterit", {"decay": [1]})


# -- the plots --------------------------------------------------------------------------------------------------------
def boxes_inside(figure):
    box = figure.get_tightbbox()
    assert box.x0 >= 0 and box.y0 >= 0
    assert box.x1 <= figure.get_figwidth() and box.y1 <= figure.get_figheight()
    boxes = [axes.get_tightbbox() for axes in figure.axes if axes.axison]
    for at, one in enumerate(boxes):
        assert not any(one.overlaps(other) for other in boxes[at + 1 :])


@pytest.mark.parametrize("dark", [False, True])
def test_a_panel_for_each_measure(rows, dark):
    found = sweep(rows, IterIT(quality="ifd"), {"decay": [0, 0.01, 0.1, 0.3, 0.5, 1.0]}, size=6)["decay"]
    figure = draw_sweep(found, "W" * 90, dark)
    panels = {axes.get_title(loc="left"): axes for axes in figure.axes if axes.axison}
    assert list(panels) == ["Jaccard with the default", "Jaccard with the previous", *found["measures"]]
    for name, values in found["measures"].items():
        dotted, line, marked = panels[name].lines
        assert list(line.get_ydata()) == values
        assert (list(marked.get_xdata()), list(marked.get_ydata())) == ([2], [values[2]])
        assert dotted.get_ydata()[0] == found["measures_default"][name]
    for axes in panels.values():
        labels = [label.get_window_extent() for label in axes.get_xticklabels()]
        assert "0.1" in [label.get_text() for label in axes.get_xticklabels()]
        assert all(one.x1 < other.x0 for one, other in pairwise(labels))
    boxes_inside(figure)


def test_values_that_are_no_numbers_are_named(rows):
    parts = ["none", "prompt", "both"]
    found = sweep(rows, IterIT(quality="ifd"), {"diversity": parts}, size=6)["diversity"]
    figure = draw_sweep(found)
    assert [label.get_text() for label in figure.axes[0].get_yticklabels()] == parts
    offsets = figure.axes[0].collections[-1].get_offsets()
    assert np.asarray(offsets)[:, 0].tolist() == found["jaccard_default"]
    boxes_inside(figure)
    scores = sweep(rows, Top(by="ifd"), {"by": [Length("words"), "ifd"]}, size=6)["by"]
    assert [label.get_text() for label in draw_sweep(scores).axes[0].get_yticklabels()] == ["length", "ifd"]


@pytest.mark.parametrize("count", [1, 2, 7])
def test_selectors_side_by_side(rows, count):
    found = ablation(rows, {f"{at} {'W' * 60}": Top(by="ifd") for at in range(count)}, size=3)
    figure = draw_ablation(found, "Parts", dark=count == 2)
    assert [label.get_text()[0] for label in figure.axes[0].get_yticklabels()] == [str(at) for at in range(count)]
    assert [axes.get_title(loc="left") for axes in figure.axes][:2] == ["Jaccard with the first", "mean ifd"]
    boxes_inside(figure)
    draw_ablation({**found, "measures": {}})
